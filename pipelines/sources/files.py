"""The user's own candles: CSV, Parquet and Feather files with the headers that are about.

Understood without being told: our own columns, Binance archives (with and without a header line), exports
with `Date,Open,High,Low,Close,Volume`, CryptoDataDownload (URL line, newest first,
`Volume BTC`/`Volume USD`), freqtrade (Feather and JSON) and plain OHLCV. Everything else takes a
`mapping` from our names to the file's.

What is decided here, and only here:

- **Times** are those of the open. Numbers are seconds, milliseconds, microseconds or nanoseconds by their
  size (row by row: real archives change unit half-way), or as `time_unit` says. Text is ISO 8601; without
  an offset it is UTC.
- **Turnover** that the file lacks is `volume * close`, and a note says so.
- **Order**: a file with the newest bar first is turned round. Nothing else is touched: duplicates, holes and
  impossible candles go on to validation, which judges and names them.

Anything else that is not understood is a `FileError` with the path and what was found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import polars as pl

from pipelines.candles import SCHEMA, interval_ms
from pipelines.sources.tabular import FileError, read_table
from pipelines.sources.times import parse_times

_PLAIN = {
    "open": ("open", "o", "open_price"),
    "high": ("high", "h", "high_price"),
    "low": ("low", "l", "low_price"),
    "close": ("close", "c", "close_price"),
    "volume": ("volume", "vol", "v", "base_volume", "volume_base"),
    "turnover": ("turnover", "quote_volume", "quote_asset_volume", "quotevolume", "volume_quote"),
    "symbol": ("symbol", "pair", "ticker"),
}
_TIMES = ("open_time", "timestamp", "unix", "unix_timestamp", "time", "date", "datetime", "start",
          "start_time", "opentime", "open_timestamp", "ts", "t")  # fmt: skip
_VOLUME_OF = re.compile(r"volume_\(?([a-z0-9]+)\)?")
_NUMBERS = ("open", "high", "low", "close", "volume", "turnover")
_REQUIRED = ("open_time", "open", "high", "low", "close", "volume")
_UNDERSTOOD = (
    f"a time ({', '.join(_TIMES)}), open, high, low, close, volume and optionally turnover "
    f"({', '.join(_PLAIN['turnover'])}, or 'Volume <currency>')"
)
# Turnover over volume x close lies near one in any candle; beyond this the two columns are not what they say.
_RATIO = 2.0


class CandleFile(NamedTuple):
    """Candles as the file has them, and what a reader of the results should know about them."""

    frame: pl.DataFrame
    notes: tuple[str, ...]


def read_candles(
    path: Path,
    *,
    symbol: str,
    interval: str,
    mapping: Mapping[str, str] | None = None,
    time_unit: str | None = None,
) -> pl.DataFrame:
    """The file's candles of `symbol` in our schema; see `read_file`, which also returns the notes."""
    return read_file(path, symbol=symbol, interval=interval, mapping=mapping, time_unit=time_unit).frame


def read_file(
    path: Path,
    *,
    symbol: str,
    interval: str,
    mapping: Mapping[str, str] | None = None,
    time_unit: str | None = None,
) -> CandleFile:
    """Reads one file of candles.

    `mapping` goes from our names to the file's (`{"open_time": "Opened", "close": "Last"}`) and may be
    partial; in a file without a header line the columns are `column_1`, `column_2`, ... `time_unit` is one
    of `s`, `ms`, `us`, `ns`; None tells it from the size of the numbers.
    """
    path = Path(path)
    table = read_table(path)
    columns = _columns(path, table, symbol, dict(mapping or {}))
    notes: list[str] = []
    table = _of_symbol(path, table, columns.get("symbol"), symbol, notes)
    times = parse_times(path, table[columns["open_time"]], time_unit, notes)
    numbers = [_numbers(path, table[columns[name]], name) for name in _NUMBERS if name in columns]
    frame = pl.DataFrame([times.alias("open_time"), *numbers])
    if "turnover" not in columns:
        frame = frame.with_columns(turnover=pl.col("volume") * pl.col("close"))
        notes.append("the file has no turnover; it is taken as volume x close")
    else:
        _note_ratio(frame, notes)
    frame = frame.select(pl.lit(symbol).alias("symbol"), *list(SCHEMA)[1:])
    return CandleFile(_ordered(path, frame, interval, notes), tuple(notes))


def _normal(name: str) -> str:
    return re.sub(r"[\s.\-/]+", "_", name.strip().lower())


def _columns(path: Path, table: pl.DataFrame, symbol: str, mapping: dict[str, str]) -> dict[str, str]:
    """Our name -> the file's name, or one error that lists what was found and what is understood."""
    unknown = sorted(set(mapping) - set(SCHEMA))
    if unknown:
        raise FileError(path, f"the mapping names {unknown}; our columns are {', '.join(SCHEMA)}")
    absent = sorted(name for name in mapping.values() if name not in table.columns)
    if absent:
        raise FileError(path, f"the mapping points to {absent}; the file has {table.columns}")
    normal: dict[str, list[str]] = {}
    for name in table.columns:
        if name not in mapping.values():
            normal.setdefault(_normal(name), []).append(name)
    found = {
        ours: [name for alias in aliases for name in normal.get(alias, [])]
        for ours, aliases in _PLAIN.items()
    }
    found["open_time"] = [name for alias in _TIMES for name in normal.get(alias, [])]
    if set(normal) >= {"unix", "date"} or set(normal) >= {"unix_timestamp", "date"}:
        # CryptoDataDownload says the same instant twice; the number is the exact one.
        found["open_time"] = normal.get("unix", []) + normal.get("unix_timestamp", [])
    _currency_volumes(normal, symbol, found)
    chosen = dict(mapping)
    for ours, names in found.items():
        if ours in chosen:
            continue
        if len(names) > 1:
            raise FileError(path, f"{names} could each be {ours}; say which in the mapping")
        if names:
            chosen[ours] = names[0]
    missing = [name for name in _REQUIRED if name not in chosen]
    if missing:
        raise FileError(
            path,
            f"no column for {missing} among {table.columns}; understood are {_UNDERSTOOD}; or give a mapping",
        )
    return chosen


def _currency_volumes(normal: dict[str, list[str]], symbol: str, found: dict[str, list[str]]) -> None:
    """`Volume BTC` is the volume of BTCUSDT and `Volume USDT` its turnover: the symbol tells which."""
    pair = _letters(symbol)
    for name, originals in normal.items():
        match = _VOLUME_OF.fullmatch(name)
        if match and name not in (*_PLAIN["volume"], *_PLAIN["turnover"]):
            currency = match[1].upper()
            if pair.startswith(currency):
                found["volume"] += originals
            elif pair.endswith(currency):
                found["turnover"] += originals


def _letters(symbol: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", symbol.upper())


def _of_symbol(
    path: Path, table: pl.DataFrame, column: str | None, symbol: str, notes: list[str]
) -> pl.DataFrame:
    """The rows of the symbol, where the file names symbols at all."""
    if column is None:
        return table
    if table[column].dtype != pl.String:
        raise FileError(path, f"column {column} should name symbols and holds {table[column].dtype}")
    names = table[column].unique().sort().to_list()
    same = [name for name in names if name is not None and _letters(name) == _letters(symbol)]
    if same:
        return table.filter(pl.col(column).is_in(same))
    if len(names) == 1:
        notes.append(f"the file calls its symbol {names[0]!r}; it is read as {symbol}")
        return table
    raise FileError(path, f"holds the symbols {names[:10]}, none of them {symbol}")


def _numbers(path: Path, column: pl.Series, ours: str) -> pl.Series:
    """A column as float64; anything that is not a number is an error with its row."""
    if column.dtype != pl.String and not column.dtype.is_numeric():
        raise FileError(path, f"column {column.name} ({ours}) holds {column.dtype}, not numbers")
    text = column.str.strip_chars() if column.dtype == pl.String else column
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.null_count():
        row = int(numbers.is_null().arg_max() or 0)
        raise FileError(path, f"row {row + 1} of the data: {ours} is {column[row]!r}, not a number")
    return numbers.alias(ours)


def _note_ratio(frame: pl.DataFrame, notes: list[str]) -> None:
    """Real files have swapped the two volumes for whole years: say so, from when to when."""
    ratio = pl.col("turnover") / (pl.col("volume") * pl.col("close"))
    odd = frame.filter(pl.col("volume") > 0, ~ratio.is_between(1 / _RATIO, _RATIO))["open_time"]
    if odd.len():
        first, last = sorted((odd[0], odd[-1]))
        notes.append(
            f"{odd.len()} of {frame.height} rows, between {first:%Y-%m-%d %H:%M} and {last:%Y-%m-%d %H:%M}, "
            "have a turnover that is not near volume x close; the two columns may be swapped there"
        )


def _ordered(path: Path, frame: pl.DataFrame, interval: str, notes: list[str]) -> pl.DataFrame:
    """Oldest first, and at the interval that was asked for."""
    steps = frame["open_time"].to_physical().diff().drop_nulls()
    if not steps.len():
        return frame
    if (steps <= 0).all() and (steps < 0).any():
        frame, steps = frame.reverse(), -steps.reverse()
    elif (steps < 0).any():
        notes.append("the rows are in no order of time; they are left as they are")
    usual = int(steps.abs().value_counts(sort=True)["open_time"][0])
    if usual not in (interval_ms(interval), 0):
        raise FileError(path, f"its bars are {usual / 60_000:g} minutes apart, not {interval}")
    return frame
