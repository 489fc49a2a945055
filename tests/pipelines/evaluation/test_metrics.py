import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.evaluation import metrics as m
from tests.pipelines.evaluation.examples import bitcoin_daily_returns, result_frame

HOURS = 8760.0
returns_strategy = arrays(np.float64, st.integers(2, 60), elements=st.floats(-0.5, 0.5))


def test_bitcoin_buy_and_hold():
    returns = bitcoin_daily_returns()
    assert m.sharpe(returns, 365) == pytest.approx(1.0853285375728547, abs=1e-9)
    assert m.sortino(returns, 365) == pytest.approx(1.5749435913123346, abs=1e-9)
    assert m.volatility(returns, 365) == pytest.approx(0.675343435788908, abs=1e-9)
    assert m.drawdown(np.cumprod(1 + returns), 1.0).depth == pytest.approx(-0.7666956183209539, abs=1e-9)
    assert m.annual_return(returns, 365) == pytest.approx(0.6461705187281839, abs=1e-9)
    assert m.calmar(returns, 365) == pytest.approx(0.84279928, abs=5e-9)
    assert m.omega(returns) == pytest.approx(1.186543316014793, abs=1e-9)
    assert m.tail_ratio(returns) == pytest.approx(1.064444, abs=5e-7)
    assert m.value_at_risk(returns) == pytest.approx(-0.0526009143, abs=5e-11)
    assert m.expected_shortfall(returns) == pytest.approx(-0.0802180281, abs=5e-11)


def test_drawdown_by_hand():
    equity = [1.1, 1.0, 0.9, 1.2, 1.3, 1.04, 1.17]
    found = m.drawdown(equity, 1.0)
    assert found.depth == pytest.approx(-0.2)
    assert found.bars == 2
    assert m.drawdown([0.9, 0.8, 0.95], 1.0) == (pytest.approx(-0.2), 3)  # the start is a peak
    assert m.drawdown([1.0, 1.1], 1.0) == (0.0, 0)


def test_small_figures_by_hand():
    returns = [0.1, -0.05, 0.0, 0.05]
    assert m.total_return(returns) == pytest.approx(1.1 * 0.95 * 1.05 - 1)
    assert m.annual_return(returns, 8) == pytest.approx((1.1 * 0.95 * 1.05) ** 2 - 1)
    assert m.hit_rate(returns) == pytest.approx(2 / 3)
    assert m.omega(returns) == pytest.approx(3.0)
    assert m.sortino(returns, 1) == pytest.approx(0.025 / 0.025)
    assert m.exposure_histogram([-2, -0.5, 0, 0.1, 3], [-1, -0.25, 0.25, 1]) == pytest.approx([0.4, 0.4, 0.2])


@pytest.mark.parametrize("returns", [[0.0] * 20, [0.001] * 20, [0.01], [0.0]])
def test_figures_that_do_not_exist(returns):
    assert m.sharpe(returns, HOURS) is None
    assert m.sortino(returns, HOURS) is None
    assert m.calmar(returns, HOURS) is None
    assert m.omega(returns) is None
    assert m.hit_rate(returns) == (1.0 if returns[0] else None)


@given(returns_strategy)
def test_no_figure_is_ever_nan(returns):
    frame = result_frame(1e6 * np.cumprod(1 + returns))
    summary = m.summarise(frame, HOURS)
    text = json.dumps(summary, allow_nan=False)
    assert json.loads(text) == summary


@given(returns_strategy)
def test_drawdown_is_the_worst_fall_between_any_two_bars(returns):
    equity = np.concatenate([[1.0], np.cumprod(1 + returns)])
    worst = min(equity[j] / equity[i] - 1 for i in range(len(equity)) for j in range(i, len(equity)))
    assert m.drawdown(equity[1:], 1.0).depth == pytest.approx(worst, abs=1e-12)


def test_summary_of_a_path():
    returns = np.array([0.01, -0.02, 0.03, 0.0, 0.015])
    frame = result_frame(1e6 * np.cumprod(1 + returns), exposure=-0.5, fees=100.0).sample(
        fraction=1.0, shuffle=True, seed=1
    )
    found = m.summarise(frame, HOURS)
    assert found["bars"] == 5
    assert found["ruined"] is False
    assert found["total_return"] == float(f"{np.prod(1 + returns) - 1:.6g}")
    assert found["sharpe"] == float(f"{returns.mean() / returns.std(ddof=1) * math.sqrt(HOURS):.6g}")
    assert found["cost_fees"] == pytest.approx(-5e-4)
    assert found["cost_total"] == pytest.approx(-5e-4)
    assert found["gross_return"] == pytest.approx(found["total_return"] + 5e-4, rel=1e-5)
    assert found["turnover_per_year"] == pytest.approx(0.25 * HOURS)
    assert (found["time_long"], found["time_short"], found["gross_exposure"]) == (0.0, 1.0, 0.5)
    assert found["max_drawdown_bars"] == 1
    assert type(found["max_drawdown_bars"]) is int


@pytest.mark.parametrize("last", [0.0, -50_000.0])
def test_a_ruined_path_has_no_sharpe_ratio(last):
    equity = np.array([1.1e6, 0.4e6, last, last, last])
    found = m.summarise(result_frame(equity), HOURS)
    assert found["ruined"] is True
    assert found["bars"] == 3
    assert found["total_return"] == pytest.approx(last / 1e6 - 1)
    for ratio in ("sharpe", "sortino", "calmar", "annual_return", "volatility", "omega", "tail_ratio"):
        assert found[ratio] is None
    assert found["max_drawdown"] <= -1.0


def test_a_path_that_says_it_is_ruined_is_believed():
    found = m.summarise(result_frame(np.array([0.9e6, 1.0]), ruined=True), HOURS)
    assert found["ruined"] is True
    assert found["sharpe"] is None


def test_equity_after_the_ruin_may_be_anything():
    assert m.path_of(result_frame(np.array([0.5e6, 0.0, np.nan]))).ruined
    with pytest.raises(ValueError, match="finite"):
        m.path_of(result_frame(np.array([0.5e6, np.nan, 1.0])))
    with pytest.raises(ValueError, match="at least one bar"):
        m.path_of(result_frame(np.array([1.0])).head(0))


def test_one_bar():
    found = m.summarise(result_frame(np.array([1.01e6])), HOURS)
    assert found["total_return"] == 0.01
    assert found["sharpe"] is None
    assert found["volatility"] is None


def test_chained_folds_reinvest_and_still_add_up():
    rng = np.random.default_rng(0)
    steps = rng.normal(0, 0.01, (3, 40))
    frames = [
        result_frame(1e6 * np.cumprod(1 + steps[k]), fold=k, first_bar=40 * k, fees=30.0) for k in range(3)
    ]
    chained = m.chain(pl.concat(frames[::-1]))
    path = m.path_of(chained)
    np.testing.assert_allclose(path.returns, steps.ravel(), atol=1e-12)
    waterfall = m.cost_waterfall(chained)
    assert waterfall["net"] == pytest.approx(np.prod(1 + steps) - 1, abs=1e-12)
    assert waterfall["fees"] == pytest.approx(
        -30e-6 * 40 * (1 + np.prod(1 + steps[0]) + np.prod(1 + steps[:2])), rel=1e-12
    )


def test_nothing_follows_a_ruin():
    frames = [
        result_frame(np.array([1.2e6, 1.1e6]), fold=0),
        result_frame(np.array([0.5e6, 0.0, 0.0]), fold=1, first_bar=2),
        result_frame(np.array([2e6, 3e6]), fold=2, first_bar=5),
    ]
    chained = m.chain(pl.concat(frames))
    assert chained["equity"].to_list() == pytest.approx([1.2e6, 1.1e6, 0.55e6, 0.0])
    assert m.summarise(chained, HOURS)["total_return"] == -1.0


def test_rounding():
    assert m.figure(123456789.0) == 123457000.0
    assert m.figure(-1.23456789e-7) == -1.23457e-7
    assert m.figure(None) is None
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            m.figure(wrong)


def test_exposure_columns_are_needed_and_netted():
    frame = result_frame(np.array([1e6, 1e6]), exposure=0.5).with_columns(exposure_ETHUSDT=pl.lit(-0.5))
    assert m.net_exposure(frame).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="exposure_"):
        m.net_exposure(frame.drop("exposure_ETHUSDT", "exposure_BTCUSDT"))
