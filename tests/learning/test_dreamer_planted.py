"""A market with a planted signal: the dream ranks actions rightly, and the policy follows the signal."""

import numpy as np
import pytest
import tensorflow as tf

import models
from models import rng
from models.dreamer.rssm import Latent, feature
from pipelines.market.bars import Bars
from pipelines.market.env import TradingVectorEnv

EDGE, NOISE = 0.004, 0.004  # a bar; a full turn of the position costs 13 basis points


def _market(bars, seed):
    """Bars and features: the sign of the next return, which holds for some 20 bars, and the last return."""
    draw = np.random.default_rng(seed)
    signal = np.where(np.cumsum(draw.random(bars) < 0.05) % 2 == 0, 1.0, -1.0)
    returns = EDGE * signal[:-1] + NOISE * draw.standard_normal(bars - 1)
    close = 100.0 * np.exp(np.concatenate([[0.0], np.cumsum(returns)]))[:, None]
    opened = np.concatenate([close[:1], close[:-1]])
    market = Bars(opened, np.maximum(opened, close), np.minimum(opened, close), close)
    last = np.concatenate([[0.0], returns]) / EDGE
    return market, np.stack([signal, last], axis=1)


def _walk(agent, market, features):
    env = TradingVectorEnv(market, features, num_envs=1, episode_bars=None, start="first")
    shown, _ = env.reset(seed=0)
    state, rewards, actions, states, observations = agent.initial_state(1), [], [], [], []
    over = False
    while not over:
        observations.append(shown)
        decision = agent.act(shown, state, seed=0)
        state = decision.state
        shown, reward, terminated, truncated, _ = env.step(decision.action)
        over = bool(terminated[0] or truncated[0])
        rewards.append(float(reward[0]))
        actions.append(int(decision.action[0]))
        states.append(state)
    return np.array(rewards), np.array(actions), states, observations


def _first_reward(agent, states, paths=32):
    """The imagined reward `[N, 5]` of the step after each state, for each of the five exposures."""
    world = agent.networks.world
    h, z = (np.concatenate([state[name] for state in states]) for name in ("deterministic", "stochastic"))
    found = []
    for choice in np.eye(5, dtype=np.float32):
        start = Latent(*(tf.repeat(part, paths, axis=0) for part in (h, z)))
        action = tf.repeat(choice[None], len(h) * paths, axis=0)
        noise = world.rssm.noise(rng.key(0), 1, len(h) * paths)
        dreamt = world.rssm.imagine(start, lambda *_, action=action: action, noise)
        reward = world.reward.mean(world.reward(feature(dreamt.latent)[1]))
        found.append(tf.reduce_mean(tf.reshape(reward, (-1, paths)), axis=1))
    return np.stack(found, axis=1)


@pytest.mark.learning
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
def test_the_dream_ranks_actions_and_the_policy_follows_the_signal(seed):
    market, features = _market(6_000, seed)
    env = TradingVectorEnv(market, features, num_envs=16, episode_bars=128)
    agent = models.train("dreamer", env, {}, seed=seed)
    market, features = _market(1_000, 100 + seed)
    rewards, actions, states, observations = _walk(agent, market, features)

    signal = features[: len(actions), 0]
    dreamt = _first_reward(agent, states[::10])
    slope = dreamt[:, 4] - dreamt[:, 0]  # long less short
    assert np.mean(np.sign(slope) == signal[::10]) > 0.9
    # Both sides are taken, and with the signal: an untrained agent and a constant one fail here.
    with_signal = np.sign(actions - 2) == signal
    assert with_signal[actions != 2].mean() > 0.9
    assert min((actions > 2).mean(), (actions < 2).mean()) > 0.25
    follower = EDGE - 0.05 * 2 * 6.5e-4
    assert rewards.mean() > 0.7 * follower

    # The forecast of a held long position knows the signal, and its fan covers what its own actions brought.
    places = np.arange(1, len(actions), 10)
    shown = np.concatenate([observations[place] for place in places])
    before = {name: np.concatenate([states[place - 1][name] for place in places]) for name in states[0]}
    held = np.full((len(places), 4), 4)
    paths = agent.forecast(shown, before, held, horizon=4, samples=128, seed=0)  # [B, M, H]
    middle = paths[..., 1].mean(axis=1)  # the second step: the first pays for getting there
    assert np.corrcoef(middle, signal[places])[0, 1] > 0.8
    own = agent.forecast(shown, before, None, horizon=1, samples=256, seed=0)[..., 0]
    low, high = np.quantile(own, [0.05, 0.95], axis=1)
    came = rewards[places]
    assert 0.8 < np.mean((low <= came) & (came <= high)) < 0.98
