"""What many machines would cost: the measured figures behind docs/scale.md.

    PYTHONPATH=. python benchmarks/scale.py [--jobs 10000] [--families dqn,ensemble,... | none]

Hands out jobs that sleep 50 ms to 8 worker processes (what is left is the price of handing out), trains and
backtests one default job of every family in a process of its own, and adds up the cost of the whole. A store
of 600 symbols x 60 months is measured by benchmarks/store.py. Writes benchmarks/results/scale.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import models
from flows import cluster
from flows.cluster import Task
from pipelines.settings import Cluster
from tests.flows import work

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks/results/scale.json"
SLEEP, WORKERS = 0.05, 8
SYMBOLS, FOLDS, SEEDS = 600, 8, 5
MONEY_A_CORE_HOUR = 0.045  # a common price of general machines on demand
STAGES = ("fetch", "validate", "features")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--families", default=",".join(models.FAMILIES))
    parser.add_argument("--job", help=argparse.SUPPRESS)  # a family: what a child does
    arguments = parser.parse_args()
    if arguments.job:
        one_job(arguments.job)
        return 0
    families = [name for name in arguments.families.split(",") if name in models.FAMILIES]
    figures: dict[str, object] = {
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
    }
    with tempfile.TemporaryDirectory() as scratch:
        figures["scheduling"] = schedule(Path(scratch), arguments.jobs)
        if families:
            figures["core_seconds"] = measured = jobs(Path(scratch), families)
            figures["whole"] = cost(measured)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n", "utf-8")
    print(json.dumps(figures, indent=2, sort_keys=True))
    return 0


def schedule(folder: Path, number: int) -> dict[str, float]:
    """Jobs that sleep, over more workers than processors."""
    settings = Cluster(workers=WORKERS)
    todo = [Task(f"job {n}", f"rest-{n}", folder / f"rest-{n}", SLEEP) for n in range(number)]
    with cluster.connect(settings) as client:
        client.wait_for_workers(WORKERS)
        began = time.monotonic()
        cluster.fan_out(
            client, work.rest, todo, inputs={}, settings=settings, logs=folder / "logs", say=lambda line: None
        )
        seconds = time.monotonic() - began
    ideal = number * SLEEP / WORKERS
    return {
        "jobs": number,
        "workers": WORKERS,
        "seconds": seconds,
        "ideal_seconds": ideal,
        "lost_share": 1.0 - ideal / seconds,
        "overhead_ms_a_job": (seconds - ideal) * 1e3 / number,
    }


def jobs(folder: Path, families: list[str]) -> dict[str, float]:
    """Core-seconds of one fold and seed with the default parameters, import, training and backtest."""
    (folder / "params.yaml").write_text(json.dumps({"agents": {family: {} for family in families}}), "utf-8")
    (folder / "presets").mkdir()
    (folder / "presets/default.yaml").write_text("{}\n", "utf-8")
    environment = {**os.environ, **cluster.environment(), "PYTHONPATH": str(ROOT)}
    for stage in STAGES:
        subprocess.run(
            [sys.executable, "-m", f"pipelines.stages.{stage}"], cwd=folder, env=environment, check=True
        )
    found = {}
    for family in families:
        spent = children_seconds()
        subprocess.run([sys.executable, __file__, "--job", family], cwd=folder, env=environment, check=True)
        found[family] = children_seconds() - spent
        print(f"{family}: {found[family]:.1f} core-seconds", flush=True)
    return found


def one_job(family: str) -> None:
    """In the current folder: the first fold and seed, and its test window."""
    from pipelines import backtest, experiment, params
    from pipelines.experiment import Job
    from pipelines.features.scaling import Scaler
    from pipelines.stages.train import train_into

    settings = params.load()
    folder = Path("trained") / family
    train_into(folder, Job(family, 0, 0, settings))
    data = experiment.dataset(settings)
    fold = experiment.folds(settings, len(data.times))[0]
    env = experiment.test_env(data, fold, Scaler.load(folder / "agent/scaler.json"), settings)
    backtest.run_agent(models.load(folder / "agent"), env, seed=settings.seed)


def cost(measured: dict[str, float]) -> dict[str, float]:
    """Every symbol with every fold and seed of every family measured."""
    jobs_a_family = SYMBOLS * FOLDS * SEEDS
    hours = jobs_a_family * sum(measured.values()) / 3600.0
    return {
        "jobs": jobs_a_family * len(measured),
        "core_hours": hours,
        "money": hours * MONEY_A_CORE_HOUR,
        "hours_on_256_cores": hours / 256.0,
        "core_hours_a_night_of_the_last_fold": hours / FOLDS,
    }


def children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
