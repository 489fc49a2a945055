"""How long and how much memory the checks of five million candles take.

Usage: python benchmarks/validation.py [rows]. Prints the figures and writes them to
`benchmarks/results/validation.json`. The bar: under 60 s and 4 GB, Great Expectations, its import and
the pages included.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipelines.candles import SCHEMA  # noqa: E402
from pipelines.checks.expectations import check_candles  # noqa: E402

_SEED = 0
_SYMBOLS = ("ADAUSDT", "BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")
_START = datetime(2020, 1, 1, tzinfo=UTC)


def candles(bars: int, rng: np.random.Generator) -> pl.DataFrame:
    """Random walks of one-minute candles, `bars` a symbol, in our schema."""
    times = pl.datetime_range(_START, _START + timedelta(minutes=bars - 1), "1m", time_unit="ms", eager=True)
    parts = []
    for symbol in _SYMBOLS:
        close = 100.0 * np.exp(np.cumsum(rng.standard_normal(bars) * 1e-4))
        opened = np.concatenate([[100.0], close[:-1]])
        volume = rng.lognormal(size=bars)
        parts.append(
            pl.DataFrame(
                {
                    "symbol": pl.repeat(symbol, bars, eager=True),
                    "open_time": times,
                    "open": opened,
                    "high": np.maximum(opened, close) * 1.0001,
                    "low": np.minimum(opened, close) * 0.9999,
                    "close": close,
                    "volume": volume,
                    "turnover": volume * close,
                },
                schema=SCHEMA,
            )
        )
    return pl.concat(parts, rechunk=True)


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000_000
    bars = rows // len(_SYMBOLS)
    table = candles(bars, np.random.default_rng(_SEED))
    # Two thousand holes, so that the tables of findings have something to hold.
    table = table.filter(pl.int_range(pl.len()) % 2500 != 1234)
    with tempfile.TemporaryDirectory() as scratch:
        began, began_cpu = time.perf_counter(), time.process_time()
        report = check_candles(
            table,
            interval="1m",
            start=_START,
            end=_START + timedelta(minutes=bars),
            symbols=_SYMBOLS,
            docs=Path(scratch) / "docs",
        )
        seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # Linux counts in kB
    figures = {
        "command": f"python benchmarks/validation.py {rows}",
        "seed": _SEED,
        "rows": table.height,
        "symbols": len(_SYMBOLS),
        "gaps_found": report.gaps.height,
        "failures": [one.text for one in report.failures],
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_gb": round(peak, 2),
        "bar": {"seconds": 60, "peak_gb": 4},
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    }
    target = ROOT / "benchmarks" / "results" / "validation.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
