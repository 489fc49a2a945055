from dataclasses import dataclass

import numpy as np
import pytest

from pipelines.evaluation import sensitivity as s

HOURS = 8760.0


@dataclass(frozen=True)
class Costs:
    fee_bps: float = 5.5
    half_spread_bps: float = 0.5
    slippage_bps: float = 0.5
    impact: float = 0.1


def market(bars: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Returns and weights of one symbol; the weights know half of the returns."""
    rng = np.random.default_rng(0)
    returns = rng.normal(0, 0.01, bars)
    return returns, np.sign(returns + 0.01 * rng.normal(size=bars))[:, None]


def run(costs: Costs, weights: np.ndarray | None = None) -> np.ndarray:
    returns, decided = market()
    held = (decided if weights is None else weights)[:, 0]
    rate = (costs.fee_bps + costs.half_spread_bps + costs.slippage_bps) * 1e-4
    return held * returns - rate * np.abs(np.diff(held, prepend=0.0))


def test_costs_are_scaled_and_the_rest_stays():
    assert s.scaled_costs(Costs(), 2.0) == Costs(11.0, 1.0, 1.0, 0.1)
    assert s.scaled_costs(Costs(), 0.0, ["fee_bps"]) == Costs(0.0, 0.5, 0.5, 0.1)
    with pytest.raises(ValueError):
        s.scaled_costs(Costs(), -1.0)
    with pytest.raises(AttributeError):
        s.scaled_costs(Costs(), 1.0, ["fee"])


def test_more_costs_earn_less():
    found = s.cost_sensitivity(run, Costs(), HOURS)
    assert [outcome.setting for outcome in found] == [0.0, 0.5, 1.0, 2.0, 3.0]
    totals = [outcome.total_return for outcome in found]
    assert totals == sorted(totals, reverse=True)
    assert found[2].total_return == pytest.approx(np.prod(1 + run(Costs())) - 1)


def test_break_even_is_where_nothing_is_left():
    found = s.break_even(run, Costs())
    assert found.reason == "crosses zero"
    left = np.prod(1 + run(s.scaled_costs(Costs(), found.multiple)))
    assert left == pytest.approx(1.0, abs=1e-4)


def test_break_even_that_does_not_exist():
    assert "without these costs" in s.break_even(lambda _: np.full(9, -0.01), Costs()).reason
    assert "without these costs" in s.break_even(lambda _: np.zeros(9), Costs()).reason
    assert "pays none" in s.break_even(lambda _: np.full(9, 0.01), Costs()).reason
    cheap = s.break_even(lambda costs: np.full(9, 0.01 - 1e-6 * costs.fee_bps), Costs())
    assert cheap == (None, "still earns at 64 times these costs")
    ruinous = s.break_even(lambda costs: np.array([0.1, -costs.fee_bps]), Costs())
    assert ruinous.multiple == pytest.approx((1 - 1 / 1.1) / 5.5, abs=1e-3)


def test_a_ruin_has_no_ratios():
    assert s.outcome_of(1.0, [0.1, -1.2, 0.3], HOURS) == (1.0, -1.0, None, None)
    assert s.outcome_of(1.0, [0.0, 0.0], HOURS) == (1.0, 0.0, 0.0, None)


def test_capacity_finds_the_size_that_earns_most():
    def impact(size: float) -> np.ndarray:
        return np.full(100, 1e-3 - 1e-4 * np.sqrt(size))

    found = s.capacity(impact, [1.0, 36.0, 81.0, 121.0], HOURS)
    totals = [outcome.total_return for outcome in found.outcomes]
    assert totals == sorted(totals, reverse=True)
    assert found.best_size == 36.0  # more than 1 because it is more money, less than 81 by impact
    assert s.capacity(impact, [400.0], HOURS).best_size is None
    assert s.capacity(impact, [], HOURS) == ([], None)


def test_latency():
    weights = market()[1]
    found = s.latency(lambda late: run(Costs(), late), weights, HOURS, delays=(0, 1))
    assert found[0].total_return == pytest.approx(np.prod(1 + run(Costs())) - 1)
    assert found[1].total_return < found[0].total_return
    shifted = s.delayed(np.array([[1.0], [2.0], [3.0]]), 1)
    assert shifted.tolist() == [[0.0], [1.0], [2.0]]
    assert s.delayed(np.ones((2, 1)), 5).tolist() == [[0.0], [0.0]]
    with pytest.raises(ValueError):
        s.delayed(np.ones((2, 1)), -1)
