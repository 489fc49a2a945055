"""Throughput, memory and scanning of the candle store.

    python -m benchmarks.store [--symbols 600] [--months 60] [--years 5]

Prints the figures and writes `benchmarks/results/store.json`. Each measurement is its own process, bound to
one core where the platform can do that, so that peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl

from pipelines.candles import interval_ms
from pipelines.sources.download import download, plan
from pipelines.store import CandleStore

RESULTS = Path(__file__).parent / "results" / "store.json"
START = 1_577_836_800_000  # 2020-01-01
SEED = 0
DAY = 86_400_000


class Window(NamedTuple):
    frame: pl.DataFrame
    missing: list[int]
    covered: tuple[int, int]


class RandomSource:
    """A random walk, made a window at a time: nothing of it is kept, so memory is the store's."""

    def __init__(self, window: int = 1000) -> None:
        self._window = window
        self._random = np.random.default_rng(SEED)
        self.seconds = 0.0  # spent on making the bars, to be taken off

    def iter_klines(
        self, category: str, symbol: str, interval: str, start_ms: int, end_ms_inclusive: int, /
    ) -> Iterator[Window]:
        step = interval_ms(interval)
        last = 100.0
        for begin in range(start_ms, end_ms_inclusive + 1, self._window * step):
            started = time.process_time()
            frame = bars(
                begin, min(self._window, (end_ms_inclusive - begin) // step + 1), step, last, self._random
            )
            last = float(frame["close"][-1])
            self.seconds += time.process_time() - started
            yield Window(frame, [], (begin, begin + (frame.height - 1) * step))


def bars(start: int, count: int, step: int, price: float, random: np.random.Generator) -> pl.DataFrame:
    close = np.maximum(np.round(price * np.exp(np.cumsum(random.normal(0, 1e-4, count))), 2), 0.02)
    open_ = np.concatenate([[price], close[:-1]])
    volume = np.round(random.exponential(10, count), 3)
    return pl.DataFrame(
        {
            "open_time": start + step * np.arange(count),
            "open": open_,
            "high": np.maximum(open_, close) + 0.01,
            "low": np.minimum(open_, close) - 0.01,
            "close": close,
            "volume": volume,
            "turnover": volume * close,
        }
    ).with_columns(pl.col("open_time").cast(pl.Datetime("ms", "UTC")))


def measure_download(root: Path, years: float) -> dict[str, float]:
    """A history of minutes through `download`: windows of a thousand, checks, and every flush to disk."""
    store, source = CandleStore(root), RandomSource()
    end = START + round(years * 365) * DAY
    base = peak_mb()
    started, cpu = time.perf_counter(), time.process_time()
    summary = download(source, store, plan(store, ["BTCUSDT"], "1m", START, end))
    wall, cpu = time.perf_counter() - started - source.seconds, time.process_time() - cpu - source.seconds
    return {
        "bars": summary.bars,
        "bars_per_second": summary.bars / wall,
        "bars_per_cpu_second": summary.bars / cpu,
        "peak_mb": peak_mb(),
        "peak_mb_before": base,
        "disk_bytes_per_bar": sum(path.stat().st_size for path in root.rglob("*.parquet")) / summary.bars,
    }


def measure_append(root: Path) -> dict[str, float]:
    """One append of half a million rows, as a file of the user's own would come."""
    frame = bars(START, 500_000, 60_000, 100.0, np.random.default_rng(SEED))
    started, cpu = time.perf_counter(), time.process_time()
    CandleStore(root).append("BTCUSDT", "1m", frame)
    return {
        "bars_per_second": frame.height / (time.perf_counter() - started),
        "bars_per_cpu_second": frame.height / (time.process_time() - cpu),
    }


def measure_scan(root: Path, symbols: int, months: int) -> dict[str, float]:
    """Many symbols and months of small files: the plan, one month of all, one symbol whole, and all of it."""
    store = CandleStore(root)
    random = np.random.default_rng(SEED)
    end = START + round(months * 30.4375) * DAY
    started = time.perf_counter()
    for index in range(symbols):
        store.append(f"COIN{index:03d}USDT", "1d", bars(START, (end - START) // DAY, DAY, 100.0, random))
    figures = {"build_seconds": time.perf_counter() - started, "base_mb": peak_mb()}
    names = [f"COIN{index:03d}USDT" for index in range(symbols)]

    def timed(name: str, query: Callable[[], pl.LazyFrame]) -> None:
        begin = time.perf_counter()
        lazy = query()
        figures[f"{name}_plan_seconds"] = time.perf_counter() - begin
        rows = lazy.select("symbol", "open_time", "close").collect().height
        figures[f"{name}_seconds"] = time.perf_counter() - begin
        figures[f"{name}_rows"] = rows

    timed("one_month_of_all", lambda: store.scan(names, "1d", end - 30 * DAY, end))
    timed("one_symbol", lambda: store.scan(names[:1], "1d", START, end))
    timed("all_filtered", lambda: store.scan(None, "1d", START, end).filter(pl.col("volume") > 50))
    figures["files"] = len(store.files(None, "1d", START, end))
    figures["peak_mb"] = peak_mb()
    return figures


def peak_mb() -> float:
    """The largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / (1 << 10)


def run(measure: Callable[..., dict[str, float]], *args: float) -> dict[str, float]:
    """`measure` in a process of its own, over a scratch folder."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        queue: Any = context.Queue()
        process = context.Process(target=_child, args=(queue, measure, Path(folder), *args))
        process.start()
        figures: dict[str, float] = queue.get()
        process.join()
    for name, value in figures.items():
        print(f"{measure.__name__}.{name}: {value:,.3f}", flush=True)
    return figures


def _child(queue: Any, measure: Callable[..., dict[str, float]], root: Path, *args: float) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    queue.put(measure(root, *args))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--symbols", type=int, default=600)
    parser.add_argument("--months", type=int, default=60)
    parser.add_argument("--years", type=float, default=5.0)
    options = parser.parse_args()
    figures = {
        "download": run(measure_download, options.years),
        "download_a_year": run(measure_download, 1.0),
        "append": run(measure_append),
        "scan": run(measure_scan, options.symbols, options.months),
    }
    results = {
        "command": "python -m benchmarks.store " + " ".join(sys.argv[1:]),
        "seed": SEED,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "figures": figures,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
