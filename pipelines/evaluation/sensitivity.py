"""How much of a result survives other costs, other sizes and a slower fill?

The account itself is passed in, as a function from what is varied to the returns that follow: these
functions know how to vary and what to read off, nothing else. Decisions stay as recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.evaluation.metrics import annual_return, sharpe, total_return

Floats = NDArray[np.float64]
CostsT = TypeVar("CostsT")  # a frozen dataclass, as `pipelines.market.costs.Costs`

MULTIPLES = (0.0, 0.5, 1.0, 2.0, 3.0)
PROPORTIONAL = ("fee_bps", "half_spread_bps", "slippage_bps")


class Outcome(NamedTuple):
    """What is left at one setting of what is varied; None where a figure does not exist."""

    setting: float
    total_return: float
    annual_return: float | None
    sharpe: float | None


class BreakEven(NamedTuple):
    """The multiple of the costs at which nothing is left.

    `multiple` is None when there is none: `reason` then says whether the agent loses without any cost,
    never pays any, or still earns at the largest multiple that was tried.
    """

    multiple: float | None
    reason: str


class Capacity(NamedTuple):
    """Results by size, and the size that earns most money (None if none earns)."""

    outcomes: list[Outcome]
    best_size: float | None


def scaled_costs(costs: CostsT, multiple: float, fields: Sequence[str] = PROPORTIONAL) -> CostsT:
    """`costs` with its proportional items times `multiple`; impact, margin and funding stay."""
    if multiple < 0.0:
        raise ValueError(f"a cost multiple is at least 0, got {multiple}")
    changed: dict[str, Any] = {name: getattr(costs, name) * multiple for name in fields}
    return replace(costs, **changed)  # type: ignore[type-var]


def outcome_of(setting: float, returns: ArrayLike, periods_per_year: float) -> Outcome:
    """The outcome of simple returns [T]; a path that lost everything has no ratios."""
    series = np.asarray(returns, dtype=np.float64)
    alive = bool(np.all(series > -1.0))
    return Outcome(
        setting=setting,
        total_return=total_return(series) if alive else -1.0,
        annual_return=annual_return(series, periods_per_year),
        sharpe=sharpe(series, periods_per_year) if alive else None,
    )


def cost_sensitivity(
    run: Callable[[CostsT], ArrayLike],
    costs: CostsT,
    periods_per_year: float,
    *,
    multiples: Sequence[float] = MULTIPLES,
    fields: Sequence[str] = PROPORTIONAL,
) -> list[Outcome]:
    """Net results when the items `fields` of the costs are multiplied.

    Args:
        run: costs -> simple returns [T] of the recorded decisions under these costs.
        fields: for the fee alone, or the slippage alone, name it alone.
    """
    return [outcome_of(m, run(scaled_costs(costs, m, fields)), periods_per_year) for m in multiples]


def break_even(
    run: Callable[[CostsT], ArrayLike],
    costs: CostsT,
    *,
    largest: float = 64.0,
    tolerance: float = 1e-4,
    fields: Sequence[str] = PROPORTIONAL,
) -> BreakEven:
    """Multiple of the proportional costs at which the compounded return is zero, by bisection.

    More costs never earn more, so there is one crossing at most between 0 and `largest`.
    """

    def net(multiple: float) -> float:
        returns = np.asarray(run(scaled_costs(costs, multiple, fields)), dtype=np.float64)
        return float(np.log1p(returns).sum()) if np.all(returns > -1.0) else -np.inf

    free, dearest = net(0.0), net(largest)
    if free <= 0.0:
        return BreakEven(None, "earns nothing even without these costs")
    if dearest == free:
        return BreakEven(None, "pays none of these costs")
    if dearest > 0.0:
        return BreakEven(None, f"still earns at {largest:g} times these costs")
    low, high = 0.0, largest
    while high - low > tolerance:
        middle = (low + high) / 2.0
        low, high = (middle, high) if net(middle) > 0.0 else (low, middle)
    return BreakEven((low + high) / 2.0, "crosses zero")


def capacity(run: Callable[[float], ArrayLike], sizes: Sequence[float], periods_per_year: float) -> Capacity:
    """Results against the money traded.

    Args:
        run: initial equity -> simple returns [T], in an account whose impact grows with the order's
            share of the volume (the square-root law).
    """
    outcomes = [outcome_of(size, run(size), periods_per_year) for size in sizes]
    gains = [size * found.total_return for size, found in zip(sizes, outcomes, strict=True)]
    best = int(np.argmax(gains)) if gains else 0
    return Capacity(outcomes, sizes[best] if gains and gains[best] > 0.0 else None)


def latency(
    run: Callable[[Floats], ArrayLike],
    weights: ArrayLike,
    periods_per_year: float,
    *,
    delays: Sequence[int] = (0, 1, 2),
) -> list[Outcome]:
    """Results when every decision is filled that many bars later.

    Args:
        run: weights [T, S] -> simple returns [T].
        weights: [T, S] as decided. Nothing is held before the first late decision arrives.
    """
    return [
        outcome_of(delay, run(delayed(np.asarray(weights, dtype=np.float64), delay)), periods_per_year)
        for delay in delays
    ]


def delayed(weights: Floats, bars: int) -> Floats:
    """`weights` [T, ...] shifted to `bars` rows later, flat before; never earlier."""
    if bars < 0:
        raise ValueError(f"a fill cannot come before its decision: {bars} bars")
    late = np.zeros_like(weights)
    if bars < len(weights):
        late[bars:] = weights[: len(weights) - bars]
    return late
