"""Tokens: atoms come back exactly, cells are monotone, and what was not seen clips and is counted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.trajectory.tokens import Tokeniser, expectation, fit_column


def _fit(column, bins, **options):
    return Tokeniser.fit(np.asarray(column, float)[:, None], bins, **options)


@pytest.mark.parametrize("method", ["quantile", "uniform"])
def test_a_discrete_column_and_one_of_many_zeros_come_back_exactly(method):
    draw = np.random.default_rng(0)
    actions = draw.choice([-2.0, -1.0, 0.0, 1.0, 2.0], 1000, p=[0.001, 0.299, 0.5, 0.15, 0.05])
    tokeniser = _fit(actions, 20, method=method)
    np.testing.assert_array_equal(tokeniser.decode(tokeniser.encode(actions[:, None]).tokens)[:, 0], actions)

    rewards = np.where(draw.random(1000) < 0.8, 0.0, draw.normal(size=1000))
    tokeniser = _fit(rewards, 20, method=method)
    back = tokeniser.decode(tokeniser.encode(rewards[:, None]).tokens)[:, 0]
    assert (back[rewards == 0.0] == 0.0).all()
    assert (back[rewards != 0.0] != 0.0).all()
    assert (np.sign(back) == np.sign(rewards)).all()
    assert len(tokeniser.columns[0].starts) <= 20
    near = tokeniser.encode(np.array([[-1e-9], [0.0], [1e-9]])).tokens[:, 0]
    assert (np.diff(near) >= 0).all()


def test_exact_columns_know_values_that_were_never_seen():
    tokeniser = _fit([1.0, 1.0, 3.0], 5, exact={0: [0, 1, 2, 3, 4]})
    found = tokeniser.encode(np.arange(-1.0, 6.0)[:, None])
    np.testing.assert_array_equal(found.tokens[:, 0], [0, 0, 1, 2, 3, 4, 4])
    np.testing.assert_array_equal(found.clipped, [2])
    with pytest.raises(ValueError, match="has 5 exact values, more than 4 bins"):
        _fit([1.0], 4, exact={0: range(5)})


values = hnp.arrays(
    np.float64,
    st.integers(1, 200),
    elements=st.one_of(
        st.sampled_from([0.0, 1.0, -3.5]), st.floats(-1e6, 1e6, allow_nan=False, width=32), st.integers(-3, 3)
    ),
)


@settings(max_examples=150, deadline=None)
@given(column=values, bins=st.integers(2, 40), method=st.sampled_from(["quantile", "uniform"]))
def test_cells(column, bins, method):
    cells = fit_column(column, bins, method)
    assert 1 <= len(cells.starts) <= bins
    assert (np.diff(cells.starts) > 0).all()
    assert (np.diff(cells.centres) > 0).all()
    tokeniser = _fit(column, bins, method=method)
    used = np.arange(len(cells.starts))[:, None]
    np.testing.assert_array_equal(tokeniser.encode(tokeniser.decode(used)).tokens, used)
    ordered = np.sort(np.concatenate([column, column + 0.25]))
    found = tokeniser.encode(ordered[:, None])
    assert (np.diff(found.tokens[:, 0]) >= 0).all()
    assert tokeniser.encode(column[:, None]).clipped == 0
    if len(np.unique(column)) <= bins:
        np.testing.assert_array_equal(
            tokeniser.decode(tokeniser.encode(column[:, None]).tokens)[:, 0], column
        )
    copy = Tokeniser.from_arrays(tokeniser.arrays())
    np.testing.assert_array_equal(copy.encode(ordered[:, None]).tokens, found.tokens)
    np.testing.assert_array_equal(copy.decode(found.tokens), tokeniser.decode(found.tokens))


def test_columns_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="finite"):
        fit_column(np.array([1.0, np.nan]), 4)
    with pytest.raises(ValueError, match="0 values"):
        fit_column(np.array([]), 4)


def test_expectation_is_not_renormalised():
    assert expectation(np.array([0.25, 0.25]), np.array([2.0, 4.0])) == 1.5


def test_the_mean_of_a_cell_is_that_of_its_values_and_reproduces_the_mean_of_all():
    draw = np.random.default_rng(0)
    values = np.concatenate([np.zeros(300), draw.standard_t(2, 700)])
    cells = fit_column(values, 20)
    tokens = Tokeniser([cells], np.array([-np.inf]), np.array([np.inf])).encode(values[:, None]).tokens[:, 0]
    for token in np.unique(tokens):
        assert cells.means[token] == pytest.approx(values[tokens == token].mean())
    shares = np.bincount(tokens, minlength=len(cells.means)) / len(tokens)
    assert shares @ cells.means == pytest.approx(values.mean())
    assert abs(shares @ cells.centres - values.mean()) > 0.01  # fat tails: half way is far out
