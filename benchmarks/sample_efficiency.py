"""Real steps that each agent needs on the regimes market; and that no agent finds anything where nothing is.

    python -m benchmarks.sample_efficiency [--seeds 5] [--ladder 1000 2000 4000 8000 16000 64000]
    python -m benchmarks.sample_efficiency --market martingale --seeds 40 --ladder 4000 --agents ensemble

Each agent is trained anew with every number of real steps on the ladder, on the first 12 000 hourly bars of a
simulated market with the default features, and then walks through the 3 000 bars after them (48 bars left out
between), in twelve stretches of 250 side by side, each from a flat account. The figure is its net log return
as a share of the oracle's on the same stretches, which knows the parameters but not the hidden regime;
"reaches half" is the first rung from which the mean over seeds stays at least one half of the oracle's.
On the martingale the figures are the net return and its standard error over seeds, and the mean exposure.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import vl_convert

import models
from benchmarks.planned import NETWORK, RESULTS, SideBySide, walk, write
from models import runtime
from pipelines.dataset import Dataset, to_dataset
from pipelines.features import compute, resolve, to_grid
from pipelines.features.scaling import Scaler
from pipelines.market.account import simulate
from pipelines.market.costs import Costs
from pipelines.market.env import TradingVectorEnv
from pipelines.market.known import oracle_weights, signal_law
from pipelines.settings import Features
from pipelines.sources.simulator import simulate_market

TRAIN, GAP, TEST, STRETCH = 12_000, 48, 3_000, 250
LADDER = (1_000, 2_000, 4_000, 8_000, 16_000, 64_000)
MOST = 16_000  # steps of the agents that learn a model: there are no more bars than 12 000
FIRST = TRAIN + GAP - 1  # the bar of the first decision


class Market(NamedTuple):
    """One simulated symbol with features, and the oracle's beliefs on the same bars."""

    data: Dataset
    scaler: Scaler
    costs: Costs
    oracle: np.ndarray | None  # weights [T, 1]


def make_market(kind: str, seed: int) -> Market:
    simulated = simulate_market(
        kind=kind, symbols=["SIM"], interval="1h", start=datetime(2022, 1, 1, tzinfo=UTC),
        bars=TRAIN + GAP + TEST + 1_000, seed=seed,
    )  # fmt: skip
    grid = to_grid(simulated.candles, "1h", max_gap_bars=3).with_columns(funding=pl.lit(0.0))
    data = to_dataset(compute(grid.lazy(), resolve(Features().names)).collect(), "1h")
    scaler = Scaler.fit(data.features[:TRAIN], data.names, method="robust", clip=5.0)
    weights = None
    if kind == "regimes":
        truth = simulated.truth.tail(len(data.times))  # the features drop the warm-up in front
        mean, variance = (truth[name].to_numpy()[:, None] for name in ("filtered_mean", "filtered_variance"))
        weights = oracle_weights(mean, variance, law=signal_law())
    return Market(data, scaler, Costs(), weights)


def environment(market: Market, first: int, end: int, **options: Any) -> TradingVectorEnv:
    window = market.data.window(first, end)
    return TradingVectorEnv(window.bars, window.observations(market.scaler), market.costs, **options)


def agents(steps: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Family and configuration of each agent for a number of real steps."""
    warm = min(4_000, steps // 2)
    dyna = {"env_steps": steps, "warmup_steps": warm}
    model = {"env_steps": steps, "warmup_steps": min(8_000, steps)}
    network = {**model, **NETWORK, "hidden": (48, 48), "confidence": 0.0}
    return {
        "q_learning": ("dyna", {**dyna, "planning_steps": 0}),
        "dyna_5": ("dyna", {**dyna, "planning_steps": 5}),
        "dyna_20": ("dyna", {**dyna, "planning_steps": 20}),
        "dqn": ("dqn", {"env_steps": steps, "warmup_steps": min(1_000, warm)}),
        "ensemble": ("ensemble", model),
        "ensemble_bold": ("ensemble", {**model, "confidence": 0.0, "gate_quantile": 1.0}),
        "ensemble_greedy": ("ensemble", {**model, "confidence": 0.0, "gate_quantile": 1.0, "horizon": 1}),
        "ensemble_network": ("ensemble", network),
        "deep_dyna": ("ensemble", {**model, "fallback": "dqn", "acting": "policy"}),
    }


def stretches() -> list[tuple[int, int]]:
    return [(start, start + STRETCH + 1) for start in range(FIRST, FIRST + TEST, STRETCH)]


def tested(market: Market, family: str, config: dict[str, Any], seed: int) -> dict[str, float]:
    """Net log return over the test window, and how much was held."""
    env = environment(market, 0, TRAIN, num_envs=16, episode_bars=256)
    begun = time.process_time()
    agent = models.train(family, env, config, seed=seed)
    trained = time.process_time() - begun
    tests = [
        environment(market, *stretch, num_envs=1, episode_bars=None, start="first") for stretch in stretches()
    ]
    walked = walk(agent, SideBySide(tests), seed=seed, steps=STRETCH)
    held = walked.observations[:, :, -2]  # the last but one number that is shown
    return {
        "net_log_return": float(walked.rewards.sum()),
        "mean_exposure": float(np.abs(held).mean()),
        "gated": float(np.mean(walked.said.get("gated", 0.0))),
        "unseen": float(np.mean(walked.said.get("unseen", 0.0))),
        "training_cpu_seconds": round(trained, 2),
    }


def oracle_return(market: Market) -> float:
    assert market.oracle is not None
    total = 0.0
    for start, stop in stretches():
        ledger = simulate(market.data.window(start, stop).bars, market.oracle[start:stop], market.costs)
        total += float(np.log(ledger.equity[-1] / ledger.equity[0]))
    return total


def first_to_stay(by_steps: pl.DataFrame) -> int | None:
    """The first rung from which the mean stays at least half of the oracle's."""
    enough = by_steps["mean"] >= 0.5 * by_steps["oracle"]
    last_miss = max((place for place, ok in enumerate(enough) if not ok), default=-1)
    return None if last_miss + 1 == len(enough) else int(by_steps["steps"][last_miss + 1])


def earlier(name: str, again: list[str]) -> list[dict[str, Any]]:
    """The runs of a result, without those of the agents that are measured again."""
    path = RESULTS / f"{name}.json"
    runs: list[dict[str, Any]] = (
        json.loads(path.read_text("utf-8"))["figures"]["runs"] if path.exists() else []
    )
    return [run for run in runs if run["agent"] not in again]


def chart(summary: dict[str, Any]) -> str:
    """Share of the oracle's return against real steps, a line an agent, as SVG."""
    rows = [
        {"agent": name, "steps": rung["steps"], "share": rung["mean"] / rung["oracle"],
         "low": (rung["mean"] - (rung["error"] or 0.0)) / rung["oracle"],
         "high": (rung["mean"] + (rung["error"] or 0.0)) / rung["oracle"]}
        for name, found in summary.items() for rung in found["by_steps"]
    ]  # fmt: skip
    x = {"field": "steps", "type": "quantitative", "scale": {"type": "log"}, "title": "real steps"}
    colour = {"field": "agent", "type": "nominal", "title": None}
    share = {"field": "share", "type": "quantitative", "title": "net return, share of the oracle's",
             "axis": {"format": "%"}}  # fmt: skip
    spec = {
        "width": 520,
        "height": 320,
        "data": {"values": rows},
        "layer": [
            {"mark": {"type": "line", "point": True}, "encoding": {"x": x, "y": share, "color": colour}},
            {"mark": "rule", "encoding": {"x": x, "color": colour, "y2": {"field": "high"},
                                          "y": {"field": "low", "type": "quantitative"}}},
            {"mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"y": {"datum": 0.5}}},
        ],
    }  # fmt: skip
    return str(vl_convert.vegalite_to_svg(spec))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--market", choices=("regimes", "martingale"), default="regimes")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ladder", type=int, nargs="+", default=list(LADDER))
    parser.add_argument("--agents", nargs="+", default=["q_learning", "dyna_5", "dyna_20", "dqn", "ensemble"])
    parser.add_argument("--keep", action="store_true", help="keep the runs of other agents in the result")
    parser.add_argument("--name", default="", help="of the result, where it is not to replace the usual one")
    arguments = parser.parse_args()
    runtime.single_thread()
    started = time.perf_counter()
    usual = "sample_efficiency" if arguments.market == "regimes" else "sample_efficiency_martingale"
    name = arguments.name or usual
    rows: list[dict[str, Any]] = earlier(name, arguments.agents) if arguments.keep else []
    for seed in range(arguments.seeds):
        market = make_market(arguments.market, 1_000 + seed)
        best = oracle_return(market) if market.oracle is not None else None
        for steps in arguments.ladder:
            for agent in arguments.agents:
                family, config = agents(steps)[agent]
                if family == "ensemble" and steps > MOST:
                    continue
                row = {"agent": agent, "steps": steps, "seed": seed, "oracle": best}
                rows.append(row | tested(market, family, config, seed))
                print(rows[-1], flush=True)
    table = pl.DataFrame(rows)
    figures: dict[str, Any] = {"runs": rows, "summary": {}}
    for agent in table["agent"].unique(maintain_order=True):
        own = table.filter(pl.col("agent") == agent)
        by_steps = own.group_by("steps", maintain_order=True).agg(
            mean=pl.col("net_log_return").mean(),
            error=pl.col("net_log_return").std() / pl.len().sqrt(),
            exposure=pl.col("mean_exposure").mean(),
            oracle=pl.col("oracle").mean(),
        )
        summary: dict[str, Any] = {"by_steps": by_steps.to_dicts()}
        if arguments.market == "regimes":
            summary["steps_to_half_of_oracle"] = first_to_stay(by_steps)
        figures["summary"][agent] = summary
    write(name, arguments, figures, started, script="sample_efficiency")
    if arguments.market == "regimes":
        (RESULTS / f"{name}.svg").write_text(chart(figures["summary"]), "utf-8")


if __name__ == "__main__":
    main()
