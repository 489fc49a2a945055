"""The tables the store knows, and what a row must satisfy to be let in.

The checks here are the cheap ones that a single row or a pair of neighbours can fail; what needs the whole
history (gaps, stale runs, jumps) is judged later, on what is stored.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import polars as pl

from pipelines import candles
from pipelines.manifest import StoreError

EVENTS = "events"
"""The interval name of tables whose rows come at no fixed step (funding, instruments)."""

_TIME = pl.Datetime("ms", "UTC")


class BadRows(StoreError):
    """Rows that may not be stored, with the rule they break and the first of them."""


class Rule(NamedTuple):
    """`broken` is true where a row may not be stored."""

    text: str
    broken: pl.Expr


class Table(NamedTuple):
    """One kind of row: its columns (the first is the symbol), its time column and its rules."""

    kind: str
    schema: pl.Schema
    time: str
    rules: tuple[Rule, ...]
    gridded: bool
    optional: frozenset[str] = frozenset()  # columns that may be null


def _not_above(low: str, high: str) -> Rule:
    return Rule(f"{low} above {high}", pl.col(low) > pl.col(high))


def _not_positive(name: str) -> Rule:
    return Rule(f"{name} not positive", pl.col(name) <= 0)


def _negative(name: str) -> Rule:
    return Rule(f"{name} negative", pl.col(name) < 0)


_PRICES = ("open", "high", "low", "close")
_OHLC = (
    *(_not_positive(name) for name in _PRICES),
    _not_above("low", "open"),
    _not_above("low", "close"),
    _not_above("open", "high"),
    _not_above("close", "high"),
)

_Columns = dict[str, pl.DataType | type[pl.DataType]]
_MARK: _Columns = {"symbol": pl.String, "open_time": _TIME, **dict.fromkeys(_PRICES, pl.Float64)}
_FUNDING: _Columns = {"symbol": pl.String, "funding_time": _TIME, "rate": pl.Float64}
_INSTRUMENTS: _Columns = {
    "symbol": pl.String,
    "time": _TIME,  # when these terms were read from the exchange
    "status": pl.String,
    "contract_type": pl.String,
    "base": pl.String,
    "quote": pl.String,
    "tick_size": pl.Float64,
    "qty_step": pl.Float64,
    "min_order_qty": pl.Float64,
    "min_notional": pl.Float64,
    "launch_time": _TIME,
    "delivery_time": _TIME,
    "funding_interval_minutes": pl.Int64,
}

CANDLES = Table(
    "candles", candles.SCHEMA, "open_time", (*_OHLC, _negative("volume"), _negative("turnover")), gridded=True
)
MARK = Table("mark", pl.Schema(_MARK), "open_time", _OHLC, gridded=True)
FUNDING = Table(
    "funding",
    pl.Schema(_FUNDING),
    "funding_time",
    (Rule("rate beyond 100 %", pl.col("rate").abs() > 1),),
    gridded=False,
)
INSTRUMENTS = Table(
    "instruments",
    pl.Schema(_INSTRUMENTS),
    "time",
    (*map(_not_positive, ("tick_size", "qty_step")), *map(_negative, ("min_order_qty", "min_notional"))),
    gridded=False,
    optional=frozenset(_INSTRUMENTS) - {"symbol", "time", "tick_size", "qty_step"},
)
TABLES = {table.kind: table for table in (CANDLES, MARK, FUNDING, INSTRUMENTS)}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_name(what: str, name: str) -> str:
    """`name`, if it can be a folder without meaning anything else to a file system."""
    if not _NAME.fullmatch(name):
        raise StoreError(
            f"{what} {name!r}: letters, digits, '.', '_' and '-' only, starting with a letter or digit"
        )
    return name


def step_ms(table: Table, interval: str) -> int | None:
    """Milliseconds between rows on the grid; None for a table of events."""
    if table.gridded:
        return candles.interval_ms(interval)
    if interval != EVENTS:
        raise StoreError(f"{table.kind} has no interval {interval!r}; it is stored as {EVENTS!r}")
    return None


def check(frame: pl.DataFrame, table: Table, symbol: str, interval: str) -> pl.DataFrame:
    """The frame in the table's columns, types and order, or `BadRows`; the `symbol` column may be left out.

    Rows must already be in strictly ascending time: a source that delivers them otherwise is not understood,
    and sorting would hide it.
    """
    step = step_ms(table, interval)
    where = f"{table.kind} {symbol} {interval}"
    rows = _typed(frame, table, symbol, where)
    time = pl.col(table.time)
    rules = [Rule(f"symbol other than {symbol}", pl.col("symbol") != symbol), *table.rules]
    rules += [
        Rule(f"{name} null", pl.col(name).is_null()) for name in table.schema if name not in table.optional
    ]
    floats = [name for name, dtype in table.schema.items() if dtype == pl.Float64]
    rules += [Rule(f"{name} not finite", ~pl.col(name).is_finite()) for name in floats]
    rules.append(Rule("time not after the row before (unsorted or duplicate)", time.diff() <= pl.duration()))
    if step is not None:
        rules.append(Rule(f"time off the {interval} grid", time.cast(pl.Int64) % step != 0))
    counts = rows.select(rule.broken.sum().alias(str(index)) for index, rule in enumerate(rules)).row(0)
    broken = [(rule, count) for rule, count in zip(rules, counts, strict=True) if count]
    if broken:
        found = "; ".join(
            f"{rule.text}: {count}, first {_first(rows, table, rule)}" for rule, count in broken
        )
        raise BadRows(f"{where}: refused {rows.height} rows ({found})")
    # Minus zero equals zero but has other bytes; equal content must have equal bytes.
    return rows.with_columns(pl.col(floats) + 0.0)


def _typed(frame: pl.DataFrame, table: Table, symbol: str, where: str) -> pl.DataFrame:
    """Our columns and types; numbers may be integers, times must be ours already, text is never parsed."""
    if "symbol" not in frame.columns:
        frame = frame.with_columns(symbol=pl.lit(symbol))
    missing = [name for name in table.schema if name not in frame.columns and name not in table.optional]
    if missing:
        raise BadRows(f"{where}: the columns {missing} are missing")
    columns: list[pl.Expr] = []
    for name, dtype in table.schema.items():
        found = frame.schema.get(name, pl.Null())
        exact = found in (dtype, pl.Null) or (dtype.is_numeric() and found.is_numeric())
        if dtype == _TIME and isinstance(found, pl.Datetime) and found.time_zone == "UTC":
            exact = bool((frame[name].cast(_TIME).cast(found) == frame[name]).all())
        if not exact:
            raise BadRows(f"{where}: column {name} is {found}, not {dtype}")
        columns.append(pl.col(name).cast(dtype) if name in frame.columns else pl.lit(None, dtype).alias(name))
    return frame.select(columns)


def _first(rows: pl.DataFrame, table: Table, rule: Rule) -> str:
    """The first row that breaks the rule, for the message."""
    row = rows.filter(rule.broken).row(0, named=True)
    return ", ".join(f"{name}={value}" for name, value in row.items() if name != "symbol")
