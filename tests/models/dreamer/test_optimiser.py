"""LaProp against a scalar calculation by hand, its clipping and its warm-up."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.dreamer.optimiser import LaProp, clipped


def _by_hand(value, gradients, *, rate, warmup, b1=0.9, b2=0.999):
    """Algorithm 1 of Ziyin et al. 2020 for one number."""
    square = mean = 0.0
    path = []
    for step, gradient in enumerate(gradients, 1):
        square = b2 * square + (1 - b2) * gradient**2
        mean = b1 * mean + (1 - b1) * gradient / np.sqrt(square / (1 - b2**step))
        value -= rate * min(1.0, step / warmup) * mean / (1 - b1**step)
        path.append(value)
    return path


def test_it_follows_the_algorithm_through_the_warm_up():
    variable = keras.Variable([2.0])
    optimiser = LaProp(0.1, warmup_steps=4, clip=1e9)
    optimiser.build([variable])
    gradients = [0.3, -0.1, 5.0, 1e-6, 0.2, -0.7]
    path = []
    for gradient in gradients:
        optimiser.apply_gradients([(tf.constant([gradient]), variable)])
        path.append(float(variable[0]))
    np.testing.assert_allclose(path, _by_hand(2.0, gradients, rate=0.1, warmup=4), rtol=1e-5)
    assert path[0] == pytest.approx(2.0 - 0.1 / 4)  # the first step has full size: its rate, nothing else


def test_an_outlier_counts_as_one_step_and_no_more():
    """Adam would let a spike of 1000 decide the direction for many updates; here it is one vote."""
    variable = keras.Variable([0.0])
    optimiser = LaProp(1.0, warmup_steps=1, clip=1e9)
    optimiser.build([variable])
    for gradient in [1.0] * 50 + [-1e6] + [1.0] * 3:
        before = float(variable[0])
        optimiser.apply_gradients([(tf.constant([gradient]), variable)])
        assert abs(float(variable[0]) - before) < 3.5  # at most sqrt(1 / (1 - beta_2)) (1 - beta_1)


def test_a_gradient_is_no_longer_than_its_share_of_the_variable():
    variable = tf.constant([[3.0, 4.0]])
    long, short = tf.constant([[60.0, 80.0]]), tf.constant([[0.6, 0.8]])
    np.testing.assert_allclose(clipped(long, variable, 0.3, 1e-3), [[0.9, 1.2]], rtol=1e-6)
    np.testing.assert_array_equal(clipped(short, variable, 0.3, 1e-3), short)
    from_zero = clipped(long, tf.zeros((1, 2)), 0.3, 1e-3)
    np.testing.assert_allclose(tf.norm(from_zero), 3e-4, rtol=1e-5)


def test_a_variable_that_starts_at_zero_leaves_it_and_a_zero_gradient_moves_nothing():
    moving, still = keras.Variable(np.zeros((2, 2), np.float32)), keras.Variable([1.0])
    optimiser = LaProp(0.01, warmup_steps=1)
    optimiser.build([moving, still])
    for _ in range(3):
        optimiser.apply_gradients([(tf.ones((2, 2)), moving), (tf.zeros(1), still)])
    assert (moving.numpy() < -0.01).all()
    np.testing.assert_array_equal(still.numpy(), [1.0])


def test_its_state_comes_back():
    def run(optimiser, variable, gradients):
        for gradient in gradients:
            optimiser.apply_gradients([(tf.constant([gradient]), variable)])

    one = keras.Variable([1.0])
    first = LaProp(0.1, warmup_steps=3)
    first.build([one])
    run(first, one, [0.1, 0.2])
    two = keras.Variable(one.numpy())
    second = LaProp.from_config(first.get_config())
    second.build([two])
    for mine, theirs in zip(second.variables, first.variables, strict=True):
        mine.assign(theirs.value)
    run(first, one, [0.5, -0.3])
    run(second, two, [0.5, -0.3])
    np.testing.assert_array_equal(one.numpy(), two.numpy())


def test_the_rate_falls_to_nothing_over_the_last_share():
    rates = []
    variable = keras.Variable(np.ones(2, np.float32))
    made = LaProp(0.1, warmup_steps=1, beta_1=0.0, beta_2=0.0, total_steps=10, annealing=0.5)
    made.build([variable])
    for _ in range(12):
        before = variable.numpy()
        made.apply_gradients([(tf.constant([1e-3, -1e-3]), variable)])
        rates.append(float((before - variable.numpy())[0]))
    # With no averages every step is the rate itself: whole for five updates, then one fifth less each.
    np.testing.assert_allclose(rates, [0.1] * 6 + [0.08, 0.06, 0.04, 0.02, 0.0, 0.0], atol=1e-6)
