"""Does the verdict keep its word? Agents trade through the real account, and every test's claims are counted.

On martingale markets every claim of an edge is false. On markets with a planted edge, one agent's true net
Sharpe ratio is 3 a year over two years of hours, and missed claims are counted. Six rules and two learners
(a ridge regression and a table of means, refitted on the past as they go) trade in each market.

    python -m benchmarks.calibration run martingale --first 0 --markets 200  # one part, to work/calibration
    python -m benchmarks.calibration table                                   # all parts, to results/

The parts of a case are its markets by number, so that two processes can share the work.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import lfilter

from pipelines.evaluation.metrics import sharpe
from pipelines.evaluation.verdict import judge
from pipelines.market import baselines
from pipelines.market.account import Bars, simulate
from pipelines.market.costs import Costs

RESULTS = Path(__file__).parent / "results" / "calibration.json"
PARTS = Path("work/calibration")
YEAR = 8760.0
BARS = 2 * 8760
WARM_UP = 400  # bars before the record begins, so that every rule has its windows
COSTS = Costs(no_trade_band=0.01)  # the defaults of the account: 6.5 basis points of the traded notional
FREE = Costs(fee_bps=0.0, half_spread_bps=0.0, slippage_bps=0.0, no_trade_band=0.01)
VOLATILITY = 0.006  # an hour
PERSISTENCE = 0.995  # of the signal that carries the planted edge
EDGE = 3.0
RANDOM_GRID = (-1.0, -0.5, 0.0, 0.5, 1.0)
CASES = {
    "martingale": (False, COSTS),
    "martingale_without_costs": (False, FREE),
    "planted_edge": (True, COSTS),
}
GOOD = {"better than zero", "better than buy and hold"}


def market(rng: np.random.Generator, planted: bool) -> tuple[Bars, np.ndarray]:
    """Bars [T, 1] with clustered volatility and fat tails, and a signal [T] known at each close.

    With `planted` the next bar's mean follows the signal, so that trading its sign has a net Sharpe ratio of
    EDGE. Prices open where they closed.
    """
    length = BARS + WARM_UP
    draws = rng.standard_normal(length + 2000)
    signal = lfilter([math.sqrt(1 - PERSISTENCE**2)], [1, -PERSISTENCE], draws)[2000:]
    log_variance = lfilter([0.1], [1, -0.98], rng.standard_normal(length + 500))[500:]
    returns = np.exp(log_variance / 2) * rng.standard_t(5, length)
    returns *= VOLATILITY / math.sqrt(np.exp(0.1**2 / (1 - 0.98**2) / 2) * 5 / 3)
    if planted:
        flips = math.acos(PERSISTENCE) / math.pi
        paid = (COSTS.fee_bps + COSTS.half_spread_bps + COSTS.slippage_bps) * 1e-4
        gross = EDGE * VOLATILITY / math.sqrt(YEAR) + 2.0 * flips * paid
        returns[1:] += gross / math.sqrt(2 / math.pi) * signal[:-1]
    close = 100.0 * np.cumprod(1.0 + np.maximum(returns, -0.5))
    opened = np.concatenate([[100.0], close[:-1]])
    columns = opened, np.maximum(opened, close), np.minimum(opened, close), close
    return Bars(*(column[:, np.newaxis] for column in columns)), signal


def rolling(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` values up to each, [T]; shorter at the start."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (total[ends] - total[starts]) / (ends - starts)


def rules(closes: np.ndarray, signal: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Six rules: target exposures [T, 1], row t from what is known at the close of bar t."""
    steps = np.diff(np.log(closes[:, 0]), prepend=np.log(closes[0, 0]))
    deviation = np.sqrt(rolling(steps**2, 48)) + 1e-9
    momentum = rolling(steps, 72)
    own = {
        "sma_cross": partial(baselines.sma_cross, fast=24, slow=96),
        "mean_reversion": partial(baselines.mean_reversion, window=48, sigmas=1.0),
        "random": partial(baselines.random_positions, hold=24, grid=RANDOM_GRID, seed=seed),
    }
    return {name: rule(closes) for name, rule in own.items()} | {
        "momentum": (np.sign(momentum) * (np.abs(momentum) > deviation / 8))[:, np.newaxis],
        "volatility_target": np.clip(VOLATILITY / deviation, 0, 1).round(1)[:, np.newaxis],
        "signal": np.sign(signal)[:, np.newaxis],
    }


def learners(closes: np.ndarray, signal: np.ndarray) -> dict[str, np.ndarray]:
    """Two learners refitted every 1000 bars on the bars before; [T, 1], row t known at the close of bar t."""
    steps = np.diff(np.log(closes[:, 0]), prepend=np.log(closes[0, 0]))
    past = [rolling(steps, window) / VOLATILITY * math.sqrt(window) for window in (1, 6, 24, 96)]
    inputs = np.column_stack([signal, *past])
    state = (signal > 0).astype(int) * 3 + np.digitize(inputs[:, 3], [-0.5, 0.5])
    following = np.append(steps[1:], 0.0)  # what row t is to foretell; known at the close of t + 1
    ridge, table = np.zeros(len(steps)), np.zeros(len(steps))
    for start in range(1000, len(steps), 1000):
        rows, known = slice(start, start + 1000), slice(0, start - 1)
        x, y = inputs[known], following[known]
        beta = np.linalg.solve(x.T @ x + 100 * np.eye(x.shape[1]), x.T @ y)
        ridge[rows] = np.clip(inputs[rows] @ beta / (0.05 * VOLATILITY), -1, 1).round(1)
        sums = np.bincount(state[known], weights=y, minlength=6)
        table[rows] = np.sign(sums)[state[rows]]
    return {"ridge": ridge[:, np.newaxis], "table": table[:, np.newaxis]}


def judged(case: str, number: int, replications: int, seed: int) -> dict[str, Any]:
    """One market: which tests claim an edge for any of the eight agents."""
    planted, costs = CASES[case]
    bars, signal = market(np.random.default_rng([seed, int(planted), number]), planted)
    weights = rules(bars.close, signal, number) | learners(bars.close, signal)
    held = {**weights, "hold": np.ones_like(bars.close)}
    rows = slice(WARM_UP - 1, None)
    window = Bars(*(column[rows] for column in bars[:4]))
    ledger = simulate(window, np.stack([weight[rows] for weight in held.values()]), costs)
    returns = dict(zip(held, ledger.returns[:, 1:], strict=True))
    hold = returns.pop("hold")
    found = judge(
        returns, buy_and_hold=hold, periods_per_year=YEAR, trials=len(returns), replications=replications,
        ruined=[name for name, over in zip(held, ledger.ruined, strict=True) if over and name in returns],
        seed=number,
    )  # fmt: skip
    evidence = [verdict.evidence for verdict in found.verdicts.values()]
    names = [verdict.name for verdict in found.verdicts.values()]

    def at_most(field: str, level: float) -> bool:
        return any(getattr(e, field) is not None and getattr(e, field) <= level for e in evidence)

    return {
        "PSR alone": any((e.psr or 0.0) >= 0.95 for e in evidence),
        "DSR": any((e.dsr or 0.0) >= 0.95 for e in evidence),
        "SPA against zero": found.spa_zero is not None and found.spa_zero.consistent <= 0.05,
        "SPA against holding": found.spa_hold is not None and found.spa_hold.consistent <= 0.05,
        "ledger of trials": at_most("p_luck", 0.05),
        "step-down, zero": at_most("p_zero", 0.05),
        "step-down, holding": at_most("p_hold", 0.05),
        "verdict better than zero or than holding": bool(GOOD & set(names)),
        "verdict better than holding": "better than buy and hold" in names,
        "verdict on the agent with the edge": found.verdicts["signal"].name in GOOD,
        "sharpe": sharpe(returns["signal"], YEAR),
    }


def run(case: str, first: int, markets: int, replications: int, seed: int) -> None:
    started, cpu = time.perf_counter(), time.process_time()
    rows = []
    for number in range(first, first + markets):
        rows.append(judged(case, number, replications, seed))
        if len(rows) % 25 == 0:
            print(f"{case}: {len(rows)}/{markets}, {time.process_time() - cpu:.0f} s of CPU", flush=True)
    part = {
        "rows": rows,
        "replications": replications,
        "seed": seed,
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - cpu,
    }
    PARTS.mkdir(parents=True, exist_ok=True)
    (PARTS / f"{case}-{first:04d}.json").write_text(json.dumps(part) + "\n")


def table() -> dict[str, Any]:
    """Shares of the markets in which each test makes a claim, from all parts there are."""
    cases: dict[str, Any] = {}
    for case, (planted, _) in CASES.items():
        parts = [json.loads(path.read_text()) for path in sorted(PARTS.glob(f"{case}-*.json"))]
        rows = [row for part in parts for row in part["rows"]]
        if not rows:
            continue
        sharpes = [row.pop("sharpe") for row in rows]
        cases[case] = {
            "markets": len(rows),
            "claims": {name: round(sum(row[name] for row in rows) / len(rows), 4) for name in rows[0]},
            "mean_sharpe_of_the_signal_agent": round(float(np.mean(sharpes)), 3),
            "planted_annual_sharpe": EDGE if planted else 0.0,
            "processor_seconds": round(sum(part["processor_seconds"] for part in parts)),
            "replications": parts[0]["replications"],
            "seed": parts[0]["seed"],
        }
    limits = {case: 0.05 + 2 * math.sqrt(0.05 * 0.95 / found["markets"]) for case, found in cases.items()}
    claim = "verdict better than zero or than holding"
    return {
        "bars": BARS,
        "cases": cases,
        "command": "python -m benchmarks.calibration run CASE --first 0 --markets N; ... table",
        "holds": {
            case: bool(
                found["claims"][claim] >= 0.8 if CASES[case][0] else found["claims"][claim] <= limits[case]
            )
            for case, found in cases.items()
        },
        "limit_of_false_claims": {
            case: round(limit, 4) for case, limit in limits.items() if not CASES[case][0]
        },
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("run")
    one.add_argument("case", choices=CASES)
    one.add_argument("--first", type=int, default=0)
    one.add_argument("--markets", type=int, default=400)
    one.add_argument("--replications", type=int, default=1000)
    one.add_argument("--seed", type=int, default=0)
    parts.add_parser("table")
    options = parser.parse_args()
    if options.part == "run":
        run(options.case, options.first, options.markets, options.replications, options.seed)
        return
    found = table()
    RESULTS.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    print(json.dumps(found, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
