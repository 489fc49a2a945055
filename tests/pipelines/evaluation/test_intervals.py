import numpy as np
import pytest

from pipelines.evaluation import metrics
from pipelines.evaluation.intervals import HEADLINES, equity_bands, headline_intervals
from pipelines.evaluation.resampling import stationary_indices
from tests.pipelines.evaluation.examples import result_frame

HOURS = 8760.0


def test_every_figure_equals_the_metric_of_the_resampled_record():
    """The short cuts by counting give what the plain definition gives on the very same draws."""
    returns = np.random.default_rng(0).standard_t(4, 120) * 0.01
    found = headline_intervals(returns, HOURS, block=4.0, replications=200, seed=3)[0]
    plain = {name: [] for name in HEADLINES}
    for rows in stationary_indices(120, 4.0, 200, 3):
        # Not by way of equity, whose rounding would break the ties between rows drawn twice.
        drawn = returns[rows]
        path = metrics.Path(1e6 * np.cumprod(1 + drawn), drawn, 1e6, ruined=False)
        for name in HEADLINES:
            plain[name].append(metrics.path_figures(path, HOURS)[name])
    for name in HEADLINES:
        assert found[name] == pytest.approx(tuple(np.quantile(plain[name], [0.025, 0.975])), rel=1e-9), name


def test_the_metric_lies_within_its_interval():
    returns = np.random.default_rng(1).normal(0.0005, 0.01, (1000, 2))
    for column, intervals in enumerate(headline_intervals(returns, HOURS, seed=0)):
        path = metrics.path_of(result_frame(1e6 * np.cumprod(1 + returns[:, column])))
        for name, interval in intervals.items():
            value = metrics.path_figures(path, HOURS)[name]
            assert interval.low <= value <= interval.high, name


def test_degenerate_records():
    idle, constant, ruined, one_loss = np.zeros(60), np.full(60, 0.001), np.full(60, 0.01), np.zeros(60)
    ruined[30] = -1.0
    one_loss[5] = -0.01
    found = headline_intervals(np.column_stack([idle, constant, ruined, one_loss]), HOURS, seed=0)
    assert found[0]["sharpe"] is None
    assert found[0]["hit_rate"] is None
    assert found[0]["total_return"] == (0.0, 0.0)
    assert found[1]["sharpe"] is None
    assert found[1]["max_drawdown"] == (0.0, 0.0)
    assert found[1]["calmar"] is None
    assert set(found[2].values()) == {None}
    assert found[3]["sharpe"].high < 0.0
    assert set(headline_intervals([0.1], HOURS, seed=0)[0].values()) == {None}
    assert headline_intervals(np.full((5, 1), -1.0), HOURS, seed=0)[0]["sharpe"] is None


def test_bands_hold_the_curve():
    returns = np.random.default_rng(0).normal(0.0002, 0.01, 3000)
    bands = equity_bands(returns, points=50, seed=0)
    assert bands.rows[0] == 0
    assert bands.rows[-1] == 2999
    np.testing.assert_allclose(bands.growth, np.cumprod(1 + returns)[bands.rows])
    assert np.all(bands.low <= bands.high)
    assert np.mean((bands.low <= bands.growth) & (bands.growth <= bands.high)) > 0.9
    width = np.log(bands.high[-1] / bands.low[-1])
    assert width == pytest.approx(2 * 1.96 * 0.01 * np.sqrt(3000), rel=0.15)
