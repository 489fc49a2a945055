"""Nights in a row on the embedded market: 30 by default; what must hold is checked at the end.

    PYTHONPATH=. python benchmarks/nightly_year.py [--nights 30] [--checked 3]

Makes a repository with the project as it stands in a scratch folder and moves the clock day by day. At the
end: one commit a night, the store grown by one day each, promotions and refusals both seen, nights drawn at
random reproduced from their commit without any cache, and a rollback. Writes
benchmarks/results/nightly_year.json. A tiny night takes about 45 core-seconds, a reproduction 40.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows import champion as reign
from flows import night, process
from tests.end_to_end.conftest import run
from tests.flows.places import TINY, git, real

RESULT = Path("benchmarks/results/nightly_year.json")
FIRST = datetime(2022, 1, 21, 1, tzinfo=UTC)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--checked", type=int, default=3, help="nights that are reproduced")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of the nights that are reproduced")
    arguments = parser.parse_args()
    os.environ["PATH"] = process.environment()["PATH"]
    with tempfile.TemporaryDirectory() as scratch:
        figures = rehearse(Path(scratch), arguments.nights, arguments.checked, arguments.seed)
    figures["command"] = " ".join(["python", *sys.argv])
    figures["machine"] = f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors"
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n", "utf-8")
    print(json.dumps(figures, indent=2, sort_keys=True))
    return 0 if figures["holds"] else 1


def rehearse(scratch: Path, nights: int, checked: int, seed: int) -> dict[str, object]:
    """Runs the nights; the figures."""
    root = real(scratch / "root", TINY)
    states, seconds, core_seconds = [], [], []
    for number in range(nights):
        began, spent = time.monotonic(), processor_seconds()
        outcome = night.run(root, FIRST + timedelta(days=number), night.Means(say=lambda line: None))
        seconds.append(time.monotonic() - began)
        core_seconds.append(processor_seconds() - spent)
        states.append(outcome.state)
        print(f"{outcome.day}: {outcome.state}: {outcome.reason} [{core_seconds[-1]:.0f} core-s]", flush=True)
    days = [(FIRST + timedelta(days=number)).date() for number in range(nights)]
    rows = [
        json.loads(git(root, "show", f"nightly-{day}:metrics/data.json"))["symbols"]["SIM"]["rows"]
        for day in days
    ]
    drawn = random.Random(seed).sample(days, min(checked, nights))
    same = {str(day): reproduces(root, scratch / f"fresh-{day}", f"nightly-{day}") for day in drawn}
    commits = int(git(root, "rev-list", "--count", "main..nightly"))
    rolled_back = reign.command(root, rollback=True) == 0
    holds = [
        commits == nights,
        {later - earlier for earlier, later in itertools.pairwise(rows)} == {24},
        {"promoted", "refused"} == set(states),
        all(same.values()),
        rolled_back,
    ]
    return {
        "nights": nights,
        "commits": commits,
        "promoted": states.count("promoted"),
        "refused": states.count("refused"),
        "failed": states.count("failed"),
        "rows_first_and_last": [rows[0], rows[-1]],
        "reproduced": same,
        "rolled_back": rolled_back,
        "core_seconds_a_night_mean": sum(core_seconds) / nights,
        "core_seconds_a_night_max": max(core_seconds),
        "seconds_a_night_mean": sum(seconds) / nights,
        "seconds_a_night_max": max(seconds),
        "git_megabytes": sum(file.stat().st_size for file in (root / ".git").rglob("*") if file.is_file())
        / 1e6,
        "holds": all(holds),
    }


def processor_seconds() -> float:
    """Of this process and of all its children that have ended."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def reproduces(root: Path, fresh: Path, tag: str) -> bool:
    """A clean clone of the night gives every tracked byte again."""
    git(root, "clone", "-q", "-b", tag, str(root), str(fresh))
    run("dvc", "repro", folder=fresh)
    return git(fresh, "status", "--porcelain") == ""


if __name__ == "__main__":
    sys.exit(main())
