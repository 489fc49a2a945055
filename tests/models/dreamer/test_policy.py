"""Actions in and out, and the policy's distribution, against closed forms."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from gymnasium import spaces

from models import rng
from models.dreamer import policy

SPACES = [
    spaces.Discrete(3, start=-4),
    spaces.MultiDiscrete([2, 3], start=[5, -1]),
    spaces.Box(np.array([-1.0, 0.0]), np.array([3.0, 0.5]), dtype=np.float32),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_there_and_back(space):
    space.seed(0)
    actions = policy.actions_of(space)
    taken = np.stack([space.sample() for _ in range(20)])
    vector = policy.to_vector(taken, actions)
    assert vector.shape == (20, actions.width)
    assert np.abs(vector).max() <= 1.0
    back = policy.to_action(vector, actions)
    np.testing.assert_allclose(back, taken, rtol=1e-5, atol=1e-6)
    assert back.dtype == taken.dtype
    # [B, T] leads as well as [B]
    np.testing.assert_array_equal(
        policy.to_vector(taken.reshape(4, 5, *space.shape), actions).reshape(20, -1), vector
    )


def test_what_leaves_the_box_is_clipped_to_it():
    actions = policy.actions_of(SPACES[2])
    np.testing.assert_array_equal(
        policy.to_action(np.array([[7.0, -7.0]], np.float32), actions), [[3.0, 0.0]]
    )


def test_discrete_branches_are_independent_mixtures():
    actions = policy.actions_of(SPACES[1])
    logits = np.array([[1.0, -1.0, 0.2, 0.1, 3.0]], np.float32)

    def soft(x):
        return 0.99 * np.exp(x) / np.exp(x).sum() + 0.01 / len(x)

    p = np.concatenate([soft(logits[0, :2]), soft(logits[0, 2:])])
    np.testing.assert_allclose(policy.probabilities(logits, actions, 0.01)[0], p, rtol=1e-5)
    action = np.array([[0.0, 1.0, 0.0, 0.0, 1.0]], np.float32)
    np.testing.assert_allclose(
        policy.log_probability(logits, action, actions, 0.01), [np.log(p[1]) + np.log(p[4])], rtol=1e-5
    )
    np.testing.assert_allclose(policy.entropy(logits, actions, 0.01), [-(p * np.log(p)).sum()], rtol=1e-5)
    np.testing.assert_array_equal(policy.mode(logits, actions), [[1.0, 0.0, 0.0, 0.0, 1.0]])
    many = policy.sample(
        np.repeat(logits, 20_000, 0), policy.noise(rng.key(1), (20_000,), actions), actions, 0.01
    )
    np.testing.assert_allclose(np.mean(many, axis=0), p, atol=0.015)


def test_a_box_has_a_bounded_normal():
    actions = policy.actions_of(SPACES[2])
    outputs = np.array([[0.5, -2.0, 0.0, -50.0]], np.float32)
    mean = np.tanh(outputs[0, :2])
    deviation = 0.1 + 0.9 / (1 + np.exp(-(outputs[0, 2:] + 2.0)))
    normal = scipy.stats.norm(mean, deviation)
    action = np.array([[0.2, -0.9]], np.float32)
    np.testing.assert_allclose(
        policy.log_probability(outputs, action, actions, 0.0), [normal.logpdf(action[0]).sum()], rtol=1e-4
    )
    np.testing.assert_allclose(policy.entropy(outputs, actions, 0.0), [normal.entropy().sum()], rtol=1e-4)
    np.testing.assert_allclose(policy.mode(outputs, actions), [mean], rtol=1e-5)
    assert deviation[1] == pytest.approx(0.1)
    noise = policy.noise(rng.key(0), (4000,), actions)
    many = policy.sample(tf.repeat(outputs, 4000, axis=0), noise, actions, 0.0).numpy()
    np.testing.assert_allclose(many.mean(0), mean, atol=0.06)
    np.testing.assert_allclose(many.std(0), deviation, rtol=0.05)


def test_scaling_down_goes_towards_the_neutral_choice_and_not_past_it():
    grid = policy.actions_of(spaces.Discrete(5))
    vectors = np.eye(5, dtype=np.float32)
    half = policy.scaled_down(vectors, np.full(5, 0.5), grid, 2)
    np.testing.assert_array_equal(half.argmax(-1), [1, 2, 2, 2, 3])
    np.testing.assert_array_equal(policy.scaled_down(vectors, np.ones(5), grid, 2), vectors)
    np.testing.assert_array_equal(policy.scaled_down(vectors, np.zeros(5), grid, 2).argmax(-1), 2)
    # Two branches, each on its own; a Box by proportion.
    pair = policy.actions_of(spaces.MultiDiscrete([3, 3]))
    both = policy.to_vector(np.array([[0, 2]]), pair)
    assert policy.to_action(policy.scaled_down(both, np.array([0.4]), pair, 1), pair).tolist() == [[1, 1]]
    box = policy.actions_of(spaces.Box(-1.0, 1.0, (2,), np.float32))
    np.testing.assert_allclose(
        policy.scaled_down(np.array([[1.0, -0.5]], np.float32), np.array([0.2]), box, 0), [[0.2, -0.1]]
    )


@pytest.mark.parametrize(
    "space",
    [spaces.Box(-np.inf, np.inf, (1,)), spaces.MultiBinary(3), spaces.MultiDiscrete([[2, 2]])],
    ids=str,
)
def test_other_spaces_are_refused(space):
    with pytest.raises(ValueError, match="not supported; allowed"):
        policy.actions_of(space)
