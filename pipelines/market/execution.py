"""Selling a block of shares: the cost of a schedule, and the schedule that is optimal.

A schedule is the holdings x_0 = X, x_1, .., x_N = 0 at the ends of N periods of length tau;
n_k = x_{k-1} - x_k is sold in period k at the rate v = n_k / tau. The price starts at S_0 and moves by

    S_k = S_{k-1} + sigma sqrt(tau) xi_k - tau g(v)        fill_k = S_{k-1} - h(v) - D_k - c n_k / 2

with permanent impact g and temporary impact h (Almgren and Chriss, "Optimal execution of portfolio
transactions", 2001, sections 1.2 and 1.3) and a transient displacement D (Obizhaeva and Wang 2013) to which
each sale adds c n_k and which decays exponentially; Almgren and Chriss have c = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.market import impact

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ExecutionTask:
    """What is to be sold, and in what market. The defaults are the paper's (its table 1)."""

    shares: float = 1e6
    """X"""
    price: float = 50.0
    """S_0, money a share"""
    days: float = 5.0
    """T"""
    periods: int = 5
    """N"""
    volatility: float = 0.95
    """sigma, money a share and square root of a day"""
    half_spread: float = 0.0625
    """epsilon, money a share"""
    permanent: float = 2.5e-7
    """gamma of g(v) = gamma v"""
    temporary: float = 2.5e-6
    """eta of h(v) = epsilon + eta v + Y sigma sqrt(v / V)"""
    square_root: float = 0.0
    """Y of the same; the paper has none"""
    daily_volume: float = 5e6
    """V, shares a day"""
    transient: float = 0.0
    """c, money a share that each share sold adds to the displacement"""
    recovery: float = 1.0
    """Rate a day at which the displacement decays"""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"task.{field.name} must be a finite number, got {value!r}")
            positive = field.name in ("shares", "price", "days", "periods", "daily_volume")
            if value < 0 or (positive and value == 0):
                raise ValueError(
                    f"task.{field.name} must be {'above' if positive else 'at least'} 0, got {value!r}"
                )
        if not isinstance(self.periods, int):
            raise ValueError(f"task.periods must be a whole number, got {self.periods!r}")

    @property
    def tau(self) -> float:
        """Length of a period in days."""
        return self.days / self.periods


class Cost(NamedTuple):
    """Of a schedule, against selling everything at S_0; each [..]."""

    expectation: Floats
    """E, money"""
    variance: Floats
    """V, money squared"""
    objective: Floats
    """E + lambda V"""


def temporary_impact(task: ExecutionTask, rate: ArrayLike) -> Floats:
    """h(v), money a share, for shares sold a day."""
    linear = impact.temporary(rate, task.half_spread, task.temporary)
    law = impact.square_root(rate, task.daily_volume, task.volatility, task.square_root)
    return np.asarray(linear + law)


def cost(task: ExecutionTask, holdings: ArrayLike, *, risk_aversion: float = 0.0) -> Cost:
    """E, V and E + lambda V of a schedule fixed in advance (section 1.4), for any of the impacts.

    Args:
        task: the market.
        holdings: [.., N + 1] from X to 0.
        risk_aversion: lambda, one over money.
    """
    x = np.asarray(holdings, np.float64)
    if x.shape[-1:] != (task.periods + 1,):
        raise ValueError(f"holdings must end in {task.periods + 1} entries, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("holdings is not a number somewhere")
    if (
        np.abs(x[..., 0] - task.shares).max() > 1e-9 * task.shares
        or np.abs(x[..., -1]).max() > 1e-9 * task.shares
    ):
        raise ValueError(f"holdings must run from {task.shares:g} to 0")
    sold = x[..., :-1] - x[..., 1:]  # [.., N]
    left = x[..., 1:]  # [.., N]
    rate = sold / task.tau
    total = (left * task.tau * impact.permanent(rate, task.permanent)).sum(-1)
    total = total + (sold * temporary_impact(task, rate)).sum(-1)
    displaced = np.zeros(x.shape[:-1])
    for k in range(task.periods):
        displaced = impact.decay(displaced, task.recovery, task.tau)
        total = total + sold[..., k] * (displaced + 0.5 * task.transient * sold[..., k])
        displaced = displaced + task.transient * sold[..., k]
    variance = task.volatility**2 * task.tau * (left**2).sum(-1)
    return Cost(np.asarray(total), np.asarray(variance), np.asarray(total + risk_aversion * variance))


def urgency(task: ExecutionTask, risk_aversion: float) -> float:
    """kappa a day, from 2 (cosh(kappa tau) - 1) / tau^2 = lambda sigma^2 / eta~ (section 2.2)."""
    if task.square_root or task.transient:
        raise ValueError(
            "the closed form holds for linear impact: task.square_root and task.transient must be 0"
        )
    if not (math.isfinite(risk_aversion) and risk_aversion >= 0):
        raise ValueError(f"risk_aversion must be a finite number, at least 0, got {risk_aversion!r}")
    eta = task.temporary - 0.5 * task.permanent * task.tau
    if eta <= 0:
        raise ValueError(
            "task.temporary must be above task.permanent * tau / 2, or the optimum does not exist"
        )
    # 2 (cosh y - 1) = (2 sinh(y / 2))^2: the same root, without the cancellation at small lambda.
    tilde = math.sqrt(risk_aversion * task.volatility**2 / eta)
    return 2.0 / task.tau * math.asinh(0.5 * task.tau * tilde)


def schedule(task: ExecutionTask, *, risk_aversion: float) -> Floats:
    """Optimal holdings [N + 1] for E + lambda V under linear impact (section 2.2):
    x_j = X sinh(kappa (T - t_j)) / sinh(kappa T).
    """
    kappa = urgency(task, risk_aversion)
    if kappa == 0.0:
        return twap(task)
    elapsed = task.tau * np.arange(task.periods + 1)  # [N + 1]
    # The quotient of sinh with the growing exponentials divided out, which would overflow.
    ahead = -np.expm1(-2.0 * kappa * (task.days - elapsed))
    holdings = task.shares * np.exp(-kappa * elapsed) * ahead / -np.expm1(-2.0 * kappa * task.days)
    holdings[-1] = 0.0
    return np.asarray(holdings)


def twap(task: ExecutionTask) -> Floats:
    """Equal sales in every period, [N + 1]: the baseline, and the optimum at lambda = 0."""
    return np.asarray(task.shares * np.arange(task.periods, -1, -1) / task.periods)
