"""Training: same bytes twice and through a kill, right where the answer is known, honest where it is not."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

import models
from models import dyna

NANO = dyna.Config.nano()


class Chain(gymnasium.Env):
    """Five places in a row; right at the far end pays 2e-4, left at the near one 1e-5."""

    observation_space = spaces.Box(-1.0, 5.0, (2,), np.float32)

    def __init__(self, action_space=None):
        self.action_space = action_space or spaces.Discrete(2, start=3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.count = int(self.np_random.integers(5)), 0
        return self._show(), {}

    def _show(self):
        return np.array([self.place, self.np_random.normal()], np.float32)

    def step(self, action):
        right = int(np.ravel(action)[0] - np.ravel(self.action_space.start)[0]) == 1
        self.count += 1
        reward = 2e-4 if right and self.place == 4 else 1e-5 if not right and self.place == 0 else 0.0
        self.place = min(self.place + 1, 4) if right else max(self.place - 1, 0)
        return self._show(), reward, False, self.count == 20, {}


def _chain(action_space=None):
    return SyncVectorEnv([lambda: Chain(action_space)] * 4)


CONFIG = {"env_steps": 1500, "warmup_steps": 600, "planning_steps": 10, "memory": 4, "discount": 0.9}


@pytest.mark.parametrize("changes", [{}, {"method": "prioritised"}, {"bonus": 1e-3}])
def test_it_walks_past_the_near_reward_to_the_far_one(changes):
    agent = models.train("dyna", _chain(), {**CONFIG, **changes}, seed=0)
    shown = np.stack([np.arange(5), np.zeros(5)], axis=1).astype(np.float32)
    decision = agent.act(shown, agent.initial_state(5), seed=0)
    assert (decision.action == 4).all()  # right, counted from 3
    assert agent.cells.bins[0] == 5  # every place its own cell
    best = 2e-4 / (1 - 0.9) * 0.9 ** np.arange(4, -1, -1)
    np.testing.assert_allclose(decision.info["value"], best, rtol=0.35)
    assert decision.info["unseen"].sum() == 0


def test_simulated_steps_save_real_ones():
    def value(planning):
        config = {**CONFIG, "env_steps": 800, "planning_steps": planning}
        agent = models.train("dyna", _chain(), config, seed=1)
        return agent.act(np.array([[0.0, 0.0]], np.float32), (), seed=0).info["value"][0]

    assert value(20) > 3 * value(0)


def test_several_branches_are_columns_of_one_table():
    space = spaces.MultiDiscrete([2, 3], start=[0, -1])
    agent = models.train("dyna", _chain(space), CONFIG, seed=0)
    decision = agent.act(np.array([[3.0, 0.0]], np.float32), (), seed=0)
    assert decision.action.shape == (1, 2)
    assert decision.action[0, 0] == 1
    assert space.contains(decision.action[0])


@pytest.mark.parametrize("changes", [{}, {"method": "prioritised"}, {"bonus": 1e-3}])
def test_a_killed_training_ends_in_the_same_bytes(tmp_path, changes):
    config = {**models.configuration.resolved(NANO), **changes}
    whole_lines, lines = [], []
    models.train("dyna", _chain(), config, seed=7, log=lambda *line: whole_lines.append(line)).save(
        tmp_path / "whole"
    )
    models.train("dyna", _chain(), config, seed=7).save(tmp_path / "again")

    def kill_after(limit):
        def log(step, metrics):
            if step >= limit:
                raise KeyboardInterrupt

        return log

    kept = tmp_path / "checkpoint"
    for limit in (150, 250):  # once in the warm-up's checkpoint, once past it
        with pytest.raises(KeyboardInterrupt):
            models.train("dyna", _chain(), config, seed=7, checkpoint_dir=kept, log=kill_after(limit))
    resumed = models.train(
        "dyna", _chain(), config, seed=7, checkpoint_dir=kept, log=lambda *line: lines.append(line)
    )
    resumed.save(tmp_path / "resumed")
    for name in ("agent.json", "weights.safetensors"):
        expected = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == expected, name
        assert (tmp_path / "resumed" / name).read_bytes() == expected, name
    assert lines == whole_lines
    assert {"train/error", "train/cells_visited", "train/episode_return"} <= set(lines[-1][1])


def test_an_agent_on_disk_decides_as_before_and_can_be_started_from(tmp_path):
    agent = models.train("dyna", _chain(), CONFIG, seed=0)
    agent.save(tmp_path / "agent")
    loaded = models.load(tmp_path / "agent")
    shown = np.random.default_rng(0).normal(2, 2, (40, 2)).astype(np.float32)
    before, after = agent.act(shown, (), seed=0), loaded.act(shown, (), seed=1)
    np.testing.assert_array_equal(before.action, after.action)
    for name, values in before.info.items():
        np.testing.assert_array_equal(after.info[name], values)
    short = {**CONFIG, "env_steps": 4, "epsilon": 0.0, "planning_steps": 0}
    warm = models.train("dyna", _chain(), short, seed=5, init_from=tmp_path / "agent")
    assert np.abs(warm.values - agent.values).max() < 0.2 * np.abs(agent.values).max()
    assert warm.count.sum() == agent.count.sum() + 4
    wide = _chain(spaces.MultiDiscrete([2, 3]))
    with pytest.raises(ValueError, match="has 2 inputs and 2 actions, not 2 and 6"):
        models.train("dyna", wide, CONFIG, seed=0, init_from=tmp_path / "agent")


def test_where_it_never_was_it_stays_in_the_middle_and_untried_actions_are_not_taken():
    agent = models.train("dyna", _chain(spaces.MultiDiscrete([2, 3])), CONFIG, seed=0)
    count = agent.count.copy()
    count[0], count[1, 1:] = 0, 0
    fresh = dyna.agent.TableAgent(
        agent.config, agent.spaces, agent.cells, agent.values - 10.0 * (count > 0), count,
        model=agent.model, reward_scale=1.0, counters={},
    )  # fmt: skip
    cells = [agent.cells.find(np.array([[x, 0.0]]))[0] for x in (0.0, 1.0)]
    assert sorted(cells) == [0, 1]
    decision = fresh.act(np.array([[0.0, 0.0], [1.0, 0.0]], np.float32)[np.argsort(cells)], (), seed=0)
    np.testing.assert_array_equal(decision.action, [[1, 1], [0, 0]])  # the middle; the only one tried
    np.testing.assert_array_equal(decision.info["unseen"], [1.0, 0.0])


def test_a_forecast_follows_the_moves_that_were_seen():
    agent = models.train("dyna", _chain(), CONFIG, seed=0)
    shown = np.array([[3.0, 0.0], [1.0, 0.0]], np.float32)
    right, left = np.full((2, 4), 4), np.full((2, 4), 3)
    paid = agent.forecast(shown, (), right, horizon=4)
    assert paid.shape == (2, 1, 4)
    np.testing.assert_allclose(paid[:, 0], [[0, 2e-4, 2e-4, 2e-4], [0, 0, 0, 2e-4]], rtol=1e-6)
    np.testing.assert_array_equal(
        agent.forecast(shown, (), None, horizon=4), paid
    )  # right is what it would do
    backward = agent.forecast(shown, (), left, horizon=4)
    np.testing.assert_allclose(
        backward[:, 0], [[0, 0, 0, 1e-5], [0, 1e-5, 1e-5, 1e-5]], rtol=1e-6, atol=1e-12
    )
    agent.model = agent.model[agent.model[:, 0] != 1]  # to the right from the first place was never tried
    np.testing.assert_array_equal(
        agent.forecast(np.zeros((1, 2)), (), right[:1], horizon=4), np.zeros((1, 1, 4))
    )


def test_chances_split_and_ended_episodes_earn_no_more():
    table = dyna.table.Table(3, 1, learning_rate=0.1, discount=0.9, memory=4)
    for following, terminated in ((1, False), (1, False), (2, False), (2, True)):
        table.observe(0, 0, 1.0, following, terminated=terminated)
    table.observe(1, 0, 4.0, 1, terminated=False)
    table.observe(2, 0, 8.0, 2, terminated=True)
    np.testing.assert_array_equal(
        table.model(), [[0, 1, 0.5, 1], [0, 2, 0.25, 1], [1, 1, 1, 4], [2, 2, 0, 8]]
    )
    one = gymnasium.spaces.Box(0, 3, (1,), np.float32), spaces.Discrete(1)
    agent = dyna.agent.TableAgent(
        NANO, models.agent.Spaces(*one), dyna.cells.Cells((np.array([0.5, 1.5]),)), table.values(),
        np.ones((3, 1), np.int64), model=table.model(), reward_scale=2.0, counters={},
    )  # fmt: skip
    paid = agent.forecast(np.zeros((1, 1)), (), None, horizon=3)[0, 0]
    np.testing.assert_allclose(paid, [0.5, (0.5 * 4 + 0.25 * 8) / 2, 0.5 * 4 / 2])


def test_wrong_spaces_and_settings_are_refused():
    with pytest.raises(ValueError, match="no list of at most 1024 choices"):
        models.train("dyna", gymnasium.make_vec("Pendulum-v1", num_envs=2), NANO, seed=0)
    with pytest.raises(ValueError, match="sweeps by error alone"):
        models.train("dyna", _chain(), {"bonus": 0.1, "method": "prioritised"}, seed=0)
