"""Symbols x families x folds x seeds over a cluster.

    python -m flows.sweep [family ...]                # what `dvc repro` would train, trained elsewhere
    python -m flows.sweep [family ...] --each-symbol  # and every symbol by itself

Without `--each-symbol` the trained agents go to where the train stage looks for finished jobs, so the next
`dvc repro` collects them and trains nothing: one path, the same bytes. With it, every symbol gets agents of
its own under `work/sweep`, with an index beside them. `cluster` in params.yaml says where the workers are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from flows import cluster
from flows.cluster import Task
from pipelines import experiment, layout, origins, params, stage
from pipelines.errors import UserError
from pipelines.experiment import Job
from pipelines.jobs import LOGS
from pipelines.settings import Params

SWEEP = Path("work/sweep")


def train(job: Job) -> None:
    """On a worker: one agent, from the features in the current folder into `out/`."""
    from pipelines.stages.train import train_into

    work = Path("work")
    train_into(work, job)
    shutil.copytree(work / "agent", "out/agent")
    shutil.copyfile(work / "curve.parquet", "out/curve.parquet")


def tasks(settings: Params, families: Sequence[str], *, each_symbol: bool) -> list[Task]:
    """One task an agent, known by the hash of all that decides its bytes."""
    found = []
    for part in _parts(settings) if each_symbol else [settings]:
        for family in families:
            for job in experiment.jobs(family, part):
                identity = experiment.fingerprint(job)
                if each_symbol:
                    identity = stage.hash_text(f"{identity} {part.data.symbols[0]}")[: len(identity)]
                    found.append(Task(f"{part.data.symbols[0]} {job.name}", identity, SWEEP / identity, job))
                else:
                    found.append(Task(job.name, identity, layout.CHECKPOINTS / family / identity, job))
    return found


def inputs() -> dict[str, bytes]:
    """The files that training reads, by path: what travels to the workers."""
    folders = (layout.FEATURES, layout.BEHAVIOUR, layout.ORIGINS)
    files = [path for folder in folders for path in sorted(folder.rglob("*"))]
    return {path.as_posix(): path.read_bytes() for path in files if path.is_file()}


def sweep(families: Sequence[str], *, each_symbol: bool) -> str:
    """Trains what is missing; the summary."""
    settings = params.load()
    unknown = sorted(set(families) - set(settings.agents))
    if unknown:
        raise UserError(f"{unknown[0]}: not under `agents` in params.yaml: {', '.join(settings.agents)}")
    if not layout.FEATURES.is_dir():
        raise UserError(f"{layout.FEATURES} is not there: run `dvc repro features` first")
    origins.require(settings)
    todo = tasks(settings, families or list(settings.agents), each_symbol=each_symbol)
    for task in todo:
        if task.target.is_dir() and not (task.target / "curve.parquet").exists():
            shutil.rmtree(task.target)  # half of a training that was killed on this machine
    with cluster.connect(settings.cluster) as client:
        ran = cluster.fan_out(
            client, train, todo, inputs=inputs(), settings=settings.cluster, logs=LOGS / "sweep", say=_say
        )
    if each_symbol:
        index = [
            {
                "symbol": task.payload.params.data.symbols[0],
                "family": task.payload.family,
                "fold": task.payload.fold,
                "seed": task.payload.seed,
                "folder": task.target.name,
            }
            for task in todo
        ]
        (SWEEP / "index.json").write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", "utf-8")
    return f"{len(todo)} agents, {ran} trained now"


def _parts(settings: Params) -> list[Params]:
    """The same parameters with one symbol at a time."""
    return [
        settings.model_copy(update={"data": settings.data.model_copy(update={"symbols": [symbol]})})
        for symbol in settings.data.symbols
    ]


def _say(line: str) -> None:
    print(f"sweep: {line}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.sweep", description=__doc__.split("\n")[0])
    parser.add_argument("family", nargs="*", help="of those under `agents`; all of them by default")
    parser.add_argument("--each-symbol", action="store_true", help="agents for every symbol by itself")
    arguments = parser.parse_args(argv)
    return stage.run("sweep", lambda: sweep(arguments.family, each_symbol=arguments.each_symbol))


if __name__ == "__main__":
    sys.exit(main())
