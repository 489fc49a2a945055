import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from pipelines.evaluation import calibration as c


@given(st.floats(-3, 3), st.floats(-2, 2), st.floats(0.1, 3))
def test_gaussian_likelihood(outcome, mean, deviation):
    assert c.gaussian_nll(outcome, mean, deviation) == pytest.approx(
        -stats.norm.logpdf(outcome, mean, deviation), abs=1e-12
    )


@pytest.mark.parametrize(
    ("outcome", "mean", "deviation"), [(0.3, 0.0, 1.0), (-1.5, 0.5, 0.2), (2.0, 2.0, 3.0)]
)
def test_crps_is_the_integral_of_its_definition(outcome, mean, deviation):
    def gap(x: float) -> float:
        return (stats.norm.cdf(x, mean, deviation) - (x >= outcome)) ** 2

    parts = [integrate.quad(gap, mean - 40, outcome)[0], integrate.quad(gap, outcome, mean + 40)[0]]
    assert c.crps_gaussian(outcome, mean, deviation) == pytest.approx(sum(parts), abs=1e-7)


def test_crps_of_a_standard_normal_at_its_mean():
    assert c.crps_gaussian(0.0, 0.0, 1.0) == pytest.approx((np.sqrt(2) - 1) / np.sqrt(np.pi), abs=1e-12)


def test_crps_of_samples_by_hand():
    # mean |x - 1| = (1 + 0 + 2) / 3; mean over pairs of |x - x'| = (1 + 3 + 2) / 3
    assert c.crps_samples(1.0, [0.0, 1.0, 3.0]) == pytest.approx(1.0 - 0.5 * 2.0)
    assert c.crps_samples([0.0, 5.0], [[0.0, 0.0], [5.0, 5.0]]) == pytest.approx([0.0, 0.0])


def test_crps_of_few_samples_is_unbiased():
    rng = np.random.default_rng(0)
    found = c.crps_samples(np.full(40_000, 0.4), rng.normal(size=(40_000, 5))).mean()
    assert found == pytest.approx(float(c.crps_gaussian(0.4, 0.0, 1.0)), abs=0.006)


def test_a_mixture_of_one_is_a_gaussian():
    y = np.linspace(-2, 2, 7)
    one = np.ones((7, 1))
    np.testing.assert_allclose(c.mixture_nll(y, one, 0.3 * one, 0.8 * one), c.gaussian_nll(y, 0.3, 0.8))
    np.testing.assert_allclose(c.pit_mixture(y, one, 0.3 * one, 0.8 * one), c.pit_gaussian(y, 0.3, 0.8))
    weights, means, spreads = [0.25, 0.75], [-1.0, 2.0], [0.5, 1.5]
    density = 0.25 * stats.norm.pdf(0.4, -1, 0.5) + 0.75 * stats.norm.pdf(0.4, 2, 1.5)
    assert c.mixture_nll(0.4, weights, means, spreads) == pytest.approx(-np.log(density))


def test_a_far_outcome_has_a_finite_score():
    assert np.isfinite(c.mixture_nll(1e3, [0.5, 0.5], [0.0, 0.0], [0.1, 0.2]))


def test_references_are_fitted_on_the_training_part_alone():
    train, seen = np.array([0.0, 1.0, 0.0, 1.0]), np.array([5.0, 6.0])
    found = c.reference_nll(seen, train)
    np.testing.assert_allclose(found.gaussian, c.gaussian_nll(seen, 0.5, 0.5))
    np.testing.assert_allclose(found.persistence, c.gaussian_nll(seen, [1.0, 5.0], 1.0))


def test_skill_of_the_true_model():
    rng = np.random.default_rng(0)
    spread = np.exp(0.5 * rng.normal(size=4000))
    y = spread * rng.normal(size=4000)
    reference = c.reference_nll(y[2000:], y[:2000])
    found = c.skill(c.gaussian_nll(y[2000:], 0.0, spread[2000:]), reference, seed=0)
    assert found.model < found.gaussian < found.persistence
    assert found.gain_over_gaussian.low > 0.0
    none = c.skill(reference.gaussian, reference, seed=0)
    assert none.gain_over_gaussian == (0.0, 0.0)


def test_pit_of_the_right_and_of_an_overconfident_model():
    y = np.random.default_rng(0).normal(size=20_000)
    right = c.pit_gaussian(y, 0.0, 1.0)
    np.testing.assert_allclose(c.pit_histogram(right), 0.1, atol=0.01)
    assert c.calibration_error(right) < 0.02
    narrow = c.pit_histogram(c.pit_gaussian(y, 0.0, 0.5))
    assert min(narrow[0], narrow[-1]) > 0.2
    assert narrow[5] < 0.1
    assert c.calibration_error(c.pit_gaussian(y, 3.0, 1.0)) > 0.5
    assert c.calibration_error([0.25, 0.75]) == pytest.approx(0.25)


def test_pit_of_samples_is_uniform_even_with_few_of_them_and_with_ties():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(20_000, 4))
    pit = c.pit_samples(rng.normal(size=20_000), draws, seed=1)
    np.testing.assert_allclose(c.pit_histogram(pit), 0.1, atol=0.01)
    tied = c.pit_samples(np.zeros(20_000), np.zeros((20_000, 4)), seed=1)
    np.testing.assert_allclose(c.pit_histogram(tied), 0.1, atol=0.01)


def test_coverage_by_horizon():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(8000, 2)) * [1.0, 2.0]  # the model misses that uncertainty grows
    found = c.coverage_gaussian(y, 0.0, 1.0)
    np.testing.assert_allclose(found[:, 0], [0.5, 0.8, 0.95], atol=0.015)
    assert np.all(found[:, 1] < [0.3, 0.5, 0.7])
    samples = rng.normal(size=(2000, 2, 400))
    np.testing.assert_allclose(c.coverage_samples(y[:2000], samples), found, atol=0.04)


def test_planned_against_realised():
    realised = np.random.default_rng(0).normal(size=(500, 3))
    planned = realised * [1.0, -1.0, 0.0] + [0.5, 0.0, 2.0]
    found = c.planned_against_realised(planned, realised)
    assert found.bias[0] == pytest.approx(0.5)
    assert found.rmse[0] == pytest.approx(0.5)
    assert found.standard_error[0] == pytest.approx(0.0, abs=1e-12)
    assert found.correlation == pytest.approx([1.0, -1.0, 0.0])


def test_dream_gap():
    real = np.random.default_rng(0).normal(0.0, 1.0, 400)
    found = c.dream_gap(real + 0.3, real, seed=0)
    assert (found.gap, *found.interval) == pytest.approx((0.3, 0.3, 0.3))
    assert found.dreamed - found.real == pytest.approx(found.gap)


@pytest.mark.parametrize("call", [
    lambda: c.gaussian_nll(0.0, 0.0, 0.0),
    lambda: c.crps_gaussian(0.0, 0.0, np.nan),
    lambda: c.mixture_nll(0.0, [0.5, 0.6], [0, 0], [1, 1]),
    lambda: c.crps_samples(0.0, [1.0]),
    lambda: c.reference_nll([0.0], [1.0, 2.0]),
    lambda: c.planned_against_realised([[1.0]], [[1.0]]),
    lambda: c.dream_gap([1.0, 2.0], [1.0], seed=0),
])  # fmt: skip
def test_nonsense_is_refused(call):
    with pytest.raises(ValueError):
        call()
