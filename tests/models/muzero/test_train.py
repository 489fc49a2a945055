"""Training: the same bytes twice and through a kill, and the right answer where it is known."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import models
from models import configuration, muzero, rng
from models.muzero import search, train
from models.muzero.agent import run_search

NANO = muzero.Config.nano()


def _config(**changes):
    return {**configuration.resolved(NANO), **changes}


def _cartpole():
    return gymnasium.make_vec("CartPole-v1", num_envs=4)


class Corridor(gymnasium.Env):
    """Four rooms; right, right, right pays a basis point, left pays a third of one and ends it."""

    observation_space = spaces.Box(0.0, 1.0, (4,), np.float32)
    action_space = spaces.Discrete(2, start=3)

    def _show(self):
        return np.eye(4, dtype=np.float32)[self.place]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return self._show(), {}

    def step(self, action):
        if action == 3:
            return self._show(), 0.3e-4, True, False, {}
        self.place += 1
        over = self.place == 3
        return self._show(), 1e-4 if over else 0.0, over, False, {}


@pytest.mark.parametrize("search_name", ["gumbel", "puct"])
def test_it_finds_the_way_from_rewards_of_a_basis_point(search_name):
    """The prize lies three steps off: without looking ahead the small pay nearby is better."""
    env = SyncVectorEnv([Corridor] * 16, autoreset_mode=AutoresetMode.NEXT_STEP)
    config = _config(
        search=search_name, env_steps=1500, warmup_steps=500, updates_per_step=0.25, batch_size=32, latent=16,
        hidden=32, replay_capacity=4000, simulations=12, train_simulations=8, unroll_steps=3, n_step=3,
        discount=0.95, learning_rate=1e-2, target_period=10, value_bins=21, history=1, reanalyse_ratio=0.0,
        value_limit=4.0, reward_limit=4.0,
    )  # fmt: skip
    agent = models.train("muzero", env, config, seed=0)
    rooms = np.eye(4, dtype=np.float32)[:3]
    decision = agent.act(rooms, agent.initial_state(3), seed=0)
    np.testing.assert_array_equal(decision.action, [4, 4, 4])
    # In the environment's own units, growing toward the prize; what exploring cost is in it.
    value = decision.info["raw_value"]
    assert 0.3e-4 < value[0] < value[1] < value[2], value
    np.testing.assert_allclose(value[2], 1e-4, atol=0.3e-4)
    assert decision.info["depth"].min() > 1
    np.testing.assert_array_equal(decision.info["line"][:, 0], [1, 1, 1])
    np.testing.assert_array_equal(decision.info["visits"].sum(axis=1), 12)
    assert 1e4 < agent.units.reward < 4e4  # one over the root mean square


@pytest.mark.parametrize(
    "changes",
    [{}, {"search": "puct", "priority_exponent": 0.6, "encoder": "gru", "consistency_weight": 0.0}],
    ids=["default", "puct"],
)
def test_a_killed_training_ends_in_the_same_bytes(tmp_path, changes):
    config, whole_lines, lines = _config(**changes), [], []
    models.train("muzero", _cartpole(), config, seed=7, log=lambda *line: whole_lines.append(line)).save(
        tmp_path / "whole"
    )

    def kill_after(limit):
        def log(step, metrics):
            if step >= limit:
                raise KeyboardInterrupt

        return log

    kept = tmp_path / "checkpoint"
    for limit in (75, 115):  # in the warm-up's wake, and past the second checkpoint
        with pytest.raises(KeyboardInterrupt):
            models.train("muzero", _cartpole(), config, seed=7, checkpoint_dir=kept, log=kill_after(limit))
    assert (kept / "checkpoint.safetensors").exists()
    models.train(
        "muzero", _cartpole(), config, seed=7, checkpoint_dir=kept, log=lambda *line: lines.append(line)
    ).save(tmp_path / "resumed")
    for name in ("agent.json", "weights.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes(), name
    assert lines == whole_lines


def test_an_agent_on_disk_decides_as_before_and_one_row_at_a_time(tmp_path):
    agent = models.train("muzero", _cartpole(), NANO, seed=0)
    agent.save(tmp_path / "agent")
    loaded = models.load(tmp_path / "agent")
    shown = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    before, after = (one.act(shown, one.initial_state(5), seed=s) for s, one in enumerate((agent, loaded)))
    np.testing.assert_array_equal(before.action, after.action)
    np.testing.assert_array_equal(before.info["policy"], after.info["policy"])
    for b in range(5):
        alone = agent.act(shown[b : b + 1], agent.initial_state(1), seed=3)
        np.testing.assert_allclose(alone.info["policy"][0], before.info["policy"][b], atol=1e-4)
        np.testing.assert_array_equal(alone.info["visits"][0], before.info["visits"][b])
    np.testing.assert_array_equal(before.state[:, -1], agent.remember(shown, agent.initial_state(5))[:, -1])
    # Without a search the policy head decides.
    head = agent.with_simulations(0).act(shown, agent.initial_state(5))
    np.testing.assert_array_equal(head.action, head.info["policy"].argmax(axis=1))
    assert set(head.info) == {"value", "raw_value", "policy"}
    assert agent.within(1e-9).config.simulations == 0


def test_reanalysis_with_the_same_weights_says_the_same_of_the_same_rows():
    run = train.Run(_cartpole(), configuration.parse(muzero.Config, _config(), where="test"), 3, None, None)
    while run.progress < 120:
        run.advance()
    # Weights that tell observations apart, as fresh ones with their zero heads hardly do.
    wild = np.random.default_rng(0).normal(0, 0.4, run.shape.size).astype(np.float32)
    run.learner = run.learner._replace(target=tf.constant(wild))
    rows = run.replay.complete_rows()[-9:-3]
    reached, exists = run.replay.window(rows, NANO.unroll_steps)
    run.reanalyse(rows, seed=5)
    for b, k in np.argwhere(exists & run.replay.read("complete", reached)):
        window = run.windows(reached[b : b + 1, k])  # what the agent saw at that very row
        fresh = run_search(
            run.shape, run.settings, run.learner.target, window, rng.key(1), noise=0.0, temperature=0.0,
            compiled=False,
        )  # fmt: skip
        kept = run.replay.read("extra.policy", reached[b, k])
        np.testing.assert_allclose(kept, fresh.policy[0], atol=2e-3)  # of the batch's size
        np.testing.assert_allclose(run.replay.read("extra.value", reached[b, k]), fresh.value[0], atol=1e-3)
    values = run.replay.read("extra.value", rows)
    assert len(np.unique(values.round(2))) > 3, values  # rows differ, so that a wrong index would show
    # A window read from the buffer is the window the agent carried.
    newest = run.replay.head(np.arange(4))
    going = ~run.collector.first
    np.testing.assert_array_equal(run.windows(newest)[going][:, :-1], run.collector.state[going][:, 1:])


@pytest.mark.parametrize("space", ["box", "branches"])
def test_drawn_actions_train_and_act_inside_their_space(space, tmp_path):
    class Match(gymnasium.Env):
        observation_space = spaces.Box(-1, 1, (2,), np.float32)
        action_space = (
            spaces.Box(-3.0, 1.0, (2,), np.float32) if space == "box" else spaces.MultiDiscrete([5, 4, 5])
        )

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.np_random.random(2, np.float32), {}

        def step(self, action):
            return self.np_random.random(2, np.float32), float(np.sum(action)), False, False, {}

    env = SyncVectorEnv([Match] * 4)
    agent = models.train("muzero", env, _config(sampled_actions=5), seed=0)
    agent.save(tmp_path / "agent")
    agent = models.load(tmp_path / "agent")
    decision = agent.act(np.zeros((3, 2), np.float32), agent.initial_state(3), seed=4)
    assert all(agent.spaces.action.contains(action) for action in decision.action)
    assert decision.info["candidates"].shape[:2] == (3, 5)
    head = agent.with_simulations(0).act(np.zeros((3, 2), np.float32), agent.initial_state(3))
    assert all(agent.spaces.action.contains(action) for action in head.action)


def test_a_warm_start_begins_with_the_earlier_weights_and_units(tmp_path):
    earlier = models.train("muzero", _cartpole(), NANO, seed=0)
    earlier.save(tmp_path / "agent")
    idle = _config(env_steps=60)  # all of it warm-up
    warm = models.train("muzero", _cartpole(), idle, seed=5, init_from=tmp_path / "agent")
    np.testing.assert_array_equal(warm.weights, earlier.weights)
    np.testing.assert_array_equal(warm.units.scale, earlier.units.scale)
    with pytest.raises(ValueError, match="has networks"):
        models.train("muzero", _cartpole(), {**idle, "hidden": 9}, seed=5, init_from=tmp_path / "agent")


def test_the_train_ratio_is_kept_and_settings_are_one_search():
    lines = []
    agent = models.train("muzero", _cartpole(), NANO, seed=0, log=lambda *line: lines.append(line))
    steps, metrics = lines[-1]
    assert agent.counters["updates"] == int((steps - NANO.warmup_steps) * NANO.updates_per_step)
    assert {"train/loss", "train/policy", "search/depth", "train/updates_per_step"} <= set().union(
        *(line for _, line in lines)
    )
    assert metrics["train/updates"] == agent.counters["updates"]
    assert search.settings_of(NANO, 3) == search.settings_of(NANO, 3)
