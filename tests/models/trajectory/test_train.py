"""Training and acting: the same bytes twice and through a kill; the right answer where it is known."""

import itertools
import json

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

import models
from models import trajectory
from models.trajectory import behaviours
from models.trajectory.agent import GRID
from models.trajectory.data import Record

NANO = trajectory.Config.nano()


def _resolved(**changes):
    return {**models.configuration.resolved(NANO), **changes}


class Match(gymnasium.Env):
    """Pays a basis point for the action that matches the sign shown, and takes one for the other."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space

    def _show(self):
        self.answer = self.np_random.choice([-1.0, 1.0])
        return np.full(1, self.answer, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._show(), {}

    def step(self, action):
        self.count += 1
        value = np.atleast_1d(action)[0]
        if isinstance(self.action_space, spaces.Discrete):
            value = value - self.action_space.start - 1
        reward = 1e-4 * self.answer * np.sign(value)
        return self._show(), float(reward), False, self.count == 12, {}


def _match(space, count=8):
    return SyncVectorEnv([lambda: Match(space)] * count)


def _cartpole():
    return gymnasium.make_vec("CartPole-v1", num_envs=4)


LEARNING = _resolved(
    env_steps=1500, updates=600, updates_per_call=50, batch_size=32, width=16, layers=1, return_steps=2,
    learning_rate=4e-3, beam_width=4, beam_expand=3, dropout=0.0, discount=0.9, context=1, horizon=2,
    log_updates=100, checkpoint_updates=1000,
)  # fmt: skip


@pytest.fixture(scope="module")
def matched():
    return models.train("trajectory", _match(spaces.Discrete(3, start=-5)), LEARNING, seed=0)


def test_the_plan_takes_the_action_that_pays_a_basis_point(matched):
    shown = np.array([[1.0], [-1.0]], np.float32)
    decision = matched.act(shown, matched.initial_state(2), seed=0)
    np.testing.assert_array_equal(decision.action, [-3, -5])
    assert all(matched.spaces.action.contains(action) for action in decision.action)
    np.testing.assert_allclose(decision.info["plan_reward"][:, 0], 1e-4, rtol=0.1)
    assert decision.info["plan"].shape == (2, 2)
    assert decision.info["plan_observation"].shape == (2, 1, 1)
    assert decision.info["beam_actions"].shape == (2, 4, 2)
    assert (np.diff(decision.info["beam_scores"]) <= 0).all()
    assert decision.info["value"].shape == decision.info["log_probability"].shape == (2,)
    assert decision.info["value"][0] > 1e-4
    np.testing.assert_array_equal(decision.info["clipped"], [0, 0])
    beyond = matched.act(2.0 * shown[:1], matched.initial_state(1), seed=0)
    np.testing.assert_array_equal(beyond.info["clipped"], [1])
    np.testing.assert_array_equal(beyond.action, [-3])


def test_a_target_is_followed_and_an_impossible_one_refused(matched):
    shown = np.array([[1.0], [-1.0]], np.float32)
    greedy = matched.with_config(mode="condition", target=1.0)
    np.testing.assert_array_equal(greedy.act(shown, greedy.initial_state(2)).action, [-3, -5])
    worst = greedy.with_target(quantile=0.0)
    np.testing.assert_array_equal(worst.act(shown, worst.initial_state(2)).action, [-5, -3])
    best = matched.quantiles[0, -1]
    assert best == pytest.approx(1.9e-4)
    with pytest.raises(
        ValueError, match=r"a return of 1 over 2 steps was never recorded; recorded ones lie in"
    ):
        matched.with_target(value=1.0)
    assert matched.with_target(value=1.0, clip=True).config.target == 1.0
    middle = matched.with_target(value=0.0).config.target
    assert np.interp(middle, GRID, matched.quantiles[0]) == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(ValueError, match=r"target: 1.5 is not allowed; it must be in \[0, 1\]"):
        matched.with_target(quantile=1.5)
    with pytest.raises(ValueError, match="either a quantile or a value"):
        matched.with_target()


def test_a_search_for_a_target_finds_it_from_either_side(matched):
    """Imitation is switched off, so that only the return counts; the network is not told the target."""
    shown = np.array([[1.0], [-1.0]], np.float32)
    for target, action in ((1.0, [-3, -5]), (0.0, [-5, -3])):
        aiming = matched.with_config(beam_score="target", target=target, likelihood_weight=0.0)
        assert aiming.target[0] == aiming.shape.unknown
        np.testing.assert_array_equal(aiming.act(shown, aiming.initial_state(2)).action, action)
    nothing = matched.with_target(value=0.0).with_config(beam_score="target", likelihood_weight=0.0)
    promised = nothing.act(shown, nothing.initial_state(2)).info["value"]
    assert (np.abs(promised) < 0.5 * matched.quantiles[0, -1]).all()


def test_the_table_of_losses_is_below_the_simple_models(matched):
    """Observations are coin flips that nobody can beat; a reward takes observation and action together."""
    table = matched.counters["held_out"]
    assert list(table) == ["observation_0", "action_0", "reward", "value"]
    assert table["reward"]["model"] < 0.1 < 0.4 < table["reward"]["bigram"] < table["reward"]["unigram"]
    assert table["action_0"]["model"] < table["action_0"]["unigram"] + 0.05


def test_the_context_is_cropped_by_whole_transitions(matched):
    agent = matched.with_config()
    state = agent.initial_state(1)
    rows = []
    for value in (1.0, -1.0, 1.0):
        decision = agent.act(np.full((1, 1), value, np.float32), state, seed=0)
        state = decision.state
        rows.append(state["past"][0, -1].copy())
    assert state["past"].shape == (1, 1, agent.layout.slots)
    assert state["count"] == 1
    assert rows[-1][1] == agent.tokeniser.encode(np.ones(1), [1]).tokens[0]
    assert rows[-1][2] == 2  # the action it took
    assert rows[-1][3] == agent.shape.unknown  # a reward that it was not told
    first = agent.act(np.ones((1, 1), np.float32), agent.initial_state(1), seed=0)
    later = agent.act(np.ones((1, 1), np.float32), state, seed=0)
    assert first.info["log_probability"] != later.info["log_probability"]  # the past is read


def test_a_plan_is_followed_until_it_is_due(matched):
    agent = matched.with_config(plan_every=2)
    state, plans = agent.initial_state(2), []
    for step in range(4):
        shown = np.array([[1.0], [-1.0]], np.float32) * (-1) ** step
        decision = agent.act(shown, state, seed=0)
        state = decision.state
        if step % 2 == 0:
            plans.append(decision.info["plan"])
            np.testing.assert_array_equal(decision.action, plans[-1][:, 0])
        else:
            assert "plan" not in decision.info
            np.testing.assert_array_equal(decision.action, plans[-1][:, 1])
            assert decision.info["value"].shape == (2,)


@pytest.mark.parametrize(
    "space", [spaces.Box(-2.0, 2.0, (2,), np.float32), spaces.MultiDiscrete([3, 2], start=[0, 4])]
)
def test_other_action_spaces(space, tmp_path):
    class Wide(Match):
        def step(self, action):
            assert self.action_space.contains(action)
            value = float(action[0]) - (1 if isinstance(self.action_space, spaces.MultiDiscrete) else 0)
            self.count += 1
            return self._show(), self.answer * np.sign(value), False, self.count == 12, {}

    env = SyncVectorEnv([lambda: Wide(space)] * 4)
    agent = models.train("trajectory", env, _resolved(drawdown_token=True, target_drawdown=0.2), seed=0)
    shown = np.array([[1.0], [-1.0], [0.5]], np.float32)
    decision = agent.act(shown, agent.initial_state(3), seed=0)
    assert all(space.contains(action) for action in decision.action)
    assert decision.info["plan"].shape == (3, 2, 2)
    assert agent.target[0] == agent.shape.unknown != agent.target[1]
    agent.save(tmp_path / "agent")
    again = models.load(tmp_path / "agent").act(shown, agent.initial_state(3), seed=0)
    np.testing.assert_array_equal(decision.action, again.action)


def test_a_killed_training_ends_in_the_same_bytes(tmp_path):
    whole_lines, lines = [], []
    models.train("trajectory", _cartpole(), NANO, seed=7, log=lambda *line: whole_lines.append(line)).save(
        tmp_path / "whole"
    )

    def kill_after(limit):
        def log(step, metrics):
            if step >= limit:
                raise KeyboardInterrupt

        return log

    kept = tmp_path / "checkpoint"
    for limit in (6, 9):
        with pytest.raises(KeyboardInterrupt):
            models.train("trajectory", _cartpole(), NANO, seed=7, checkpoint_dir=kept, log=kill_after(limit))
    assert (kept / "checkpoint.safetensors").exists()
    models.train(
        "trajectory", _cartpole(), NANO, seed=7, checkpoint_dir=kept, log=lambda *line: lines.append(line)
    ).save(tmp_path / "resumed")
    for name in ("agent.json", "weights.safetensors"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert lines == whole_lines
    with pytest.raises(ValueError, match="belongs to another run"):
        models.train("trajectory", _cartpole(), NANO, seed=1, checkpoint_dir=kept)
    saved = json.loads((tmp_path / "whole" / "agent.json").read_text())
    assert saved["counters"]["updates"] == NANO.updates
    assert saved["counters"]["env_steps"] == NANO.env_steps


def test_an_agent_on_disk_decides_as_before_and_one_row_at_a_time(tmp_path, matched):
    matched.save(tmp_path / "agent")
    loaded = models.load(tmp_path / "agent")
    shown = np.random.default_rng(0).choice([-1.0, 1.0], (5, 1)).astype(np.float32)
    before, after = (one.act(shown, one.initial_state(5), seed=3) for one in (matched, loaded))
    np.testing.assert_array_equal(before.action, after.action)
    np.testing.assert_array_equal(before.info["beam_scores"], after.info["beam_scores"])
    alone = [matched.act(row[None], matched.initial_state(1), seed=3) for row in shown]
    np.testing.assert_array_equal(before.action, np.concatenate([each.action for each in alone]))
    np.testing.assert_allclose(
        before.info["value"], np.concatenate([each.info["value"] for each in alone]), rtol=1e-4
    )


def test_recorded_data_are_learned_from_without_a_step(tmp_path):
    env = _match(spaces.Discrete(3), 4)
    recorded = behaviours.record(env, 300, seed=1)

    class Silent(type(env)):
        def step(self, actions):
            raise AssertionError("an offline training stepped its environment")

    env.__class__ = Silent
    env.recorded = recorded
    agent = models.train("trajectory", env, _resolved(env_steps=200), seed=0)
    assert agent.counters["env_steps"] == 200
    agent.save(tmp_path / "agent")
    env.recorded = recorded._replace(reward=-recorded.reward)
    warm = models.train(
        "trajectory", env, _resolved(updates=1, learning_rate=1e-9, env_steps=200), seed=3,
        init_from=tmp_path / "agent",
    )  # fmt: skip
    np.testing.assert_allclose(warm.weights, agent.weights, atol=1e-6)
    np.testing.assert_array_equal(warm.tokeniser.arrays()["centres"], agent.tokeniser.arrays()["centres"])
    with pytest.raises(ValueError, match="has a network"):
        models.train("trajectory", env, _resolved(width=10), seed=3, init_from=tmp_path / "agent")
    env.recorded = Record(*(column[:, None] for column in recorded))
    with pytest.raises(ValueError, match="the recorded observation has shape"):
        models.train("trajectory", env, NANO, seed=0)


def test_behaviours_are_mixed_and_reproducible():
    first, second = (behaviours.record(_cartpole(), 600, seed=4) for _ in range(2))
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)
    assert len(first.reward) >= 600
    bounds = first.starts()
    shares = [first.action[a:b].mean() for a, b in itertools.pairwise(bounds)]
    assert any(share in (0.0, 1.0) for share in shares)  # a constant one
    assert any(0.3 < share < 0.7 for share in shares)
    other = behaviours.record(_cartpole(), 600, seed=5)
    assert len(other.reward) != len(first.reward) or (other.action != first.action).any()


def test_configurations_that_contradict_themselves_are_refused():
    for changes, message in (
        ({"heads": 3}, "width: 8 is not allowed; it must be a multiple of heads"),
        ({"plan_every": 3}, "plan_every: 3 is not allowed; it must be at most the horizon"),
        ({"mode": "condition"}, "target: None is not allowed; mode 'condition' needs"),
        ({"beam_score": "target"}, "target: None is not allowed; beam_score 'target' needs"),
        ({"target_drawdown": 0.5}, "it must be null without drawdown_token"),
    ):
        with pytest.raises(ValueError, match=message):
            models.train("trajectory", _cartpole(), _resolved(**changes), seed=0)
