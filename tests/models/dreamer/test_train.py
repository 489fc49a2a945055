"""Training: what is replayed lies right in time, and a killed run ends in the same bytes."""

import dataclasses
import json

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import models
from models import dreamer
from models.dreamer import train as training

NANO = dreamer.Config.nano()


class Clock(gymnasium.Env):
    """Shows the time and the last action; the reward is a thousandth of the time. Five steps."""

    observation_space = spaces.Box(-10.0, 10.0, (2,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        shown = np.array([self.time, np.ravel(action)[0]], np.float32)
        terminal = self.time == 5 and int(np.ravel(action)[0]) % 2 == 0
        return shown, 1e-3 * self.time, terminal, self.time == 5 and not terminal, {}


def _clock(space, mode=AutoresetMode.NEXT_STEP):
    return SyncVectorEnv([lambda: Clock(space)] * 4, autoreset_mode=mode)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_batch_pairs_each_observation_with_the_action_that_led_to_it(mode):
    run = training._Run(_clock(spaces.Discrete(3, start=4), mode), NANO, 0, None, None)
    run.collector.collect(run.explore, 40)
    run.measure_rewards()
    rms = np.sqrt(np.mean(np.arange(1, 6) ** 2)) * 1e-3
    assert run.reward_scale == pytest.approx(1 / rms, rel=0.05)
    batch, rows = run.batch()
    time, shown = batch.observation[..., 0], batch.observation[..., 1]
    first = batch.first
    np.testing.assert_array_equal(first, time == 0)
    assert first.any()
    np.testing.assert_array_equal(batch.action.argmax(-1)[~first] + 4, shown[~first])
    np.testing.assert_array_equal(batch.action.sum(-1), 1.0)
    np.testing.assert_allclose(batch.reward, 1e-3 * time * run.reward_scale, rtol=1e-5)
    np.testing.assert_array_equal(batch.last[:, :-1], first[:, 1:])
    np.testing.assert_array_equal(batch.terminated, (time == 5) & (shown % 2 == 0))
    assert 0 < batch.terminated.sum() < batch.last.sum()
    # The start is the latent stored one row before the sequence.
    before = np.where(rows[:, 0] % run.replay.length == 0, run.replay.length - 1, -1) + rows[:, 0]
    kept = run.replay.read("extra.deterministic", before)
    np.testing.assert_array_equal(batch.start.deterministic, kept)
    assert np.abs(kept).max() > 0.0
    groups = batch.start.stochastic.reshape(len(rows), NANO.sizes.groups, -1)
    np.testing.assert_array_equal(groups.argmax(-1), run.replay.read("extra.classes", before))


def test_latents_are_stored_as_they_were_acted_in_and_learning_refreshes_them():
    run = training._Run(gymnasium.make_vec("CartPole-v1", num_envs=4), NANO, 0, None, None)
    head = run.replay.head(np.arange(4))
    run.collector.collect(run.explore, 1)
    state = run.collector.state
    np.testing.assert_array_equal(run.replay.read("extra.deterministic", head), state["deterministic"])
    run.collector.collect(run.explore, 30)
    run.measure_rewards()
    _, rows = run.batch()  # those that the first update will draw
    before = run.replay.read("extra.deterministic", rows)
    weights = run.learner.arrays()
    run.learn()
    after = run.replay.read("extra.deterministic", rows)
    # The weights are still those that acted, but states are drawn anew; first steps are sure to agree.
    assert (before != after).any(axis=-1).mean() > 0.5
    run.learn()  # behind an output layer of zeros nothing moves before the second update
    moved = run.learner.arrays()
    for part in ("world", "actor", "critic", "slow", "optimiser", "range"):
        names = [name for name in weights if name.startswith(part)]
        assert any(not np.array_equal(weights[name], moved[name]) for name in names), part
    for name in (name for name in weights if name.startswith("world")):
        assert not np.array_equal(weights[name], moved[name]), name
    # All of it comes back into a learner that began elsewhere.
    other = training._Run(gymnasium.make_vec("CartPole-v1", num_envs=4), NANO, 1, None, None).learner
    other.restore(moved)
    for name, values in other.arrays().items():
        np.testing.assert_array_equal(values, moved[name], err_msg=name)
    np.testing.assert_array_equal(other.range, run.learner.range)
    assert np.abs(other.range).max() > 0


def test_the_model_learns_first_and_alone():
    run = training._Run(gymnasium.make_vec("CartPole-v1", num_envs=4), NANO, 0, None, None)
    assert NANO.dreams_from == 96
    before = run.learner.arrays()
    while run.progress < NANO.dreams_from - 4:
        run.advance()
    assert run.updates_done > 0
    alone = run.learner.arrays()
    run.advance()
    while run.updates_done == NANO.updates(NANO.dreams_from - 1):
        run.advance()
    run.learn()  # behind an output layer of zeros the critic's others do not move before
    together = run.learner.arrays()
    for name, start in before.items():
        if name.startswith("world"):
            assert not np.array_equal(alone[name], start), name
        elif not name.startswith("optimiser"):
            np.testing.assert_array_equal(alone[name], start, err_msg=name)
    for part in ("actor", "critic", "slow", "behaviour_optimiser"):
        assert any(
            not np.array_equal(together[name], before[name]) for name in before if name.startswith(part)
        ), part


def test_a_killed_training_ends_in_the_same_bytes(tmp_path):
    def env():
        return gymnasium.make_vec("CartPole-v1", num_envs=4)

    whole_lines, lines = [], []
    models.train("dreamer", env(), NANO, seed=7, log=lambda *line: whole_lines.append(line)).save(
        tmp_path / "whole"
    )

    def kill(step, metrics):
        if step >= 140:
            raise KeyboardInterrupt

    kept = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        models.train("dreamer", env(), NANO, seed=7, checkpoint_dir=kept, log=kill)
    assert (kept / "checkpoint.safetensors").exists()
    resumed = models.train(
        "dreamer", env(), NANO, seed=7, checkpoint_dir=kept, log=lambda *line: lines.append(line)
    )
    resumed.save(tmp_path / "resumed")
    for name in ("agent.json", "weights.safetensors"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "resumed" / name).read_bytes() == whole, name
    assert lines == whole_lines
    with pytest.raises(ValueError, match="belongs to another run: seed is 7 there and 8 here"):
        models.train("dreamer", env(), NANO, seed=8, checkpoint_dir=kept)

    steps, metrics = lines[-1]
    assert NANO.env_steps <= steps < NANO.env_steps + 4
    saved = json.loads((tmp_path / "whole" / "agent.json").read_text())
    replayed = saved["counters"]["updates"] * NANO.batch_size * NANO.batch_length
    wanted = (steps - NANO.warmup_steps) * NANO.train_ratio
    assert wanted - NANO.batch_size * NANO.batch_length < replayed <= wanted
    assert all("/" in name for _, line in lines for name in line)
    assert {"loss/decoder", "model/divergence", "policy/entropy", "train/episode_return"} <= set(
        metrics
    ) | set(lines[1][1])


def test_a_box_trains_and_a_warm_start_begins_with_its_weights(tmp_path):
    space = spaces.Box(np.array([-1.0, 0.0]), np.array([3.0, 0.5]), dtype=np.float32)
    config = dataclasses.replace(NANO, env_steps=100, blocks=4, kl="balance", critic="squared")
    agent = models.train("dreamer", _clock(space), config, seed=0)
    assert agent.counters["updates"] == (100 - 64) * 4 // 32
    agent.save(tmp_path / "agent")
    idle = dataclasses.replace(config, env_steps=40, blocks=4)
    warm = models.train("dreamer", _clock(space), idle, seed=5, init_from=tmp_path / "agent")
    assert warm.digest() == agent.digest()
    assert warm.reward_scale == agent.reward_scale
    with pytest.raises(ValueError, match="other sizes or spaces"):
        models.train(
            "dreamer", _clock(space), dataclasses.replace(idle, units=8), seed=5, init_from=tmp_path / "agent"
        )


def test_a_warm_up_too_short_for_one_sequence_is_refused():
    with pytest.raises(ValueError, match="do not hold a sequence of batch_length 8 and one"):
        models.train("dreamer", _clock(spaces.Discrete(2)), {**vars(NANO), "warmup_steps": 32}, seed=0)
