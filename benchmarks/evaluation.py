"""Does the verdict keep its word, and is it quick? `python -m benchmarks.evaluation [calibration|speed]`

calibration: on martingale markets every claim of an edge is false, and claims are counted by test; on
markets with a planted edge one agent's true net annual Sharpe ratio is 3, and missed claims are counted.
Positions times returns minus costs, without the account: thousands of records in minutes.

speed: all statistics of a comparison of 100 000 bars x 20 agents x 5 seeds, time and peak memory.

Both write their part of `benchmarks/results/evaluation.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.signal import lfilter

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
BARS = 2 * 8760
COST = 6.5e-4  # of the traded notional: fee 5.5, half-spread 0.5, slippage 0.5 basis points
VOLATILITY = 0.006  # an hour
PERSISTENCE = 0.995  # of the signal that carries the planted edge
EDGE = 3.0


def simulate_returns(rng: np.random.Generator, planted: bool) -> tuple[np.ndarray, np.ndarray]:
    """Hourly returns [T] with clustered volatility and fat tails, and a signal [T] known before them.

    With `planted` the mean follows the signal, so that trading its sign has a net Sharpe ratio of EDGE.
    """
    signal = lfilter([math.sqrt(1 - PERSISTENCE**2)], [1, -PERSISTENCE], rng.standard_normal(BARS + 2000))[
        2000:
    ]
    log_variance = lfilter([0.1], [1, -0.98], rng.standard_normal(BARS + 500))[500:]
    noise = np.exp(log_variance / 2) * rng.standard_t(5, BARS)
    noise *= VOLATILITY / math.sqrt(np.exp(0.1**2 / (1 - 0.98**2) / 2) * 5 / 3)
    if not planted:
        return noise, signal
    flips = math.acos(PERSISTENCE) / math.pi
    gross = EDGE * VOLATILITY / math.sqrt(YEAR) + 2.0 * flips * COST
    return noise + gross / math.sqrt(2 / math.pi) * signal, signal


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    total = np.cumsum(np.concatenate([np.zeros(window), values]))
    return (total[window:] - total[:-window]) / window


def rule_weights(returns: np.ndarray, signal: np.ndarray) -> dict[str, np.ndarray]:
    """Six rules; row t uses returns up to t - 1 and the signal known before bar t. All [T]."""
    level = np.concatenate([[0.0], np.cumsum(returns)[:-1]])
    fast, slow = moving_average(level, 24), moving_average(level, 96)
    past = np.concatenate([[0.0], returns[:-1]])
    deviation = np.sqrt(moving_average(past**2, 48)) + 1e-9
    momentum = moving_average(past, 72)
    return {
        "sma_long_flat": (fast > slow).astype(float),
        "sma_long_short": np.sign(fast - slow),
        "mean_reversion": -np.clip((level - slow) / (4 * deviation), -1, 1).round(1),
        "momentum": np.sign(momentum) * (np.abs(momentum) > deviation / 8),
        "volatility_target": np.clip(VOLATILITY / deviation, 0, 1).round(1),
        "signal": np.sign(signal),
    }


def learned_weights(returns: np.ndarray, signal: np.ndarray) -> dict[str, np.ndarray]:
    """Two learners refitted every 1000 bars on the bars before: a ridge regression and a table of means."""
    past = np.concatenate([[0.0], returns[:-1]])
    columns = [signal] + [
        moving_average(past, window) / VOLATILITY * math.sqrt(window) for window in (1, 6, 24, 96)
    ]
    inputs = np.column_stack(columns)
    state = (signal > 0).astype(int) * 3 + np.digitize(inputs[:, 3], [-0.5, 0.5])
    ridge, table = np.zeros(BARS), np.zeros(BARS)
    for start in range(1000, BARS, 1000):
        rows = slice(start, start + 1000)
        x, y = inputs[:start], returns[:start]
        beta = np.linalg.solve(x.T @ x + 100 * np.eye(x.shape[1]), x.T @ y)
        forecast = inputs[rows] @ beta
        ridge[rows] = np.clip(forecast / (0.05 * VOLATILITY), -1, 1).round(1)
        sums = np.bincount(state[:start], weights=y, minlength=6)
        table[rows] = np.sign(sums)[state[rows]]
    return {"ridge": ridge, "table": table}


def net_returns(weights: np.ndarray, returns: np.ndarray, cost: float) -> np.ndarray:
    return weights * returns - cost * np.abs(np.diff(weights, prepend=0.0))


def calibrate(markets: int, planted: bool, cost: float, replications: int, seed: int) -> dict[str, Any]:
    """Shares of the markets in which each test makes a claim about any of the eight agents."""
    claims = dict.fromkeys(
        (
            "psr_alone",
            "dsr",
            "spa",
            "ledger_luck",
            "stepwise_zero",
            "stepwise_hold",
            "verdict",
            "verdict_on_edge_agent",
        ),
        0,
    )
    started = time.perf_counter()
    for market in range(markets):
        rng = np.random.default_rng([seed, int(planted), market])
        returns, signal = simulate_returns(rng, planted)
        weights = rule_weights(returns, signal) | learned_weights(returns, signal)
        records = {name: net_returns(weight, returns, cost) for name, weight in weights.items()}
        judgement = judge(
            records, buy_and_hold=returns, periods_per_year=YEAR, trials=len(records),
            replications=replications, seed=market,
        )  # fmt: skip
        good = {"better than zero", "better than buy and hold"}
        evidence = [verdict.evidence for verdict in judgement.verdicts.values()]
        spa = judgement.spa_zero
        claims["psr_alone"] += any((e.psr or 0) >= 0.95 for e in evidence)
        claims["dsr"] += any((e.dsr or 0) >= 0.95 for e in evidence)
        claims["spa"] += spa is not None and spa.consistent <= 0.05
        claims["ledger_luck"] += any(e.p_luck is not None and e.p_luck <= 0.05 for e in evidence)
        claims["stepwise_zero"] += any(e.p_zero is not None and e.p_zero <= 0.05 for e in evidence)
        claims["stepwise_hold"] += any(e.p_hold is not None and e.p_hold <= 0.05 for e in evidence)
        claims["verdict"] += any(v.name in good for v in judgement.verdicts.values())
        claims["verdict_on_edge_agent"] += judgement.verdicts["signal"].name in good
        if (market + 1) % 50 == 0:
            print(
                f"  {market + 1}/{markets}",
                {k: round(v / (market + 1), 4) for k, v in claims.items()},
                flush=True,
            )
    return {
        "claims": {name: round(number / markets, 4) for name, number in claims.items()},
        "cost": cost,
        "markets": markets,
        "planted_annual_sharpe": EDGE if planted else 0.0,
        "seconds": round(time.perf_counter() - started, 1),
    }


def run_calibration(markets: int, replications: int, seed: int) -> dict[str, Any]:
    cases = {
        "martingale": (markets, False, COST),
        "martingale_without_costs": (markets, False, 0.0),
        "planted_edge": (markets // 2, True, COST),
    }
    results: dict[str, Any] = {"bars": BARS, "replications": replications, "seed": seed}
    for name, (number, planted, cost) in cases.items():
        print(name)
        results[name] = calibrate(number, planted, cost, replications, seed)
    error = results["martingale"]["claims"]["verdict"]
    limit = 0.05 + 2 * math.sqrt(0.05 * 0.95 / markets)
    power = results["planted_edge"]["claims"]["verdict"]
    results["false_claims_limit"] = round(limit, 4)
    results["holds"] = bool(
        max(error, results["martingale_without_costs"]["claims"]["verdict"]) <= limit and power >= 0.8
    )
    return results


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("calibration", "speed"))
    parser.add_argument("--markets", type=int, default=400)
    parser.add_argument("--replications", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.part == "calibration":
        part = run_calibration(arguments.markets, arguments.replications, arguments.seed)
    else:
        part = run_speed(100_000, 20, 5)
    part["command"] = "python -m benchmarks.evaluation " + " ".join(sys.argv[1:])
    part["machine"] = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(known | {arguments.part: part}, indent=2, sort_keys=True) + "\n")
    print(json.dumps(part, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
