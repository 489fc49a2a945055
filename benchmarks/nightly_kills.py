"""`kill -9` of a night at random moments, then one that ends: the same commit as an unbroken night.

    PYTHONPATH=. python benchmarks/nightly_kills.py [--kills 30] [--seed 0]

On the toy pipeline of tests/flows/toy.py: what is killed is everything around the stages (clone, window,
DVC, promotion, commit, delivery); the stages' own kills are tests of their own. Writes
benchmarks/results/nightly_kills.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from flows import process
from tests.flows import toy
from tests.flows.places import git
from tests.flows.test_nightly import finish, start

RESULT = Path("benchmarks/results/nightly_kills.json")
DAYS = ("2022-01-21", "2022-01-22", "2022-01-23")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["PATH"] = process.environment()["PATH"]
    moment = random.Random(arguments.seed)
    landed = 0
    same: list[bool] = []
    with tempfile.TemporaryDirectory() as scratch:
        unbroken = toy.made(Path(scratch) / "unbroken")
        broken, before = Path(scratch) / "broken", Path(scratch) / "before"
        shutil.copytree(unbroken, broken, symlinks=True)  # the same first commit
        for number, day in enumerate(DAYS, start=1):
            shutil.rmtree(before, ignore_errors=True)
            shutil.copytree(broken, before, symlinks=True)
            began = time.monotonic()
            wanted = finish(start(unbroken, day))
            seconds = time.monotonic() - began
            while landed < arguments.kills * number // len(DAYS):
                victim = start(broken, day)
                time.sleep(moment.uniform(0.05, 0.95) * seconds)
                if victim.poll() is None:
                    victim.send_signal(signal.SIGKILL)
                    victim.communicate()
                    landed += 1
                else:  # what the kills before it had left to do was over sooner: the night anew
                    same.append(finish(victim) == wanted)
                    shutil.rmtree(broken)
                    shutil.copytree(before, broken, symlinks=True)
            same.append(finish(start(broken, day)) == wanted == git(broken, "rev-parse", "nightly"))
            print(f"{day}: {sum(same)} of {len(same)} nights ended in the unbroken commit", flush=True)
    figures = {
        "kills_that_hit_a_running_night": landed,
        "seed": arguments.seed,
        "nights_equal_to_unbroken": sum(same),
        "nights": len(same),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n", "utf-8")
    print(json.dumps(figures, indent=2, sort_keys=True))
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
