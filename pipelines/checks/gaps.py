"""Holes, outliers and stale runs: what a candle table lacks, leaps over or merely repeats.

Everything here reports and nothing repairs. A hole stays a hole, and a leap may well be true: real
markets fell by 30 % within an hour, and a table that hides it teaches a model a gentler world.

All functions take an eager or a lazy frame with the candle columns they name, in any order of rows,
and return a small eager table, one row a finding.
"""

from __future__ import annotations

import polars as pl

from pipelines.candles import interval_ms

Frame = pl.DataFrame | pl.LazyFrame

# The median of |x| of a unit normal, which turns a median into a standard deviation.
_NORMAL_MEDIAN = 0.6744897501960817

SAME_SYMBOL = pl.col("symbol").eq(pl.col("symbol").shift(1)).fill_null(False)


def tidy(candles: Frame) -> pl.LazyFrame:
    """The rows that have a symbol and a time, sorted by both: what the functions below stand on."""
    return candles.lazy().drop_nulls(["symbol", "open_time"]).sort("symbol", "open_time", maintain_order=True)


def slot(interval: str) -> pl.Expr:
    """The number of the grid cell a bar opens in; a bar off the grid still fills its cell."""
    return pl.col("open_time").dt.epoch("ms").floordiv(interval_ms(interval))


def with_missing_before(rows: pl.LazyFrame, interval: str) -> pl.LazyFrame:
    """Adds `missing_before`: bars missing between a row and the one before it (null on the first)."""
    step = slot(interval)
    return rows.with_columns(missing_before=pl.when(SAME_SYMBOL).then((step - step.shift(1) - 1).clip(0)))


def with_sigmas(rows: pl.LazyFrame, interval: str) -> pl.LazyFrame:
    """Adds `previous_close`, `log_move` and `sigmas`: how far a bar strays from the close before it.

    The move is the largest, by size, of the log ratios of low, high and close to the previous close, so
    that a single bad wick counts. The yardstick is robust: the median size of the symbol's own
    close-to-close moves (bars that did not move at all left out, or a sleepy market would have a
    yardstick of zero), divided by that of a unit normal. Across a hole the yardstick grows with the
    square root of the time.
    """
    price = {
        name: pl.when(pl.col(name).is_finite() & (pl.col(name) > 0)).then(pl.col(name))
        for name in ("high", "low", "close")
    }
    before = pl.when(SAME_SYMBOL).then(price["close"].shift(1))
    step = slot(interval)
    stretch = (step - step.shift(1)).clip(1).cast(pl.Float64).sqrt()
    up, down, end = ((price[name] / pl.col("previous_close")).log() for name in ("high", "low", "close"))
    largest = pl.when(up.abs() >= down.abs()).then(up).otherwise(down)
    moved = end.abs() / stretch
    yardstick = moved.filter(moved > 0).median().over("symbol") / _NORMAL_MEDIAN
    return rows.with_columns(previous_close=before).with_columns(
        # A close outside its own low and high is another check's finding, but its leap is still one.
        log_move=pl.when(end.abs() > largest.abs()).then(end).otherwise(largest),
        sigmas=pl.max_horizontal(up.abs(), down.abs(), end.abs()) / (stretch * yardstick),
    )


def with_stale_run(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Adds `stale_run`: on the last bar of a run of repeated closes without volume, its length in bars."""
    stale = (SAME_SYMBOL & (pl.col("close") == pl.col("close").shift(1)) & (pl.col("volume") == 0)).fill_null(
        False
    )
    index = pl.int_range(pl.len())
    alive = pl.when(~pl.col("stale")).then(index).forward_fill()
    ends = pl.col("stale") & ~pl.col("stale").shift(-1, fill_value=False)
    return (
        rows.with_columns(stale=stale).with_columns(stale_run=pl.when(ends).then(index - alive)).drop("stale")
    )


def find_gaps(candles: Frame, interval: str) -> pl.DataFrame:
    """The holes: [symbol, after, before, missing_bars], `after` and `before` being the bars at its edges.

    Only holes between two bars of a symbol; what is missing at the ends of a window is the window's
    affair (see `expectations`). Bars repeated or out of order make no hole.
    """
    rows = with_missing_before(tidy(candles).select("symbol", "open_time"), interval)
    return (
        rows.select(
            "symbol",
            after=pl.col("open_time").shift(1),
            before=pl.col("open_time"),
            missing_bars=pl.col("missing_before"),
        )
        .filter(pl.col("missing_bars") > 0)
        .collect()
    )


def find_outliers(candles: Frame, interval: str, *, jump_sigmas: float) -> pl.DataFrame:
    """Bars that stray more than `jump_sigmas` robust standard deviations from the close before them.

    Returns [symbol, open_time, previous_close, log_move, sigmas] (see `with_sigmas`).
    """
    rows = with_sigmas(tidy(candles).select("symbol", "open_time", "high", "low", "close"), interval)
    return (
        rows.filter(pl.col("sigmas") > jump_sigmas)
        .select("symbol", "open_time", "previous_close", "log_move", "sigmas")
        .collect()
    )


def find_stale_runs(candles: Frame, *, stale_bars: int) -> pl.DataFrame:
    """Runs of at least `stale_bars` bars that repeat the close before them without any volume.

    Returns [symbol, first, last, bars].
    """
    rows = with_stale_run(tidy(candles).select("symbol", "open_time", "close", "volume"))
    first = pl.col("open_time").gather(pl.int_range(pl.len()) - pl.col("stale_run").fill_null(1) + 1)
    return (
        rows.select("symbol", first=first, last=pl.col("open_time"), bars=pl.col("stale_run"))
        .filter(pl.col("bars") >= stale_bars)
        .collect()
    )
