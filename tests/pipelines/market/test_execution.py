"""The closed form against the paper's example, and against every other schedule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.market.execution import ExecutionTask, cost, schedule, twap, urgency

PAPER = ExecutionTask()


@pytest.mark.parametrize(
    ("risk_aversion", "kappa", "held", "expectation", "variance"),
    [
        (0.0, 0.0, (800000, 600000, 400000, 200000), 662_500, 1.083e12),
        (
            1e-7,
            0.1946285504674804,
            (757882.391, 544564.313, 351939.68, 172688.753),
            670057.4600445137,
            9.247186061398438e11,
        ),
        (
            1e-6,
            0.6070761632470627,
            (541955.554, 289854.219, 147897.488, 62141.802),
            911226.9863037932,
            3.64128572058141e11,
        ),
        (
            2e-6,
            0.8462971345012561,
            (428598.846, 182932.814, 76295.722, 27643.377),
            1140715.167049785,
            2.019312871505245e11,
        ),
    ],
)
def test_paper(
    risk_aversion: float, kappa: float, held: tuple[float, ...], expectation: float, variance: float
) -> None:
    assert urgency(PAPER, risk_aversion) == pytest.approx(kappa, rel=1e-9)
    holdings = schedule(PAPER, risk_aversion=risk_aversion)
    assert holdings[1:-1].tolist() == pytest.approx(held, abs=5e-4)
    assert (holdings[0], holdings[-1]) == (1e6, 0.0)
    found = cost(PAPER, holdings, risk_aversion=risk_aversion)
    assert found.expectation == pytest.approx(expectation, rel=1e-9)
    assert found.variance == pytest.approx(variance, rel=1e-9)
    assert found.objective == pytest.approx(expectation + risk_aversion * variance, rel=1e-9)


def test_optimum_and_immediate_sale() -> None:
    best = cost(PAPER, schedule(PAPER, risk_aversion=1e-6), risk_aversion=1e-6)
    assert best.objective == pytest.approx(1275355.558361934, rel=1e-12)
    at_once = cost(PAPER, [1e6, 0, 0, 0, 0, 0], risk_aversion=1e-6)
    assert (at_once.expectation, at_once.variance) == (pytest.approx(2_562_500, rel=1e-12), 0.0)
    assert cost(PAPER, twap(PAPER)).expectation == pytest.approx(662_500, rel=1e-12)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-8, 1e-7, 1e-6, 1e-5]), st.integers(2, 12))
@settings(deadline=None)
def test_no_other_schedule_is_better(seed: int, risk_aversion: float, periods: int) -> None:
    task = replace(PAPER, periods=periods)
    best = schedule(task, risk_aversion=risk_aversion)
    away = np.zeros((64, periods + 1))
    away[:, 1:-1] = np.random.default_rng(seed).normal(0, 1e4, (64, periods - 1))
    others = cost(task, best + away, risk_aversion=risk_aversion).objective
    # Buying back pays the half-spread twice, which the closed form may ignore because it never buys.
    assert (others >= cost(task, best, risk_aversion=risk_aversion).objective * (1 - 1e-12)).all()


def test_extreme_urgency_does_not_overflow() -> None:
    holdings = schedule(replace(PAPER, days=500.0, periods=500), risk_aversion=1.0)
    assert np.isfinite(holdings).all()
    assert holdings[1] == pytest.approx(1e6 * np.exp(-urgency(PAPER, 1.0)), rel=1e-9)
    tiny = schedule(PAPER, risk_aversion=1e-18)
    np.testing.assert_allclose(tiny, twap(PAPER), rtol=1e-9)


def test_square_root_and_transient_impact_by_hand() -> None:
    task = replace(
        PAPER,
        half_spread=0.0,
        permanent=0.0,
        temporary=0.0,
        square_root=0.5,
        days=2.0,
        periods=2,
        volatility=1.0,
    )
    # 500 000 a day of 5 million: h = 0.5 * 1 * sqrt(0.1), twice.
    assert cost(task, [1e6, 5e5, 0]).expectation == pytest.approx(1e6 * 0.5 * np.sqrt(0.1), rel=1e-12)
    task = replace(task, square_root=0.0, transient=1e-6, recovery=np.log(2))
    # 6e5 at 0.3 on average, displaced by 0.6, half of it gone when 4e5 sell at 0.3 + 0.2.
    assert cost(task, [1e6, 4e5, 0]).expectation == pytest.approx(6e5 * 0.3 + 4e5 * 0.5, rel=1e-12)


def test_faults() -> None:
    for key, value in (
        ("shares", 0),
        ("days", -1.0),
        ("periods", 2.5),
        ("volatility", np.nan),
        ("price", "50"),
    ):
        with pytest.raises(ValueError, match=rf"task\.{key}"):
            replace(PAPER, **{key: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="from 1e\\+06 to 0"):
        cost(PAPER, [1e6, 5, 4, 3, 2, 1])
    with pytest.raises(ValueError, match="6 entries"):
        cost(PAPER, [1e6, 0])
    with pytest.raises(ValueError, match="linear impact"):
        schedule(replace(PAPER, transient=1e-7), risk_aversion=1e-6)
    with pytest.raises(ValueError, match="optimum does not exist"):
        schedule(replace(PAPER, temporary=1e-7), risk_aversion=1e-6)
    with pytest.raises(ValueError, match="risk_aversion"):
        schedule(PAPER, risk_aversion=-1e-6)
