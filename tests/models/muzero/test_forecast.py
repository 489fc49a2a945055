"""What the model foretells against what is known, and the tree that explains a decision."""

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import Env, spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import models
from models import configuration, muzero, rng, scalars
from models.agent import Spaces
from models.muzero import agent as acting
from models.muzero import forecast, networks

NANO = muzero.Config.nano()
BOX = spaces.Box(-1, 1, (3,), np.float32)
SPACES = {
    "listed": spaces.Discrete(3, start=1),
    "branches": spaces.MultiDiscrete([5, 4, 5]),
    "box": spaces.Box(-2, 1, (2,), np.float32),
}


def _config(**changes):
    return configuration.parse(muzero.Config, {**configuration.resolved(NANO), **changes}, where="test")


def _agent(space, seed=0, **changes):
    config = _config(sampled_actions=4, **changes)
    shape = acting.shape_of(config, Spaces(BOX, space))
    weights = np.random.default_rng(seed).normal(0, 0.4, shape.size).astype(np.float32)
    units = acting.Units(np.zeros(3, np.float32), np.ones(3, np.float32), 1000.0)
    return acting.SearchAgent(config, Spaces(BOX, space), weights, units=units, counters={})


def _seen(count):
    return np.random.default_rng(1).uniform(-1, 1, (count, 3)).astype(np.float32)


class Payer(Env):
    """Pays a basis point times the first feature times the exposure; the feature's sign flips every step."""

    observation_space, action_space = BOX, spaces.Discrete(3)

    def _show(self):
        return np.array([self.sign, 0.5, 0.0], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sign = float(self.np_random.choice([-1.0, 1.0]))
        return self._show(), {}

    def step(self, action):
        reward = 1e-4 * self.sign * (action - 1.0)
        self.sign = -self.sign
        return self._show(), reward, False, False, {}


def test_a_held_exposure_is_foretold_where_its_reward_is_known():
    env = SyncVectorEnv([Payer] * 8, autoreset_mode=AutoresetMode.NEXT_STEP)
    agent = models.train("muzero", env, configuration.resolved(_config(
        env_steps=1200, warmup_steps=400, updates_per_step=0.3, batch_size=32, latent=16, hidden=32,
        replay_capacity=2000, unroll_steps=4, history=1, reanalyse_ratio=0.0, learning_rate=1e-2,
        reward_bins=21, reward_limit=2.0, discount=0.9, target_period=10,
    )), seed=0)  # fmt: skip
    shown = np.array([[1.0, 0.5, 0.0], [-1.0, 0.5, 0.0]], np.float32)
    state = agent.initial_state(2)
    held = np.full((2, 4), 2)
    said = agent.forecast(shown, state, held, horizon=4, samples=16, seed=0)
    assert said.shape == (2, 16, 4)
    known = 1e-4 * np.array([[1, -1, 1, -1], [-1, 1, -1, 1]])
    np.testing.assert_allclose(said.mean(axis=1), known, atol=0.25e-4)
    assert np.median(said.std(axis=1)) < 0.3e-4  # nothing here is uncertain
    np.testing.assert_allclose(agent.forecast(shown, state, -held + 2, horizon=4, samples=1, seed=0)[:, 0],
                               -known, atol=0.25e-4)  # fmt: skip
    own = agent.forecast(shown, state, None, horizon=4, samples=1, seed=0)
    np.testing.assert_allclose(own[:, 0, 0], 1e-4, atol=0.25e-4)  # the search takes the right side
    assert own.mean() > 0.4e-4  # and the policy inside the model mostly


@pytest.mark.parametrize(("space", "outcomes"), [("listed", 0), ("branches", 0), ("box", 3)])
def test_forecasts_are_functions_of_their_arguments(space, outcomes):
    agent = _agent(SPACES[space], chance_outcomes=outcomes, search="puct" if outcomes else "gumbel")
    shown, state = _seen(3), agent.initial_state(3)
    SPACES[space].seed(0)
    actions = np.array([[SPACES[space].sample() for _ in range(5)] for _ in range(3)])
    for given in (actions, None):
        ask = {"horizon": 5, "samples": 8}
        first = agent.forecast(shown, state, given, seed=1, **ask)
        assert first.shape == (3, 8, 5)
        assert np.isfinite(first).all()
        np.testing.assert_array_equal(first, agent.forecast(shown, state, given, seed=1, **ask))
        assert not np.array_equal(first, agent.forecast(shown, state, given, seed=2, **ask))
    # With outcomes of chance paths part and rewards hang together along a path.
    mean = agent.forecast(shown, state, actions, horizon=5, samples=1, seed=1)
    assert mean.shape == (3, 1, 5)
    other = agent.forecast(shown, state, actions[::-1], horizon=5, samples=1, seed=1)
    assert not np.array_equal(mean, other)


def test_quantiles_keep_certainty_and_means():
    bins = np.linspace(-2, 2, 9)
    share = (np.arange(1000) + 0.5) / 1000
    certain = np.eye(9)[3]
    np.testing.assert_allclose(forecast.quantile(certain, bins, share), bins[3])
    draw = np.random.default_rng(0)
    for probability in draw.dirichlet(np.ones(9), 5):
        found = forecast.quantile(probability, bins, share)
        assert (np.diff(found) >= 0).all()
        np.testing.assert_allclose(found.mean(), probability @ bins, atol=2e-3)
    # A normal law, learned as two-hot: its quantiles come back.
    values = draw.normal(0.2, 0.6, 200_000).astype(np.float32)
    learned = scalars.two_hot(values, bins.astype(np.float32)).numpy().mean(axis=0)
    at = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
    np.testing.assert_allclose(forecast.quantile(learned, bins, at), np.quantile(values, at), atol=0.12)


@pytest.mark.parametrize("outcomes", [0, 3])
def test_the_tree_explains_the_decision(outcomes):
    agent = _agent(SPACES["listed"], chance_outcomes=outcomes, search="puct" if outcomes else "gumbel",
                   simulations=12, max_depth=3)  # fmt: skip
    shown, state = _seen(1), agent.initial_state(1)
    tree = agent.explain(shown, state, seed=4)["tree"]
    said = agent.act(shown, state, seed=4).info
    parent, action = tree["parent"], tree["action"]
    assert parent[0] == -1
    assert (parent[1:] < np.arange(1, len(parent))).all()
    assert (tree["visits"] > 0).all()
    assert tree["visits"][0] == 13
    below = parent == 0
    visits = np.zeros(3)
    visits[action[below]] = tree["visits"][below]
    np.testing.assert_array_equal(visits, said["visits"][0])
    if not outcomes:
        q = (tree["reward"] + NANO.discount * tree["value"])[below]
        np.testing.assert_allclose(q, said["q_values"][0][action[below]], rtol=1e-4, atol=1e-7)
    else:
        assert (action[np.isin(parent, np.flatnonzero(below))] >= 3).all()  # outcomes follow actions
    assert 0 < tree["prior"][1:].min() <= tree["prior"].max() <= 1
    assert len({len(part) for part in tree.values()}) == 1
    assert agent.with_simulations(0).explain(shown, state, seed=0) == {}


def test_a_budget_chooses_the_search_that_keeps_to_it():
    agent = _agent(SPACES["listed"], budget_ms=1e-6)
    decision = agent.act(_seen(2), agent.initial_state(2), seed=0)
    assert "visits" not in decision.info  # nothing fits: the policy head alone
    assert agent.with_simulations(3).act(_seen(2), agent.initial_state(2)).info["visits"].sum() == 6


def test_settings_that_cannot_go_together_are_refused():
    with pytest.raises(ValueError, match="needs 'puct'"):
        _config(chance_outcomes=4)
    with pytest.raises(ValueError, match="no chance"):
        _config(chance_outcomes=1, search="puct")


def test_the_outcome_code_is_one_hot_and_lets_the_gradient_through():
    agent = _agent(SPACES["listed"], chance_outcomes=5, search="puct")
    weights = networks.unflatten(tf.constant(agent.weights), agent.shape)
    window = rng.normal(rng.key(0), (64, NANO.history, 3))
    with tf.GradientTape() as tape:
        tape.watch(list(weights.values()))
        code, probability = networks.read_outcome(weights, window, agent.shape)
        loss = tf.reduce_sum(code * tf.range(5.0))
    np.testing.assert_allclose(code, np.eye(5)[np.argmax(probability, axis=1)], atol=1e-6)
    assert len(np.unique(np.argmax(code, axis=1))) > 1
    gradient = tape.gradient(loss, weights)
    assert float(tf.norm(gradient["happened.outcome.kernel"])) > 0
    assert gradient["representation.latent.kernel"] is None
