"""train <family>: one agent a fold and seed, each in a process of its own.

Writes `artifacts/<family>/fold-<i>/seed-<j>` (the agent, the scaler of its fold and `training.json`, what
it has seen) and the training curves. A killed stage goes on where it stopped: finished agents and
checkpoints are kept under `work/checkpoints` until all are there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import polars as pl

import models
from models.configuration import Misfit
from pipelines import experiment, jobs, layout, origins, params, stage
from pipelines.errors import UserError
from pipelines.experiment import Job
from pipelines.stages.behaviour import learn_from

NAME = "train"
CURVE = pl.Schema({"job": pl.String, "step": pl.Int64, "metric": pl.String, "value": pl.Float64})


def train(family: str) -> str:
    settings = params.load()
    origins.require(settings)
    todo = experiment.jobs(family, settings)
    done = jobs.run(train_one, todo, label=f"train {family}")
    with stage.replacing(layout.ARTIFACTS / family, f"{NAME}-{family}") as target:
        for job, folder in zip(todo, done, strict=True):
            shutil.copytree(folder / "agent", target / layout.job(job.fold, job.seed))
    curves = pl.concat([pl.read_parquet(folder / "curve.parquet") for folder in done])
    stage.write_table(curves, layout.curves(family), f"{NAME}-{family}")
    shutil.rmtree(layout.CHECKPOINTS / family)
    return f"{family}: {len(done)} agents trained"


def train_one(job: Job) -> Path:
    """Trains one agent, or finds it finished; returns its folder under `work/checkpoints`."""
    folder = layout.CHECKPOINTS / job.family / experiment.fingerprint(job)
    if (folder / "curve.parquet").exists():  # written last
        return folder
    train_into(folder, job)
    return folder


def train_into(folder: Path, job: Job) -> None:
    """Trains one agent into `folder`, which carries on where an earlier attempt was killed."""
    data = experiment.dataset(job.params)
    tested = experiment.tested(job, len(data.times))
    fold = tested[0].fold
    scaler = experiment.fit_scaler(data, fold, job.params)
    # In cross-validation training goes on after a test window; what it starts from must not have seen that.
    last = min(fold.train.stop, *(each.fold.test.start for each in tested)) - 1
    origin = origins.origin_of(job, until=data.times[last])
    folder.mkdir(parents=True, exist_ok=True)
    points = folder / "points.jsonl"

    def log(step: int, figures: dict[str, float]) -> None:
        with points.open("a", encoding="utf-8") as file:  # one write: a kill leaves whole lines
            file.write("".join(json.dumps([step, name, value]) + "\n" for name, value in figures.items()))

    try:
        agent = models.train(
            job.family,
            learn_from(job, data, fold, experiment.training_env(data, fold, scaler, job.params)),
            job.params.agents[job.family],
            seed=job.consumed_seed,
            checkpoint_dir=folder / "checkpoint",
            init_from=origin,
            log=log,
        )
    except Misfit as error:
        raise UserError(f"params.yaml: agents.{error}") from error
    agent.save(folder / "agent")
    scaler.save(folder / "agent" / "scaler.json")
    seen = origins.seen(job, data.times, fold.train, origin)
    (folder / "agent" / origins.SEEN).write_text(json.dumps(seen, indent=2, sort_keys=True) + "\n", "utf-8")
    read_curve(points, job).write_parquet(folder / "curve.partial")
    (folder / "curve.partial").rename(folder / "curve.parquet")


def read_curve(points: Path, job: Job) -> pl.DataFrame:
    """What was logged; a resumed run logs again what came after its checkpoint, and only the last counts."""
    last: dict[tuple[int, str], float] = {}
    for line in points.read_text("utf-8").splitlines() if points.exists() else []:
        step, name, value = json.loads(line)
        last[step, name] = value
    label = f"fold {job.fold} seed {job.seed}"
    rows = [(label, step, name, value) for (step, name), value in sorted(last.items())]
    return pl.DataFrame(rows, schema=CURVE, orient="row")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.stages.train", description=__doc__)
    parser.add_argument("family", choices=sorted(models.FAMILIES))
    family = parser.parse_args().family
    return stage.run(f"{NAME}-{family}", lambda: train(family))


if __name__ == "__main__":
    sys.exit(main())
