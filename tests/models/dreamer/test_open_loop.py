"""The open-loop report: the right steps are compared, and calibration is what it says."""

import dataclasses

import numpy as np
import pytest
from gymnasium import spaces

from models.agent import Spaces
from models.dreamer import Config, agent, networks, open_loop


@pytest.fixture(scope="module")
def trader():
    config = dataclasses.replace(Config.nano())
    seen = Spaces(spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Discrete(3))
    made = networks.build(config, seen, 0)
    out = made.world.reward.variables[-2]
    out.assign(np.random.default_rng(0).normal(size=out.shape).astype(np.float32))
    return agent.DreamerAgent(config, seen, made, reward_scale=50.0, counters={})


def _stretches(count=4, length=7):
    draw = np.random.default_rng(1)
    return (
        draw.normal(size=(count, length, 3)).astype(np.float32),
        draw.integers(0, 3, (count, length)),
        draw.normal(size=(count, length)) * 0.01,
    )


def _run(trader, data, **options):
    return open_loop.open_loop(
        trader, *data, **{"context": 4, "paths": 16, "seed": 0, "columns": [2, 0], **options}
    )


def test_it_sees_the_context_and_the_actions_and_nothing_else(trader):
    data = _stretches()
    loop = _run(trader, data)
    assert loop.rewards.shape == loop.mean.shape == (4, 3)
    assert loop.fan.shape == (5, 4, 3)
    assert loop.observation_fan.shape == (5, 4, 3, 2)
    np.testing.assert_allclose(loop.rewards, np.cumsum(data[2][:, 4:], axis=1))
    np.testing.assert_array_equal(loop.observations, data[0][:, 4:, [2, 0]])
    assert (np.diff(loop.fan, axis=0) >= 0).all()

    def changed(part, place):
        other = tuple(array.copy() for array in data)
        other[part][:, place] = (other[part][:, place] + 1) % 3
        return _run(trader, other)

    for part, place in ((0, 4), (0, 6), (1, 6)):  # what came later; the last action leads out of the stretch
        np.testing.assert_array_equal(changed(part, place).fan, loop.fan)
    for part, place in ((0, 3), (1, 2), (1, 3)):
        assert not np.array_equal(changed(part, place).fan[:, :, 0], loop.fan[:, :, 0])
    later = changed(1, 5)  # an action moves what follows it, not what came before
    np.testing.assert_array_equal(later.fan[:, :, :2], loop.fan[:, :, :2])
    assert not np.array_equal(later.fan[:, :, 2], loop.fan[:, :, 2])
    with pytest.raises(ValueError, match="leave none to imagine"):
        _run(trader, data, context=7)


def test_calibration_finds_what_was_planted():
    draw = np.random.default_rng(0)
    count, steps = 4000, 2
    deviation = np.exp(draw.normal(size=(count, steps)) * 0.5)
    signal = draw.normal(size=(count, steps))
    truth = signal + deviation * draw.normal(size=(count, steps))
    truth[:, 1] = draw.normal(size=count) * 3  # at the second step the model knows nothing
    lines = np.array([-1.6449, -0.6745, 0.0, 0.6745, 1.6449])[:, None, None]
    none = np.zeros((count, steps, 0))
    loop = open_loop.OpenLoop(truth, signal + lines * deviation, signal, deviation, none, none)
    found = open_loop.calibration(loop)
    assert found.inside_half[0] == pytest.approx(0.5, abs=0.03)
    assert found.inside_ninety[0] == pytest.approx(0.9, abs=0.02)
    assert found.inside_ninety[1] < 0.6
    expected = 1 / np.sqrt(1 + np.mean(deviation[:, 0] ** 2))
    assert found.correlation[0] == pytest.approx(expected, abs=0.04)
    assert abs(found.correlation[1]) < 0.05
    assert found.volatility_correlation[0] > 0.3
    assert abs(found.volatility_correlation[1]) < 0.06
    assert found.relative_error[0] < 0.85
    assert found.relative_error[1] > 1.0
    flat = open_loop.calibration(
        loop._replace(mean=np.zeros((count, steps)), rewards=np.zeros((count, steps)))
    )
    assert np.isnan(flat.correlation).all()
    assert np.isnan(flat.relative_error).all()
