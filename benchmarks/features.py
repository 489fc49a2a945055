"""Time and memory of all features on 2.6 million one-minute bars, and of the leak gate on the default data.

    python -m benchmarks.features

Each figure is the best of several runs; memory is the largest the process ever held, candles included, and
is measured in a process of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.candles import INTERVALS_MS
from pipelines.checks.leaks import find_leaks
from pipelines.features import DEFAULT_FEATURES, compute, resolve, to_grid

RESULTS = Path(__file__).parent / "results" / "features.json"
SEED = 0
MINUTES = 2_600_000
HOURS = 24_000
RUNS = 5


def main() -> None:
    """Measures, prints and writes the figures."""
    figures: dict[str, float] = {}
    for segments in (1, 5, 1000):
        figures |= _apart(_features, segments)
    figures |= _apart(_grid, 1)
    for symbols in (1, 3):
        figures |= _apart(_gate, symbols)
    report = {
        "command": "python -m benchmarks.features",
        "seed": SEED,
        "features": list(DEFAULT_FEATURES),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "figures": figures,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for name, value in figures.items():
        print(f"{name:45s}{value:12.3f}")


def _features(segments: int) -> dict[str, float]:
    frame = _minutes(MINUTES).with_columns(
        segment=(pl.int_range(pl.len()) * segments // MINUTES).cast(pl.Int32), filled=pl.lit(False)
    )
    features = resolve(DEFAULT_FEATURES)
    first = _seconds(lambda: compute(frame.lazy(), features).collect())
    held = _megabytes()
    best = min(_seconds(lambda: compute(frame.lazy(), features).collect()) for _ in range(RUNS - 1))
    return {
        f"features, {segments} segments, first run (s)": first,
        f"features, {segments} segments, best (s)": min(first, best),
        f"features, {segments} segments, memory (MB)": held,
    }


def _grid(_: int) -> dict[str, float]:
    holed = _minutes(MINUTES).filter(pl.int_range(pl.len()) % 1001 != 1000)
    best = min(_seconds(lambda: to_grid(holed, "1m", max_gap_bars=3)) for _ in range(RUNS))
    return {"grid, a hole in 1001 bars, best (s)": best}


def _gate(symbols: int) -> dict[str, float]:
    candles = pl.concat(_minutes(HOURS).with_columns(symbol=pl.lit(f"S{index}")) for index in range(symbols))
    features = resolve(DEFAULT_FEATURES)
    best = min(_seconds(lambda: find_leaks(candles, features)) for _ in range(RUNS))
    return {f"leak gate, {HOURS} bars x {symbols} symbols, best (s)": best}


def _minutes(bars: int) -> pl.DataFrame:
    rng = np.random.default_rng(SEED)
    close = 100 * np.exp(np.cumsum(rng.normal(0.0, 1e-3, bars)))
    opened = np.concatenate(([100.0], close[:-1]))
    volume = rng.exponential(10.0, bars)
    return pl.DataFrame(
        {
            "symbol": pl.repeat("AAA", bars, eager=True),
            "open_time": pl.Series(np.arange(bars) * INTERVALS_MS["1m"]).cast(pl.Datetime("ms", "UTC")),
            "open": opened,
            "high": np.maximum(opened, close) * (1 + rng.uniform(0, 1e-3, bars)),
            "low": np.minimum(opened, close) * (1 - rng.uniform(0, 1e-3, bars)),
            "close": close,
            "volume": volume,
            "turnover": volume * close,
        }
    )


def _apart(measure: Callable[[int], dict[str, float]], argument: int) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (argument,))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
