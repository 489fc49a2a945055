"""Cells: atoms keep their own bin, cuts are fitted to what matters, and test states are met again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dyna import cells
from models.dyna.cells import Cells

DRAW = np.random.default_rng(0)


def test_atoms_get_bins_of_their_own():
    column = DRAW.choice([-2.0, -1.0, 0.0, 1.0, 2.0], 500)
    cut = cells.quantile_cuts(column, 5)
    np.testing.assert_allclose(cut, [-1.5, -0.5, 0.5, 1.5])
    mostly_flat = np.where(DRAW.random(1000) < 0.8, 0.0, DRAW.normal(size=1000))
    cut = cells.quantile_cuts(mostly_flat, 4)
    code = np.searchsorted(cut, mostly_flat, side="right")
    assert len({*code[mostly_flat == 0.0]}) == 1  # the atom is never split
    assert (np.diff(cut) > 0).all()


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(-5, 5) | st.floats(-1e3, 1e3, width=32), min_size=1, max_size=80),
    bins=st.integers(2, 12),
)
def test_cuts_ascend_and_keep_equal_values_together(values, bins):
    column = np.array(values, np.float32)
    cut = cells.quantile_cuts(column, bins)
    assert len(cut) <= bins - 1
    assert (np.diff(cut) > 0).all()
    code = np.searchsorted(cut, column, side="right")
    assert len(set(code.tolist())) == len(cut) + 1  # no bin is empty
    for value in set(values):
        assert len({*code[column == np.float32(value)]}) == 1


def test_quantiles_share_the_data_out_evenly():
    column = DRAW.exponential(size=4000)
    code = np.searchsorted(cells.quantile_cuts(column, 8), column, side="right")
    np.testing.assert_allclose(np.bincount(code), 500, atol=1)


def _choose(observation, action, target, **changes):
    options = {"actions": 2, "max_cells": 64, "min_visits": 20.0, "max_bins": 8} | changes
    return cells.choose(observation, action, target, **options)


def test_inputs_that_matter_are_cut_and_noise_is_not():
    observation = DRAW.normal(size=(3000, 20)).astype(np.float32)
    action = DRAW.integers(0, 2, 3000)
    signal = np.where(action == 1, 1.0, -1.0) * np.sign(observation[:, 7]) + 0.5 * observation[:, 11]
    grid = _choose(observation, action, signal + DRAW.normal(size=3000))
    assert grid.bins[7] > 1
    assert grid.bins[11] > 1
    assert sum(bins > 1 for bins in grid.bins) <= 4
    assert grid.number <= 64
    np.testing.assert_allclose(grid.cuts[7][len(grid.cuts[7]) // 2], 0.0, atol=0.2)


def test_pure_noise_is_left_in_few_cells_and_limits_hold():
    observation = DRAW.normal(size=(2000, 10)).astype(np.float32)
    action = DRAW.integers(0, 2, 2000)
    assert _choose(observation, action, DRAW.normal(size=2000)).number <= 8
    plain = observation[:, 0].astype(np.float64) ** 3
    assert _choose(observation, action, plain, max_cells=5, max_bins=16).number <= 5
    assert _choose(observation, action, plain, min_visits=500.0, max_bins=16).number <= 4
    assert _choose(observation, action, np.zeros(2000)).number == 1


def test_test_states_are_met_again_where_fine_keys_never_are():
    observation = DRAW.normal(size=(4000, 22)).astype(np.float32)
    target = observation[:, :3].sum(axis=1) + DRAW.normal(size=4000)
    grid = _choose(observation, DRAW.integers(0, 2, 4000), target, max_cells=256)
    trained = np.zeros(grid.number, bool)
    trained[grid.find(observation)] = True
    fresh = DRAW.normal(size=(1000, 22)).astype(np.float32)
    assert cells.unseen_share(grid, trained, fresh) < 0.05
    fine = Cells(tuple(cells.quantile_cuts(column, 4) for column in observation.T))
    known = set(fine.find(observation).tolist())
    assert np.mean([key not in known for key in fine.find(fresh).tolist()]) > 0.95


def test_what_lies_beyond_the_data_goes_to_the_outer_bins():
    grid = Cells((np.array([0.0, 1.0]), np.zeros(0), np.array([5.0])))
    found = grid.find(np.array([[-1e9, 3.0, 0.0], [0.5, 9.0, 5.1], [np.inf, 0.0, np.inf]]))
    assert found.tolist() == [0, 3, 5]
    assert grid.number == 6
    assert cells.unseen_share(
        grid, np.arange(6) != 3, np.array([[0.5, 0, 6.0], [2, 0, 6.0]])
    ) == pytest.approx(0.5)
