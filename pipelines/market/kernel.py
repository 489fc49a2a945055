"""The account's arithmetic for one bar, compiled: one function for `account.simulate` and `account.step`.

The simulator carries its accounts through all bars with it and the environment through one, so that the
two cannot drift apart. Only
`account` imports this module, and only when it first trades: importing numba takes most of a second.
Rules and names are explained in `pipelines.market.account`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipelines.market.account import AccountState

Floats = NDArray[np.float64]

# Rows of the record; `account.Ledger` names them in the same order.
EQUITY, RETURNS, TURNOVER, PRICE, FEES, SPREAD, SLIPPAGE, IMPACT, FUNDING, LIQUIDATION = range(10)
COLUMNS = 10

# A difference this small, as a fraction of equity, is what rounding left over and not an order.
ROUNDING = 1e-12
# The equity after costs is solved for to this fraction of equity.
SOLVED = 1e-14
MOST_STEPS = 64


class Terms(NamedTuple):
    """`costs.Costs` as plain fractions, and which optional columns the bars have."""

    fee: float
    half_spread: float
    slippage: float
    leverage: float
    maintenance: float
    liquidation_fee: float
    min_order: float
    band: float
    short: bool
    funded: bool
    impacted: bool


class Tape(NamedTuple):
    """Bars ready for the kernel: [B or 1, T, S] contiguous; unused optional columns are [1, 1, 1]."""

    open: Floats
    high: Floats
    low: Floats
    close: Floats
    funding: Floats
    depth: Floats  # k_t of the impact k_t sqrt(Q), known at the close of bar t


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _wanted(weight: float, scale: float, terms: Terms) -> float:
    """The target exposure after the short rule and the leverage cap."""
    if weight < 0.0 and not terms.short:
        return 0.0
    return weight * scale


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _sent(target: float, held: float, equity: float, terms: Terms) -> bool:
    """Whether the difference between a target exposure and a held notional becomes an order."""
    if target == 0.0:
        return held != 0.0
    size = abs(target * equity - held)
    return size > terms.band * equity and size >= terms.min_order and size > ROUNDING * equity


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def advance(
    accounts: NDArray[np.int64],
    rows: NDArray[np.int64],
    count: int,
    offset: int,
    tape: Tape,
    weights: Floats,
    state: AccountState,
    terms: Terms,
    record: Floats,
    exposure: Floats,
) -> tuple[int, int, int]:
    """Carries each of the `accounts` through `count` bars from `rows[b]` on, in place.

    `weights[b, k]` was decided at the close of bar `rows[b] + k - 1`; what comes of it is written to
    `record[:, b, k + offset]` and `exposure[b, k + offset]`. Returns (0, 0, 0), or (1 + s, t, b) where an
    order of symbol s would have an impact of the whole price or more.

    The bar is not a function of its own: handing a dozen arrays over for every bar costs several times
    what the bar itself does (numba counts their references atomically).
    """
    opens, highs, lows, closes, rates, depth = tape
    cashes, units, equities, _, ruined = state
    symbols = units.shape[1]
    for b in accounts:
        i = b if opens.shape[0] > 1 else 0
        for k in range(count):
            t = rows[b] + k
            before = equities[b]
            if ruined[b]:
                for row in range(COLUMNS):
                    record[row, b, k + offset] = 0.0
                for s in range(symbols):
                    exposure[b, k + offset, s] = 0.0
                continue

            # The open: the position is marked there and funding is exchanged on it.
            price = 0.0
            funding = 0.0
            value = 0.0
            gross = 0.0
            for s in range(symbols):
                u = units[b, s]
                if u != 0.0:
                    mark = opens[i, t, s]
                    price += u * (mark - closes[i, t - 1, s])
                    value += u * mark
                    gross += abs(u) * mark
                    if terms.funded:
                        funding -= rates[i, t, s] * u * mark
            cash = cashes[b] + funding
            equity = cash + value  # at the open, after funding

            fees = 0.0
            spread = 0.0
            slippage = 0.0
            impact = 0.0
            liquidation = 0.0
            traded = 0.0
            if gross > 0.0 and equity <= terms.maintenance * gross:
                # The open gapped through the margin: everything closes there and the order is void.
                liquidation = -terms.liquidation_fee * gross
                cash = equity + liquidation
                for s in range(symbols):
                    units[b, s] = 0.0
            else:
                total = 0.0
                for s in range(symbols):
                    total += abs(_wanted(weights[b, k, s], 1.0, terms))
                scale = terms.leverage / total if total > terms.leverage else 1.0

                # Equity x after the costs of reaching w x: the root of the convex, increasing function
                # x - equity + costs(|w x - held|). Newton from the right falls onto it and never past it.
                x = equity
                base = terms.half_spread + terms.slippage
                for _ in range(MOST_STEPS):
                    gap = x - equity
                    slope = 1.0
                    for s in range(symbols):
                        w = _wanted(weights[b, k, s], scale, terms)
                        mark = opens[i, t, s]
                        held = units[b, s] * mark
                        if _sent(w, held, equity, terms):
                            q = w * x - held
                            side = 1.0 if q > 0.0 else -1.0
                            q = abs(q)
                            own = depth[i, t - 1, s] * math.sqrt(q / mark) if terms.impacted else 0.0
                            worse = base + own
                            gap += q * (worse + terms.fee * (1.0 + side * worse))
                            slope += w * side * ((worse + 0.5 * own) * (1.0 + side * terms.fee) + terms.fee)
                    if gap <= SOLVED * equity:
                        break
                    x -= gap / slope
                    if x <= 0.0:
                        x = 0.0  # even closing everything costs more than there is
                        break

                for s in range(symbols):
                    w = _wanted(weights[b, k, s], scale, terms)
                    mark = opens[i, t, s]
                    held = units[b, s] * mark
                    if _sent(w, held, equity, terms):
                        q = w * x - held
                        side = 1.0 if q > 0.0 else -1.0
                        size = abs(q)
                        own = depth[i, t - 1, s] * math.sqrt(size / mark) if terms.impacted else 0.0
                        worse = base + own
                        if worse >= 1.0:
                            return 1 + s, t, b
                        fee = terms.fee * size * (1.0 + side * worse)
                        fees -= fee
                        spread -= size * terms.half_spread
                        slippage -= size * terms.slippage
                        impact -= size * own
                        traded += size
                        cash -= q + size * worse + fee
                        units[b, s] = w * x / mark
                traded /= equity

            # The day: at the worst moment every long is at its low and every short at its high.
            after = cash
            gross = 0.0
            worst_gross = 0.0
            fall = 0.0
            drift = 0.0
            for s in range(symbols):
                u = units[b, s]
                if u != 0.0:
                    mark = opens[i, t, s]
                    worst = lows[i, t, s] if u > 0.0 else highs[i, t, s]
                    after += u * mark
                    gross += abs(u) * mark
                    worst_gross += abs(u) * worst
                    fall += u * (worst - mark)
                    drift += u * (closes[i, t, s] - mark)
            if gross > 0.0 and after + fall <= terms.maintenance * worst_gross:
                # All prices walk together from the open to that moment; this is how far they get.
                room = after - terms.maintenance * gross
                way = (
                    min(room / (terms.maintenance * (worst_gross - gross) - fall), 1.0) if room > 0.0 else 0.0
                )
                price += way * fall
                charge = terms.liquidation_fee * (gross + way * (worst_gross - gross))
                liquidation -= charge
                after += way * fall - charge
                cash = after
                for s in range(symbols):
                    units[b, s] = 0.0
            else:
                price += drift
                after += drift

            if after <= 0.0:
                liquidation -= after  # the venue bears what is owed beyond the last penny
                after = 0.0
                cash = 0.0
                for s in range(symbols):
                    units[b, s] = 0.0
                ruined[b] = True

            cashes[b] = cash
            equities[b] = after
            record[EQUITY, b, k + offset] = after
            record[RETURNS, b, k + offset] = after / before - 1.0
            record[TURNOVER, b, k + offset] = traded
            record[PRICE, b, k + offset] = price
            record[FEES, b, k + offset] = fees
            record[SPREAD, b, k + offset] = spread
            record[SLIPPAGE, b, k + offset] = slippage
            record[IMPACT, b, k + offset] = impact
            record[FUNDING, b, k + offset] = funding
            record[LIQUIDATION, b, k + offset] = liquidation
            for s in range(symbols):
                u = units[b, s]
                exposure[b, k + offset, s] = u * closes[i, t, s] / after if u != 0.0 else 0.0
    return 0, 0, 0


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def depths(close: Floats, first_open: Floats, volume: Floats, coefficient: float, window: int) -> Floats:
    """k_t = Y sigma_t / sqrt(V_t) over the last `window` bars up to t (fewer at the start), [B, T, S].

    sigma is the root mean square of the log returns (the first bar's runs from its open), V the mean
    volume. Where nothing was traded in the window the result is infinite.
    """
    depth = np.empty_like(close)
    for i in range(close.shape[0]):
        for s in range(close.shape[2]):
            squares = np.empty(close.shape[1])
            previous = first_open[i, s]
            for t in range(close.shape[1]):
                squares[t] = math.log(close[i, t, s] / previous) ** 2
                previous = close[i, t, s]
            for t in range(close.shape[1]):
                first = max(0, t - window + 1)
                variance = 0.0
                traded = 0.0
                # Summed afresh for every bar: a running sum would leave the dust of old volumes behind.
                for j in range(first, t + 1):
                    variance += squares[j]
                    traded += volume[i, j, s]
                depth[i, t, s] = coefficient * math.sqrt(variance / traded) if traded > 0.0 else math.inf
    return depth


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def first_fault(tape: Tape) -> tuple[int, int, int]:
    """Place (i, t, s) of the first bar without prices or with prices out of order, or (-1, -1, -1)."""
    for i in range(tape.open.shape[0]):
        for t in range(tape.open.shape[1]):
            for s in range(tape.open.shape[2]):
                o, h = tape.open[i, t, s], tape.high[i, t, s]
                low, c = tape.low[i, t, s], tape.close[i, t, s]
                # Comparisons with NaN are false, so that this one line refuses it too.
                if not (0.0 < low <= o <= h < math.inf and low <= c <= h):
                    return i, t, s
    return -1, -1, -1
