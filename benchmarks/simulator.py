"""How fast the embedded market is built, and what its default is like over many seeds.

    python -m benchmarks.simulator [--seeds 200]

Prints, and writes `benchmarks/results/simulator.json`: seconds for 1 million bars (best of five, after
compilation), and the pinned traits of the default market (24 000 hourly bars) as minimum, median and maximum
over the seeds, with the share of seeds on which every one of them holds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from pipelines.market.known import oracle_weights
from pipelines.sources.regimes import Floats
from pipelines.sources.simulator import KINDS, Kind, simulate_market

START = datetime(2022, 1, 1, tzinfo=UTC)
BARS = 24_000
COST = 6.5e-4
BOUNDS = {
    "kurtosis": (5.0, np.inf),
    "lag_one_abs": (0.15, 0.4),
    "share_min": (0.15, 1.0),
    "share_max": (0.0, 0.6),
    "mean_stay_min": (50.0, np.inf),
    "r2_percent": (0.8, 1.5),
    "sharpe": (3.0, 6.0),
}


def seconds(kind: Kind, symbols: int, bars: int) -> float:
    """Best of five."""
    names = [f"S{i}" for i in range(symbols)]
    took = []
    for seed in range(5):
        began = time.perf_counter()
        simulate_market(kind=kind, symbols=names, interval="1m", start=START, bars=bars, seed=seed)
        took.append(time.perf_counter() - began)
    return min(took)


def sharpe(weights: Floats, ahead: Floats) -> float:
    """Annual and net, of weights [T] over the simple returns [T] that follow them."""
    profit = weights * ahead - COST * np.abs(np.diff(weights, prepend=0.0))
    return float(profit.mean() / profit.std() * np.sqrt(8760))


def traits(seed: int) -> dict[str, float]:
    candles, truth = simulate_market(symbols=["BTCUSDT"], interval="1h", start=START, bars=BARS, seed=seed)
    r = np.diff(np.log(candles["close"].to_numpy()))  # return of bar t + 1, row t
    known = truth[:-1]
    mean, variance, regime = (
        known[name].to_numpy() for name in ("filtered_mean", "filtered_variance", "regime")
    )
    share = np.bincount(regime, minlength=3) / regime.size
    starts = regime[np.flatnonzero(np.diff(regime, prepend=-1))]
    visits = np.maximum(np.bincount(starts, minlength=3), 1)
    bound = {
        name: oracle_weights(mean[:, None], variance[:, None], risk_aversion=risk)[:, 0]
        for name, risk in (("sharpe", 1.0), ("sharpe_averse", 8.0))
    }
    odds = known.select("p_trend", "p_reversion", "p_turbulence").to_numpy()
    return {
        "volatility_percent": float(100 * r.std()),
        "kurtosis": float(((r - r.mean()) ** 4).mean() / r.var() ** 2),
        "lag_one": float(np.corrcoef(r[1:], r[:-1])[0, 1]),
        "lag_one_abs": float(np.corrcoef(np.abs(r[1:]), np.abs(r[:-1]))[0, 1]),
        "share_min": float(share.min()),
        "share_max": float(share.max()),
        "mean_stay_min": float((share * regime.size / visits).min()),
        "r2_percent": float(100 * (1 - ((r - mean) ** 2).sum() / ((r - r.mean()) ** 2).sum())),
        "forecast_half_life_bars": float(np.log(0.5) / np.log(np.corrcoef(mean[1:], mean[:-1])[0, 1])),
        "regime_accuracy": float((odds.argmax(1) == regime).mean()),
        "turnover_a_year": float(np.abs(np.diff(bound["sharpe"])).mean() * 8760),
        **{name: sharpe(weights, np.expm1(r)) for name, weights in bound.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=200)
    seeds = parser.parse_args().seeds
    traits(0)  # compiles
    speed = {f"{kind}_1e6_bars_seconds": seconds(kind, 1, 1_000_000) for kind in KINDS}
    speed["regimes_10_symbols_1e5_bars_seconds"] = seconds("regimes", 10, 100_000)
    rows = [traits(seed) for seed in range(seeds)]
    table = {
        name: dict(
            zip(("min", "median", "max"), np.quantile([row[name] for row in rows], (0, 0.5, 1)), strict=True)
        )
        for name in rows[0]
    }
    holds = {
        name: float(np.mean([low <= row[name] <= high for row in rows]))
        for name, (low, high) in BOUNDS.items()
    }
    holds["all"] = float(
        np.mean([all(low <= row[name] <= high for name, (low, high) in BOUNDS.items()) for row in rows])
    )
    result = {
        "command": f"python -m benchmarks.simulator --seeds {seeds}",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "seeds": f"0..{seeds - 1}",
        "speed": {name: round(value, 3) for name, value in speed.items()},
        "traits": {
            name: {key: round(float(value), 4) for key, value in row.items()} for name, row in table.items()
        },
        "share_of_seeds_within_bounds": holds,
    }
    text = json.dumps(result, indent=2, sort_keys=True)
    print(text)
    target = Path(__file__).parent / "results" / "simulator.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(text + "\n")


if __name__ == "__main__":
    main()
