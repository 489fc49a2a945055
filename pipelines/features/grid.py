"""Candles on the regular grid of their interval, with real holes kept as holes.

A venue that is down leaves no candle. A short hole (at most `max_gap_bars`) is bridged: the price stands
still, nothing is traded, and the row says so in `filled`. A longer hole is not bridged: what comes after
it is another `segment`, and neither a rolling feature nor an episode runs across the boundary. Nothing is
ever filled backwards.

Whether a hole is bridged is known only at its end, so the last bars before the present may still turn out
to be the edge of a hole. That decides which rows exist, never what a row says: a bridged row repeats the
close before it and nothing else.
"""

from __future__ import annotations

import polars as pl

from pipelines.candles import interval_ms

_FLAT = {"open": "close", "high": "close", "low": "close", "close": "close"}
_STILL = ("volume", "turnover")


def to_grid(candles: pl.DataFrame, interval: str, *, max_gap_bars: int) -> pl.DataFrame:
    """The candles plus `filled` (bool) and `segment` (i32, counted from 0 for each symbol).

    `candles` are sorted by symbol and time, one row a bar; a repeated or misplaced time is an error,
    because mending it here would hide it from the checks. Columns besides those of a candle are kept and
    are null in the bridged rows: join them after this step if they must not be.
    """
    if max_gap_bars < 0:
        raise ValueError(f"max_gap_bars is {max_gap_bars}; it counts bars and cannot be negative")
    step = interval_ms(interval)
    marked = _with_missing(candles, interval).with_columns(
        filled=pl.lit(False),
        segment=(pl.col("missing") > max_gap_bars)
        .fill_null(False)
        .cast(pl.Int32)
        .cum_sum()
        .over("symbol", order_by="open_time"),
    )
    bridged = marked.filter(pl.col("missing").is_between(1, max_gap_bars))
    grid = marked.drop("missing", "previous_time", "previous_close")
    if bridged.is_empty():
        return grid
    flat = (
        bridged.select(
            "symbol",
            "segment",
            pl.col("previous_close").alias("close"),
            "previous_time",
            bar=pl.int_ranges(1, pl.col("missing") + 1),
        )
        .explode("bar", empty_as_null=False, keep_nulls=False)
        .select(
            "symbol",
            "segment",
            *(pl.col(source).alias(name) for name, source in _FLAT.items()),
            *(pl.lit(0.0).alias(name) for name in _STILL if name in candles.columns),
            open_time=pl.col("previous_time") + pl.duration(milliseconds=pl.col("bar") * step),
            filled=pl.lit(True),
        )
        .cast({"open_time": candles.schema["open_time"]})
    )
    return pl.concat([grid, flat], how="diagonal").sort("symbol", "open_time")


def holes(candles: pl.DataFrame, interval: str) -> pl.DataFrame:
    """Every hole of the recording: `symbol`, `start` (first missing open time), `bars` missing."""
    step = interval_ms(interval)
    return (
        _with_missing(candles, interval)
        .filter(pl.col("missing") > 0)
        .select(
            "symbol",
            start=pl.col("previous_time") + pl.duration(milliseconds=step),
            bars="missing",
        )
    )


def _with_missing(candles: pl.DataFrame, interval: str) -> pl.DataFrame:
    """Adds, for each row, the row before it of the same symbol and the number of bars missing between."""
    step = interval_ms(interval)
    same = pl.col("symbol") == pl.col("symbol").shift(1)
    marked = candles.with_columns(
        previous_time=pl.when(same).then(pl.col("open_time").shift(1)),
        previous_close=pl.when(same).then(pl.col("close").shift(1)),
        missing=pl.when(same).then(pl.col("open_time").diff().dt.total_milliseconds() // step - 1),
    )
    misplaced = marked.filter(
        (pl.col("open_time").dt.epoch("ms") % step != 0)
        | (pl.col("missing") < 0)
        | (pl.col("symbol") < pl.col("symbol").shift(1))
    )
    if not misplaced.is_empty():
        first = misplaced.row(0, named=True)
        raise ValueError(
            f"{first['symbol']} has a candle at {first['open_time']} that repeats a bar, is out of order "
            f"or is off the grid of {interval}"
        )
    return marked
