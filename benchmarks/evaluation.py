"""Is the comparison quick? `python -m benchmarks.evaluation`

All statistics of a comparison of 100 000 bars x 20 agents x 5 seeds, time and peak memory, to
`benchmarks/results/evaluation.json`. Whether the verdicts keep their word is `benchmarks/calibration.py`.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipelines.evaluation.aggregate import (
    agent_returns,
    distribution,
    figure_matrix,
    pairwise_differences,
    ranks,
    record_of,
)
from pipelines.evaluation.intervals import headline_intervals
from pipelines.evaluation.metrics import COST_ITEMS
from pipelines.evaluation.significance import model_confidence_set, probability_of_backtest_overfitting
from pipelines.evaluation.verdict import judge

RESULTS = Path(__file__).parent / "results" / "evaluation.json"
YEAR = 8760.0


def result_table(agent: int, bars: int, seeds: int) -> pl.DataFrame:
    """The result table of one agent: random records over five folds that restart."""
    fold_bars = bars // 5
    folds = np.repeat(np.arange(5, dtype=np.int32), fold_bars)
    start = pl.datetime(2020, 1, 1, time_zone="UTC", time_unit="ms")
    hours = pl.int_range(fold_bars * 5, eager=True) * 3_600_000
    common = np.random.default_rng(0).standard_t(5, len(folds)) * 0.003
    zeros = np.zeros(len(folds))
    frames = []
    for seed in range(seeds):
        own = np.random.default_rng([agent, seed, 1]).standard_t(5, len(folds)) * 0.002
        steps = np.log1p(0.5 * common + own)
        equity = 1e6 * np.exp(np.cumsum(steps.reshape(5, -1), axis=1))
        gains = np.diff(equity, axis=1, prepend=1e6).ravel()
        frame = pl.DataFrame({"fold": folds, "hours": hours, "equity": equity.ravel(), "log_return": steps})
        frames.append(
            frame.with_columns(
                pl.lit(f"agent{agent:02d}").alias("agent"),
                pl.lit(seed, dtype=pl.Int32).alias("seed"),
                (start + pl.duration(milliseconds="hours")).alias("open_time"),
                pl.Series("price", gains),
                *(pl.Series(item, zeros) for item in COST_ITEMS),
                *(pl.lit(0.5).alias(name) for name in ("turnover", "gross_exposure", "exposure_BTCUSDT")),
                ruined=pl.lit(False),
            ).drop("hours")
        )
    return pl.concat(frames)


def run_speed(bars: int, agents: int, seeds: int) -> dict[str, Any]:
    steps: dict[str, float] = {}
    cpu_steps: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        value = call()
        steps[name] = round(steps.get(name, 0.0) + time.perf_counter() - wall, 2)
        cpu_steps[name] = round(cpu_steps.get(name, 0.0) + time.process_time() - cpu, 2)
        return value

    records = []
    with tempfile.TemporaryDirectory() as folder:
        for agent in range(agents):
            result_table(agent, bars, seeds).write_parquet(Path(folder) / f"{agent}.parquet")
        for agent in range(agents):
            table = timed("read", lambda path=Path(folder) / f"{agent}.parquet": pl.read_parquet(path))
            records.append(timed("runs", lambda frame=table: record_of(frame, YEAR)))
    by_name = agent_returns(records)
    matrix = np.column_stack(list(by_name.values()))
    sharpes = {record.agent: figure_matrix(record, "sharpe") for record in records}
    hold = matrix.mean(axis=1)
    timed("distributions", lambda: [distribution(values, seed=0) for values in sharpes.values()])
    timed("ranks", lambda: ranks(sharpes))
    timed("verdict", lambda: judge(by_name, buy_and_hold=hold, periods_per_year=YEAR, trials=100, seed=0))
    timed("intervals", lambda: headline_intervals(matrix, YEAR, replications=500, seed=0))
    timed("pairs", lambda: pairwise_differences(by_name, YEAR, block=2, replications=1000, seed=0))
    timed("overfitting", lambda: probability_of_backtest_overfitting(matrix, 16))
    timed("confidence_set", lambda: model_confidence_set(matrix, block=5, replications=500, seed=0))
    seconds, peak = round(sum(steps.values()), 1), _peak_gigabytes()
    return {
        "agents": agents,
        "bars": bars,
        "holds": seconds < 60 and peak < 2,
        "peak_gigabytes": peak,
        "processor_seconds": round(sum(cpu_steps.values()), 1),
        "seconds": seconds,
        "seeds": seeds,
        "steps_processor_seconds": cpu_steps,
        "steps_seconds": steps,
    }


def _peak_gigabytes() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)


def main() -> None:
    found = run_speed(100_000, 20, 5)
    found["command"] = "python -m benchmarks.evaluation"
    found["machine"] = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    print(json.dumps(found, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
