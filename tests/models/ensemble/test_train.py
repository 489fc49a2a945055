"""Training: the same bytes twice and through a kill, and plans that follow a planted signal."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

import models
from models import ensemble
from models.ensemble import agent as acting
from models.ensemble import holdout
from models.ensemble.dream import Known
from models.ensemble.train import bootstrap, train

NANO = ensemble.Config.nano()


class Signal(gymnasium.Env):
    """A lasting signal says which way a position pays, in basis points; changing the position costs.

    Shown are the signal and the position; a choice sets the position to -1, 0 or 1.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.signal, self.position, self.count = self.np_random.normal(), 0.0, 0
        return self._show(), {}

    def _show(self):
        return np.array([self.signal, self.position], np.float32)

    def step(self, action):
        start = np.ravel(getattr(self.action_space, "start", 1))[0]
        wanted = float(np.ravel(action)[0]) - (
            0.0 if isinstance(self.action_space, spaces.Box) else start + 1
        )
        reward = 1e-4 * (wanted * self.signal - 0.5 * abs(wanted - self.position))
        self.position, self.count = wanted, self.count + 1
        self.signal = 0.9 * self.signal + 0.4 * self.np_random.normal()
        return self._show(), float(reward), False, self.count == 20, {}


GRID, BOX = spaces.Discrete(3, start=4), spaces.Box(-1.0, 1.0, (1,), np.float32)


def _signal(space=GRID, count=4):
    return SyncVectorEnv([lambda: Signal(space)] * count)


LEARNING = {
    "env_steps": 900, "warmup_steps": 600, "fit_steps": 300, "members": 3, "elites": 3, "hidden": [24],
    "learning_rate": 5e-3, "batch_size": 64, "updates_per_round": 50, "max_rounds": 12, "horizon": 4,
    "samples": 48, "elite_samples": 8, "iterations": 3, "log_steps": 300, "compile": False, "confidence": 1.0,
    "gate_quantile": 0.9, "weight_decay": 1e-4, "reward_share": 0.0, "interactions": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    lines = []
    agent = models.train("ensemble", _signal(), LEARNING, seed=0, log=lambda *line: lines.append(line))
    return agent, lines


def test_both_directions_are_taken_and_follow_the_signal_and_the_position(trained):
    agent, _ = trained
    agent = acting.EnsembleAgent(agent.config, agent.spaces, agent.model, acting.OPEN, counters={})
    shown = np.array([[1.2, 0], [-1.2, 0], [1.2, -1], [-1.2, 1], [0.15, 1], [-0.15, -1], [0, 0]], np.float32)
    decision = agent.act(shown, agent.initial_state(7), seed=0)
    position = decision.action - 5
    np.testing.assert_array_equal(position[:4], [1, -1, 1, -1])
    np.testing.assert_array_equal(position[4:6], [1, -1])  # once held, a small signal keeps it
    assert position[6] == 0
    assert all(GRID.contains(action) for action in decision.action)


def test_planned_rewards_come_true_on_average(trained):
    agent, _ = trained
    env = _signal(count=32)
    observation, _ = env.reset(seed=3)
    state = agent.initial_state(32)
    decision = agent.act(observation, state, seed=0)
    assert decision.info["planned_rewards"].shape == (32, 4)
    realised = []
    for h in range(4):
        action = decision.info["plan"][:, h, 0] + 4
        realised.append(env.step(action)[1])
    planned, realised = decision.info["planned_rewards"], np.stack(realised, axis=1)
    assert np.corrcoef(planned[:, 0], realised[:, 0])[0, 1] > 0.95
    np.testing.assert_allclose(planned.mean(axis=0), realised.mean(axis=0), atol=4e-5)


def test_the_model_is_calibrated_and_unsure_off_its_data(trained):
    agent, lines = trained
    last = lines[-1][1]
    assert 0.8 < last["fit/coverage_90"] < 0.98
    assert last["fit/reward_explained"] > 0.9
    near = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    near[:, 1] = np.random.default_rng(1).integers(-1, 2, 200)
    far = near + np.float32([10.0, 0.0])
    state = agent.initial_state(200)
    inside, outside = (agent.act(shown, state, seed=0).info for shown in (near, far))
    assert outside["epistemic"].mean() > 10 * inside["epistemic"].mean()
    assert outside["gated"].mean() > 0.6
    assert inside["gated"].mean() < 0.6
    assert (agent.act(far, state, seed=0).action[outside["gated"] == 1] == 5).all()


@pytest.mark.parametrize(
    ("space", "changes"),
    [
        (GRID, {"compile": True}),
        (GRID, {"fallback": "dyna"}),
        (BOX, {"planner": "icem", "propagation": "ts1", "particles": 2}),
        (spaces.MultiDiscrete([3, 2]), {"planner": "shooting", "regime_rule": "model", "warm_start": False}),
    ],
)
def test_a_killed_training_ends_in_the_same_bytes(tmp_path, space, changes):
    config = {**models.configuration.resolved(NANO), **changes}
    whole_lines, lines = [], []
    whole = models.train(
        "ensemble", _signal(space), config, seed=7, log=lambda *line: whole_lines.append(line)
    )
    whole.save(tmp_path / "whole")

    def kill_after(limit):
        def log(step, metrics):
            if step >= limit:
                raise KeyboardInterrupt

        return log

    kept = tmp_path / "checkpoint"
    for limit in (100, 150):  # in the first and in the second stretch of planned steps
        with pytest.raises(KeyboardInterrupt):
            models.train(
                "ensemble", _signal(space), config, seed=7, checkpoint_dir=kept, log=kill_after(limit)
            )
    resumed = models.train(
        "ensemble", _signal(space), config, seed=7, checkpoint_dir=kept, log=lambda *line: lines.append(line)
    )
    resumed.save(tmp_path / "resumed")
    for name in ("agent.json", "weights.safetensors"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert lines == whole_lines
    loaded = models.load(tmp_path / "whole")
    shown = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    before, after = (one.act(shown, one.initial_state(4), seed=5) for one in (whole, loaded))
    np.testing.assert_array_equal(before.action, after.action)
    assert all(space.contains(action) for action in before.action)
    for name, values in before.info.items():
        np.testing.assert_array_equal(after.info[name], values, err_msg=name)


def test_known_functions_go_with_the_agent_only_if_given_again(tmp_path):
    def reward(x, a, y):
        return 1e-4 * x[..., 0] * a[..., 0]

    known = Known(reward=reward)
    agent = train(_signal(BOX), NANO, seed=0, known=known)
    agent.save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"trained with known \['reward'\]"):
        models.load(tmp_path / "agent")
    again = acting.load(tmp_path / "agent", known=known)
    shown = np.ones((4, 2), np.float32)
    np.testing.assert_array_equal(
        agent.act(shown, agent.initial_state(4), seed=0).action,
        again.act(shown, again.initial_state(4), seed=0).action,
    )
    assert json.loads((tmp_path / "agent" / "agent.json").read_text())["counters"]["known"] == ["reward"]


def test_a_warm_start_begins_with_the_earlier_members_and_a_fallback_acts_behind_the_gate(tmp_path):
    earlier = models.train("ensemble", _signal(), NANO, seed=0)
    earlier.save(tmp_path / "agent")
    idle = {**models.configuration.resolved(NANO), "env_steps": 8, "max_rounds": 1, "improvement": 1e6}
    warm = models.train("ensemble", _signal(), idle, seed=5, init_from=tmp_path / "agent")
    kernel = warm.model.weights.kernels[0].numpy()
    known = earlier.model.weights.kernels[0].numpy()
    assert all(any(np.array_equal(one, other) for other in known) for one in kernel)
    wider = {**idle, "hidden": [9]}
    with pytest.raises(ValueError, match="has networks"):
        models.train("ensemble", _signal(), wider, seed=5, init_from=tmp_path / "agent")

    class Always:
        def initial_state(self, batch_size):
            return ()

        def act(self, observation, state, *, seed):
            return acting.Decision(np.full(len(observation), 6), state, {})

    closed = acting.load(tmp_path / "agent", fallback=Always())
    closed.limits = closed.limits._replace(disagreement=np.float32(-1.0))
    assert (closed.act(np.ones((4, 2), np.float32), closed.initial_state(4), seed=0).action == 6).all()


def test_members_are_trained_on_resamples_of_their_own():
    draw = np.random.default_rng(0)
    shown, rows = draw.normal(size=(1000, 3)), np.arange(1000)
    counts = [holdout.resample(shown, rows, seed) for seed in (5, 6)]
    first, again, other = (bootstrap(counts[m], 6000, draw) for m in (0, 0, 1))
    assert set(first) == set(again)  # the resample stays, the order does not
    assert not np.array_equal(first, again)
    assert np.mean(np.isin(np.arange(1000), first)) == pytest.approx(1 - np.exp(-1), abs=0.05)
    assert len(set(first) ^ set(other)) > 300
    once = bootstrap(counts[0], counts[0].sum(), draw)
    np.testing.assert_array_equal(np.bincount(once, minlength=1000), counts[0])
    assert len(bootstrap(np.zeros(3, np.int64), 7, draw)) == 7  # nothing drawn: take all


def test_unbounded_actions_are_refused():
    with pytest.raises(ValueError, match="cannot be planned in"):
        models.train("ensemble", _signal(spaces.Box(-np.inf, np.inf, (1,))), NANO, seed=0)
