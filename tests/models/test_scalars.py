"""Scalar transforms: inverses, means and symmetry."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from models import scalars

GRID = np.concatenate([-(10.0 ** np.linspace(-6, 6, 400)), [0.0], 10.0 ** np.linspace(-6, 6, 400)]).astype(
    np.float32
)


@pytest.mark.parametrize("jit", [False, True])
def test_value_transform_round_trips_to_2e7_over_twelve_decades(jit):
    both = tf.function(lambda x: scalars.expand(scalars.compress(x)), jit_compile=jit, autograph=False)
    np.testing.assert_allclose(both(GRID), GRID, rtol=2e-7)


def test_known_values_of_the_value_transform():
    x = np.array([0.0, 3.0, -3.0, 8.0], np.float32)
    np.testing.assert_allclose(scalars.compress(x), [0.0, 1.003, -1.003, 2.008], rtol=1e-6)
    np.testing.assert_allclose(scalars.VALUE.invert(scalars.VALUE.apply(x)), x, rtol=1e-6)


def test_symlog_and_symexp_are_inverse():
    np.testing.assert_allclose(scalars.symexp(scalars.symlog(GRID)), GRID, rtol=3e-6)


def test_symexp_bins_are_symmetric_and_zero_logits_mean_exactly_zero():
    for number in (5, 41, 255):
        bins = scalars.symexp_bins(number)
        np.testing.assert_array_equal(bins, -bins[::-1])
        assert (np.diff(bins) > 0).all()
        mean = tf.function(scalars.mean_of_logits, jit_compile=True)(tf.zeros((3, number)), bins)
        assert mean.numpy().tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="odd"):
        scalars.symexp_bins(40)


@settings(max_examples=60, deadline=None)
@given(
    x=st.floats(-5000.0, 5000.0, width=32),
    kind=st.sampled_from([scalars.symexp_bins(31, 8.0), scalars.linear_bins(-300.0, 300.0, 601)]),
)
def test_two_hot_sums_to_one_and_has_the_mean(x, kind):
    weights = scalars.two_hot(np.float32(x), kind).numpy()
    assert weights.sum() == pytest.approx(1.0, abs=1e-6)
    assert (weights >= 0).all()
    assert (weights > 0).sum() <= 2
    inside = float(np.clip(x, kind[0], kind[-1]))
    assert float(scalars.mean(weights, kind)) == pytest.approx(inside, rel=2e-6, abs=1e-4)


def test_loss_is_least_at_the_target_and_has_no_gradient_through_it():
    bins = scalars.linear_bins(-1.0, 1.0, 5)
    target = tf.constant([0.3])
    best = tf.math.log(scalars.two_hot(target, bins) + 1e-9)
    assert float(scalars.two_hot_loss(best, target, bins)[0]) < float(
        scalars.two_hot_loss(best + tf.one_hot([2], 5), target, bins)[0]
    )
    with tf.GradientTape() as tape:
        tape.watch(target)
        loss = scalars.two_hot_loss(best, target, bins)
    assert tape.gradient(loss, target) is None
