"""What scheduling and a large store cost: the figures of docs/scale.md.

    PYTHONPATH=. python benchmarks/scale.py [--jobs 10000] [--symbols 600 --months 60]

Hands out jobs that sleep 50 ms to 8 worker processes (what is left is the price of handing out), and scans
lazily a store of 600 symbols x 60 monthly partitions of daily bars. Writes benchmarks/results/scale.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from flows import cluster
from flows.cluster import Task
from pipelines import candles
from pipelines.params import Cluster
from tests.flows import work

RESULT = Path("benchmarks/results/scale.json")
SLEEP, WORKERS = 0.05, 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--symbols", type=int, default=600)
    parser.add_argument("--months", type=int, default=60)
    arguments = parser.parse_args()
    figures: dict[str, object] = {
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
    }
    with tempfile.TemporaryDirectory() as scratch:
        figures["scheduling"] = schedule(Path(scratch), arguments.jobs)
        figures["store"] = store(Path(scratch) / "store", arguments.symbols, arguments.months)
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


def store(folder: Path, symbols: int, months: int) -> dict[str, float]:
    """Writing and lazily scanning daily candles, one partition a symbol and month."""
    start = datetime(2020, 1, 1, tzinfo=UTC)
    end = datetime(2020 + months // 12, 1 + months % 12, 1, tzinfo=UTC)
    times = pl.datetime_range(start, end, "1d", closed="left", eager=True, time_unit="ms")
    close = 100.0 * np.exp(np.cumsum(np.random.default_rng(0).normal(0.0, 0.01, len(times))))
    one = pl.DataFrame({"open_time": times, "open": close, "high": close, "low": close, "close": close})
    one = one.with_columns(volume=pl.lit(1.0), turnover=pl.col("close"))
    frame = pl.concat([one.with_columns(symbol=pl.lit(f"S{n:03d}")) for n in range(symbols)])
    began = time.monotonic()
    candles.write(frame, folder)
    written = time.monotonic() - began
    began = time.monotonic()
    picked = candles.scan(folder).filter(pl.col("symbol") == "S042").collect()
    one_symbol = time.monotonic() - began
    began = time.monotonic()
    month = candles.scan(folder).filter(pl.col("open_time") >= times[-30]).select("symbol", "close").collect()
    last_month = time.monotonic() - began
    return {
        "partitions": sum(1 for _ in folder.rglob("*.parquet")),
        "write_seconds": written,
        "one_symbol_seconds": one_symbol,
        "one_symbol_rows": len(picked),
        "last_month_seconds": last_month,
        "last_month_rows": len(month),
    }


if __name__ == "__main__":
    sys.exit(main())
