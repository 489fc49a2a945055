"""The cross-entropy method: it converges, stays in bounds, never follows a broken candidate."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from models import rng
from models.planning.cem import cem, colour_matrix, coloured_noise
from models.planning.plan import Choices, Continuous

BOX = Continuous((-1.0, 0.0), (2.0, 0.5))
SIZES = {"horizon": 4, "samples": 120, "elites": 12, "iterations": 6, "batch": 2}
ICEM = {"colour": 2.0, "decay": 1.25, "kept": 0.3, "take_best": True}
SEED = rng.key(5)


def _quadratic(target):
    target = tf.constant(target, tf.float32)

    def evaluate(actions):
        return -tf.reduce_sum(tf.square(tf.cast(actions, tf.float32) - target[:, None]), axis=(2, 3))

    return evaluate


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**60), improved=st.booleans())
def test_a_separable_quadratic_is_solved_inside_the_box(seed, improved):
    draw = np.random.default_rng(seed)
    target = draw.uniform(np.float32(BOX.low) - 0.3, np.float32(BOX.high) + 0.3, (2, 4, 2))
    options = ICEM if improved else {}
    sizes = {**SIZES, "iterations": 10, "samples": 200}
    if improved:  # the target is white noise, which red draws are slow to find
        options = {**options, "colour": 0.5}
    found = cem(_quadratic(target), BOX, seed=rng.key(seed), **sizes, **options)
    inside = np.clip(target, BOX.low, BOX.high)

    def missing(actions):  # what is lost against the best point of the box
        return (np.square(actions - target) - np.square(inside - target)).sum(axis=(1, 2))

    middle = np.broadcast_to([0.5, 0.25], target.shape)
    assert (missing(found.actions.numpy()) < 0.05 * missing(middle) + 0.01).all()
    assert (found.actions.numpy() >= BOX.low).all()
    assert (found.actions.numpy() <= BOX.high).all()
    np.testing.assert_allclose(
        found.value, -np.square(found.actions - target).sum(axis=(1, 2)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("options", [{}, ICEM])
def test_every_candidate_lies_in_the_box(options):
    def evaluate(actions):
        tf.debugging.assert_greater_equal(actions, tf.constant(BOX.low))
        tf.debugging.assert_less_equal(actions, tf.constant(BOX.high))
        sizes.append(actions.shape[1])
        return tf.reduce_sum(actions, axis=(2, 3))  # pulls into the upper corner

    sizes = []
    corner = tf.broadcast_to(tf.constant(BOX.high), (2, 4, 2))
    found = cem(evaluate, BOX, seed=SEED, **SIZES, initial=corner, **options)
    assert (found.actions.numpy() >= np.float32(BOX.high) - 0.25).all()
    # iCEM: 120 / 1.25^i, then 4 kept ones (a third of 12) from the second on, and the mean at the end.
    expected = [120, 96 + 4, 77 + 4, 61 + 4, 49 + 4, 39 + 4 + 1] if options else [120] * 6 + [1]
    assert sizes == expected


def test_with_momentum_one_nothing_moves():
    start = np.random.default_rng(0).uniform(0, 0.5, (2, 4, 2)).astype(np.float32)
    found = cem(_quadratic(start * 0 + 0.5), BOX, seed=SEED, **SIZES, initial=start, momentum=1.0)
    np.testing.assert_array_equal(found.actions, start)
    grid = Choices((4, 3))
    picked = np.random.default_rng(0).integers(0, 3, (2, 4, 2))
    found = cem(_quadratic(picked * 0), grid, seed=SEED, **SIZES, initial=picked, momentum=1.0)
    np.testing.assert_array_equal(found.actions, picked)


@pytest.mark.parametrize("options", [{}, ICEM])
def test_a_broken_candidate_is_never_an_elite(options):
    def evaluate(actions):  # the best half of the space breaks the model; what is left is negative
        value = actions[..., 0, 0] - 3.0
        return tf.where(actions[..., 0, 0] > 0.5, np.nan, value)

    found = cem(evaluate, BOX, seed=SEED, **SIZES, **options)
    assert (found.info["elites"].numpy()[:, :, 0, 0] <= 0.5).all()
    assert found.actions[0, 0, 0] <= 0.5
    assert np.isfinite(found.value).all()
    assert 0.02 < found.info["lost"][0] < 0.6


def test_where_all_candidates_break_the_start_is_kept():
    def evaluate(actions):
        broken = tf.fill((1, actions.shape[1]), np.nan)
        return tf.concat([broken, tf.reduce_sum(actions[1:], axis=(2, 3))], axis=0)

    start = tf.fill((2, 4, 2), 0.25)
    found = cem(evaluate, BOX, seed=SEED, **SIZES, initial=start)
    np.testing.assert_array_equal(found.actions[0], start[0])
    assert found.value[0] == -np.inf
    assert found.info["lost"].numpy().tolist() == [1.0, 0.0]
    assert np.isfinite(found.info["spread"]).all()
    np.testing.assert_allclose(found.actions[1], np.broadcast_to(BOX.high, (4, 2)), atol=0.3)


def test_choices_are_found_and_impossible_ones_never_drawn():
    grid = Choices((5, 2, 1))
    target = np.random.default_rng(4).integers(0, [5, 2, 1], (2, 4, 3))

    def evaluate(actions):
        tf.debugging.assert_less(actions, tf.constant(grid.counts))
        return _quadratic(target)(actions)

    for best in (False, True):
        found = cem(evaluate, grid, seed=SEED, **SIZES, take_best=best)
        np.testing.assert_array_equal(found.actions, target)
        np.testing.assert_array_equal(found.value, [0.0, 0.0])
        assert found.actions.dtype == tf.int32
        assert (found.info["spread"].numpy() < 0.4).all()


def test_a_plan_is_the_same_alone_and_in_a_batch_eager_and_compiled():
    target = np.random.default_rng(0).uniform(0, 0.5, (2, 4, 2))

    def search(target):
        sizes = {**SIZES, "batch": target.shape[0]}
        return cem(_quadratic(target), BOX, seed=SEED, **sizes)

    together, alone = search(target), search(target[1:])
    np.testing.assert_allclose(alone.actions[0], together.actions[1], atol=1e-6)
    compiled = tf.function(lambda: search(target), jit_compile=True, autograph=False)()
    np.testing.assert_allclose(compiled.actions, together.actions, atol=1e-3)


def test_a_warm_start_and_carried_elites_begin_where_the_last_plan_ended():
    target = np.random.default_rng(2).uniform(0, 0.5, (2, 4, 2))
    once = {**SIZES, "iterations": 1, "samples": 20, "elites": 2}
    cold = cem(_quadratic(target), BOX, seed=SEED, **once, take_best=True)
    warm = cem(
        _quadratic(target), BOX, seed=SEED, **once, carried=tf.constant(target, tf.float32)[:, None],
        take_best=True,
    )  # fmt: skip
    assert (warm.value.numpy() > cold.value.numpy()).all()
    np.testing.assert_allclose(warm.actions, target, rtol=1e-6)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_the_power_of_coloured_noise_falls_as_it_should(exponent):
    steps, draws = 64, 4000
    noise = coloured_noise(SEED, draws, steps, 2, exponent).numpy()  # [N, H, A]
    assert noise.shape == (draws, steps, 2)
    np.testing.assert_allclose(noise.var(axis=(0, 2)), 1.0, atol=0.1)
    power = np.square(np.abs(np.fft.rfft(noise, axis=1))).mean(axis=(0, 2))[1:-1]
    slope = np.polyfit(np.log(np.arange(1, len(power) + 1)), np.log(power), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.05)
    between = np.mean(noise[..., 0] * noise[..., 1])
    assert abs(between) < 0.05


@pytest.mark.parametrize("horizon", [1, 2, 3, 15, 16])
def test_white_noise_is_uncorrelated_at_any_horizon(horizon):
    matrix = colour_matrix(horizon, 0.0)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(horizon), atol=1e-6)


def test_more_elites_than_samples_are_refused():
    with pytest.raises(ValueError, match=r"elites is 12; it must lie in \[1, samples = 10\]"):
        cem(_quadratic(np.zeros((2, 4, 2))), BOX, seed=SEED, **{**SIZES, "samples": 10})
