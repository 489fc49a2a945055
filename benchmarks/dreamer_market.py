"""What Dreamer earns on markets whose answer is known, and what its dreams are worth.

    python -m benchmarks.dreamer_market --kind regimes [--seeds 0 1 2 3 4] [--set env_steps=6000 ...]
    python -m benchmarks.dreamer_market --kind martingale --seeds 0 ... 19

Each seed draws its own market (hourly bars, default features and costs): 12 000 bars of training, 3 000 of
test after a gap, walked through once. Net log growth a bar of the trained agent, of the same agent
untrained, of random positions held for 24 bars (mean of 20 draws), and on the regimes market of the oracle
that knows the law. The bars: trained > untrained > random, at least half of the oracle on the regimes;
not above zero beyond the standard error on the martingale. Also the open-loop report on the test window: 16
bars watched, 32 imagined along random positions held for 8 bars. One process, one thread. Prints, and writes
`benchmarks/results/dreamer_<kind>.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
TRAIN, GAP, TEST = 12_000, 48, 3_000
CONTEXT, HORIZON = 16, 32


class Market:
    """One drawn market with scaled features, cut into a training and a test window."""

    def __init__(self, kind: Any, seed: int) -> None:
        from pipelines.dataset import to_dataset
        from pipelines.features import DEFAULT_FEATURES, Scaler, compute, resolve, to_grid
        from pipelines.market.costs import Costs
        from pipelines.sources.simulator import simulate_market

        drawn = simulate_market(
            kind=kind,
            symbols=["SIM"],
            interval="1h",
            start=datetime(2022, 1, 1, tzinfo=UTC),
            bars=TRAIN + GAP + TEST + 400,
            seed=1_000 + seed,
        )
        table = compute(to_grid(drawn.candles, "1h", max_gap_bars=0).lazy(), resolve(DEFAULT_FEATURES))
        data = to_dataset(table.collect(), "1h")
        skipped = len(drawn.candles) - len(data.times)
        self.truth = drawn.truth[skipped:]
        self.train = data.window(0, TRAIN)
        self.test_start = TRAIN + GAP
        # The first decision falls at the close before the first bar of the test.
        self.test = data.window(self.test_start - 1, self.test_start + TEST)
        self.scaler = Scaler.fit(self.train.features, data.names)
        self.costs = Costs()

    def env(self, *, training: bool) -> Any:
        """Random episodes of the training window on 16 accounts, or one pass over the test window."""
        from pipelines.market.env import TradingVectorEnv

        window = self.train if training else self.test
        return TradingVectorEnv(
            window.bars,
            window.observations(self.scaler),
            self.costs,
            num_envs=16 if training else 1,
            episode_bars=256 if training else None,
            start="random" if training else "first",
        )

    def growth(self, weights: np.ndarray) -> float:
        """Net log growth a bar of target weights `[T + 1]` over the test window."""
        from pipelines.market.account import simulate

        ledger = simulate(self.test.bars, weights[:, None], self.costs)
        return float(np.log(ledger.equity[-1] / 1e6) / TEST)

    def oracle(self) -> float:
        from pipelines.market.known import oracle_weights

        known = (self.truth[name].to_numpy()[:, None] for name in ("filtered_mean", "filtered_variance"))
        weights = oracle_weights(*known)[:, 0]
        return self.growth(weights[self.test_start - 1 : self.test_start + TEST])

    def random(self, draws: int = 20) -> float:
        from pipelines.market.baselines import random_positions

        closes, grid = self.test.bars.close, (-1.0, -0.5, 0.0, 0.5, 1.0)
        each = [self.growth(random_positions(closes, hold=24, grid=grid, seed=s)[:, 0]) for s in range(draws)]
        return float(np.mean(each))


def walk(agent: Any, env: Any) -> dict[str, np.ndarray]:
    """One pass, the state carried: observations, actions and rewards by arrival, exposures, and turnover."""
    observation, _ = env.reset(seed=0)
    state, over, steps = agent.initial_state(1), False, 0
    found: dict[str, list[Any]] = {
        name: [] for name in ("observation", "action", "reward", "exposure", "turnover")
    }
    reward = 0.0
    while not over:
        decision = agent.act(observation, state, seed=steps)
        found["observation"].append(observation[0])
        found["reward"].append(reward)
        found["action"].append(decision.action[0])
        state, steps = decision.state, steps + 1
        observation, rewards, terminated, truncated, info = env.step(decision.action)
        reward, over = float(rewards[0]), bool(terminated[0] or truncated[0])
        found["exposure"].append(info["exposure"][0, 0])
        found["turnover"].append(info["turnover"][0])
    found["earned"] = [*found["reward"][1:], reward]
    return {name: np.asarray(values) for name, values in found.items()}


class Wanderer:
    """Holds a random exposure of the grid for 8 bars, then another: what it does, no policy has chosen."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)

    def initial_state(self, batch_size: int) -> Any:
        return np.zeros(batch_size, np.int64)

    def act(self, observation: np.ndarray, state: Any, *, seed: int) -> Any:
        from models.agent import Decision

        choice = self.draw.integers(0, 5, len(state)) if seed % 8 == 0 else state
        return Decision(choice, choice, {})


def dreams(agent: Any, path: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """The open-loop report over a walk through the test window, stretches half overlapping."""
    from models.dreamer.open_loop import calibration, open_loop

    length = CONTEXT + HORIZON
    starts = np.arange(0, len(path["reward"]) - length, length // 2)
    rows = starts[:, None] + np.arange(length)
    loop = open_loop(
        agent,
        *(path[name][rows] for name in ("observation", "action", "reward")),
        context=CONTEXT,
        paths=32,
        seed=0,
    )
    kept = [0, 3, 7, 15, 31]  # horizons 1, 4, 8, 16, 32
    return {
        name: [round(float(value), 3) for value in values[kept]]
        for name, values in calibration(loop)._asdict().items()
    }


def run(kind: str, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    """One market, one agent."""
    import models
    from models import agent as storage
    from models.dreamer import agent as acting
    from models.dreamer import networks

    market = Market(kind, seed)
    config = models.config_class("dreamer")(**changes)
    cpu = time.process_time()

    def log(step: int, metrics: dict[str, float]) -> None:
        told = (
            "loss/decoder",
            "loss/reward",
            "model/divergence",
            "policy/entropy",
            "dream/return",
            "dream/scale",
        )
        line = ", ".join(f"{name} {metrics[name]:.3f}" for name in told if name in metrics)
        print(f"  {step} steps, {time.process_time() - cpu:.0f} s: {line}", flush=True)

    env = market.env(training=True)
    agent: Any = models.train("dreamer", env, config, seed=seed, log=log)
    trained = time.process_time() - cpu
    path = walk(agent, market.env(training=False))
    walked = time.process_time() - cpu - trained
    spaces = storage.spaces_of(env)
    fresh = acting.DreamerAgent(
        config, spaces, networks.build(config, spaces, seed), reward_scale=agent.reward_scale, counters={}
    )
    idle = walk(fresh, market.env(training=False))
    return {
        "seed": seed,
        "trained": float(path["earned"].mean()),
        "untrained": float(idle["earned"].mean()),
        "random": market.random(),
        "oracle": market.oracle() if kind == "regimes" else 0.0,
        "turnover": float(path["turnover"].mean()),
        "mean_exposure": float(path["exposure"].mean()),
        "mean_size": float(np.abs(path["exposure"]).mean()),
        "updates": agent.counters["updates"],
        "train_cpu_seconds": round(trained, 1),
        "walk_cpu_seconds": round(walked, 1),
        # Not on the agent's own walk: one that stays flat earns nothing that could be predicted.
        "open_loop": dreams(agent, walk(Wanderer(seed), market.env(training=False))),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds in basis points a bar with 95 % intervals (t), and the share of the oracle."""
    from scipy import stats

    out: dict[str, Any] = {}
    for name in ("trained", "untrained", "random", "oracle"):
        values = 1e4 * np.array([row[name] for row in rows])
        half = 0.0
        if len(values) > 1:
            half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
        out[name] = {"mean_bps": round(float(values.mean()), 3), "half_width": round(half, 3)}
    if out["oracle"]["mean_bps"]:
        out["share_of_oracle"] = round(out["trained"]["mean_bps"] / out["oracle"]["mean_bps"], 3)
    return out


def main() -> None:
    """Runs the seeds one after the other and writes the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=["regimes", "martingale"], default="regimes")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the default config"
    )
    arguments = parser.parse_args()
    changes = {key: json.loads(value) for key, _, value in (item.partition("=") for item in arguments.set)}

    from models import runtime

    runtime.single_thread()
    rows = []
    for seed in arguments.seeds:
        rows.append(run(arguments.kind, seed, changes))
        print(rows[-1], flush=True)
    result = {
        "command": f"python -m benchmarks.dreamer_market --kind {arguments.kind} "
        f"--seeds {' '.join(map(str, arguments.seeds))}",
        "changes": changes,
        "rows": rows,
        "summary": summary(rows),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
    }
    print(json.dumps(result["summary"], indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"dreamer_{arguments.kind}.json").write_text(
        json.dumps(result, sort_keys=True, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
