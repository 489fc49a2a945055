"""Two intervals of one symbol must tell the same story: the coarse bar is the sum of its fine bars.

This is the one check that finds a bar saved while it was still open: by itself such a bar is flawless.
"""

from __future__ import annotations

import polars as pl

from pipelines.candles import interval_ms
from pipelines.checks.gaps import Frame, tidy

# Prices are exact; volumes are sums of rounded decimals.
_PRICE_TOLERANCE = 1e-9
_VOLUME_TOLERANCE = 1e-6

_FIELDS = ("open", "high", "low", "close", "volume")


def compare_intervals(
    fine: Frame, coarse: Frame, *, fine_interval: str, coarse_interval: str
) -> pl.DataFrame:
    """The coarse bars that their fine bars contradict, in the columns

    [symbol, open_time, fine_last, fine_bars, whole_bars, differs, open, high, ..., fine_open, ...]:
    `open_time` of the coarse bar, `fine_last` the last fine bar inside it, `fine_bars` of `whole_bars`
    that it should have, `differs` the fields that disagree.

    A coarse bar without any fine bar is not judged. Where some fine bars are missing, only what must
    hold all the same is: the coarse range contains the fine one, its volume is no smaller, and its open
    and close agree if the first and the last fine bar are there. One exception: if the fine bars of the
    symbol stop inside the coarse bar, the two tables ended there while the bar was still open, and every
    field is held to the last word.
    """
    fine_ms, coarse_ms = interval_ms(fine_interval), interval_ms(coarse_interval)
    if coarse_ms <= fine_ms or coarse_ms % fine_ms:
        raise ValueError(f"{coarse_interval} bars are not made of whole {fine_interval} bars")
    whole_bars = coarse_ms // fine_ms
    time = pl.col("open_time")
    opened = (time.dt.epoch("ms").floordiv(coarse_ms) * coarse_ms).cast(pl.Datetime("ms", "UTC"))
    rows = tidy(fine).unique(["symbol", "open_time"], keep="first", maintain_order=True)
    sums = rows.group_by("symbol", opened.alias("bar"), maintain_order=True).agg(
        fine_first=time.first(),
        fine_last=time.last(),
        fine_bars=pl.len(),
        fine_open=pl.col("open").first(),
        fine_high=pl.col("high").max(),
        fine_low=pl.col("low").min(),
        fine_close=pl.col("close").last(),
        fine_volume=pl.col("volume").sum(),
    )
    joined = (
        tidy(coarse)
        .join(sums, left_on=["symbol", "open_time"], right_on=["symbol", "bar"], how="inner")
        .join(rows.group_by("symbol").agg(fine_end=time.max()), on="symbol", how="left")
    )
    last_ms = pl.col("open_time").dt.epoch("ms") + coarse_ms - fine_ms
    has_last = pl.col("fine_last").dt.epoch("ms") == last_ms
    stops_inside = (pl.col("fine_end") == pl.col("fine_last")) & ~has_last
    every = (pl.col("fine_bars") == whole_bars) | stops_inside

    def gap(name: str) -> pl.Expr:
        """How far the coarse value lies above the fine one, as a share of it."""
        share = (pl.col(name) - pl.col(f"fine_{name}")) / pl.col(f"fine_{name}").abs().clip(1e-300)
        return share.fill_nan(None)  # polars ranks NaN above every number; here it is simply unknown

    wrong = {
        "open": (pl.col("fine_first") == pl.col("open_time")) & (gap("open").abs() > _PRICE_TOLERANCE),
        "high": (gap("high") < -_PRICE_TOLERANCE) | (every & (gap("high") > _PRICE_TOLERANCE)),
        "low": (gap("low") > _PRICE_TOLERANCE) | (every & (gap("low") < -_PRICE_TOLERANCE)),
        "close": (has_last | every) & (gap("close").abs() > _PRICE_TOLERANCE),
        "volume": (gap("volume") < -_VOLUME_TOLERANCE) | (every & (gap("volume") > _VOLUME_TOLERANCE)),
    }
    differs = pl.concat_list(pl.when(wrong[name]).then(pl.lit(name)) for name in _FIELDS).list.drop_nulls()
    return (
        joined.with_columns(differs=differs.list.join(", "), whole_bars=pl.lit(whole_bars))
        .filter(pl.col("differs") != "")
        .select(
            "symbol",
            "open_time",
            "fine_last",
            "fine_bars",
            "whole_bars",
            "differs",
            *_FIELDS,
            *(f"fine_{name}" for name in _FIELDS),
        )
        .sort("symbol", "open_time")
        .collect()
    )
