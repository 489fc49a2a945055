"""What the flows cost over a bare `dvc repro`, and how long a whole night takes. Wants a quiet machine.

    PYTHONPATH=. python benchmarks/nightly_overhead.py [--preset default|smoke|tiny]

Each run starts from a fresh clone of the project as it stands, without any cache, over the same window:
`dvc repro`, the Prefect flow `flows.repro`, a night without Prefect, `dvc repro` again (the first pays for
cold file caches, so the mean of the two is what the others are held to). Writes
benchmarks/results/nightly_overhead.json. Four times the preset: half an hour for the default one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

from pipelines import params
from tests.end_to_end.conftest import clone, run
from tests.flows.places import TINY, git, real

RESULT = Path("benchmarks/results/nightly_overhead.json")
OVERHEAD, NIGHT_MINUTES = 0.15, 10.0  # what must hold


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="default")
    preset = parser.parse_args().preset
    bare = ("dvc", "repro")
    flow = ("python", "-m", "flows.repro")
    with tempfile.TemporaryDirectory() as scratch:
        first = made(Path(scratch) / "params", preset)
        day = params.load(first / params.FILE, first / params.PRESETS).data.end
        night = ("python", "-m", "flows.nightly", "--plain", "--now", f"{day}T01:00")
        seconds: dict[str, float] = {}
        core_seconds: dict[str, float] = {}
        for name, command in {"bare": bare, "flow": flow, "night": night, "bare_again": bare}.items():
            folder = made(Path(scratch) / name, preset)
            began, spent = time.monotonic(), children_seconds()
            run(*command, folder=folder, PREFECT_HOME=str(Path(scratch) / "prefect"))
            seconds[name] = time.monotonic() - began
            core_seconds[name] = children_seconds() - spent
            print(f"{name}: {seconds[name]:.1f} s, {core_seconds[name]:.1f} core-s", flush=True)
    overhead = share_over(seconds)
    figures = {
        "preset": preset,
        "seconds": seconds,
        "core_seconds": core_seconds,
        "overhead": overhead,
        "overhead_of_core_seconds": share_over(core_seconds),
        "holds": overhead["flow"] < OVERHEAD and seconds["night"] < NIGHT_MINUTES * 60.0,
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n", "utf-8")
    print(json.dumps(figures, indent=2, sort_keys=True))
    return 0 if figures["holds"] else 1


def share_over(spent: dict[str, float]) -> dict[str, float]:
    """What the flow and the night took beyond the two bare runs, as a share of their mean."""
    bare = (spent["bare"] + spent["bare_again"]) / 2.0
    return {name: spent[name] / bare - 1.0 for name in ("flow", "night")}


def made(folder: Path, preset: str) -> Path:
    """The project as it stands on branch main, with the preset in force and committed."""
    if preset == "tiny":
        return real(folder, TINY)
    clone(folder)
    git(folder, "branch", "-M", "main")
    run("python", "-m", "pipelines.params", "--preset", preset, folder=folder)
    git(folder, "commit", "-q", "--allow-empty", "-am", preset)
    return folder


def children_seconds() -> float:
    """Of all processes that were started here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
