"""What Dreamer earns on markets whose answer is known, and what its dreams are worth.

    python -m benchmarks.dreamer_market --kind regimes [--seeds 0 1 2 3 4] [--default] [--set size=XS ...]
    python -m benchmarks.dreamer_market --kind martingale --seeds 0 ... 19

Each seed draws its own market (hourly bars, default features and costs): bars of training, a gap, and 24 000
bars of test, walked through as 8 windows of 3 000 side by side, which keeps the luck of one window out of the
figures. On the regimes `CONFIG` and `TRAIN` are larger than in the default run (`--default`: that one's
configuration and 12 000 bars), on the martingale smaller. Net log growth a bar of the trained agent, of the
same agent untrained, of random actions (a new one every bar), of random positions held for 24 bars, and on
the regimes market of the oracle that knows the law. The bars: trained > untrained > random actions, at least
half of the oracle on the regimes; not above zero beyond the standard error on the martingale. Also the
open-loop report on the first test window: 16 bars watched, 32 imagined along random positions held for 8
bars. One process, one thread. Prints, and writes `benchmarks/results/dreamer_<kind>.json`.
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
GAP, TEST, WINDOWS = 48, 3_000, 8
TRAIN = {"regimes": 48_000, "martingale": 12_000}
CONFIG: dict[str, dict[str, Any]] = {
    "regimes": {"env_steps": 48_000, "model_first": 0.75, "groups": 8},
    "martingale": {"env_steps": 6_000},
}
CONTEXT, HORIZON = 16, 32


class Market:
    """One drawn market with scaled features, cut into a training window and windows of test."""

    def __init__(self, kind: Any, seed: int, train: int) -> None:
        from pipelines.dataset import to_dataset
        from pipelines.features import DEFAULT_FEATURES, Scaler, compute, resolve, to_grid
        from pipelines.market.costs import Costs
        from pipelines.sources.simulator import simulate_market

        drawn = simulate_market(
            kind=kind,
            symbols=["SIM"],
            interval="1h",
            start=datetime(2022, 1, 1, tzinfo=UTC),
            bars=train + GAP + TEST * WINDOWS + 400,
            seed=1_000 + seed,
        )
        table = compute(to_grid(drawn.candles, "1h", max_gap_bars=0).lazy(), resolve(DEFAULT_FEATURES))
        data = to_dataset(table.collect(), "1h")
        skipped = len(drawn.candles) - len(data.times)
        self.truth = drawn.truth[skipped:]
        self.train = data.window(0, train)
        # The first decision falls at the close before the first bar of a window.
        self.spans = [
            (start - 1, start + TEST) for start in range(train + GAP, train + GAP + TEST * WINDOWS, TEST)
        ]
        self.tests = [data.window(*span) for span in self.spans]
        self.scaler = Scaler.fit(self.train.features, data.names)
        self.volatility = data.names.index("realised_volatility")
        self.costs = Costs()

    def training(self) -> Any:
        """Random episodes of the training window on 16 accounts."""
        from pipelines.market.env import TradingVectorEnv

        shown = self.train.observations(self.scaler)
        return TradingVectorEnv(self.train.bars, shown, self.costs, num_envs=16, episode_bars=256)

    def tested(self, count: int = WINDOWS) -> list[Any]:
        """One pass over each of the first `count` test windows."""
        from pipelines.market.env import TradingVectorEnv

        return [
            TradingVectorEnv(
                window.bars, window.observations(self.scaler), self.costs, episode_bars=None, start="first"
            )
            for window in self.tests[:count]
        ]

    def growth(self, weights: list[np.ndarray]) -> float:
        """Net log growth a bar of target weights `[T + 1]` of each test window."""
        from pipelines.market.account import simulate

        ends = [
            simulate(window.bars, held[:, None], self.costs).equity[-1]
            for window, held in zip(self.tests, weights, strict=True)
        ]
        return float(np.mean(np.log(np.array(ends) / 1e6)) / TEST)

    def oracle(self) -> float:
        from pipelines.market.known import oracle_weights

        known = (self.truth[name].to_numpy()[:, None] for name in ("filtered_mean", "filtered_variance"))
        weights = oracle_weights(*known)[:, 0]
        return self.growth([weights[start:stop] for start, stop in self.spans])

    def random(self, hold: int) -> float:
        from pipelines.market.baselines import random_positions

        grid = (-1.0, -0.5, 0.0, 0.5, 1.0)
        return self.growth(
            [
                random_positions(window.bars.close, hold=hold, grid=grid, seed=seed)[:, 0]
                for seed, window in enumerate(self.tests)
            ]
        )


def walk(agent: Any, envs: list[Any]) -> dict[str, np.ndarray]:
    """One pass over all of them side by side, the state carried, all `[T, N, ...]`.

    Observations, actions and rewards by arrival; what every action earned, exposures, and turnover.
    """
    observation = np.concatenate([env.reset(seed=0)[0] for env in envs])
    state, reward = agent.initial_state(len(envs)), np.zeros(len(envs))
    found: dict[str, list[Any]] = {
        name: [] for name in ("observation", "action", "reward", "earned", "exposure", "turnover")
    }
    for step in range(TEST):
        action, following, _ = agent.act(observation, state, seed=step)
        came = [env.step(action[place : place + 1]) for place, env in enumerate(envs)]
        earned = np.array([each[1][0] for each in came])
        exposure = [each[4]["exposure"][0, 0] for each in came]
        turnover = [each[4]["turnover"][0] for each in came]
        row = (observation, action, reward, earned, exposure, turnover)
        for name, value in zip(found, row, strict=True):
            found[name].append(value)
        observation = np.concatenate([each[0] for each in came])
        state, reward = following, earned
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


def dreams(agent: Any, path: dict[str, np.ndarray], volatility: int) -> dict[str, list[float]]:
    """The open-loop report over a walk through a test window, stretches half overlapping.

    With the fan of one observed column, the realised volatility, beside that of returns.
    """
    from models.dreamer.open_loop import calibration, open_loop

    length = CONTEXT + HORIZON
    starts = np.arange(0, TEST - length, length // 2)
    rows = starts[:, None] + np.arange(length)
    loop = open_loop(
        agent,
        *(path[name][:, 0][rows] for name in ("observation", "action", "reward")),
        context=CONTEXT,
        paths=32,
        columns=[volatility],
        seed=0,
    )
    low, high, came = loop.observation_fan[0], loop.observation_fan[-1], loop.observations  # [N, H, 1]
    inside = np.mean((low <= came) & (came <= high), axis=(0, 2))
    kept = [0, 3, 7, 15, 31]  # horizons 1, 4, 8, 16, 32
    return {
        name: [round(float(value), 3) for value in values[kept]]
        for name, values in {**calibration(loop)._asdict(), "volatility_inside_ninety": inside}.items()
    }


def run(kind: str, seed: int, train: int, changes: dict[str, Any]) -> dict[str, Any]:
    """One market, one agent."""
    import models
    from models import agent as storage
    from models.dreamer import agent as acting
    from models.dreamer import networks
    from models.dreamer.config import Config

    market = Market(kind, seed, train)
    config = Config(**{"imagined_paths": 0, **changes})
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

    env = market.training()
    agent: Any = models.train("dreamer", env, config, seed=seed, log=log)
    trained = time.process_time() - cpu
    path = walk(agent, market.tested())
    walked = time.process_time() - cpu - trained
    spaces = storage.spaces_of(env)
    fresh = acting.DreamerAgent(
        config, spaces, networks.build(config, spaces, seed), reward_scale=agent.reward_scale, counters={}
    )
    idle = walk(fresh, market.tested())
    return {
        "seed": seed,
        "trained": float(path["earned"].mean()),
        "untrained": float(idle["earned"].mean()),
        "random_actions": market.random(hold=1),
        "random_held": market.random(hold=24),
        "oracle": market.oracle() if kind == "regimes" else 0.0,
        "turnover": float(path["turnover"].mean()),
        "mean_exposure": float(path["exposure"].mean()),
        "mean_size": float(np.abs(path["exposure"]).mean()),
        "updates": agent.counters["updates"],
        "train_cpu_seconds": round(trained, 1),
        "walk_cpu_seconds": round(walked, 1),
        # Not on the agent's own walk: one that stays flat earns nothing that could be predicted.
        "open_loop": dreams(agent, walk(Wanderer(seed), market.tested(1)), market.volatility),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds in basis points a bar with 95 % intervals (t), and the share of the oracle."""
    from scipy import stats

    out: dict[str, Any] = {}
    for name in ("trained", "untrained", "random_actions", "random_held", "oracle"):
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
    parser.add_argument(
        "--default", action="store_true", help="the configuration and bars of the default run"
    )
    arguments = parser.parse_args()
    kind, default = arguments.kind, arguments.default
    train = 12_000 if default else TRAIN[kind]
    changes = {} if default else dict(CONFIG[kind])
    changes |= {key: json.loads(value) for key, _, value in (item.partition("=") for item in arguments.set)}

    from models import runtime

    runtime.single_thread()
    rows = []
    for seed in arguments.seeds:
        rows.append(run(kind, seed, train, changes))
        print(rows[-1], flush=True)
    result = {
        "command": f"python -m benchmarks.dreamer_market --kind {kind} "
        f"--seeds {' '.join(map(str, arguments.seeds))}{' --default' * default}",
        "train_bars": train,
        "changes": changes,
        "rows": rows,
        "summary": summary(rows),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
    }
    print(json.dumps(result["summary"], indent=1))
    RESULTS.mkdir(exist_ok=True)
    name = f"dreamer_{kind}{'_default' * default}.json"
    (RESULTS / name).write_text(json.dumps(result, sort_keys=True, indent=1) + "\n")


if __name__ == "__main__":
    main()
