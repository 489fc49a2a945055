"""Kills stages at random moments, then repairs: the same final bytes, and nothing left lying about.

    python benchmarks/kill_stages.py [--kills 20] [--seed 0]

Works in a scratch clone of the working tree, smoke preset; writes benchmarks/results/kill_stages.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.end_to_end.conftest import clone, environment, run  # noqa: E402

STAGES = ("fetch", "validate", "features", "train@dqn", "backtest@dqn", "baselines", "compare", "report")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = clone(Path(scratch) / "clone")
        run("python", "-m", "pipelines.params", "--preset", "smoke", folder=folder)
        run("dvc", "repro", folder=folder)
        lock = (folder / "dvc.lock").read_bytes()
        seconds = {stage: timed(folder, stage) for stage in STAGES}
        kills = []
        for _ in range(arguments.kills):
            stage = chance.choice(STAGES)
            moment = chance.uniform(0.3, seconds[stage])
            kills.append({"stage": stage, "seconds": round(moment, 2), "killed": kill(folder, stage, moment)})
            print(
                f"{stage} after {moment:.1f} s: {'killed' if kills[-1]['killed'] else 'was done'}", flush=True
            )
        run("dvc", "repro", folder=folder)
        same = (folder / "dvc.lock").read_bytes() == lock
        debris = [str(path.relative_to(folder)) for path in (folder / "work/scratch").rglob("*")]
        debris += [str(path.relative_to(folder)) for path in folder.rglob("*.partial")]
        orphans = left_running(folder)
    found = {
        "command": f"python benchmarks/kill_stages.py --kills {arguments.kills} --seed {arguments.seed}",
        "kills": kills,
        "same_bytes": same,
        "debris": debris,
        "orphans": orphans,
        "processors": os.cpu_count(),
    }
    target = ROOT / "benchmarks/results/kill_stages.json"
    target.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
    print(f"same bytes: {same}; debris: {debris or 'none'}; orphans: {orphans}")
    if not same or debris or orphans:
        sys.exit(1)


def timed(folder: Path, stage: str) -> float:
    started = time.monotonic()
    run("dvc", "repro", "--single-item", "--force", stage, folder=folder)
    return time.monotonic() - started


def kill(folder: Path, stage: str, seconds: float) -> bool:
    """Forces the stage and sends SIGKILL to dvc, the stage and whatever shares their group."""
    process = subprocess.Popen(
        ["dvc", "repro", "--single-item", "--force", stage],
        cwd=folder, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def left_running(folder: Path) -> int:
    """Processes that still work in the folder (Linux)."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            count += (entry / "cwd").resolve(strict=True) == folder.resolve()
        except OSError:
            continue  # it ended meanwhile, or is not ours to look at
    return count


if __name__ == "__main__":
    main()
