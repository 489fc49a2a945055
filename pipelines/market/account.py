"""The one account: the environments, the backtest, the baselines and the oracles all trade through it.

Rules, in the order in which they apply. The weight `w` of a symbol is its signed target exposure as a
fraction of equity, decided at the close of bar t; everything below happens in bar t + 1.

1. **Open.** The position is marked at the open. Then funding is exchanged: `rate * units * open`, paid
   by longs and received by shorts when the rate is positive, on the position held into the bar.
2. **Gap.** If equity is then at or below the maintenance margin, the position is closed at the open with
   the liquidation fee, and the order is void.
3. **Order.** Targets below zero count as zero on an account that may not short; if the sum of |w| exceeds
   the leverage cap, all are scaled down alike. The difference to the position, at the open and before
   costs, is sent as an order unless it is within `no_trade_band` of equity or below `min_order`; a
   target of exactly zero is always sent. A held weight is a target like any other: the position is
   brought back to it at every open (that is what the band is for).
4. **Fill.** A purchase of notional Q (at the open) fills at `open * (1 + a)`, a sale at `open * (1 - a)`,
   `a = half_spread + slippage + impact`. The fee is a fraction of the notional at the fill price. Sizes
   are such that **the targets hold after these costs are paid**: with x the equity after them, marked at
   the open, each traded position is worth `w x`. So an all-in purchase spends exactly the cash there is,
   and x is the root of a convex function, found by Newton's method.
5. **Day.** At the worst moment of the bar every long is at its low and every short at its high (for
   several symbols: all at once, the cautious reading of candles that do not tell the order of events).
   If equity there is at or below `maintenance_margin` times gross notional, the whole account is closed
   (margin is shared by all positions): prices are taken to walk together, in a straight line, from the
   open to that moment, and the fill is where the margin breaks. The fee is `liquidation_fee_bps`.
6. **Close.** The account is marked at the close. Equity at or below zero is ruin: the path ends, equity
   stays 0. What is owed beyond zero is borne by the venue and booked, positive, under liquidation.

Impact is `Y sigma sqrt(Q / V)` (`impact.square_root`), with the root-mean-square log return and the mean
volume of the last `impact_window` bars up to t, never of the bar that fills. An order whose impact would
reach the whole price lies outside the law and is refused.

The ledger itemises every bar: price + fees + spread + slippage + impact + funding + liquidation is the
change in equity.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.market.bars import Bars
from pipelines.market.costs import BASIS_POINT, Costs

if TYPE_CHECKING:
    from pipelines.market.kernel import Tape, Terms

__all__ = [
    "AccountState",
    "Bars",
    "Floats",
    "Ledger",
    "Market",
    "open_account",
    "prepare",
    "simulate",
    "step",
]

Floats = NDArray[np.float64]

# Fewer bars than this are not worth a second thread. Accounts are independent, so that the number of
# threads cannot change a result.
BARS_A_THREAD = 200_000


class Ledger(NamedTuple):
    """What happened, bar by bar: [.., T] (or [B] for one step), with a symbol axis where S is named."""

    equity: Floats
    """Money at the close."""
    returns: Floats
    """Simple: equity over equity before, minus 1; -1 in the bar of ruin and 0 after it."""
    exposure: Floats
    """[.., T, S] signed notional at the close as a fraction of equity."""
    turnover: Floats
    """Notional of the orders at the open, as a fraction of equity there. Liquidations are not orders."""
    price: Floats
    fees: Floats
    spread: Floats
    slippage: Floats
    impact: Floats
    funding: Floats
    liquidation: Floats
    """Money, costs negative; these seven add up to the change in equity."""
    ruined: NDArray[np.bool_]
    """[..] whether the path has ended in ruin."""


class AccountState(NamedTuple):
    """B accounts. `step` changes the arrays in place."""

    cash: Floats
    """[B]"""
    units: Floats
    """[B, S] signed"""
    equity: Floats
    """[B] at the last close"""
    peak: Floats
    """[B] the highest equity at any close"""
    ruined: NDArray[np.bool_]
    """[B]"""

    @property
    def drawdown(self) -> Floats:
        """[B] fraction below the peak."""
        return 1.0 - self.equity / self.peak


class Market(NamedTuple):
    """Checked bars and terms, ready to be traded against (`prepare`)."""

    tape: Tape
    terms: Terms

    @property
    def symbols(self) -> int:
        return int(self.tape.open.shape[2])


def prepare(bars: Bars, costs: Costs) -> Market:
    """Checks the bars, once, and lays them out for the kernel.

    Prices that are missing, not finite, not positive or out of order (`low <= open, close <= high`) are a
    ValueError that names the bar and the symbol.
    """
    from pipelines.market import kernel

    if np.ndim(bars.open) not in (2, 3) or 0 in np.shape(bars.open):
        raise ValueError(f"bars.open must be [T, S] or [B, T, S], got shape {np.shape(bars.open)}")
    for name, column in zip(Bars._fields, bars, strict=True):
        if column is not None and np.shape(column) != np.shape(bars.open):
            raise ValueError(f"bars.{name} has shape {np.shape(column)}, bars.open {np.shape(bars.open)}")

    def laid(column: ArrayLike) -> Floats:
        array = np.ascontiguousarray(column, np.float64)
        return array if array.ndim == 3 else array[np.newaxis]  # [B, T, S]

    absent = np.zeros((1, 1, 1))
    funded = costs.funding and bars.funding is not None
    impacted = costs.impact > 0
    tape = kernel.Tape(
        open=laid(bars.open),
        high=laid(bars.high),
        low=laid(bars.low),
        close=laid(bars.close),
        funding=laid(bars.funding) if costs.funding and bars.funding is not None else absent,
        depth=absent,
    )
    b, t, s = kernel.first_fault(tape)
    if b >= 0:
        prices = ", ".join(
            f"{name} {getattr(tape, name)[b, t, s]}" for name in ("open", "high", "low", "close")
        )
        raise ValueError(f"{_place(b, t, s)}: 0 < low <= open, close <= high < inf does not hold: {prices}")
    _refuse(~np.isfinite(tape.funding), "bars.funding is not a number")
    if impacted:
        if bars.volume is None:
            raise ValueError("costs.impact needs bars.volume")
        volume = laid(bars.volume)
        _refuse(~((volume >= 0) & np.isfinite(volume)), "bars.volume is negative or not a number")
        depth = kernel.depths(tape.close, tape.open[:, 0], volume, costs.impact, costs.impact_window)
        _refuse(
            np.isinf(depth), f"costs.impact is undefined, nothing was traded in {costs.impact_window} bars"
        )
        tape = tape._replace(depth=depth)
    terms = kernel.Terms(
        fee=costs.fee_bps * BASIS_POINT,
        half_spread=costs.half_spread_bps * BASIS_POINT,
        slippage=costs.slippage_bps * BASIS_POINT,
        leverage=float(costs.leverage),
        maintenance=float(costs.maintenance_margin),
        liquidation_fee=costs.liquidation_fee_bps * BASIS_POINT,
        min_order=float(costs.min_order),
        band=float(costs.no_trade_band),
        short=costs.allow_short,
        funded=funded,
        impacted=impacted,
    )
    return Market(tape, terms)


def open_account(batch: int, symbols: int, initial_equity: float = 1_000_000.0) -> AccountState:
    """B accounts in cash."""
    if not (np.isfinite(initial_equity) and initial_equity > 0):
        raise ValueError(f"initial_equity must be a positive number, got {initial_equity!r}")
    return AccountState(
        cash=np.full(batch, float(initial_equity)),
        units=np.zeros((batch, symbols)),
        equity=np.full(batch, float(initial_equity)),
        peak=np.full(batch, float(initial_equity)),
        ruined=np.zeros(batch, np.bool_),
    )


def step(
    state: AccountState,
    market: Market,
    rows: NDArray[np.int64],
    weights: ArrayLike,
    *,
    moving: NDArray[np.bool_] | None = None,
) -> Ledger:
    """Carries each account through one bar, in place.

    Args:
        state: the accounts, B of them.
        market: the prepared bars, one history for all accounts or B.
        rows: [B] the bar that fills and marks, t + 1; at least 1.
        weights: [B, S] targets decided at the close of bar t.
        moving: [B] accounts to carry; the others are left as they are. All by default.

    Returns:
        The ledger of that bar: [B], exposure [B, S].
    """
    from pipelines.market import kernel

    batch, symbols = state.units.shape
    rows = np.asarray(rows, np.int64)
    targets = np.ascontiguousarray(weights, np.float64)
    if targets.shape != (batch, symbols) or rows.shape != (batch,):
        raise ValueError(
            f"{batch} accounts in {symbols} symbols got weights {targets.shape}, rows {rows.shape}"
        )
    if market.symbols != symbols or market.tape.open.shape[0] not in (1, batch):
        raise ValueError(f"{batch} accounts in {symbols} symbols got bars {market.tape.open.shape}")
    if moving is None:
        moving = np.ones(batch, np.bool_)
    if ((rows < 1) | (rows >= market.tape.open.shape[1]))[moving].any():
        raise ValueError(f"rows must lie in [1, {market.tape.open.shape[1]}), got {rows[moving]}")
    _refuse(~np.isfinite(targets) & moving[:, np.newaxis], "weights is not a number", axes="batch symbol")
    record = np.zeros((kernel.COLUMNS, batch, 1))
    exposure = np.zeros((batch, 1, symbols))
    accounts = np.flatnonzero(moving)
    _settle(
        kernel.advance(
            accounts, rows, 1, 0, market.tape, targets[:, np.newaxis], state, market.terms, record, exposure
        )
    )
    record[kernel.EQUITY, :, 0] = state.equity
    np.maximum(state.peak, state.equity, out=state.peak)
    return _ledger(record[:, :, 0], exposure[:, 0], state.ruined.copy())


def simulate(bars: Bars, weights: ArrayLike, costs: Costs, *, initial_equity: float = 1_000_000.0) -> Ledger:
    """The whole path of one account, or of B.

    Args:
        bars: [T, S], or [B, T, S].
        weights: [T, S] or [B, T, S] target exposures, row t decided at the close of bar t and filled at
            the open of t + 1. Row T - 1 is never filled. A value that is not a number is an error.
        costs: the terms.
        initial_equity: money at the close of bar 0.

    Returns:
        The ledger, with a batch axis if the bars or the weights have one; row 0 is the initial equity.
    """
    from pipelines.market import kernel

    market = prepare(bars, costs)
    targets = np.ascontiguousarray(weights, np.float64)
    batched = targets.ndim == 3 or np.ndim(bars.open) == 3
    if targets.ndim == 2:
        targets = targets[np.newaxis]
    histories, length, symbols = market.tape.open.shape
    if targets.ndim != 3 or targets.shape[1:] != (length, symbols):
        raise ValueError(f"weights has shape {np.shape(weights)}, bars {np.shape(bars.open)}")
    batch = max(histories, targets.shape[0])
    if {histories, targets.shape[0]} - {1, batch}:
        raise ValueError(f"weights has shape {np.shape(weights)}, bars {np.shape(bars.open)}")
    _refuse(~np.isfinite(targets), "weights is not a number")
    if targets.shape[0] < batch:
        targets = np.ascontiguousarray(np.broadcast_to(targets, (batch, length, symbols)))

    state = open_account(batch, symbols, initial_equity)
    record = np.empty((kernel.COLUMNS, batch, length))
    exposure = np.empty((batch, length, symbols))
    record[:, :, 0] = 0.0
    record[kernel.EQUITY, :, 0] = initial_equity
    exposure[:, 0] = 0.0

    rows = np.ones(batch, np.int64)

    def run(part: NDArray[np.int64]) -> tuple[int, int, int]:
        fault: tuple[int, int, int] = kernel.advance(
            part, rows, length - 1, 1, market.tape, targets, state, market.terms, record, exposure
        )
        return fault

    threads = max(1, min(os.cpu_count() or 1, batch, batch * length // BARS_A_THREAD))
    parts = np.array_split(np.arange(batch), threads)
    if threads == 1:
        faults = [run(parts[0])]
    else:
        with ThreadPoolExecutor(threads) as pool:
            faults = list(pool.map(run, parts))
    for fault in faults:
        _settle(fault)
    if batched:
        return _ledger(record, exposure, state.ruined)
    return _ledger(record[:, 0], exposure[0], state.ruined[0])


def _ledger(record: Floats, exposure: Floats, ruined: NDArray[np.bool_]) -> Ledger:
    equity, returns, turnover, price, fees, spread, slippage, impact, funding, liquidation = record
    return Ledger(
        equity=equity,
        returns=returns,
        exposure=exposure,
        turnover=turnover,
        price=price,
        fees=fees,
        spread=spread,
        slippage=slippage,
        impact=impact,
        funding=funding,
        liquidation=liquidation,
        ruined=ruined,
    )


def _settle(fault: tuple[int, int, int]) -> None:
    code, t, b = fault
    if code:
        raise ValueError(f"{_place(b, t, code - 1)}: the order's impact is the whole price or more")


def _refuse(bad: NDArray[np.bool_], what: str, axes: str = "batch bar symbol") -> None:
    if bad.any():
        place = ", ".join(f"{axis} {n}" for axis, n in zip(axes.split(), np.argwhere(bad)[0], strict=True))
        raise ValueError(f"{what} at {place}")


def _place(b: int, t: int, s: int) -> str:
    return f"batch {b}, bar {t}, symbol {s}"
