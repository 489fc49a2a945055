"""The world model on the embedded market: how well it sees, remembers and trades, against the oracle.

    python -m benchmarks.world_model_regimes [--seeds 5] [--market regimes] [--test-bars 24000] [--dqn]

For each seed: 12 000 hourly bars of training, `--test-bars` of test on bars no model has seen. Nothing is
fitted again on the way, so that a long test window only makes the figures sharper: over 3 000 bars a position
held throughout has a standard deviation of 0.29, and the oracle earns 0.5. Prints, and writes
`benchmarks/results/world_model_<market>.json`:

- V: ELBO in nats an observation, against predicting the mean, and against PCA of the same width with
  Gaussian noise (its exact likelihood);
- M: nats a step for (next latent, return), against one Gaussian with the mean of an autoregression, against
  one Gaussian around the last value, and the return's own against a constant Gaussian;
- the regimes' adjusted Rand index against the planted chain, filtered and smoothed;
- the log return of the test window, net of all costs, of the agent, the oracle and (`--dqn`) a Q-network
  with the same number of real steps;
- the dream gap: at every 40th bar the next ten rewards as the agent foretells them of itself, against those
  that came; and the gap of the end of training, in the agent's counters.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import tensorflow as tf

import models
from models import runtime
from models.agent import Agent
from models.world_model import mdn_rnn, regimes, vae
from models.world_model.agent import WorldModelAgent, regime_path
from pipelines.features import DEFAULT_FEATURES, Scaler, compute, resolve, warm_up
from pipelines.market.account import simulate
from pipelines.market.bars import Bars
from pipelines.market.costs import Costs
from pipelines.market.env import TradingVectorEnv
from pipelines.market.known import oracle_weights
from pipelines.sources.simulator import Kind, simulate_market

TRAIN, GAP, SHORT = 12_000, 48, 3_000
HORIZON, STRIDE, SAMPLES = 10, 40, 64  # of the forecasts


class Market:
    """One market, its features scaled on the training rows; simulated, unless `candles` are given."""

    def __init__(
        self,
        kind: Kind,
        seed: int,
        test_bars: int = SHORT,
        *,
        train_bars: int = TRAIN,
        candles: pl.DataFrame | None = None,
    ) -> None:
        self.train = train_bars
        features = resolve(DEFAULT_FEATURES)
        names = [feature.name for feature in features]
        skip = warm_up(features)
        truth = None
        if candles is None:
            found = simulate_market(
                kind=kind,
                symbols=["SIM"],
                interval="1h",
                start=datetime(2022, 1, 1, tzinfo=UTC),
                bars=skip + train_bars + GAP + test_bars + 1,
                seed=seed,
            )
            candles, truth = found.candles, found.truth
        table = compute(candles.lazy(), features).collect()
        if truth is not None:
            self.truth = truth.join(table.select("open_time"), on="open_time", how="semi")
        candles = candles.join(table.select("open_time"), on="open_time", how="semi")
        self.bars = Bars(*(candles[name].to_numpy()[:, None] for name in Bars._fields[:5]))
        close = self.bars.close[:, 0]
        self.returns = np.append(0.0, close[1:] / close[:-1] - 1.0)  # [T] simple
        raw = table.select(names).to_numpy()[:, None]  # [T, 1, F]
        scaler = Scaler.fit(raw[:train_bars], names, method="robust", clip=5.0)
        self.features = scaler.transform(raw).astype(np.float32)[:, 0]
        self.test = slice(train_bars + GAP - 1, train_bars + GAP + test_bars)

    def env(self, rows: slice, *, num_envs: int, episode_bars: int | None) -> TradingVectorEnv:
        bars = Bars(*(None if part is None else part[rows] for part in self.bars))
        return TradingVectorEnv(
            bars,
            self.features[rows],
            Costs(),
            num_envs=num_envs,
            episode_bars=episode_bars,
            start="random" if episode_bars else "first",
            return_columns=[DEFAULT_FEATURES.index("log_return")],
        )

    def training_env(self) -> TradingVectorEnv:
        return self.env(slice(0, self.train), num_envs=8, episode_bars=256)

    def oracle(self) -> float:
        """The net log return of the test window that the filter which knows the market earns."""
        truth = self.truth[self.test]
        weights = oracle_weights(
            truth["filtered_mean"].to_numpy()[:, None], truth["filtered_variance"].to_numpy()[:, None]
        )
        bars = Bars(*(None if part is None else part[self.test] for part in self.bars))
        return float(np.log(simulate(bars, weights, Costs()).equity[-1] / 1e6))


def vision(agent: WorldModelAgent, market: Market) -> dict[str, float]:
    """V against what needs no network, in nats an observation of the test window."""
    learned, design = agent.learned, agent.design.vision
    x = ((market.features - learned.centre) / learned.scale).astype(np.float32)
    fit, judge = x[: market.train].astype(np.float64), x[market.test].astype(np.float64)
    found = vae.held_out_elbo(learned.vision, x[market.test], design, seed=0, draws=8)
    mean, deviation = fit.mean(axis=0), fit.std(axis=0)
    constant = -0.5 * (((judge - mean) / deviation) ** 2 + np.log(2 * np.pi * deviation**2)).sum(axis=1)
    # Probabilistic PCA (Tipping and Bishop 1999): the likelihood of the best Gaussian of this rank.
    value, vector = np.linalg.eigh(np.cov(fit.T))
    value, vector = value[::-1], vector[:, ::-1]
    noise = value[design.latents :].mean()
    spread = np.append(value[: design.latents], np.full(len(value) - design.latents, noise))
    turned = (judge - mean) @ vector
    pca = -0.5 * (turned**2 / spread + np.log(2 * np.pi * spread)).sum(axis=1)
    return {"elbo": found, "predict_mean": float(constant.mean()), "pca": float(pca.mean())}


class Foretold(NamedTuple):
    """What M says of each row of the test window but the first, `[T]` each, in nats."""

    z: np.ndarray  # [all rows, Z] the latents that were drawn
    y: np.ndarray  # [all rows, Y] what was to be foretold
    nll: np.ndarray
    own: np.ndarray  # of the return alone


def foretell(agent: WorldModelAgent, market: Market) -> Foretold:
    """M over the test window, from latents drawn once; the returns are the market's own, not those shown."""
    learned, shape = agent.learned, agent.design.world.memory
    posterior = agent.encode(market.features)
    draw = np.random.default_rng(0).standard_normal(posterior.mean.shape).astype(np.float32)
    z = vae.sample(posterior, draw)
    payoff = market.returns / learned.payoff_scale[0]
    y = np.concatenate([z, payoff[:, None]], axis=1).astype(np.float32)
    weights = {name: tf.constant(value) for name, value in learned.memory.items()}
    begin = market.test.start - 64
    first = np.arange(begin, market.test.stop) == begin
    _, after = mdn_rnn.trace(learned.memory, z[begin : market.test.stop], first)
    h = after.h[64:-1]
    ahead = slice(market.test.start + 1, market.test.stop)
    seen = mdn_rnn.outlook(
        weights, tf.constant(h), tf.constant(z[market.test.start : market.test.stop - 1]), shape
    )
    nll = -mdn_rnn.distribution(seen.mixture, shape).log_prob(y[ahead]).numpy()
    own = -mdn_rnn.marginal_payoff(seen.mixture, shape).log_prob(y[ahead, shape.latents :]).numpy()
    return Foretold(z, y, nll, own)


def memory(agent: WorldModelAgent, market: Market) -> dict[str, float]:
    """M against single Gaussians, in nats a step of the test window."""
    z, y, nll, own = foretell(agent, market)
    latents = agent.config.latents
    rows = slice(market.test.start, market.test.stop - 1)
    ahead = slice(market.test.start + 1, market.test.stop)

    def gaussian(fit_left: np.ndarray, left: np.ndarray) -> float:
        covariance = np.cov(fit_left.T).reshape(fit_left.shape[1], -1)
        centred = left - fit_left.mean(axis=0)
        distance = (np.linalg.solve(covariance, centred.T).T * centred).sum(axis=1)
        size = np.linalg.slogdet(covariance)[1] + len(covariance) * np.log(2 * np.pi)
        return float(0.5 * (distance.mean() + size))

    design = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    solution, *_ = np.linalg.lstsq(design[: market.train - 1], y[1 : market.train], rcond=None)
    fit_left = y[1 : market.train] - design[: market.train - 1] @ solution
    left = y[ahead] - design[rows] @ solution
    return {
        "nll": float(nll.mean()),
        "autoregressive_gaussian": gaussian(fit_left, left),
        "persistence": gaussian(np.diff(y[: market.train], axis=0), y[ahead] - y[rows]),
        "return_nll": float(own.mean()),
        "return_constant_gaussian": gaussian(y[1 : market.train, latents:], y[ahead, latents:]),
    }


def found_regimes(agent: WorldModelAgent, market: Market) -> dict[str, float]:
    """How far the agent's regimes are the planted ones, on the test window."""
    seen = agent.encode(market.features[market.test])
    path = regime_path(agent.learned.vision, seen, agent.design, agent.config)
    planted = market.truth["regime"].to_numpy()[market.test]
    chain = agent.learned.regimes
    now = regimes.filtered(chain, path).argmax(axis=1)
    later = regimes.smoothed(chain, path).argmax(axis=1)
    best = market.truth.select("p_trend", "p_reversion", "p_turbulence").to_numpy()[market.test]
    labels = {"filtered": now, "smoothed": later, "oracle_filter": best.argmax(axis=1)}
    found = {name: regimes.adjusted_rand(label, planted) for name, label in labels.items()}
    short = {
        f"{name}_{SHORT}": regimes.adjusted_rand(label[:SHORT], planted[:SHORT])
        for name, label in labels.items()
    }
    return found | short


class Walked(NamedTuple):
    """One pass over the test window."""

    rewards: np.ndarray  # [T] log returns of equity, net of all costs
    exposure: np.ndarray  # [T] after the step
    probes: list[tuple[np.ndarray, Any]]  # observation and state at every `STRIDE`-th bar


def walk(agent: Agent, env: TradingVectorEnv, *, seed: int) -> Walked:
    """Steps the agent through the window, as a backtest does."""
    observation, _ = env.reset(seed=seed)
    state, over = agent.initial_state(1), False
    rewards, exposure, probes = [], [], []
    while not over:
        if len(rewards) % STRIDE == 0:
            probes.append((observation, state))
        decision = agent.act(observation, state, seed=seed + len(rewards))
        state = decision.state
        observation, reward, terminated, truncated, _ = env.step(decision.action)
        rewards.append(float(reward[0]))
        exposure.append(float(observation[0, -2]))
        over = bool(terminated[0] or truncated[0])
    return Walked(np.array(rewards), np.array(exposure), probes)


def dream_gap(agent: WorldModelAgent, walked: Walked, *, seed: int) -> dict[str, float]:
    """Foretold less realised reward a step over the next `HORIZON` steps of the agent's own doing."""
    probes = walked.probes[: (len(walked.rewards) - HORIZON) // STRIDE + 1]
    state = {name: np.concatenate([np.asarray(state[name]) for _, state in probes]) for name in probes[0][1]}
    foretold = agent.forecast(
        np.concatenate([shown for shown, _ in probes]),
        state,
        None,
        horizon=HORIZON,
        samples=SAMPLES,
        seed=seed,
    )  # [B, M, H]
    ahead = np.arange(len(probes))[:, None] * STRIDE + np.arange(HORIZON)
    difference = foretold.mean(axis=(1, 2)) - walked.rewards[ahead].mean(axis=1)
    return {
        "foretold": float(foretold.mean()),
        "realised": float(walked.rewards[ahead].mean()),
        "gap": float(difference.mean()),
        "gap_error": float(difference.std(ddof=1) / np.sqrt(len(difference))),
        "covered_90": float(_covered(foretold.sum(axis=2), walked.rewards[ahead].sum(axis=1), 0.9)),
    }


def _covered(paths: np.ndarray, came: np.ndarray, level: float) -> float:
    low, high = np.quantile(paths, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return float(((came >= low) & (came <= high)).mean())


def one(
    kind: Kind, seed: int, changes: dict[str, Any], *, dqn: bool = False, test_bars: int = SHORT
) -> dict[str, Any]:
    market = Market(kind, seed, test_bars)
    began = time.process_time()
    agent = models.train("world_model", market.training_env(), changes, seed=seed)
    trained = time.process_time()
    assert isinstance(agent, WorldModelAgent)
    walked = walk(agent, market.env(market.test, num_envs=1, episode_bars=None), seed=seed)
    acted = time.process_time()
    blocks = walked.rewards[: len(walked.rewards) // 240 * 240].reshape(-1, 240).sum(axis=1)
    figures: dict[str, Any] = {
        "seed": seed,
        "train_cpu_seconds": trained - began,
        "act_cpu_seconds": acted - trained,
        "bars": len(walked.rewards),
        "log_return": float(walked.rewards.sum()),
        "log_return_error": float(blocks.std(ddof=1) * np.sqrt(len(blocks))),
        "exposure": float(np.abs(walked.exposure).mean()),
        "net_exposure": float(walked.exposure.mean()),
        "oracle": market.oracle(),
        "dream_gap": dream_gap(agent, walked, seed=seed),
        "vision": vision(agent, market),
        "memory": memory(agent, market),
        "regimes": found_regimes(agent, market),
        "counters": agent.counters,
    }
    if dqn:
        other = models.train("dqn", market.training_env(), {}, seed=seed)
        env = market.env(market.test, num_envs=1, episode_bars=None)
        figures["dqn"] = float(walk(other, env, seed=seed).rewards.sum())
    return figures


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What the bars are held against, over the seeds."""
    earned = np.array([run["log_return"] for run in runs])
    oracle = np.array([run["oracle"] for run in runs])
    dreamed = np.array([run["counters"]["dreamed_reward"] * run["bars"] for run in runs])
    found = {
        "log_return": float(earned.mean()),
        "log_return_error": float(earned.std(ddof=1) / np.sqrt(len(runs))) if len(runs) > 1 else 0.0,
        "dreamed_log_return": float(dreamed.mean()),
        "oracle": float(oracle.mean()),
        "share_of_oracle": float(earned.sum() / oracle.sum()) if oracle.any() else None,
        "least_smoothed": min(run["regimes"]["smoothed"] for run in runs),
        "least_filtered": min(run["regimes"]["filtered"] for run in runs),
    }
    if "dqn" in runs[0]:
        found["dqn"] = float(np.mean([run["dqn"] for run in runs]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--market", choices=["regimes", "martingale"], default="regimes")
    parser.add_argument("--test-bars", type=int, default=24_000)
    parser.add_argument("--dqn", action="store_true", help="also train dqn with the same real steps")
    parser.add_argument("--set", default="{}", help="changes of the configuration, as JSON")
    arguments = parser.parse_args()
    runtime.single_thread()
    runs = []
    for seed in range(arguments.seeds):
        changes = json.loads(arguments.set)
        runs.append(one(arguments.market, seed, changes, dqn=arguments.dqn, test_bars=arguments.test_bars))
        print(json.dumps(runs[-1]), flush=True)
    print(json.dumps(summary(runs), indent=1))
    result = {
        "command": f"python -m benchmarks.world_model_regimes --seeds {arguments.seeds} "
        f"--market {arguments.market} --test-bars {arguments.test_bars} --set '{arguments.set}'"
        + (" --dqn" if arguments.dqn else ""),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "summary": summary(runs),
        "runs": runs,
    }
    path = Path(__file__).parent / "results" / f"world_model_{arguments.market}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
