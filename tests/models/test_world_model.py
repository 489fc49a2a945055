"""Training: the same bytes twice and through a kill, the right seams, and agents that act as they dreamed."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

import models
from models.exposures import Exposures
from models.world_model import Config
from models.world_model.agent import load

NANO = models.configuration.resolved(Config.nano())


class Drift(gymnasium.Env):
    """Shows a sign and the last return; the next return has that sign. Exposure pays, turnover costs.

    The observation is [sign, last return in per cent plus one, exposure, drawdown (not used)].
    """

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = spaces.Discrete(3)
    cost = 1e-3

    def _show(self):
        return np.array([self.sign, 100 * self.last + 1, self.held, 0.0], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sign, self.last, self.held, self.count = 1.0, 0.0, 0.0, 0
        return self._show(), {}

    def step(self, action):
        asked = float(action) - 1.0
        self.last = 0.01 * self.sign + 0.003 * self.np_random.normal()
        reward = np.log1p(asked * self.last - self.cost * abs(asked - self.held))
        self.held = asked * (1 + self.last) / (1 + asked * self.last)
        self.sign = self.sign if self.np_random.random() < 0.9 else -self.sign
        self.count += 1
        return self._show(), float(reward), False, self.count == 50, {}


EXPOSURE = {
    "reward": "exposure",
    "account_columns": 2,
    "return_columns": [1],
    "exposures": [-1.0, 0.0, 1.0],
    "drift": 1.0,
}


def _drift(count=4):
    return SyncVectorEnv([Drift] * count)


def _cartpole():
    return gymnasium.make_vec("CartPole-v1", num_envs=4)


def _kill_after(lines):
    seen = []

    def log(step, metrics):
        seen.append(step)
        if len(seen) >= lines:
            raise KeyboardInterrupt

    return log


@pytest.mark.parametrize(
    ("env", "changes", "kills"),
    [(_cartpole, {"evolution": "separable"}, (3,)), (_drift, EXPOSURE, (7,))],
)
def test_a_killed_training_ends_in_the_same_bytes(tmp_path, env, changes, kills):
    config, whole_lines, lines = NANO | changes, [], []
    models.train("world_model", env(), config, seed=7, log=lambda *line: whole_lines.append(line)).save(
        tmp_path / "whole"
    )
    kept = tmp_path / "checkpoint"
    for limit in kills:
        with pytest.raises(KeyboardInterrupt):
            models.train("world_model", env(), config, seed=7, checkpoint_dir=kept, log=_kill_after(limit))
    resumed = models.train(
        "world_model", env(), config, seed=7, checkpoint_dir=kept, log=lambda *line: lines.append(line)
    )
    resumed.save(tmp_path / "resumed")
    for name in ("agent.json", "weights.safetensors"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert lines == whole_lines
    steps = [step for step, _ in lines]
    assert steps == sorted(set(steps))  # whoever keeps one value a step keeps all

    again = models.load(tmp_path / "whole")
    draw = np.random.default_rng(0)
    observation = draw.normal(size=(3, 4)).astype(np.float32)
    one, two = (agent.act(observation, agent.initial_state(3), seed=5) for agent in (resumed, again))
    np.testing.assert_array_equal(one.info["latent"], two.info["latent"])
    with pytest.raises(ValueError, match="belongs to another run: seed is 7 there and 8 here"):
        models.train("world_model", env(), config, seed=8, checkpoint_dir=kept)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    config = NANO | EXPOSURE | {
        "env_steps": 2400, "evaluation_steps": 400, "vae_epochs": 12, "rnn_epochs": 12, "generations": 20,
        "vae_learning_rate": 1e-2, "rnn_learning_rate": 1e-2, "dreams": 32, "dream_steps": 24,
        "population": 16, "reevaluate": 5, "reevaluation_dreams": 64,
    }  # fmt: skip
    directory = tmp_path_factory.mktemp("trained") / "agent"
    agent = models.train("world_model", _drift(8), config, seed=0)
    agent.save(directory)
    return agent, directory


def test_it_learns_unit_costs_and_what_to_do(trained):
    agent, _ = trained
    slope, offset, cost, r2 = agent.learned.terms
    # Shown is 100 return + 1.
    assert (slope, offset) == (pytest.approx(0.01, rel=1e-3), pytest.approx(-0.01, rel=1e-3))
    assert cost == pytest.approx(Drift.cost, rel=0.01)
    assert r2 > 0.9999
    assert agent.counters["realised_reward"] > 0.003  # 0.0078 a step would be all there is
    assert agent.counters["env_steps"] >= 2400
    gap = agent.counters["dream_gap"]
    assert gap == pytest.approx(agent.counters["dreamed_reward"] - agent.counters["realised_reward"])
    assert abs(gap) < 0.004
    shown = np.array([[1.0, 2.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]], np.float32)
    decision = agent.act(shown, agent.initial_state(2), seed=0)
    np.testing.assert_array_equal(decision.action, [2, 0])
    assert decision.info["expected_payoff"][0, 0] > 0.003 > -0.003 > decision.info["expected_payoff"][1, 0]
    np.testing.assert_allclose(decision.info["belief"].sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(decision.info["regime"], decision.info["belief"].argmax(axis=1))
    assert (decision.info["uncertainty"] > 0.0015).all()  # 0.003 is the noise of a step


def test_its_forecasts_know_the_market_the_account_and_its_own_ways(trained):
    agent, directory = trained
    shown = np.array([[1.0, 2.0, 1.0, 0.0], [-1.0, 0.0, 1.0, 0.0], [1.0, 2.0, 0.0, 0.0]], np.float32)
    shown = np.repeat(shown, 2, axis=0)
    state = agent.initial_state(6)

    def ask(who, actions, samples=400, rows=slice(None), seed=1):
        part = {name: value[rows] for name, value in state.items()}
        taken = None if actions is None else actions[rows]
        return who.forecast(shown[rows], part, taken, horizon=4, samples=samples, seed=seed)

    long = np.full((6, 4), 2)
    paths = ask(agent, long)
    assert paths.shape == (6, 400, 4)
    # The sign lasts nine times in ten: 0.01 x 0.8^h; the first step from the sign that is shown.
    means = paths.mean(axis=1)
    np.testing.assert_allclose(
        means[[0, 2]], 0.01 * np.array([[1], [-1]]) * 0.8 ** np.arange(1, 5), atol=4e-3
    )
    # Who holds nothing pays to get there, once.
    np.testing.assert_allclose(means[4] - means[0], [-Drift.cost, 0, 0, 0], atol=1.5e-3)
    assert paths.std(axis=1).min() > 0.002
    flat = ask(agent, np.full((6, 4), 1))
    np.testing.assert_allclose(flat[4:], 0.0, atol=1e-7)
    np.testing.assert_allclose(flat[:4, :, 0], np.log1p(-Drift.cost), rtol=1e-3)  # it sells, and is out
    own = ask(agent, None).mean(axis=1)
    assert (own[:, 1] > 0.001).all()  # turns with the sign
    np.testing.assert_array_equal(ask(load(directory), long), paths)
    np.testing.assert_array_equal(ask(agent, long, rows=slice(2)), paths[:2])  # each by itself
    assert (ask(agent, long, seed=2) != paths).any()


def test_a_reward_that_is_learned_is_foretold_as_well():
    agent = models.train("world_model", _cartpole(), NANO, seed=1)
    observation = np.zeros((3, 4), np.float32)
    for taken in (None, np.ones((3, 5), int)):
        found = agent.forecast(observation, agent.initial_state(3), taken, horizon=5, samples=8, seed=0)
        assert found.shape == (3, 8, 5)
        assert np.isfinite(found).all()
    with pytest.raises(ValueError, match="foretells rewards, not the returns of assets"):
        agent.market(10, seed=0, temperature=1.0)


def test_what_the_environment_tells_of_itself_needs_no_settings():
    env = _drift()
    env.exposures_shown = Exposures(account=2, returns=(1,), levels=(-1.0, 0.0, 1.0), gross=1.0)
    agent = models.train("world_model", env, NANO, seed=0)
    told = models.train("world_model", _drift(), NANO | EXPOSURE | {"drift": 0.0, "gross_limit": 1.0}, seed=0)
    assert agent.digest() == told.digest()
    assert (agent.config.reward, agent.config.return_columns) == ("exposure", (1,))
    assert agent.market(50, seed=0, temperature=1.0).shape == (50, 1)
    assert Config().settled(None).reward == "learned"
    assert Config(reward="learned").settled(env.exposures_shown).reward == "learned"


def test_a_batch_acts_as_its_elements_alone(trained):
    agent, _ = trained
    draw = np.random.default_rng(0)
    path = draw.normal(size=(4, 5, 4)).astype(np.float32)
    state, alone = agent.initial_state(5), [agent.initial_state(1) for _ in range(5)]
    for observation in path:
        whole = agent.act(observation, state, seed=3)
        state = whole.state
        for place in range(5):
            one = agent.act(observation[place : place + 1], alone[place], seed=3)
            alone[place] = one.state
            assert one.action[0] == whole.action[place]
            np.testing.assert_allclose(one.info["latent"][0], whole.info["latent"][place], atol=1e-5)


def test_it_dreams_as_an_environment_and_from_its_directory(trained):
    agent, directory = trained
    envs = [each.dream_env(4, steps=10) for each in (agent, load(directory))]
    shown = [env.reset(seed=1)[0] for env in envs]
    np.testing.assert_array_equal(*shown)
    rewards = [np.stack([env.step(np.full(4, 2))[1] for _ in range(10)]) for env in envs]
    np.testing.assert_array_equal(*rewards)
    other = models.train("dqn", envs[0], {"env_steps": 200, "warmup_steps": 50}, seed=0)
    assert other.act(shown[0], (), seed=0).action.shape == (4,)


def test_another_market_can_be_started_from(trained, tmp_path):
    agent, directory = trained
    config = models.configuration.resolved(agent.config) | {
        "vae_epochs": 1, "rnn_epochs": 1, "generations": 1, "env_steps": 480, "evaluation_steps": 80,
    }  # fmt: skip
    scores = [
        models.train("world_model", _drift(), config, seed=3, init_from=origin).counters["held_out_nll"]
        for origin in (None, directory)
    ]
    assert scores[1] < scores[0] - 0.2
    with pytest.raises(ValueError, match="not Design"):
        models.train("world_model", _drift(), config | {"units": 5}, seed=3, init_from=directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exposures": [0.0, 1.0]}, r"exposures: \[0.0, 1.0\] must name one exposure for each of the 3"),
        ({"return_columns": []}, r"return_columns: \[\] must name one component"),
        ({"account_columns": 0}, "account_columns: 0 is not allowed"),
        ({"return_columns": [2]}, r"return_columns: \[2\] must lie in \[0, 2\)"),
        ({"evaluation_steps": 480}, "evaluation_steps: 480 must be below env_steps 480"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message):
        models.train("world_model", _drift(), NANO | EXPOSURE | changes, seed=0)


def test_a_drift_is_not_dreamed_of_unless_asked_for(trained):
    agent, _ = trained
    flat = np.zeros((1, agent.design.world.control.size), np.float32)
    path = agent.imagination().dream(flat, dreams=200, steps=20, seed=0, record=True)
    config = models.configuration.resolved(agent.config) | {"env_steps": 480, "evaluation_steps": 80}
    means = []
    for drift in (0.0, 1.0):
        other = models.train("world_model", Biased.batch(), config | {"drift": drift}, seed=1)
        found = other.imagination().dream(flat, dreams=400, steps=4, seed=0, record=True)
        means.append(float(np.mean(found.payoffs)))
    assert path.payoffs.shape == (20, 200, 1)
    assert abs(means[0]) < 0.0015
    assert means[1] > 0.003


class Biased(Drift):
    """Rises three times out of four, whatever is shown."""

    def step(self, action):
        self.sign = 1.0 if self.np_random.random() < 0.75 else -1.0
        return super().step(action)

    @classmethod
    def batch(cls):
        return SyncVectorEnv([cls] * 4)
