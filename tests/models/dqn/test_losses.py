"""The double-Q loss: literal values, branches of unequal size, and one compiled call against single steps."""

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from models.dqn import losses, networks
from models.dqn.networks import Shape

SHAPE = Shape(inputs=3, hidden=(6, 5), activation="silu", choices=(2, 3))
RATES = losses.Rates(*(tf.constant(x) for x in (1e-2, 1.0, 1.0, 0.1)), tf.constant(2))


def _learner(seed=0):
    weights = tf.constant(networks.initial(SHAPE, seed))
    zeros = tf.zeros(SHAPE.size)
    return losses.Learner(weights, 0.9 * weights, zeros, zeros, tf.constant(0))


def _batch(number=4, size=5):
    draw = np.random.default_rng(1)
    return losses.Batch(
        *(
            tf.constant(part)
            for part in (
                draw.normal(size=(number, size, 3)).astype(np.float32),
                draw.integers(0, (2, 3), size=(number, size, 2)).astype(np.int32),
                draw.normal(size=(number, size)).astype(np.float32),
                np.where(draw.random((number, size)) < 0.2, 0.0, 0.9).astype(np.float32),
                draw.normal(size=(number, size, 3)).astype(np.float32),
                np.ones((number, size), np.float32),
            )
        )
    )


def test_the_online_network_chooses_and_the_target_network_values():
    online = tf.constant([[[1.0, 5.0, 2.0]], [[9.0, 0.0, 3.0]]])  # [2, 1, 3]
    target = tf.constant([[[100.0, 10.0, 200.0]], [[-4.0, 50.0, 60.0]]])
    found = losses.target_values(
        tf.constant([1.0, 2.0]), tf.constant([0.5, 0.0]), online, target, np.ones((1, 3), bool)
    )
    np.testing.assert_allclose(found, [1.0 + 0.5 * 10.0, 2.0])


def test_branches_are_averaged_and_missing_choices_never_chosen():
    valid = Shape(1, (), "relu", (2, 3)).valid
    assert valid.tolist() == [[True, True, False], [True, True, True]]
    online = tf.constant([[[1.0, 2.0, 99.0], [0.0, 1.0, 2.0]]])
    target = tf.constant([[[5.0, 7.0, 1e6], [1.0, 1.0, 3.0]]])
    found = losses.target_values(tf.zeros(1), tf.ones(1), online, target, valid)
    np.testing.assert_allclose(found, [(7.0 + 3.0) / 2])


def test_no_gradient_flows_through_the_target():
    weights = tf.constant([[[1.0, 2.0]]])
    with tf.GradientTape() as tape:
        tape.watch(weights)
        found = losses.target_values(tf.zeros(1), tf.ones(1), weights, weights, np.ones((1, 2), bool))
    assert tape.gradient(found, weights) is None


def test_huber_is_half_a_square_then_a_line():
    found = losses.huber(tf.constant([-0.5, 0.0, 1.0, 3.0, -3.0]), 1.0)
    np.testing.assert_allclose(found, [0.125, 0.0, 0.5, 2.5, 2.5])


def test_adam_is_the_one_of_keras():
    start = np.array([1.0, -2.0, 3.0], np.float32)
    variable = keras.Variable(start)
    optimiser = keras.optimizers.Adam(0.1, epsilon=1e-5)
    ours, mean, square = tf.constant(start), tf.zeros(3), tf.zeros(3)
    for count in range(1, 6):
        gradient = 2.0 * ours
        optimiser.apply([2.0 * variable.value], [variable])
        ours, mean, square = losses.adam(ours, gradient, mean, square, tf.constant(count), 0.1)
        np.testing.assert_allclose(ours, variable.numpy(), rtol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_one_call_of_many_updates_equals_them_one_by_one(compiled):
    batch = _batch()
    found, errors, metrics = losses.updates(SHAPE, compiled=compiled)(_learner(), batch, RATES)
    learner, each, total = _learner(), [], np.zeros(3)
    for i in range(4):
        learner, error, one = losses.update(learner, losses.Batch(*(part[i] for part in batch)), RATES, SHAPE)
        each.append(error)
        total += one.numpy()
        moved = not np.array_equal(learner.target, 0.9 * _learner().online)
        assert moved == (i >= 1)  # the target network moves at every second update
    for name, value in learner._asdict().items():
        np.testing.assert_allclose(found._asdict()[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(errors, np.stack(each), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics, total / 4, rtol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
def test_numpy_and_tensorflow_networks_agree(activation):
    shape = SHAPE._replace(activation=activation)
    weights = networks.initial(shape, 0)
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    found = networks.q_values_numpy(weights, x, shape)
    expected = networks.q_values(tf.constant(weights), x, shape).numpy()
    np.testing.assert_array_equal(np.isneginf(found), np.tile(~shape.valid, (7, 1, 1)))
    np.testing.assert_allclose(found[:, shape.valid], expected[:, shape.valid], rtol=1e-4, atol=1e-6)
    assert np.isfinite(networks.q_values_numpy(weights, 1e4 * x, shape)[:, shape.valid]).all()


def test_a_continuous_action_is_refused_with_a_way_out():
    with pytest.raises(ValueError, match=r"Box.*no finite list of choices; allowed: Discrete, MultiDiscrete"):
        networks.choices_of(spaces.Box(-1.0, 1.0, (2,)))
    assert networks.choices_of(gymnasium.make("CartPole-v1").action_space) == (2,)
