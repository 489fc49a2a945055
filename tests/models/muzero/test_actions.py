"""Actions: there and back, and priors that say what the policy says."""

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from models import rng
from models.muzero import actions as arms

SPACES = {
    "discrete": spaces.Discrete(5, start=-2),
    "joint": spaces.MultiDiscrete([3, 4], start=[0, -1]),
    "branches": spaces.MultiDiscrete([5, 5, 5], start=[-2, 0, 1]),
    "box": spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 5.0]), dtype=np.float32),
}


def _actions(space, temperature=1.0, count=16):
    return arms.actions_of(space, joint_actions=64, sampled_actions=count, temperature=temperature)


@pytest.mark.parametrize("name", SPACES)
def test_codes_there_and_back(name):
    space = SPACES[name]
    actions = _actions(space)
    space.seed(0)
    taken = np.array([space.sample() for _ in range(50)])
    codes = arms.encode(actions, space, taken)
    assert codes.shape == (50, actions.width)
    assert codes.dtype == np.float32
    back = arms.decode(actions, space, codes)
    assert back.dtype == space.dtype
    np.testing.assert_allclose(back, taken, atol=1e-5)
    if not actions.drawn:
        assert len(np.unique(codes.argmax(axis=1))) == len(np.unique(taken, axis=0))


def test_a_space_without_bounds_or_list_is_refused():
    with pytest.raises(ValueError, match="no bounds"):
        _actions(spaces.Box(-np.inf, np.inf, (1,)))
    with pytest.raises(ValueError, match="not supported"):
        _actions(spaces.Text(3))


@pytest.mark.parametrize("name", ["branches", "box"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_corrected_prior_restores_the_policy(name, temperature):
    """Draws from beta, weighed by policy / beta, have the policy's own mean (Hubert et al. 2021)."""
    space = SPACES[name]
    actions = _actions(space, temperature, count=40_000)
    head = tf.constant(np.random.default_rng(1).normal(size=(1, actions.outputs)).astype(np.float32))
    codes, prior = arms.draw(actions, head, rng.key(0))
    weight = tf.nn.softmax(prior, axis=-1)[0].numpy()
    plain = _actions(space, 1.0, count=40_000)
    direct, flat = arms.draw(plain, head, rng.key(1))
    np.testing.assert_allclose(flat, np.zeros((1, 40_000)), atol=1e-5)  # drawn from itself: no correction
    np.testing.assert_allclose(weight @ codes[0].numpy(), direct[0].numpy().mean(axis=0), atol=0.03)
    if temperature > 1.0:
        assert weight.std() > 0
        uncorrected = codes[0].numpy().var(axis=0).sum()
        assert uncorrected > direct[0].numpy().var(axis=0).sum()


@pytest.mark.parametrize("name", SPACES)
def test_log_policy_and_entropy_are_of_a_distribution(name):
    actions = _actions(SPACES[name])
    head = tf.constant(np.random.default_rng(1).normal(size=(3, actions.outputs)).astype(np.float32))
    codes, prior = arms.draw(actions, head, rng.key(0))
    logp = arms.log_policy(actions, head, codes)
    assert logp.shape == (3, actions.arms)
    spread = arms.entropy(actions, head)
    if actions.kind == "listed":
        np.testing.assert_allclose(np.exp(logp).sum(axis=1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(spread, -(np.exp(logp) * logp).numpy().sum(axis=1), rtol=1e-5)
        np.testing.assert_allclose(prior, logp, rtol=1e-6)
    if actions.kind == "branches":
        every = np.stack(np.meshgrid(*[np.arange(5)] * 3, indexing="ij"), -1).reshape(-1, 3)
        codes = np.repeat(arms.encode(actions, SPACES[name], every + np.array([-2, 0, 1]))[None], 3, 0)
        logp = arms.log_policy(actions, head, tf.constant(codes))
        np.testing.assert_allclose(np.exp(logp).sum(axis=1), 1.0, rtol=1e-4)
        np.testing.assert_allclose(spread, -(np.exp(logp) * logp).numpy().sum(axis=1), rtol=1e-4)
    best = arms.likeliest(actions, head).numpy()
    score = arms.log_policy(actions, head, tf.constant(best[:, None]))
    if actions.drawn:
        assert (score.numpy() >= logp.numpy().max(axis=1, keepdims=True) - 1e-4).all()
    else:
        np.testing.assert_array_equal(best.argmax(axis=1), logp.numpy().argmax(axis=1))
