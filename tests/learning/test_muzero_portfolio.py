"""MuZero over several symbols at once, and in a market whose law turns: planted, so the answer is known."""

import numpy as np
import pytest

import models
from pipelines.market.bars import Bars
from pipelines.market.costs import Costs
from pipelines.market.env import TradingVectorEnv

SYMBOLS, BARS, EDGE, NOISE = 3, 4000, 20e-4, 20e-4
CONFIG = {
    "gather": "search", "env_steps": 6000, "warmup_steps": 2000,
    "updates_per_step": 0.15, "batch_size": 64, "history": 1,
    "weight_decay": 0.1, "sampled_actions": 12, "max_considered": 8, "simulations": 16,
    "train_simulations": 12, "discount": 0.9, "n_step": 1, "unroll_steps": 3, "reanalyse_ratio": 0.08,
}  # fmt: skip


def _market(seed, *, law=1.0, symbols=SYMBOLS):
    """Each symbol's next return has the sign of its own feature (times `law`), which lasts ten bars or so."""
    draw = np.random.default_rng(seed)
    turns = draw.random((BARS, symbols)) < 0.1
    sign = np.where(np.cumsum(turns, axis=0) % 2 == 0, 1.0, -1.0)  # [T, S]
    returns = np.zeros((BARS, symbols))
    returns[1:] = law * EDGE * sign[:-1] + draw.normal(0, NOISE, (BARS - 1, symbols))
    close = 100.0 * np.exp(np.cumsum(returns, axis=0))
    opened = np.concatenate([np.full((1, symbols), 100.0), close[:-1]])
    bars = Bars(opened, np.maximum(opened, close), np.minimum(opened, close), close, np.full_like(close, 1e9))
    return bars, sign.astype(np.float32)


def _env(market, **options):
    bars, features = market
    costs = Costs(fee_bps=0.5, half_spread_bps=0.0, slippage_bps=0.0, leverage=3.0)
    return TradingVectorEnv(bars, features, costs, **{"num_envs": 16, "episode_bars": 128, **options})


def _walk(agent, market):
    """Mean log return a bar, and how far each symbol's exposure follows its own sign: `[S]`."""
    env = _env(market, num_envs=1, episode_bars=1000, start="first")
    shown, _ = env.reset(seed=0)
    state, growth, exposures, signs, over = agent.initial_state(1), [], [], [], False
    while not over:
        decision = agent.act(shown, state, seed=len(growth))
        state = decision.state
        signs.append(shown[0, : market[1].shape[1]])
        exposures.append(env.exposures(decision.action)[0])
        shown, reward, terminated, truncated, _ = env.step(decision.action)
        growth.append(reward[0])
        over = bool(terminated[0] or truncated[0])
    return float(np.mean(growth)), (np.array(exposures) * np.array(signs)).mean(axis=0)


@pytest.mark.learning
@pytest.mark.timeout(600)
def test_a_portfolio_follows_every_symbol_s_own_signal():
    """125 joint actions are drawn, not listed; the best earns about 60 basis points a bar."""
    agent = models.train("muzero", _env(_market(0)), CONFIG, seed=0)
    assert agent.shape.actions.kind == "branches"
    earned, following = _walk(agent, _market(1))
    assert following.min() > 0.5, following
    assert earned > 0.6 * SYMBOLS * EDGE, earned


@pytest.mark.learning
@pytest.mark.timeout(600)
def test_a_rolling_window_follows_a_law_that_has_turned(tmp_path):
    """Yesterday's agent, started from and trained on the new window, forgets what no longer holds."""
    config = {**CONFIG, "env_steps": 4000, "warmup_steps": 1000}
    first = models.train("muzero", _env(_market(0, symbols=1)), config, seed=0)
    first.save(tmp_path / "yesterday")
    turned = _market(2, law=-1.0, symbols=1)
    later = models.train("muzero", _env(turned), config, seed=1, init_from=tmp_path / "yesterday")
    unseen = _market(3, law=-1.0, symbols=1)
    (before, _), (after, following) = _walk(first, unseen), _walk(later, unseen)
    assert before < 0.0 < after
    assert following[0] < -0.5
    assert after > 0.6 * EDGE
