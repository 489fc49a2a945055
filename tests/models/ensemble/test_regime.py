"""The regime rule on a planted market: far ahead in trends, less in reversion, little in turbulence."""

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

import models
from models.ensemble import Config, calibration, regime
from models.ensemble import agent as acting
from models.ensemble.dream import Limits

PERSISTENCE = np.array([0.97, 0.3, 0.7])  # of the signal, in a trend, in mean reversion and in turbulence
NOISE = np.array([2e-4, 2e-4, 3e-3])


class Weather(VectorEnv):
    """A signal pays what is held; the regime, which lasts, says for how long and with how much noise.

    Shown are the signal, and of the regime what a feature would tell: its persistence and its noise.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs=16):
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.single_action_space = spaces.Discrete(5)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        self.draw = np.random.default_rng(seed)
        self.regime = np.arange(self.num_envs) % 3
        self.signal = self.draw.normal(size=self.num_envs)
        return self._show(), {}

    def _show(self):
        told = np.stack([PERSISTENCE[self.regime], 500.0 * NOISE[self.regime]], axis=1)
        told += 0.05 * self.draw.normal(size=told.shape)
        return np.concatenate([self.signal[:, None], told], axis=1, dtype=np.float32)

    def step(self, action):
        held = (np.asarray(action) - 2) / 2
        noise = NOISE[self.regime] * self.draw.normal(size=self.num_envs)
        reward = held * (1e-3 * self.signal + noise)
        self.signal = PERSISTENCE[self.regime] * self.signal + 0.3 * self.draw.normal(size=self.num_envs)
        over = np.zeros(self.num_envs, bool)
        return self._show(), reward, over, over.copy(), {}


CONFIG = {
    "env_steps": 6400, "warmup_steps": 6400, "members": 3, "elites": 3, "hidden": [24, 24],
    "learning_rate": 5e-3, "weight_decay": 1e-4, "reward_share": 0.0, "interactions": False,
    "batch_size": 64, "updates_per_round": 50, "max_rounds": 40, "patience": 6,
    "horizon": 7, "samples": 32, "elite_samples": 6, "compile": False, "gate_quantile": 1.0,
    "confidence": 0.0, "regime_rule": "model", "calm_quantile": 0.65,
}  # fmt: skip


@pytest.fixture(scope="module")
def by_model():
    return models.train("ensemble", Weather(), CONFIG, seed=0)


def _given(agent, shown):
    """The same model, told the regime by two inputs."""
    config = Config(**{**CONFIG, "regime_rule": "given", "regime_columns": [1, 2]})
    settings = acting.settings_of(config, agent.shape.space)
    limits = calibration.limits(
        agent.model, shown, np.zeros((len(shown), 1), np.int32),
        shape=agent.shape, settings=settings, known=agent.known, config=config,
    )  # fmt: skip
    return acting.EnsembleAgent(config, agent.spaces, agent.model, limits, counters={})


@pytest.mark.parametrize("rule", ["model", "given"])
def test_the_horizon_is_long_in_trends_short_in_reversion_and_both_are_cut_in_turbulence(by_model, rule):
    env = Weather(240)
    env.reset(seed=5)
    env.signal = np.repeat([1.2, -1.2], 120)
    shown = env._show()
    agent = by_model if rule == "model" else _given(by_model, shown)
    decision = agent.act(shown, agent.initial_state(240), seed=0)
    held = np.abs(decision.action - 2) / 2
    trend, reversion, turbulence = (env.regime == place for place in range(3))
    steps = decision.info["horizon"]
    assert steps[trend].mean() > 1.3 * steps[reversion].mean()
    assert steps[turbulence].max() <= 4  # half of 7
    assert (decision.info["regime"][turbulence] == regime.TURBULENCE).mean() > 0.9
    assert (decision.info["regime"][~turbulence] != regime.TURBULENCE).mean() > 0.9
    assert held[trend].mean() > 0.9
    assert held[turbulence].mean() == pytest.approx(0.5, abs=0.12)
    off = Config(**{**CONFIG, "regime_rule": "off"})
    plain = acting.EnsembleAgent(off, agent.spaces, agent.model, acting.OPEN, counters={})
    whole = plain.act(shown, plain.initial_state(240), seed=0)
    assert (np.abs(whole.action - 2) / 2)[turbulence].mean() > 0.8  # without the rule it is all in
    assert "horizon" not in whole.info


def test_the_rule_by_its_numbers():
    settings = acting.settings_of(Config(horizon=10, turbulent_size=0.25), acting.plan.Choices((5,)))
    limits = Limits(*map(np.float32, (np.inf, 0.0, 1.0, -0.5, 0.5)))
    reading = regime.Reading(tf.constant([0.9, 0.0, -0.9, 0.9, -0.9]), tf.constant([0.5, 0.5, 0.5, 2.0, 2.0]))
    found = regime.rule(reading, limits, settings)
    np.testing.assert_array_equal(found.label, [2, 1, 0, 3, 3])
    np.testing.assert_array_equal(found.steps, [10, 7, 4, 5, 2])
    np.testing.assert_array_equal(tf.reduce_sum(found.span, axis=1), found.steps)
    np.testing.assert_array_equal(found.size, [1, 1, 1, 0.25, 0.25])


def test_smaller_positions_are_nearer_to_nothing():
    choices = tf.constant([[[0], [4], [3]], [[0], [4], [3]]])
    small = regime.shrink(choices, tf.constant([2]), tf.constant([0.5, 1.0]))
    np.testing.assert_array_equal(small[..., 0], [[1, 3, 2], [0, 4, 3]])
    numbers = tf.constant([[[1.0], [-0.6]]])
    np.testing.assert_allclose(
        regime.shrink(numbers, tf.constant([0.2]), tf.constant([0.5]))[0, :, 0], [0.6, -0.2]
    )
