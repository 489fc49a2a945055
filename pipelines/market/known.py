"""Markets whose best policy is known: what an agent could have earned, computed and never fitted to its test.

- **regimes**: `signal_law` measures, on a long market of its own drawn from the planted parameters, how the
  oracle's forecast moves from bar to bar; `trading_rule` solves the dynamic programme over (forecast,
  position) under proportional costs; `oracle_weights` follows that rule with the beliefs about the market at
  hand.
- **martingale**: the same rule finds nothing worth its cost and stays flat; `drift_statistic` says how far a
  path of closes is from having no drift.
- **linear-quadratic**: Garleanu and Pedersen, "Dynamic Trading with Predictable Returns and Transaction
  Costs", Journal of Finance 68 (2013): the optimal policy and its value in closed form, and the exact value
  of any other linear policy, so that an agent can be measured against it without noise.

What the oracle bounds: the expected net log growth of any policy that knows no more than past candles and
holds one of the grid's exposures. It is the optimum for a forecast that is summed up by its expected return
and variance; finer states (regime odds, more cells) were tried and added less than 1 % of growth. With
`risk_aversion` above 1 it gives up growth for a better Sharpe ratio; an agent that is judged by Sharpe alone
is bounded by that variant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_discrete_lyapunov

from pipelines.sources.regimes import Floats, RegimeParameters, compiled
from pipelines.sources.simulator import simulate_market

Integers = NDArray[np.intp]

GRID = (-1.0, -0.5, 0.0, 0.5, 1.0)
DEFAULT_COST_BPS = 6.5  # taker fee 5.5, half-spread 0.5, slippage 0.5, of the traded notional

_LAW_SEED = 20_130_701  # of the long market that laws are measured on; no experiment uses it
_LAW_BARS = 400_000
_EDGE_CELLS = 31
_VARIANCE_CELLS = 5


class SignalLaw(NamedTuple):
    """How a forecast moves: a Markov chain over N = E x V cells of (expected simple return, variance)."""

    edge_cuts: Floats  # [E - 1]
    variance_cuts: Floats  # [V - 1]
    edge: Floats  # [N] mean expected simple return of the next bar
    variance: Floats  # [N]
    transition: Floats  # [N, N]

    def cells(self, mean: Floats, variance: Floats) -> Integers:
        """The cell of each forecast; same shape as the arguments."""
        row = np.searchsorted(self.edge_cuts, simple_edge(mean, variance))
        return row * (self.variance_cuts.size + 1) + np.searchsorted(self.variance_cuts, variance)


def simple_edge(mean: Floats, variance: Floats) -> Floats:
    """Expected simple return of a bar whose log return has these moments, to third order."""
    return mean + 0.5 * variance


def measure_signal(mean: Floats, variance: Floats) -> SignalLaw:
    """The law of a forecast from one long path of it, [T]; the path must not be the one that is traded."""
    edge = simple_edge(mean, variance)
    edge_cuts = np.quantile(edge, np.linspace(0, 1, _EDGE_CELLS + 1)[1:-1])
    variance_cuts = np.quantile(variance, np.linspace(0, 1, _VARIANCE_CELLS + 1)[1:-1])
    rows = np.searchsorted(edge_cuts, edge)
    cells = rows * _VARIANCE_CELLS + np.searchsorted(variance_cuts, variance)
    size = _EDGE_CELLS * _VARIANCE_CELLS
    counts = np.bincount(cells[:-1] * size + cells[1:], minlength=size * size).astype(float)
    counts = counts.reshape(size, size)
    # A cell that was hardly ever visited borrows from its neighbours of the same edge.
    by_edge = counts.reshape(_EDGE_CELLS, _VARIANCE_CELLS, size).sum(1) + 1e-12  # [E, N]
    counts += np.repeat(by_edge / by_edge.sum(1, keepdims=True), _VARIANCE_CELLS, axis=0)
    return SignalLaw(
        edge_cuts,
        variance_cuts,
        _cell_means(edge, rows, cells, size),
        _cell_means(variance, rows, cells, size),
        counts / counts.sum(1, keepdims=True),
    )


def _cell_means(values: Floats, rows: Integers, cells: Integers, size: int) -> Floats:
    """Mean of `values` a cell, with one pseudo-observation at the mean of the cell's edge row.  # [N]"""
    visits = np.maximum(np.bincount(rows, minlength=_EDGE_CELLS), 1)
    by_edge = np.bincount(rows, values, _EDGE_CELLS) / visits
    prior = np.repeat(by_edge, _VARIANCE_CELLS)
    means = (np.bincount(cells, values, size) + prior) / (np.bincount(cells, minlength=size) + 1)
    return np.asarray(means, dtype=np.float64)


@lru_cache(maxsize=8)
def signal_law(
    parameters: RegimeParameters | None = None,
    interval: str = "1h",
    *,
    symbols: int = 1,
    correlation: float = 0.6,
) -> SignalLaw:
    """The law of the oracle's forecast of one symbol, measured on a long market drawn from `parameters`.

    `symbols`: how many the filter reads; it knows the regime better with more. Deterministic: the seed is
    fixed.
    """
    names = [f"S{i}" for i in range(symbols)]
    truth = simulate_market(
        symbols=names,
        interval=interval,
        start=datetime(2000, 1, 1, tzinfo=UTC),
        bars=_LAW_BARS,
        seed=_LAW_SEED,
        correlation=correlation,
        parameters=parameters,
    ).truth
    one = truth.slice(0, _LAW_BARS)
    return measure_signal(one["filtered_mean"].to_numpy(), one["filtered_variance"].to_numpy())


def trading_rule(
    law: SignalLaw,
    *,
    cost_bps: float = DEFAULT_COST_BPS,
    grid: Sequence[float] = GRID,
    risk_aversion: float = 1.0,
    discount: float = 0.999,
) -> Integers:
    """The best next position in each (cell, position), as indices of `grid`.  # [N, P]

    Value iteration on w x edge - risk_aversion / 2 x w^2 variance - cost |w - w'| a bar. `risk_aversion` 1
    is the expected log growth. `discount` only makes the horizon (1000 bars) long beside the life of the
    signal.
    """
    exposure = np.asarray(grid, dtype=float)
    toll = cost_bps * 1e-4 * np.abs(exposure[:, None] - exposure)  # [P from, P to]
    gain = law.edge[:, None] * exposure - 0.5 * risk_aversion * law.variance[:, None] * exposure**2  # [N, P]
    value = np.zeros_like(gain)
    for _ in range(100_000):
        action = gain + discount * (law.transition @ value)  # [N, P]
        update = (action[:, None, :] - toll).max(-1)  # [N, P]
        change = update - value
        value = update
        # Once all values rise by the same amount, the ranking of positions no longer moves.
        if np.ptp(change) < 1e-10:
            best: Integers = np.argmax(action[:, None, :] - toll, axis=-1)
            return best
    raise RuntimeError("value iteration did not settle; is the discount below 1?")


def oracle_weights(
    mean: Floats,
    variance: Floats,
    *,
    cost_bps: float = DEFAULT_COST_BPS,
    grid: Sequence[float] = GRID,
    law: SignalLaw | None = None,
    risk_aversion: float = 1.0,
) -> Floats:
    """Target exposures [T, S] that trade the beliefs `mean`, `variance` [T, S] of the next bar's log return.

    Decided at the close of bar t from row t alone, from a flat start. Every symbol is traded for itself, on
    the grid as given: where the account caps the sum over symbols, divide by their number. `law` is that of
    the default market unless given; it must come from the parameters (`signal_law`), never from the path
    that is traded.
    """
    if mean.ndim != 2 or mean.shape != variance.shape:
        raise ValueError(f"mean and variance must be [T, S], not {mean.shape} and {variance.shape}")
    exposure = np.asarray(grid, dtype=float)
    if 0.0 not in exposure:
        raise ValueError(f"the grid must contain 0, where every account starts; got {list(grid)}")
    law = law or signal_law()
    rule = trading_rule(law, cost_bps=cost_bps, grid=grid, risk_aversion=risk_aversion)
    flat = int(np.flatnonzero(exposure == 0.0)[0])
    return exposure[_follow(rule, law.cells(mean, variance), flat)]


@compiled
def _follow(rule: Integers, cells: Integers, start: int) -> Integers:
    """Indices of the positions taken, each from the one before.  # [T, S]"""
    bars, symbols = cells.shape
    out = np.empty_like(cells)
    for i in range(symbols):
        position = start
        for t in range(bars):
            position = rule[cells[t, i], position]
            out[t, i] = position
    return out


def drift_statistic(closes: Floats) -> float:
    """Sum of the simple returns of `closes` [T] over the root of their sum of squares.

    Close to a standard normal when closes are a martingale, however their volatility moves and clusters.
    """
    returns = np.diff(closes) / closes[:-1]
    return float(returns.sum() / np.sqrt((returns**2).sum()))


# --- linear-quadratic -------------------------------------------------------------------------------------


def _array(*rows: Sequence[float]) -> Floats:
    return np.array(rows, dtype=float)


@dataclass(frozen=True, eq=False)
class LinearQuadratic:
    """Returns r_{t+1} = B f_t + u_{t+1} (eq. 1), factors f_{t+1} - f_t = -Phi f_t + e_{t+1} (eq. 2).

    Trading dx costs dx' Lambda dx / 2 (eq. 3). The default is one asset of 1 % volatility a bar and two
    factors of unit variance, one fast and one slow; positions are in money, so that Sigma, Lambda and B are
    per unit of it.
    """

    mean_reversion: Floats = field(default_factory=lambda: np.diag([0.15, 0.02]))  # Phi [K, K], a bar
    loadings: Floats = field(
        default_factory=lambda: _array([1.0e-3, 1.0e-3])
    )  # B [S, K] return a unit of factor
    covariance: Floats = field(default_factory=lambda: _array([1.0e-4]))  # Sigma [S, S] of u
    cost: Floats = field(default_factory=lambda: _array([5.0e-3]))  # Lambda [S, S]
    factor_covariance: Floats = field(default_factory=lambda: np.diag([0.2775, 0.0396]))  # Omega [K, K] of e
    risk_aversion: float = 5.0  # gamma
    discount: float = 0.01  # rho, a bar: the next bar counts 1 - rho

    def __post_init__(self) -> None:
        assets, factors = self.loadings.shape
        for name, size in (
            ("mean_reversion", factors),
            ("factor_covariance", factors),
            ("covariance", assets),
            ("cost", assets),
        ):
            if getattr(self, name).shape != (size, size):
                raise ValueError(f"{name} must be [{size}, {size}], not {getattr(self, name).shape}")
        for name in ("covariance", "cost"):
            matrix = getattr(self, name)
            if not np.allclose(matrix, matrix.T) or np.linalg.eigvalsh(matrix).min() <= 0:
                raise ValueError(f"{name} must be symmetric and positive definite")
        if self.risk_aversion <= 0 or not 0 < self.discount < 1:
            raise ValueError("risk_aversion must be positive and discount in (0, 1)")

    @classmethod
    def two_assets(cls) -> LinearQuadratic:
        """Two assets of correlation 0.5 that share a slow factor; costs are not proportional to risk."""
        return cls(
            loadings=_array([1.0e-3, 1.0e-3], [-5.0e-4, 1.5e-3]),
            covariance=_array([1.0e-4, 0.75e-4], [0.75e-4, 2.25e-4]),
            cost=_array([5.0e-3, 1.0e-3], [1.0e-3, 1.0e-2]),
        )


class LinearQuadraticPolicy(NamedTuple):
    """x_t = x_{t-1} + rate (aim f_t - x_{t-1}) (eq. 7, 8) and the value function's matrices (eq. 6)."""

    aim: Floats  # [S, K]
    rate: Floats  # [S, S]
    xx: Floats  # A_xx [S, S]
    xf: Floats  # A_xf [S, K]
    ff: Floats  # A_ff [K, K]
    constant: float  # A_0


def linear_quadratic_policy(parameters: LinearQuadratic) -> LinearQuadraticPolicy:
    """The optimal policy: trade part of the way toward an aim (Proposition 1).

    With p = 1 - rho the Bellman equation (5) and the quadratic value (6) give, J = Lambda + p (gamma Sigma +
    A_xx),

        A_xx = Lambda - Lambda J^-1 Lambda
        A_xf = p Lambda J^-1 (B + A_xf (I - Phi))
        A_ff = p^2 N' J^-1 N + p (I - Phi)' A_ff (I - Phi),      N = B + A_xf (I - Phi)

    The first is a scalar quadratic in each eigenvalue of Lambda^-1/2 gamma Sigma Lambda^-1/2 (the closed
    form of the paper's appendix), the second linear, the third a Lyapunov equation.
    """
    keep = 1.0 - parameters.discount
    roots, basis = np.linalg.eigh(parameters.cost)
    half = basis * np.sqrt(roots) @ basis.T  # Lambda^1/2
    inverse = basis / np.sqrt(roots) @ basis.T
    risk, axes = np.linalg.eigh(parameters.risk_aversion * inverse @ parameters.covariance @ inverse)
    linear = parameters.discount + keep * risk
    speed = (np.sqrt(linear**2 + 4 * keep**2 * risk) - linear) / (2 * keep)
    xx = half @ (axes * speed @ axes.T) @ half  # [S, S]

    weight = parameters.cost + keep * (parameters.risk_aversion * parameters.covariance + xx)  # J [S, S]
    assets, factors = parameters.loadings.shape
    carry = np.eye(factors) - parameters.mean_reversion  # [K, K]
    pull = keep * parameters.cost @ np.linalg.inv(weight)  # [S, S]
    # vec(A B C) = (C' kron A) vec(B), column by column.
    system = np.eye(assets * factors) - np.kron(carry.T, pull)
    xf = np.linalg.solve(system, (pull @ parameters.loadings).ravel(order="F"))
    xf = xf.reshape(assets, factors, order="F")  # [S, K]
    drive = parameters.loadings + xf @ carry  # N [S, K]
    ff = _discounted_sum(keep**2 * drive.T @ np.linalg.solve(weight, drive), carry, keep)
    constant = keep / parameters.discount * 0.5 * float(np.trace(ff @ parameters.factor_covariance))
    aim, rate = np.linalg.solve(xx, xf), np.linalg.solve(parameters.cost, xx)
    return LinearQuadraticPolicy(aim, rate, xx, np.asarray(xf, dtype=np.float64), ff, constant)


def linear_quadratic_value(parameters: LinearQuadratic, position: ArrayLike, factors: ArrayLike) -> float:
    """Value (eq. 6), under the optimum, of x_{t-1} = `position` [S] when f_t = `factors` [K] is seen."""
    x, f = np.asarray(position, dtype=float), np.asarray(factors, dtype=float)
    policy = linear_quadratic_policy(parameters)
    return float(-0.5 * x @ policy.xx @ x + x @ policy.xf @ f + 0.5 * f @ policy.ff @ f + policy.constant)


def linear_policy_value(
    parameters: LinearQuadratic, hold: Floats, follow: Floats, position: ArrayLike, factors: ArrayLike
) -> float:
    """Value of the policy x_t = hold x_{t-1} + follow f_t in the objective (4), exactly; -inf if it explodes.

    With z = (x_{t-1}, f_t) every bar is worth z' R z and z moves linearly, so the value is a Lyapunov sum.
    """
    keep = 1.0 - parameters.discount
    assets, count = parameters.loadings.shape
    rule = np.hstack([hold, follow])  # [S, S + K]
    trade = rule - np.eye(assets, assets + count)
    gain = rule.T @ np.hstack([np.zeros((assets, assets)), parameters.loadings])  # x' B f
    reward = keep * 0.5 * (gain + gain.T - parameters.risk_aversion * rule.T @ parameters.covariance @ rule)
    reward -= 0.5 * trade.T @ parameters.cost @ trade
    carry = np.eye(count) - parameters.mean_reversion
    motion = np.vstack([rule, np.hstack([np.zeros((count, assets)), carry])])
    if keep * np.abs(np.linalg.eigvals(motion)).max() ** 2 >= 1:
        return -np.inf
    worth = _discounted_sum(reward, motion, keep)
    state = np.concatenate([np.asarray(position, dtype=float), np.asarray(factors, dtype=float)])
    noise = float(np.trace(worth[assets:, assets:] @ parameters.factor_covariance))
    return float(state @ worth @ state + keep / parameters.discount * noise)


def _discounted_sum(reward: Floats, motion: Floats, keep: float) -> Floats:
    """P = reward + keep motion' P motion."""
    total = solve_discrete_lyapunov(np.sqrt(keep) * motion.T, reward)
    return np.asarray(0.5 * (total + total.T), dtype=np.float64)
