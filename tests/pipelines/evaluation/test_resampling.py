import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation import metrics
from pipelines.evaluation import resampling as r
from tests.pipelines.evaluation.examples import bitcoin_daily_returns, waves


def test_the_series_is_the_one_of_the_reference():
    assert waves().mean() == pytest.approx(0.0004938165015453358, abs=1e-15)
    assert waves().std(ddof=1) == pytest.approx(0.007928189655818776, abs=1e-15)


@pytest.mark.parametrize(
    ("block", "stationary", "circular"),
    [
        (5, 1.1743917729795755e-4, 7.714485312223e-5),
        (10, 1.9817684311438164e-4, 1.2968192666427337e-4),
        (25, 2.5054599083559e-4, 2.78345644078798e-4),
    ],
)
def test_variance_of_the_mean(block, stationary, circular):
    series = waves()
    assert r.stationary_variance(series, block)[0] == pytest.approx(stationary, rel=1e-9)
    drawn = r.resampled_means(series, block=block, replications=20_000, seed=0)
    assert 500 * drawn.var() == pytest.approx(stationary, rel=0.04)
    drawn = r.circular_means(series, block=block, replications=20_000, seed=0)
    assert 500 * drawn.var() == pytest.approx(circular, rel=0.04)
    blocks = np.concatenate([series, series])
    means = np.array([blocks[k : k + block].mean() for k in range(500)])
    assert block * means.var() == pytest.approx(circular, rel=1e-9)


def test_automatic_block_length():
    found = r.automatic_block_length(waves())
    assert found.stationary == pytest.approx(34.906541, abs=1e-6)
    assert found.circular == pytest.approx(39.958014, abs=1e-6)


def test_automatic_block_length_of_bitcoin():
    returns = bitcoin_daily_returns()
    assert tuple(r.automatic_block_length(returns)) == pytest.approx((4.0069, 4.5867), abs=5e-5)
    assert tuple(r.automatic_block_length(returns**2)) == pytest.approx((5.0601, 5.7924), abs=5e-5)


def test_automatic_block_length_equals_the_library():
    arch = pytest.importorskip("arch.bootstrap")
    rng = np.random.default_rng(1)
    for length in (11, 37, 100, 800):
        for memory in (-0.6, 0.0, 0.5, 0.95):
            series = rng.standard_normal(length)
            for t in range(1, length):
                series[t] += memory * series[t - 1]
            expected = arch.optimal_block_length(series).iloc[0]
            found = r.automatic_block_length(series)
            assert found.stationary == pytest.approx(max(1.0, expected["stationary"]), rel=1e-8)
            assert found.circular == pytest.approx(max(1.0, expected["circular"]), rel=1e-8)


@pytest.mark.parametrize("series", [[0.0] * 100, [0.1] * 100, [0.1], [0.1, -0.1] * 4])
def test_nothing_to_keep_is_a_block_of_one(series):
    assert r.automatic_block_length(series) == (1.0, 1.0)


def test_all_ways_of_drawing_agree():
    rng = np.random.default_rng(0)
    returns = rng.standard_t(4, (157, 3)) * 0.01
    for block in (1.0, 3.7, 60.0):
        kwargs = {"block": block, "replications": 40, "seed": 5}
        rows = r.stationary_indices(157, block, 40, 5)
        drawn = returns[rows]  # [R, T, N]
        np.testing.assert_allclose(r.resampled_means(returns, **kwargs), drawn.mean(axis=1), atol=1e-16)
        paths = r.resampled_paths(returns, **kwargs)
        grown = r.resampled_equity(returns[:, 0], [0, 80, 156], **kwargs)
        np.testing.assert_allclose(grown, np.cumprod(1 + drawn[:, :, 0], axis=1)[:, [0, 80, 156]])
        for k in range(40):
            for n in range(3):
                one = drawn[k, :, n]
                assert paths.max_drawdown[k, n] == pytest.approx(
                    metrics.drawdown(np.cumprod(1 + one), 1.0).depth, abs=1e-12
                )
                assert paths.value_at_risk[k, n] == pytest.approx(metrics.value_at_risk(one), abs=1e-15)
                assert paths.expected_shortfall[k, n] == pytest.approx(
                    metrics.expected_shortfall(one), abs=1e-15
                )
                assert paths.upper_tail[k, n] == pytest.approx(np.quantile(one, 0.95), abs=1e-15)


def test_slices_do_not_change_the_draws(monkeypatch):
    whole = r.resampled_means(waves(), block=4, replications=30, seed=1)
    monkeypatch.setattr(r, "SLICE_CELLS", 1700)
    np.testing.assert_allclose(
        r.resampled_means(waves(), block=4, replications=30, seed=1), whole, rtol=1e-12
    )


def test_blocks_have_the_stated_length():
    rows = r.stationary_indices(1000, 8.0, 200, 0)
    jumps = (np.diff(rows, axis=1) % 1000 != 1).mean()
    assert jumps == pytest.approx(1 / 8, rel=0.03)
    assert np.bincount(rows.ravel(), minlength=1000).std() < 60  # every row is drawn as often
    assert rows.min() == 0
    assert rows.max() == 999


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.floats(1, 100), st.integers(0, 2**32))
def test_draws_are_rows_and_repeat_with_the_seed(length, block, seed):
    rows = r.stationary_indices(length, block, 5, seed)
    assert rows.min() >= 0
    assert rows.max() < length
    np.testing.assert_array_equal(rows, r.stationary_indices(length, block, 5, seed))


def test_a_constant_has_an_interval_of_itself():
    assert r.mean_confidence_interval([0.25] * 40, seed=0) == pytest.approx((0.25, 0.25))
    assert r.mean_confidence_interval([0.5], seed=0) == pytest.approx((0.5, 0.5))


def test_the_interval_of_a_mean_covers_it():
    rng = np.random.default_rng(3)
    hits = 0
    for k in range(200):
        low, high = r.mean_confidence_interval(rng.standard_normal(300), block=1, replications=400, seed=k)
        hits += low <= 0.0 <= high
    assert 0.90 <= hits / 200 <= 0.985


@pytest.mark.parametrize("call", [
    lambda: r.resampled_means([], block=1, replications=3, seed=0),
    lambda: r.resampled_means([np.nan, 1.0], block=1, replications=3, seed=0),
    lambda: r.resampled_means([1.0, 2.0], block=0.5, replications=3, seed=0),
    lambda: r.stationary_variance([1.0, 2.0], 0.0),
    lambda: r.resampled_paths([0.1, -1.0], block=1, replications=3, seed=0),
    lambda: r.resampled_equity([0.1, -1.5], [0], block=1, replications=3, seed=0),
])  # fmt: skip
def test_nonsense_is_refused(call):
    with pytest.raises(ValueError):
        call()
