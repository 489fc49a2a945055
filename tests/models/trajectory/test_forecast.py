"""Forecasts and reasons, held against a game whose rewards are known."""

import numpy as np
import pytest
from gymnasium import spaces

import models
from models import trajectory
from models.trajectory import forecast
from models.trajectory.tokens import Tokeniser
from tests.models.trajectory.test_train import LEARNING, _match

UP, FLAT, DOWN = -3, -4, -5


@pytest.fixture(scope="module")
def agent():
    return models.train("trajectory", _match(spaces.Discrete(3, start=-5)), LEARNING, seed=0)


def _after_one_step(agent, shown):
    return agent.act(shown, agent.initial_state(len(shown)), seed=0).state


def test_held_actions_earn_what_they_earn(agent):
    """Now it is known what pays; later signs are coin flips, and doing nothing earns nothing."""
    shown = np.array([[1.0], [-1.0], [1.0]], np.float32)
    actions = np.repeat([[UP], [UP], [FLAT]], 6, axis=1)
    for state in (agent.initial_state(3), _after_one_step(agent, -shown)):
        paths = agent.forecast(shown, state, actions, horizon=6, samples=64, seed=1)
        assert paths.shape == (3, 64, 6)
        assert np.median(paths[0, :, 0]) == pytest.approx(1e-4)
        assert np.median(paths[1, :, 0]) == pytest.approx(-1e-4)
        assert (paths[0, :, 0] > 0).mean() > 0.95
        assert (paths[2] == 0.0).mean() > 0.9
        assert set(np.unique(paths)) <= set(agent.tokeniser.columns[agent.layout.reward].centres)
    shown, held = np.ones((40, 1), np.float32), np.full((40, 3), UP)
    later = agent.forecast(shown, agent.initial_state(40), held, horizon=3, samples=8, seed=2)[:, :, 1:]
    assert (later > 0).mean() == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("changes", [{}, {"mode": "condition", "target": 1.0}, {"plan_every": 2}])
def test_its_own_actions_pay_at_every_step(agent, changes):
    """Whatever sign the model dreams up, the agent would match it; a plan made ahead cannot."""
    acting = agent.with_config(**changes)
    shown = np.array([[1.0], [-1.0]] * 8, np.float32)
    paths = acting.forecast(shown, acting.initial_state(16), None, horizon=5, samples=16, seed=3)
    paid = (paths > 0).mean(axis=(0, 1))  # [H]
    reacting = [0, 2, 3, 4] if changes.get("plan_every") else range(5)
    assert (paid[list(reacting)] > 0.9).all(), paid
    if changes.get("plan_every"):
        assert paid[1] == pytest.approx(0.5, abs=0.2)


def test_a_forecast_is_a_function_of_its_arguments(agent, tmp_path):
    shown, actions = np.ones((2, 1), np.float32), np.full((2, 4), UP)
    agent.save(tmp_path / "agent")
    loaded = models.load(tmp_path / "agent")

    def paths(who, seed):
        return who.forecast(shown, who.initial_state(2), actions, horizon=4, samples=5, seed=seed)

    np.testing.assert_array_equal(paths(agent, 0), paths(loaded, 0))
    assert (paths(agent, 0) != paths(agent, 1)).any()


def test_a_drawn_reward_lies_in_its_cell_with_its_mean_and_an_atom_is_itself():
    draw = np.random.default_rng(0)
    values = np.concatenate([np.zeros(600), draw.standard_t(2, size=400)])
    tokeniser = Tokeniser.fit(values[:, None], 20)
    near, far, power = forecast.inside(tokeniser, 0)
    tokens = tokeniser.encode(values[:, None]).tokens[:, 0]
    assert ((np.minimum(near, far)[tokens] <= values) & (values <= np.maximum(near, far)[tokens])).all()
    assert near[tokens[0]] == far[tokens[0]] == 0.0
    drawn = near[:, None] + (far - near)[:, None] * draw.random((1, 200_000)) ** power[:, None]
    np.testing.assert_allclose(drawn.mean(axis=1), tokeniser.columns[0].means, atol=0.03)
    assert abs(tokeniser.columns[0].centres[-1] - tokeniser.columns[0].means[-1]) > 1.0  # a fat tail
    chances = np.tile([0.2, 0.0, 0.5, 0.3], (5, 1))
    index = forecast._draw(chances, np.array([0.0, 0.19, 0.21, 0.69, 0.99]))
    np.testing.assert_array_equal(index, [0, 0, 2, 2, 3])


def test_a_forecast_needs_room_for_a_second_transition():
    settings = {**models.configuration.resolved(trajectory.Config.nano()), "context": 0, "horizon": 1}
    small = models.train("trajectory", _match(spaces.Discrete(3)), settings, seed=0)
    shown, held = np.ones((1, 1), np.float32), np.ones((1, 1), int)
    with pytest.raises(ValueError, match=r"needs context \+ horizon of at least 2, not 1"):
        small.forecast(shown, small.initial_state(1), held, horizon=1, samples=2, seed=0)


def test_other_spaces_forecast_and_a_path_that_stops_earns_no_more():
    space = spaces.Box(-2.0, 2.0, (2,), np.float32)
    nano = {**models.configuration.resolved(trajectory.Config.nano()), "drawdown_token": True, "context": 0}
    agent = models.train("trajectory", _match(space), nano, seed=0)
    shown = np.zeros((3, 1), np.float32)
    actions = np.full((3, 7, 2), 0.5, np.float32)
    paths = agent.forecast(shown, agent.initial_state(3), actions, horizon=7, samples=12, seed=0)
    assert paths.shape == (3, 12, 7)
    assert agent.forecast(shown, agent.initial_state(3), None, horizon=3, samples=2, seed=0).shape == (
        3,
        2,
        3,
    )
    zero = 1.0 * (paths == 0.0)
    assert (np.diff(zero, axis=2) >= 0).all()  # the untrained network stops now and then, and for good
    assert 0 < zero[..., -1].mean() < 1


def test_the_reasons_of_one_decision(agent):
    shown = np.ones((1, 1), np.float32)
    state = _after_one_step(agent, shown)
    found = agent.explain(shown, state, seed=0)
    assert set(found) == {"beams", "attention"}
    beams = found["beams"]
    alive = len(beams["score"])
    assert 1 < alive <= 4
    assert beams["rewards"].shape == beams["actions"].shape == (alive, 2)
    assert beams["log_probability"].shape == (alive,)
    assert (np.diff(beams["score"]) <= 0).all()
    decision = agent.act(shown, state, seed=0)
    np.testing.assert_array_equal(beams["actions"][0], decision.info["plan"][0])
    np.testing.assert_allclose(beams["rewards"][0], decision.info["plan_reward"][0])
    assert found["attention"]["weight"].shape == (1,)
    assert 0.0 < found["attention"]["weight"][0] < 1.0
    greedy = agent.with_config(mode="condition", target=0.9)
    assert set(greedy.explain(shown, state, seed=0)) == {"attention"}
