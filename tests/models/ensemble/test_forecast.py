"""Forecasts, explanations and dreams, held against a model whose every answer is known."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import models
from models import agent as storage
from models import ensemble
from models.ensemble import agent as acting
from models.ensemble import networks
from models.ensemble.dream import Known, Model
from models.ensemble.env import DreamVectorEnv
from models.ensemble.networks import Scaling, Weights

BOX, GRID = spaces.Box(-1.0, 1.0, (1,), np.float32), spaces.Discrete(3, start=4)
PAIR = spaces.MultiDiscrete([3, 2])
MEAN, DEVIATION, STEP = 0.3, 0.5, 1.0


def _agent(space=GRID, known=Known(), *, noise=True, fallback=None, **changes):  # noqa: B008
    """Every member says: the observation grows by 1, the reward is 2e-3 times (0.3 +- 0.5), nothing ends."""
    config = ensemble.Config(**{**models.configuration.resolved(ensemble.Config.nano()), **changes})
    box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    parts = storage.Spaces(box, space)
    shape = acting.shape_of(config, parts, config.elites)
    fresh = networks.initial(shape, 0)
    zeros = [tf.zeros_like(kernel) for kernel in fresh.kernels]
    bias = np.zeros((shape.members, 1, 7), np.float32)
    bias[..., 2] = MEAN
    bias[..., 3:6] = 2 * np.log(DEVIATION if noise else 1e-6)
    bounds = 40.0 * np.ones((shape.members, 1, 3), np.float32)
    biases = (*(tf.zeros_like(b) for b in fresh.biases[:-1]), tf.constant(bias))
    size = np.float32([1e-9, 1e-9, 2e-3])
    width = shape.inputs + shape.action_inputs
    scaling = Scaling(
        tf.zeros(width), tf.ones(width), tf.constant([STEP, STEP, 0.0]), tf.constant(size), tf.constant(0.0)
    )
    model = Model(Weights(tuple(zeros), biases, tf.constant(bounds), tf.constant(-bounds)), scaling)
    return acting.EnsembleAgent(
        config, parts, model, acting.OPEN, counters={}, known=known, fallback=fallback
    )  # fmt: skip


def _shown(batch):
    return np.zeros((batch, 2), np.float32)


@pytest.mark.parametrize(
    ("space", "action", "propagation"), [(BOX, 0.5, "mean"), (GRID, 5, "ts1"), (PAIR, (2, 1), "tsinf")]
)
def test_sampled_rewards_have_the_mean_and_the_spread_that_the_model_says(space, action, propagation):
    agent = _agent(space, propagation=propagation)
    actions = np.broadcast_to(np.array(action, space.dtype), (40, 4, *space.shape))
    run = {"horizon": 4, "samples": 101, "seed": 3}
    paths = agent.forecast(_shown(40), agent.initial_state(40), actions, **run)
    assert paths.shape == (40, 101, 4)
    np.testing.assert_array_equal(agent.forecast(_shown(40), agent.initial_state(40), actions, **run), paths)
    assert paths.mean() == pytest.approx(2e-3 * MEAN, rel=0.05)
    np.testing.assert_allclose(paths.std(axis=(0, 1)), 2e-3 * DEVIATION, rtol=0.05)
    flat = paths.reshape(40 * 101, 4)
    assert np.abs(np.corrcoef(flat.T) - np.eye(4)).max() < 0.06  # steps are drawn for themselves
    assert np.abs(np.corrcoef(paths[:, :, 0]) - np.eye(40)).max() < 0.5  # and so are the problems


def test_rewards_of_a_known_world_are_told_exactly_and_stop_where_it_ends():
    known = Known(
        reward=lambda x, a, y: y[..., 0] * tf.cast(a[..., 0], tf.float32),
        terminated=lambda y: y[..., 0] > 2.5,
    )
    agent = _agent(GRID, known)
    actions = np.array([[6, 6, 5, 6, 6], [6, 4, 6, 6, 6]])  # counted from 4
    paths = agent.forecast(_shown(2), agent.initial_state(2), actions, horizon=5, samples=3, seed=0)
    np.testing.assert_allclose(paths, np.tile([[[2, 4, 3, 0, 0]], [[2, 0, 6, 0, 0]]], (1, 3, 1)), atol=1e-5)


def test_left_to_itself_the_agent_foretells_its_plan_or_its_idleness_or_its_fallback():
    known = Known(reward=lambda x, a, y: tf.cast(a[..., 0], tf.float32) - 1.0)
    agent = _agent(GRID, known, samples=24, iterations=3, elite_samples=4)
    run = {"horizon": 5, "samples": 2, "seed": 0}  # the plan has 3 steps: its last action is kept
    free = agent.forecast(_shown(2), agent.initial_state(2), None, **run)
    np.testing.assert_allclose(free, 1.0)
    agent.limits = agent.limits._replace(disagreement=np.float32(-1.0))
    np.testing.assert_allclose(agent.forecast(_shown(2), agent.initial_state(2), None, **run), 0.0)

    class Downward:
        def initial_state(self, batch_size):
            return ()

        def act(self, observation, state, *, seed):
            return acting.Decision(np.where(observation[:, 0] < 2, 4, 6), state, {})

    agent.fallback = Downward()  # down for two steps, then up
    found = agent.forecast(_shown(2), agent.initial_state(2), None, **run)
    np.testing.assert_allclose(found, np.tile([-1, -1, 1, 1, 1], (2, 2, 1)))


def test_a_plan_is_explained_by_its_actions_and_what_they_bring():
    agent = _agent(PAIR)
    found = agent.explain(_shown(1), agent.initial_state(1), seed=0)["plan"]
    assert found["actions"].shape == (3, 2)
    assert all(PAIR.contains(action) for action in found["actions"])
    np.testing.assert_allclose(found["rewards"], 2e-3 * MEAN, rtol=0.35)
    np.testing.assert_allclose(found["spread"], 2e-3 * DEVIATION, rtol=0.2)


def test_the_dream_is_the_model_and_begins_where_the_world_was_seen():
    agent = _agent(BOX, Known(terminated=lambda y: y[..., 1] > 12.5))
    starts = np.array([[0.0, 0.0], [10.0, 10.0]])
    env = DreamVectorEnv(
        agent.model, agent.shape, agent.spaces, starts, lambda a: acting.to_choice(a, agent.spaces),
        known=agent.known, num_envs=64, steps=5, compiled=False,
    )  # fmt: skip
    observation, _ = env.reset(seed=4)
    assert set(observation[:, 0]) == {0.0, 10.0}
    rewards, actions = [], np.zeros((64, 1), np.float32)
    for age in range(1, 6):
        following, reward, terminated, truncated, _ = env.step(actions)
        running = observation[:, 0] < 9
        np.testing.assert_allclose(following[running], observation[running] + 1.0, atol=1e-5)
        assert (truncated[running] == (age == 5)).all()
        assert (terminated[~running] == (age == 3)).all() or age > 3
        rewards.append(reward[running])
        observation = np.where(running[:, None], following, observation)
    assert np.mean(rewards) == pytest.approx(2e-3 * MEAN, rel=0.3)
    fresh, reward, terminated, truncated, _ = env.step(actions)
    assert not (terminated | truncated)[running].any()
    assert set(fresh[running][:, 0]) == {0.0, 10.0}
    assert (reward[running] == 0).all()
    again, _ = env.reset(seed=4)
    assert np.array_equal(env.step(actions)[1], rewards[0]) or len(again) == 64
    with pytest.raises(ValueError, match="are not of"):
        env.step(np.full((64, 1), 3.0, np.float32))
    with pytest.raises(gymnasium.error.ResetNeeded):
        DreamVectorEnv(agent.model, agent.shape, agent.spaces, starts, lambda a: a, compiled=False).step(
            actions
        )


def test_a_policy_learns_inside_the_model_and_acts_alone_or_behind_the_gate(tmp_path):
    """Deep Dyna: in the dream the higher choice pays more, which no real step has shown to the policy."""
    from tests.models.ensemble.test_train import NANO, _signal

    config = {
        **models.configuration.resolved(NANO), "fallback": "dqn", "acting": "policy", "dream_steps": 1500
    }  # fmt: skip
    agent = models.train("ensemble", _signal(), config, seed=1)
    assert agent.fallback.counters["env_steps"] >= 1500
    assert agent.counters["env_steps"] == 160
    agent.save(tmp_path / "agent")
    loaded = models.load(tmp_path / "agent")
    shown = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    decision = loaded.act(shown, loaded.initial_state(20), seed=0)
    np.testing.assert_array_equal(decision.action, agent.act(shown, agent.initial_state(20), seed=0).action)
    np.testing.assert_array_equal(decision.action, agent.fallback.act(shown, (), seed=0).action)
    assert loaded.explain(shown[:1], loaded.initial_state(1), seed=0) == {}
    paths = loaded.forecast(shown, loaded.initial_state(20), None, horizon=2, samples=3, seed=0)
    assert paths.shape == (20, 3, 2)
    assert np.isfinite(paths).all()
    again = models.train(
        "ensemble", _signal(), {**config, "dream_steps": 40}, seed=2, init_from=tmp_path / "agent"
    )
    assert again.fallback.counters["env_steps"] < 100
    with pytest.raises(ValueError, match="not allowed without a policy"):
        acting.EnsembleAgent(agent.config, agent.spaces, agent.model, agent.limits, counters={})
