"""Training: the same bytes twice and through a kill, and the right answer where it is known."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import models
from models import dqn

NANO = dqn.Config.nano()


class Match(gymnasium.Env):
    """Pays a basis point for each branch of the action that matches what is shown. Lasts five steps."""

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space

    def _show(self):
        self.answer = self.np_random.integers(0, [2, 3])
        return np.eye(3, dtype=np.float32)[self.answer[1]] * (1.0 if self.answer[0] else -1.0)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._show(), {}

    def step(self, action):
        self.count += 1
        chosen = np.atleast_1d(action) - np.atleast_1d(self.action_space.start)
        reward = 1e-4 * (chosen == self.answer[: len(chosen)]).sum()
        return self._show(), float(reward), False, self.count == 5, {}


def _match(action_space, mode=AutoresetMode.NEXT_STEP, count=8):
    return SyncVectorEnv([lambda: Match(action_space)] * count, autoreset_mode=mode)


def _cartpole():
    return gymnasium.make_vec("CartPole-v1", num_envs=8)


LEARNING = {
    "env_steps": 3000,
    "warmup_steps": 500,
    "epsilon_steps": 1500,
    "updates_per_step": 0.5,
    "batch_size": 64,
    "hidden": [32],
    "discount": 0.0,
    "n_step": 1,
    "learning_rate": 5e-3,
}


@pytest.mark.parametrize(
    ("space", "share"),
    [(spaces.MultiDiscrete([2, 3], start=[0, -1]), 2.0), (spaces.Discrete(2, start=-3), 1.0)],
)
def test_it_finds_the_answer_from_rewards_of_a_basis_point(space, share):
    agent = models.train("dqn", _match(space), LEARNING, seed=0)
    shown = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
    decision = agent.act(shown, agent.initial_state(6), seed=0)
    right = np.array([[sign, place] for sign in (1, 0) for place in range(3)])
    if isinstance(space, spaces.Discrete):
        np.testing.assert_array_equal(decision.action, right[:, 0] - 3)
        assert decision.info["q_values"].shape == (6, 2)
    else:
        np.testing.assert_array_equal(decision.action, right + np.array([0, -1]))
        assert decision.info["q_values"].shape == (6, 2, 3)
    assert all(space.contains(action) for action in decision.action)
    # In the environment's own units. A branch sees the other's pay as noise around its mean.
    low, high = {2.0: (1.2e-4, 2.1e-4), 1.0: (0.8e-4, 1.2e-4)}[share]
    assert ((decision.info["value"] > low) & (decision.info["value"] < high)).all()
    rms = {2.0: np.sqrt(7 / 6), 1.0: np.sqrt(1 / 2)}[share] * 1e-4
    assert agent.reward_scale == pytest.approx(1 / rms, rel=0.1)


@pytest.mark.parametrize("changes", [{}, {"priority_exponent": 0.6, "compile": False}])
def test_a_killed_training_ends_in_the_same_bytes(tmp_path, changes):
    config = {**models.configuration.resolved(NANO), **changes}
    whole_lines, lines = [], []
    models.train("dqn", _cartpole(), config, seed=7, log=lambda *line: whole_lines.append(line)).save(
        tmp_path / "whole"
    )
    again = models.train("dqn", _cartpole(), config, seed=7)
    again.save(tmp_path / "again")

    def kill_after(limit):
        def log(step, metrics):
            if step >= limit:
                raise KeyboardInterrupt

        return log

    kept = tmp_path / "checkpoint"
    for limit in (150, 250):  # twice, past the first and the second checkpoint
        with pytest.raises(KeyboardInterrupt):
            models.train("dqn", _cartpole(), config, seed=7, checkpoint_dir=kept, log=kill_after(limit))
    assert (kept / "checkpoint.safetensors").exists()
    resumed = models.train(
        "dqn", _cartpole(), config, seed=7, checkpoint_dir=kept, log=lambda *line: lines.append(line)
    )
    resumed.save(tmp_path / "resumed")
    for name in ("agent.json", "weights.safetensors"):
        expected = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == expected, name
        assert (tmp_path / "resumed" / name).read_bytes() == expected, name
    assert lines == whole_lines


def test_the_checkpoint_interval_does_not_change_the_result(tmp_path):
    weights = [
        models.train(
            "dqn", _cartpole(), {**models.configuration.resolved(NANO), "checkpoint_steps": steps}, seed=1,
            checkpoint_dir=tmp_path / str(steps),
        ).weights
        for steps in (50, 10_000)
    ]  # fmt: skip
    np.testing.assert_array_equal(*weights)


def test_seeds_differ_and_a_foreign_checkpoint_is_refused(tmp_path):
    first = models.train("dqn", _cartpole(), NANO, seed=0, checkpoint_dir=tmp_path)
    assert not np.array_equal(first.weights, models.train("dqn", _cartpole(), NANO, seed=1).weights)
    with pytest.raises(ValueError, match="belongs to another run: seed is 0 there and 1 here"):
        models.train("dqn", _cartpole(), NANO, seed=1, checkpoint_dir=tmp_path)


def test_an_agent_on_disk_decides_as_before_and_one_row_at_a_time(tmp_path):
    agent = models.train("dqn", _cartpole(), NANO, seed=0)
    agent.save(tmp_path / "agent")
    loaded = models.load(tmp_path / "agent")
    shown = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    before, after = (one.act(shown, one.initial_state(9), seed=s) for s, one in enumerate((agent, loaded)))
    np.testing.assert_array_equal(before.action, after.action)
    np.testing.assert_array_equal(before.info["q_values"], after.info["q_values"])
    assert set(before.info) == {"value", "q_values"}
    alone = np.concatenate([agent.act(row[None], (), seed=0).info["q_values"] for row in shown])
    np.testing.assert_allclose(alone, before.info["q_values"], rtol=1e-5, atol=1e-6)
    saved = json.loads((tmp_path / "agent" / "agent.json").read_text())
    assert saved["config"] == models.configuration.resolved(NANO)
    assert saved["counters"]["updates"] == 64


def test_a_warm_start_begins_with_the_earlier_weights(tmp_path):
    earlier = models.train("dqn", _cartpole(), NANO, seed=0)
    earlier.save(tmp_path / "agent")
    idle = {**models.configuration.resolved(NANO), "env_steps": 64}  # all of it warm-up
    warm = models.train("dqn", _cartpole(), idle, seed=5, init_from=tmp_path / "agent")
    np.testing.assert_array_equal(warm.weights, earlier.weights)
    with pytest.raises(ValueError, match="has a network"):
        models.train("dqn", _cartpole(), {**idle, "hidden": [9]}, seed=5, init_from=tmp_path / "agent")


def test_the_train_ratio_is_kept_and_steps_are_real(tmp_path):
    lines = []
    agent = models.train("dqn", _cartpole(), NANO, seed=0, log=lambda *line: lines.append(line))
    steps, metrics = lines[-1]
    assert steps == agent.counters["env_steps"]
    assert NANO.env_steps <= steps < NANO.env_steps + 8
    assert agent.counters["updates"] == (steps - NANO.warmup_steps) // 16 * 4
    assert all("/" in name for _, line in lines for name in line)
    assert {"train/loss", "train/episode_return", "train/epsilon", "train/updates_per_step"} <= set(metrics)


def test_wrong_spaces_are_refused():
    box = gymnasium.make_vec("Pendulum-v1", num_envs=2)
    with pytest.raises(ValueError, match=r"no finite list of choices"):
        models.train("dqn", box, NANO, seed=0)
    flat = _match(spaces.Discrete(2))
    flat.single_observation_space = spaces.Box(0, 1, (2, 2))
    with pytest.raises(ValueError, match="flat Box"):
        models.train("dqn", flat, NANO, seed=0)
    with pytest.raises(ValueError, match=r"dqn\.batch: unknown key"):
        models.train("dqn", _cartpole(), {"batch": 3}, seed=0)
