"""Rows of the exchange: the grid of open times they must lie on, and every check they must pass.

Nothing is repaired here. A number that cannot be a price, a row that was not asked for or two rows that
contradict each other end in a `BybitError` of kind `bad_data` that names the row; an answer without the
documented form is `bad_answer`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines.candles import INTERVALS_MS, MINUTE_MS
from pipelines.sources.bybit_answers import Answer, BadRequest, BybitError, Kind, whole_number

Times = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

_WEEK_MS = 7 * 1440 * MINUTE_MS
_MONDAY_MS = 4 * 1440 * MINUTE_MS  # 1970-01-05, the first Monday: weeks open on Mondays, 00:00 UTC
_MINUTES = (1, 3, 5, 15, 30, 60, 120, 240, 360, 720)
_PLAIN_NUMBERS = re.compile(r"[0-9.eE+-]*")  # keeps out nan, inf, 1_000 and blanks, which float() accepts
_TIME_MS = pl.Datetime("ms", "UTC")


@dataclass(frozen=True)
class Interval:
    """The grid of open times of one interval; `step` is 0 for calendar months."""

    code: str
    step: int
    offset: int = 0

    def index(self, times: Any) -> Times:
        """Number of the bar that covers each time."""
        at: Times = np.asarray(times, np.int64)
        if self.step == 0:
            months: Times = at.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
            return months
        index: Times = (at - self.offset) // self.step
        return index

    def open(self, index: Any) -> Times:
        """Open time of each bar, by number."""
        number: Times = np.asarray(index, np.int64)
        if self.step == 0:
            opens: Times = number.astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)
            return opens
        times: Times = number * self.step + self.offset
        return times

    def floor(self, time: int) -> int:
        return int(self.open(self.index(time)))

    def ceil(self, time: int) -> int:
        return int(self.open(self.index(time - 1) + 1))

    def closes(self, opens: Times) -> Times:
        """When the bars of these open times end."""
        return self.open(self.index(opens) + 1)

    def opens(self, first: int, last: int) -> Times:
        """All open times from `first` to `last`, both included."""
        return self.open(np.arange(int(self.index(first)), int(self.index(last)) + 1))

    def pages(self, first: int, last: int, bars: int) -> Iterator[tuple[int, int]]:
        """Windows of at most `bars` bars, ascending, as their first and last open times."""
        stop = int(self.index(last)) + 1
        for start in range(int(self.index(first)), stop, bars):
            yield int(self.open(start)), int(self.open(min(start + bars, stop) - 1))


INTERVALS: dict[str, Interval] = {
    **{str(n): Interval(str(n), n * MINUTE_MS) for n in _MINUTES},
    "D": Interval("D", 1440 * MINUTE_MS),
    "W": Interval("W", _WEEK_MS, _MONDAY_MS),
    "M": Interval("M", 0),
}


def interval(name: str) -> Interval:
    """The interval of one of the exchange's codes ("60", "D", "M") or of our names ("1h", "1d")."""
    code = name
    if isinstance(name, str) and name in INTERVALS_MS:
        minutes = INTERVALS_MS[name] // MINUTE_MS
        code = "D" if minutes == 1440 else str(minutes)
    if not isinstance(code, str) or code not in INTERVALS:
        raise BadRequest(f"interval {name!r} is unknown; allowed: {', '.join([*INTERVALS, *INTERVALS_MS])}")
    return INTERVALS[code]


class Bars(NamedTuple):
    """Checked bars, ascending; `values` holds one row a column of the frame. [N], [K, N]"""

    times: Times
    values: Values


KLINE_COLUMNS = ("open", "high", "low", "close", "volume", "turnover")
MARK_COLUMNS = KLINE_COLUMNS[:4]


def frame_of(bars: Bars, columns: tuple[str, ...]) -> pl.DataFrame:
    """The bars as a table: `open_time` in UTC, then the columns."""
    named = {name: np.ascontiguousarray(row) for name, row in zip(columns, bars.values, strict=True)}
    return pl.DataFrame({"open_time": pl.Series(bars.times).cast(_TIME_MS), **named})


def read_bars(
    answer: Answer,
    *,
    category: str,
    symbol: str,
    grid: Interval,
    first: int,
    last: int,
    columns: tuple[str, ...],
) -> Bars:
    """The bars of one answer, the open one included, all of them inside `[first, last]`.

    `first` must lie on the grid. The exchange floors `start` to the bar that covers it, so with a `first`
    on the grid no row may come before it either.
    """
    rows = _rows(answer, category, symbol)
    width = 1 + len(columns)
    if not rows:
        return Bars(np.empty(0, np.int64), np.empty((len(columns), 0)))
    if set(map(type, rows)) != {list}:
        raise _wrong(answer, "a row is not a list")
    if set(map(len, rows)) != {width}:
        raise _wrong(answer, f"a row does not have {width} fields")
    fields = list(zip(*rows, strict=True))
    try:
        joined = ["".join(column) for column in fields]  # also refuses whatever is not a string
        if not (joined[0].isascii() and all(map(str.isdigit, fields[0]))):
            raise ValueError("an open time is not a whole number")
        if not _PLAIN_NUMBERS.fullmatch("".join(joined[1:])):
            raise ValueError("a field is not a plain number")
        times: Times = np.array(list(map(int, fields[0])), np.int64)
        values: Values = np.array([list(map(float, column)) for column in fields[1:]])
    except (TypeError, ValueError, OverflowError) as error:
        raise _wrong(answer, str(error)) from error
    bars = _sorted(Bars(times, values), answer)
    _check_times(bars.times, answer, grid, first, last)
    _check_values(bars, answer)
    return bars


def merged(old: Bars, new: Bars, answer_url: str) -> Bars:
    """Both together; bars in both must be the same."""
    both = Bars(np.concatenate([old.times, new.times]), np.concatenate([old.values, new.values], axis=1))
    return _sorted(both, Answer({}, 0, answer_url))


def _sorted(bars: Bars, answer: Answer) -> Bars:
    """Ascending, identical duplicates dropped; a bar that comes with two contents is an error."""
    order = np.argsort(bars.times, kind="stable")
    times, values = bars.times[order], bars.values[:, order]
    again = times[1:] == times[:-1]
    if again.any():
        differs = again & (values[:, 1:] != values[:, :-1]).any(axis=0)
        if differs.any():
            raise _wrong(answer, f"two different bars open at {times[1:][differs][0]}")
        keep = np.concatenate([[True], ~again])
        times, values = times[keep], values[:, keep]
    return Bars(times, values)


def _check_times(times: Times, answer: Answer, grid: Interval, first: int, last: int) -> None:
    """`times` ascending and unique, not empty."""
    if times[-1] > answer.time_ms:
        raise _wrong(answer, f"a bar opens at {times[-1]}, after the exchange's own time {answer.time_ms}")
    if times[0] < first or times[-1] > last:
        stray = times[0] if times[0] < first else times[-1]
        raise _wrong(
            answer, f"a bar opens at {stray}, outside the window {first} to {last} that was asked for"
        )
    off = grid.open(grid.index(times)) != times
    if off.any():
        raise _wrong(answer, f"a bar opens at {times[off][0]}, off the grid of interval {grid.code}")
    if times.size > 2:
        # An answer of a longer interval lies on our grid too; it shows in the spacing of its rows.
        spacing = int(np.diff(times).min())
        longer = [g for g in INTERVALS.values() if g.step == spacing and g.step > grid.step > 0]
        if (
            longer
            and (np.diff(times) % spacing == 0).all()
            and times.size * 2 > (times[-1] - times[0]) // spacing
        ):
            raise _wrong(answer, f"the bars are spaced like interval {longer[0].code}, not {grid.code}")


def _check_values(bars: Bars, answer: Answer) -> None:
    values = bars.values
    opened, high, low, close = values[:4]
    faults = {
        "a number that is not finite": ~np.isfinite(values).all(axis=0),
        "a price that is not positive": (values[:4] <= 0).any(axis=0),
        "a negative volume or turnover": (values[4:] < 0).any(axis=0),
        "a high below, or a low above, its other prices": (high < np.maximum(opened, close))
        | (low > np.minimum(opened, close))
        | (high < low),
    }
    for fault, where in faults.items():
        if where.any():
            raise _wrong(answer, f"the bar at {bars.times[where][0]} has {fault}")


def read_funding(answer: Answer, *, category: str, symbol: str, first: int, last: int) -> Bars:
    """Funding times and rates, ascending, all inside `[first, last]`."""
    times, rates = [], []
    for row in _rows(answer, category, None):
        if not isinstance(row, dict):
            raise _wrong(answer, "a funding record is not an object")
        if row.get("symbol") != symbol:
            raise _wrong(answer, f"a funding record is not of {symbol}")
        time = whole_number(row.get("fundingRateTimestamp"))
        rate = number(row.get("fundingRate"))
        if time is None or rate is None or abs(rate) >= 1:
            raise _wrong(answer, f"a funding record is malformed: time {time}, rate {rate}")
        if not first <= time <= min(last, answer.time_ms):
            raise _wrong(answer, f"a funding record of {time} is outside {first} to {last} or in the future")
        times.append(time)
        rates.append(rate)
    return _sorted(Bars(np.array(times, np.int64), np.array([rates], np.float64)), answer)


INSTRUMENT_SCHEMA: dict[str, Any] = {
    "symbol": pl.String,
    "status": pl.String,
    "contract_type": pl.String,
    "base": pl.String,
    "quote": pl.String,
    "tick_size": pl.Float64,
    "qty_step": pl.Float64,
    "min_order_qty": pl.Float64,
    "min_notional": pl.Float64,
    "launch_time": _TIME_MS,
    "delivery_time": _TIME_MS,
    "funding_interval_minutes": pl.Int64,
}


def read_instruments(answer: Answer, *, category: str) -> list[dict[str, Any]]:
    """One record a symbol with the columns of `INSTRUMENT_SCHEMA`; times in epoch ms."""
    return [_instrument(row, answer, category) for row in _rows(answer, category, None)]


def _instrument(row: object, answer: Answer, category: str) -> dict[str, Any]:
    if not isinstance(row, dict) or not isinstance(row.get("symbol"), str) or not row["symbol"]:
        raise _wrong(answer, "an instrument has no symbol")
    lot, price = row.get("lotSizeFilter"), row.get("priceFilter")
    if not isinstance(lot, dict) or not isinstance(price, dict):
        raise _wrong(answer, f"instrument {row['symbol']} has no price or lot filter")
    contract = row.get("contractType")
    if isinstance(contract, str) and category != "spot" and not contract.lower().startswith(category):
        raise _wrong(answer, f"instrument {row['symbol']} is {contract}, not {category}")
    record: dict[str, Any] = {
        "symbol": row["symbol"],
        "status": row.get("status"),
        "contract_type": contract,
        "base": row.get("baseCoin"),
        "quote": row.get("quoteCoin"),
        "tick_size": number(price.get("tickSize")),
        "qty_step": number(lot.get("qtyStep", lot.get("basePrecision"))),
        "min_order_qty": number(lot.get("minOrderQty")),
        "min_notional": number(lot.get("minNotionalValue", lot.get("minOrderAmt"))),
        "launch_time": whole_number(row.get("launchTime")) or None,
        "delivery_time": whole_number(row.get("deliveryTime")) or None,
        "funding_interval_minutes": whole_number(row.get("fundingInterval")),
    }
    for name in ("status", "base", "quote"):
        if not isinstance(record[name], str):
            raise _wrong(answer, f"instrument {row['symbol']} has no {name}")
    for name in ("tick_size", "qty_step"):
        if record[name] is None or record[name] <= 0:
            raise _wrong(answer, f"instrument {row['symbol']} has no positive {name}")
    return record


def number(value: object) -> float | None:
    """A finite number sent as a plain string; anything else is None."""
    if not isinstance(value, str) or not value or not _PLAIN_NUMBERS.fullmatch(value):
        return None
    try:
        parsed = float(value)
    except ValueError:
        return None
    return parsed if np.isfinite(parsed) else None


def _rows(answer: Answer, category: str, symbol: str | None) -> list[Any]:
    """The list of an answer that is about what was asked for."""
    if answer.result.get("category") != category:
        raise _wrong(answer, f"the answer is not about category {category}")
    if symbol is not None and answer.result.get("symbol") != symbol:
        raise _wrong(answer, f"the answer is not about {symbol}")
    rows = answer.result.get("list")
    if not isinstance(rows, list):
        raise _wrong(answer, "the answer has no list", "bad_answer")
    return rows


def _wrong(answer: Answer, message: str, kind: Kind = "bad_data") -> BybitError:
    return BybitError(kind, message[:300], url=answer.url, status=200, code=0)
