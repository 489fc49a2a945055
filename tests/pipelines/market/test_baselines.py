"""The rules: what they hold, and that none of them looks ahead."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.market import baselines
from pipelines.settings import Baselines

GRID = (-1.0, -0.5, 0.0, 0.5, 1.0)
RULES = baselines.rules(
    Baselines(sma_fast=3, sma_slow=8, reversion_window=6, random_hold=4), grid=GRID, seed=1
)


def walk(bars: int, symbols: int, seed: int) -> np.ndarray:
    steps = np.random.default_rng(seed).normal(0, 0.01, (bars, symbols))
    return 100 * np.exp(np.cumsum(steps, axis=0))


@pytest.mark.parametrize("name", RULES)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 59), symbols=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_the_future_has_no_say_in_the_past(name: str, seed: int, cut: int, symbols: int) -> None:
    closes = walk(60, symbols, seed)
    other = closes.copy()
    other[cut:] = np.random.default_rng(seed + 1).permutation(other[cut:]) * 3.0
    before, after = RULES[name](closes), RULES[name](other)
    np.testing.assert_array_equal(before[:cut], after[:cut])


@pytest.mark.parametrize("name", RULES)
def test_the_sum_of_exposures_stays_within_the_equity(name: str) -> None:
    weights = RULES[name](walk(500, 3, 0))
    assert weights.shape == (500, 3)
    assert np.isfinite(weights).all()
    assert np.abs(weights).sum(axis=1).max() <= 1.0 + 1e-12


def test_sma_cross_by_hand() -> None:
    closes = np.array([[1.0], [2.0], [3.0], [4.0], [3.0], [1.0], [1.0]])
    # fast 2: -, 1.5, 2.5, 3.5, 3.5, 2, 1; slow 3: -, -, 2, 3, 10/3, 8/3, 5/3
    expected = [0, 0, 1, 1, 1, 0, 0]
    np.testing.assert_array_equal(baselines.sma_cross(closes, fast=2, slow=3)[:, 0], expected)


def test_mean_reversion_sells_what_has_risen() -> None:
    closes = np.array([[100.0]] * 10 + [[110.0]] + [[100.0]] * 10 + [[90.0]])
    weights = baselines.mean_reversion(closes, window=8, sigmas=1.0)[:, 0]
    assert weights[10] == -1.0
    assert weights[-1] == 1.0
    assert weights[5] == 0.0  # a price that does not move has no deviation to bet on


def test_the_random_rule_is_its_seed() -> None:
    closes = walk(100, 2, 0)
    one = baselines.random_positions(closes, hold=5, grid=GRID, seed=3)
    np.testing.assert_array_equal(one, baselines.random_positions(closes, hold=5, grid=GRID, seed=3))
    assert (one != baselines.random_positions(closes, hold=5, grid=GRID, seed=4)).any()
    assert (one[:5] == one[0]).all()
    assert set(np.unique(one)) <= {weight / 2 for weight in GRID}


def test_rolling_mean_is_undefined_until_there_are_enough_rows() -> None:
    means = baselines.rolling_mean(np.arange(5.0)[:, None], 3)[:, 0]
    np.testing.assert_array_equal(means, [np.nan, np.nan, 1.0, 2.0, 3.0])
    assert np.isnan(baselines.rolling_mean(np.ones((2, 1)), 3)).all()
