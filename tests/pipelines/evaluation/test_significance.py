import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from pipelines.evaluation import significance as s
from tests.pipelines.evaluation.examples import bitcoin_daily_returns, waves

EXACT = 1e-9


@pytest.mark.parametrize(
    ("sharpe", "observations", "skew", "kurtosis", "benchmark", "expected"),
    [
        (0.458, 24, 0.0, 3.0, 0.0, 0.9816749190910771),
        (1.585 / math.sqrt(12), 24, -2.448, 10.164, 0.0, 0.9132343068848602),
        (0.24171729852769175, 50, -1.1395656849264317, 4.635861094210872, 0.05, 0.877850770122146),
        (0.24171729852769175, 50, -1.1395656849264317, 4.635861094210872, 0.0, 0.9289428169745353),
        (0.24171729852769175, 50, -1.1751171591526683, 4.942383366326671, 0.0, 0.9279640654809305),
    ],
)
def test_probabilistic_sharpe_ratio(sharpe, observations, skew, kurtosis, benchmark, expected):
    found = s.probabilistic_sharpe_ratio(sharpe, observations, skew, kurtosis, benchmark)
    assert found == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize(
    ("sharpe", "skew", "kurtosis", "error", "years"),
    [
        (0.7079, -0.2250, 2.9570, 0.10276082308007262, 0.7152156942951801),
        (0.8183, -1.4455, 7.0497, 0.15500654727884933, 1.159302661381875),
    ],
)
def test_standard_error_and_track_record(sharpe, skew, kurtosis, error, years):
    assert s.sharpe_standard_error(sharpe, 134, skew, kurtosis) == pytest.approx(error, abs=EXACT)
    assert s.minimum_track_record_length(sharpe, skew, kurtosis) / 12 == pytest.approx(years, abs=EXACT)


@pytest.mark.parametrize(
    ("periods", "annual", "against", "skew", "kurtosis", "years"),
    [
        (250, 2.0, 1.0, 0.0, 3.0, 2.731187801728176),
        (52, 2.0, 1.0, 0.0, 3.0, 2.828833586945237),
        (12, 3.0, 2.5, -0.72, 5.78, 27.3529201960403),
    ],
)
def test_track_record_against_a_benchmark(periods, annual, against, skew, kurtosis, years):
    bars = s.minimum_track_record_length(
        annual / math.sqrt(periods), skew, kurtosis, against / math.sqrt(periods)
    )
    assert bars / periods == pytest.approx(years, abs=EXACT)


def test_track_record_at_ninety_percent():
    found = s.minimum_track_record_length(
        0.24171729852769175, -1.1395656849264317, 4.635861094210872, 0.05, confidence=0.90
    )
    assert found == pytest.approx(60.365085269027084, abs=EXACT)


def test_no_track_record_is_long_enough_below_the_benchmark():
    assert s.minimum_track_record_length(0.05, 0.0, 3.0, benchmark=0.05) is None
    assert s.minimum_track_record_length(-0.1, 0.0, 3.0) is None


@pytest.mark.parametrize(
    ("trials", "skew", "kurtosis", "expected"),
    [
        (100, -3.0, 10.0, 0.9003968344493903),
        (10, -3.0, 10.0, 0.9938796415275255),
        (46, -3.0, 10.0, 0.9505017068755787),
        (88, -3.0, 10.0, 0.910153014744707),
        (88, 0.0, 3.0, 0.9504908166760139),
    ],
)
def test_deflated_sharpe_ratio(trials, skew, kurtosis, expected):
    found = s.deflated_sharpe_ratio(2.5 / math.sqrt(250), 1250, skew, kurtosis, trials, 0.5 / 250)
    assert found == pytest.approx(expected, abs=EXACT)


def test_expected_maximum():
    assert s.expected_maximum_sharpe(100, 0.5 / 250) == pytest.approx(0.11317200186513214, abs=EXACT)
    known = {5: 1.1925940010147893, 10: 1.57459830134575, 100: 2.5306028932016846, 1000: 3.255121513652723}
    for trials, expected in known.items():
        assert s.expected_maximum_sharpe(trials, 1.0) == pytest.approx(expected, abs=EXACT)
    assert s.expected_maximum_sharpe(1, 1.0) == 0.0


def test_minimum_backtest_length():
    known = {5: 1.42228045, 7: 1.92314341, 10: 2.47935981, 45: 4.99808700, 100: 6.40395100}
    for trials, years in known.items():
        assert s.minimum_backtest_length(trials) == pytest.approx(years, abs=5e-9)


def test_bitcoin_buy_and_hold():
    returns = bitcoin_daily_returns()
    found = s.moments(returns)
    assert found.observations == 1568
    assert found.sharpe == pytest.approx(0.05680869204354838, abs=EXACT)
    assert found.skew == pytest.approx(-0.7152242615, abs=EXACT)
    assert found.kurtosis == pytest.approx(16.0017181529, abs=EXACT)
    shape = (found.skew, found.kurtosis)
    assert s.probabilistic_sharpe_ratio(found.sharpe, 1568, *shape) == pytest.approx(0.98580101, abs=5e-9)
    assert s.minimum_track_record_length(found.sharpe, *shape) == pytest.approx(883.56, abs=0.005)
    error = s.sharpe_standard_error(found.sharpe, 1568, *shape) * math.sqrt(365)
    assert error == pytest.approx(0.4952, abs=5e-5)
    for seed in (0, 1):
        kwargs = {"block": 10.0, "replications": 4000, "seed": seed}
        low, high = s.sharpe_confidence_interval(returns, **kwargs)
        assert low * math.sqrt(365) == pytest.approx(0.12, abs=0.06)
        assert high * math.sqrt(365) == pytest.approx(2.085, abs=0.06)
        low, high = s.sharpe_confidence_interval(returns, method="bca", **kwargs)
        assert low * math.sqrt(365) == pytest.approx(0.121, abs=0.08)
        assert high * math.sqrt(365) == pytest.approx(2.065, abs=0.12)


def test_interval_by_counting_equals_interval_by_resampling_rows():
    returns = waves()[:200]
    fast = s.sharpe_confidence_interval(returns, block=5.0, replications=3000, seed=0)
    draws = s.stationary_bootstrap(
        returns, lambda rows: rows.mean() / rows.std(ddof=1), block=5.0, replications=3000, seed=0
    )
    # The same seed draws the same blocks, so the two agree to rounding, not to chance.
    assert fast == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=1e-12)


def test_effective_trials():
    assert s.effective_trials(np.eye(10)) == 10.0
    assert s.effective_trials(np.ones((10, 10))) == pytest.approx(1.0)
    half = np.full((4, 4), 0.5) + 0.5 * np.eye(4)
    assert s.effective_trials(half) == pytest.approx(2.5)
    assert s.effective_trials(half, trials=101) == pytest.approx(51.0)
    assert s.effective_trials(np.array([[1.0, -1.0], [-1.0, 1.0]])) == 2.0
    assert s.effective_trials([[1.0]], trials=7) == 7.0


@pytest.mark.parametrize("returns", [[], [0.1], [0.0] * 50, [0.001] * 50, [1e-9] * 3])
def test_without_dispersion_there_is_no_sharpe_ratio(returns):
    assert s.sharpe_ratio(returns) is None
    assert s.moments(returns) is None
    if returns:
        assert s.sharpe_confidence_interval(returns, seed=0) is None


@given(
    st.floats(-1, 1),
    st.integers(2, 10_000),
    st.floats(-3, 3),
    st.floats(0, 20),
    st.floats(1, 1e6),
)
def test_deflation_never_raises_the_probability(sharpe, observations, skew, more, trials):
    kurtosis = skew**2 + 1 + more  # the smallest that a distribution can have, and more
    plain = s.probabilistic_sharpe_ratio(sharpe, observations, skew, kurtosis)
    deflated = s.deflated_sharpe_ratio(sharpe, observations, skew, kurtosis, trials, 1 / (observations - 1))
    assert 0.0 <= deflated <= plain <= 1.0


@given(st.floats(0.01, 1), st.floats(-2, 2), st.floats(0.5, 20), st.floats(0.6, 0.999))
def test_at_its_minimum_length_a_record_has_the_confidence(sharpe, skew, more, confidence):
    kurtosis = skew**2 + 1 + more
    bars = s.minimum_track_record_length(sharpe, skew, kurtosis, confidence=confidence)
    error = math.sqrt(max(0, 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2) / (bars - 1))
    assert sharpe / error == pytest.approx(float(norm.ppf(confidence)), rel=1e-6)


@pytest.mark.parametrize("call", [
    lambda: s.sharpe_standard_error(0.1, 1, 0.0, 3.0),
    lambda: s.expected_maximum_sharpe(0, 1.0),
    lambda: s.expected_maximum_sharpe(5, -1.0),
    lambda: s.effective_trials(np.ones((2, 3))),
    lambda: s.sharpe_confidence_interval([0.1, 0.2, 0.1], seed=0, method="guess"),
])  # fmt: skip
def test_nonsense_is_refused(call):
    with pytest.raises(ValueError):
        call()


def test_normal_figures_are_bit_for_bit_those_of_the_distribution():
    """The evaluation calls what `scipy.stats.norm` calls, without the time that importing it takes."""
    error = s.sharpe_standard_error(0.1, 200, -0.5, 4.0)
    assert s.probabilistic_sharpe_ratio(0.1, 200, -0.5, 4.0) == float(norm.cdf(0.1 / error))
    best = (1 - s.EULER_GAMMA) * norm.ppf(1 - 1 / 37) + s.EULER_GAMMA * norm.ppf(1 - 1 / (37 * math.e))
    assert s.expected_maximum_sharpe(37, 1.0) == float(best)


def test_importing_the_evaluation_does_not_import_the_slowest_of_its_libraries():
    code = (
        "import pkgutil, importlib, sys, pipelines.evaluation as room\n"
        "names = [found.name for found in pkgutil.iter_modules(room.__path__)]\n"
        "for name in names: importlib.import_module(f'pipelines.evaluation.{name}')\n"
        "print(len(names) > 10, 'scipy.special' in sys.modules, 'scipy.stats' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True", "False"]
