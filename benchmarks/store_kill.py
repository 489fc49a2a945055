"""SIGKILL in the middle of a download, many times at random moments: the store must be the unbroken one.

    python -m benchmarks.store_kill [--kills 50] [--seed 0]

Prints what was found and writes `benchmarks/results/store_kill.json`; fails if the bytes differ from those of
an uninterrupted download, or if a bar that was stored is ever asked for again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from tests.pipelines.children import kill_and_resume

RESULTS = Path(__file__).parent / "results" / "store_kill.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        outcome = kill_and_resume(Path(folder), kills=options.kills, seed=options.seed)
    figures = {**outcome._asdict(), "identical": True, "seconds": round(time.perf_counter() - started, 1)}
    print(figures)
    results = {
        "command": "python -m benchmarks.store_kill " + " ".join(sys.argv[1:]),
        "seed": options.seed,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "figures": figures,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
