"""The collector: every reset mode gives the same episodes, and a killed run stands where it stood."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from models import rng
from models.collect import Choice, Collector, buffer_for


class Counting(gymnasium.Env):
    """Shows (seed of the episode's draw, step); ends by chance, at times by time limit."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.label, self.count = self.np_random.random(), 0
        return np.array([self.label, 0.0]), {}

    def step(self, action):
        self.count += 1
        terminated = bool(self.np_random.random() < 0.1 * (action + 1))
        truncated = not terminated and self.count == 6
        return np.array([self.label, self.count]), float(action + 1), terminated, truncated, {}


class Forgetful(Counting):
    """An environment that is not a function of its seed and actions."""

    births = 0

    def reset(self, *, seed=None, options=None):
        Forgetful.births += 1
        _, info = super().reset(seed=seed)
        self.label = float(Forgetful.births)
        return np.array([self.label, 0.0]), info


def _vector(mode, kind=Counting, count=3):
    return SyncVectorEnv([kind] * count, autoreset_mode=mode)


def _policy(observation, state, first, step):
    return Choice(rng.generator(5, "explore", step).integers(0, 3, len(observation)))


MODES = list(AutoresetMode)


@pytest.mark.parametrize("mode", MODES)
def test_transitions_stay_inside_their_episode(mode):
    env = _vector(mode)
    replay = buffer_for(env, 3000)
    collector = Collector(env, replay, seed=1)
    episodes = collector.collect(_policy, 200)
    batch = replay.n_step(replay.sample(4000, np.random.default_rng(0)), 1, 1.0)
    np.testing.assert_array_equal(batch.next_observation - batch.observation, np.tile([0, 1], (4000, 1)))
    np.testing.assert_array_equal(batch.reward, batch.action + 1)
    assert collector.env_steps == replay.transitions == replay.transitions_added
    dummies = {AutoresetMode.NEXT_STEP: len(episodes)}.get(mode, 0)
    assert 0 <= 600 - collector.env_steps <= dummies  # an end in the very last call has no dummy yet
    assert (collector.env_steps == 600) == (dummies == 0)
    assert {episode.length for episode in episodes} == set(range(1, 7))
    assert sum(episode.length for episode in episodes) <= collector.env_steps
    assert all(episode.length <= episode.reward <= 3 * episode.length for episode in episodes)


@pytest.mark.parametrize("mode", MODES)
def test_ends_are_kept_apart(mode):
    env = _vector(mode)
    replay = buffer_for(env, 3000)
    Collector(env, replay, seed=1).collect(_policy, 200)
    rows = replay.sequences(np.arange(len(replay) // 3)[None] % 600)
    over = rows.observation[..., 1] == 6
    assert rows.truncated.any()
    assert rows.terminated.any()
    assert not (rows.truncated & rows.terminated).any()
    assert (over[rows.truncated]).all()
    assert rows.is_first.sum() >= rows.truncated.sum() + rows.terminated.sum()
    np.testing.assert_array_equal(rows.is_first, rows.observation[..., 1] == 0)


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_collection_carries_on_to_the_same_bytes(mode):
    whole_env = _vector(mode)
    whole = Collector(whole_env, buffer_for(whole_env, 90), seed=2)
    whole.collect(_policy, 100)

    env = _vector(mode)
    part = Collector(env, buffer_for(env, 90), seed=2)
    part.collect(_policy, 63)
    saved, buffer = part.arrays(), part.replay.state()

    env = _vector(mode)
    again = Collector(env, buffer_for(env, 90), seed=2)
    again.restore(saved)
    again.replay.restore(buffer)
    again.collect(_policy, 37)
    for name, array in whole.replay.state().items():
        np.testing.assert_array_equal(array, again.replay.state()[name], err_msg=name)
    np.testing.assert_array_equal(whole.observation, again.observation)
    assert whole.env_steps == again.env_steps


def test_a_recurrent_policy_is_told_of_starts_and_its_state_survives():
    env = _vector(AutoresetMode.NEXT_STEP)

    def policy(observation, state, first, step):
        age = np.where(first, 0.0, state["age"] + 1.0)
        real = observation[:, 1] == age
        return Choice(
            np.zeros(3, int), {"age": age, "seen": (state["seen"][0] & (real | first),)}, {"age": age}
        )

    start = {"age": np.zeros(3), "seen": (np.ones(3, bool),)}
    collector = Collector(env, buffer_for(env, 400, extras={"age": ((), np.float32)}), seed=0, state=start)
    collector.collect(policy, 100)
    assert collector.state["seen"][0].all()
    rows = collector.replay.sample(300, np.random.default_rng(0))
    np.testing.assert_array_equal(
        collector.replay.read("extra.age", rows), collector.replay.read("observation", rows)[:, 1]
    )
    other = _vector(AutoresetMode.NEXT_STEP)
    again = Collector(other, buffer_for(other, 400, extras={"age": ((), np.float32)}), seed=0, state=start)
    again.restore(collector.arrays(), start)
    np.testing.assert_array_equal(again.state["age"], collector.state["age"])


def test_an_environment_that_is_no_function_of_its_seed_is_refused_on_resuming():
    env = _vector(AutoresetMode.NEXT_STEP, Forgetful)
    collector = Collector(env, buffer_for(env, 90), seed=2)
    collector.collect(_policy, 20)
    with pytest.raises(ValueError, match="cannot be resumed"):
        collector.restore(collector.arrays())


def test_native_vector_environments_work_as_well():
    env = gymnasium.make_vec("CartPole-v1", num_envs=4)
    collector = Collector(env, buffer_for(env, 1000), seed=3)

    def policy(observation, state, first, step):
        return Choice(rng.generator(5, step).integers(0, 2, len(observation)))

    episodes = collector.collect(policy, 100)
    assert episodes
    assert all(episode.reward == episode.length for episode in episodes)
    assert collector.env_steps == 400 - sum(1 for _ in episodes) + int(collector._over.sum())
    saved = collector.arrays()
    other = gymnasium.make_vec("CartPole-v1", num_envs=4)
    again = Collector(other, buffer_for(other, 1000), seed=3)
    again.restore(saved)
    np.testing.assert_array_equal(again.observation, collector.observation)
