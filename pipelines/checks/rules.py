"""The rules a candle table is held to, each a bound on one number a bar.

Polars computes the numbers (`measure`), one column a rule; what a rule then asks is only that its
column lies between two bounds wherever it is not null. That keeps the logic in one fast, testable
place, and whoever evaluates the bounds (see `expectations`) needs to know nothing of markets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import polars as pl

from pipelines.candles import SCHEMA, interval_ms
from pipelines.checks.gaps import SAME_SYMBOL, slot, with_missing_before, with_sigmas, with_stale_run

Severity = Literal["error", "warning"]

_PRICES = ("open", "high", "low", "close")
_NUMBERS = (*_PRICES, "volume", "turnover")
_SHOWN = 3  # examples a symbol in a line of text


@dataclass(frozen=True)
class CheckSettings:
    """What is still acceptable.

    max_gap_bars: the longest hole, in bars, that an episode may run across; longer ones are a warning.
    max_gap_share: the largest share (0 to 1) of a symbol's bars between its first and its last that may
        be missing; more is an error.
    max_head_gap_bars: bars that may be missing at the start of the window (a symbol listed later).
    max_tail_gap_bars: bars that may be missing at its end.
    jump_sigmas: robust standard deviations beyond which a bar is flagged as an outlier (a warning: in
        four years of hourly bitcoin 57 bars pass the default, nearly all of them real).
    stale_bars: from how many bars a run of one and the same close without volume is a warning.
    """

    max_gap_bars: int = 12
    max_gap_share: float = 0.01
    max_head_gap_bars: int = 0
    max_tail_gap_bars: int = 0
    jump_sigmas: float = 20.0
    stale_bars: int = 12

    def __post_init__(self) -> None:
        for name in ("max_gap_bars", "max_head_gap_bars", "max_tail_gap_bars"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 or more")
        if not 0 <= self.max_gap_share <= 1:
            raise ValueError(f"max_gap_share is {self.max_gap_share}; allowed: 0 to 1")
        if self.jump_sigmas <= 0:
            raise ValueError(f"jump_sigmas is {self.jump_sigmas}; allowed: more than 0")
        if self.stale_bars < 1:
            raise ValueError(f"stale_bars is {self.stale_bars}; allowed: 1 or more")


@dataclass(frozen=True)
class Rule:
    """`column` must lie within [minimum, maximum] on every bar where it is not null."""

    name: str
    severity: Severity
    column: str
    says: str  # the rule as a sentence
    found: str  # what a bar that breaks it is called
    minimum: float | None = None
    maximum: float | None = None
    strict_minimum: bool = False
    detail: pl.Expr | None = None  # what to say of a bar that breaks it, beside its symbol and time

    def broken(self) -> pl.Expr:
        """True on the bars that break the rule."""
        value = pl.col(self.column)
        too_low = pl.lit(False)
        if self.minimum is not None:
            too_low = value <= self.minimum if self.strict_minimum else value < self.minimum
        too_high = pl.lit(False) if self.maximum is None else value > self.maximum
        return (too_low | too_high).fill_null(False)

    def describe(self, rows: pl.DataFrame) -> str:
        """One line: what is wrong, then for each symbol how often, the first times and the details."""
        detail = pl.lit("") if self.detail is None else pl.format(" ({})", self.detail)
        parts = []
        table = rows.filter(self.broken()).select("symbol", "open_time", detail=detail)
        for (symbol,), part in table.group_by("symbol", maintain_order=True):
            places = [
                ("no time" if time is None else f"{time:%Y-%m-%d %H:%M}") + (extra or "")
                for _, time, extra in part.head(_SHOWN).iter_rows()
            ]
            more = ", ..." if part.height > _SHOWN else ""
            parts.append(f"{symbol or 'no symbol'} {part.height} at {', '.join(places)}{more}")
        return f"{self.found}: {'; '.join(parts)}"


def rules(settings: CheckSettings, *, others: bool) -> tuple[Rule, ...]:
    """All rules on bars, those that stop a run first; `others`: candles of other intervals are at hand."""
    s = settings
    error: Severity = "error"
    warning: Severity = "warning"

    def missing(column: str) -> pl.Expr:
        return pl.format("{} missing", pl.col(column))

    every = [
        Rule(
            "no_nulls",
            error,
            "null_fields",
            "No field is empty",
            "Empty fields",
            maximum=0,
            detail=_named({name: pl.col(name).is_null() for name in SCHEMA}),
        ),
        Rule(
            "finite",
            error,
            "odd_fields",
            "No number is NaN or infinite",
            "NaN or infinite numbers",
            maximum=0,
            detail=_named({name: ~pl.col(name).is_finite() for name in _NUMBERS}),
        ),
        Rule(
            "positive_prices",
            error,
            "lowest_price",
            "Prices are above zero",
            "Prices of zero or less",
            minimum=0,
            strict_minimum=True,
            detail=_values(*_PRICES),
        ),
        Rule(
            "ohlc_order",
            error,
            "ohlc_broken",
            "No price lies below the low or above the high",
            "Prices outside their low and high",
            maximum=0,
            detail=_values(*_PRICES),
        ),
        Rule(
            "volume",
            error,
            "lowest_volume",
            "Volume and turnover are not negative",
            "Negative volume or turnover",
            minimum=0,
            detail=_values("volume", "turnover"),
        ),
        Rule("unique", error, "repeated", "A symbol has one bar a time", "Repeated bars", maximum=0),
        Rule(
            "order", error, "disorder", "Rows ascend by symbol, then by time", "Rows out of order", maximum=0
        ),
        Rule(
            "grid",
            error,
            "off_grid_ms",
            "Bars open on the grid of the interval",
            "Bars off the grid",
            maximum=0,
        ),
        Rule(
            "window",
            error,
            "outside",
            "No bar lies outside the requested window",
            "Bars outside the requested window",
            maximum=0,
        ),
        Rule(
            "window_start",
            error,
            "head_missing",
            "A symbol begins where the requested window does",
            "Symbols that begin late",
            maximum=s.max_head_gap_bars,
            detail=missing("head_missing"),
        ),
        Rule(
            "window_end",
            error,
            "tail_missing",
            "A symbol reaches to the end of the requested window",
            "Symbols that stop early",
            maximum=s.max_tail_gap_bars,
            detail=missing("tail_missing"),
        ),
        Rule(
            "gap_share",
            error,
            "gap_share",
            f"At most {s.max_gap_share:.2%} of a symbol's bars are missing inside its history",
            f"Symbols with more than {s.max_gap_share:.2%} of their bars missing",
            maximum=s.max_gap_share,
            detail=pl.format("{} %", (pl.col("gap_share") * 100).round(2)),
        ),
        Rule(
            "gaps",
            warning,
            "missing_before",
            "There is no hole",
            "Holes before these bars",
            maximum=0,
            detail=missing("missing_before"),
        ),
        Rule(
            "gap_length",
            warning,
            "missing_before",
            f"No hole is longer than {s.max_gap_bars} bars (episodes are cut there)",
            f"Holes longer than {s.max_gap_bars} bars (episodes are cut there), before",
            maximum=s.max_gap_bars,
            detail=missing("missing_before"),
        ),
        Rule(
            "stale",
            warning,
            "stale_run",
            f"Fewer than {s.stale_bars} bars in a row repeat one close without volume",
            f"Runs of {s.stale_bars} bars or more that repeat one close without volume",
            maximum=s.stale_bars - 1,
            detail=pl.format("the last of {}", pl.col("stale_run")),
        ),
        Rule(
            "jumps",
            warning,
            "sigmas",
            f"No bar strays more than {s.jump_sigmas:g} robust sigmas from the close before it",
            f"Bars that stray more than {s.jump_sigmas:g} robust sigmas from the close before them",
            maximum=s.jump_sigmas,
            detail=pl.format("{} sigmas", pl.col("sigmas").round(1)),
        ),
    ]
    if others:
        every.append(
            Rule(
                "intervals",
                error,
                "disagreements",
                "Bars agree with the same symbol's bars of other intervals",
                "Bars that another interval contradicts (saved while still open?)",
                maximum=0,
                detail=pl.col("conflict"),
            )
        )
    return tuple(sorted(every, key=lambda rule: rule.severity))


def _named(conditions: Mapping[str, pl.Expr]) -> pl.Expr:
    """The names of the conditions that hold, in one string."""
    names = (pl.when(condition).then(pl.lit(name)) for name, condition in conditions.items())
    return pl.concat_str(*names, separator=", ", ignore_nulls=True)


def _values(*names: str) -> pl.Expr:
    """The values of some columns, named, in one string; the empty ones left out."""
    return pl.concat_str(
        *(pl.format(f"{name} {{}}", name) for name in names), separator=", ", ignore_nulls=True
    )


def epoch_ms(time: datetime) -> int:
    """Milliseconds since 1970 of an aware time; a time without a zone is an error, never a guess."""
    if time.tzinfo is None:
        raise ValueError(f"{time} has no time zone")
    return round(time.timestamp() * 1000)


def measure(
    candles: pl.DataFrame,
    *,
    interval: str,
    start: datetime,
    end: datetime,
    conflicts: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """The candles, sorted, with the column of every rule (and those a reader wants to see beside them).

    The window is [start, end): its first bar opens at `start`, its last one closes at `end`. Needs the
    columns and types of `candles.SCHEMA`, and nothing else of the frame. `conflicts`: tables of
    `intervals.compare_intervals` with `fine` and `coarse` (the intervals) and `bar` (the open time of our
    bar that is concerned) in front.
    """
    step = interval_ms(interval)
    first_slot = -(-epoch_ms(start) // step)
    last_slot = epoch_ms(end) // step - 1
    time = pl.col("open_time")
    clock = time.dt.epoch("ms")
    before = pl.col("symbol").shift(1)
    # A source that has no turnover at all leaves the whole column empty; one empty cell is a defect.
    required = [
        name for name in SCHEMA if name != "turnover" or candles["turnover"].null_count() < candles.height
    ]
    sound = pl.all_horizontal(pl.col(name).is_finite() for name in _PRICES)
    in_order = (pl.col("low") <= pl.min_horizontal("open", "close")) & (
        pl.col("high") >= pl.max_horizontal("open", "close")
    )
    rows = candles.select(
        *SCHEMA,
        null_fields=pl.sum_horizontal(pl.col(name).is_null().cast(pl.Int8) for name in required),
        odd_fields=pl.sum_horizontal((~pl.col(name).is_finite()).cast(pl.Int8) for name in _NUMBERS),
        lowest_price=pl.min_horizontal(*(pl.col(name).fill_nan(None) for name in _PRICES)),
        # Null and NaN have their own rules; one defect should have one name.
        ohlc_broken=(sound & ~in_order).fill_null(False).cast(pl.Int8),
        lowest_volume=pl.min_horizontal(pl.col("volume").fill_nan(None), pl.col("turnover").fill_nan(None)),
        disorder=((pl.col("symbol") < before) | (SAME_SYMBOL & (time < time.shift(1))))
        .fill_null(False)
        .cast(pl.Int8),
        off_grid_ms=(clock % step).cast(pl.Int32),
        outside=((clock < first_slot * step) | (clock > last_slot * step)).cast(pl.Int8),
    )
    keyed = rows.drop_nulls(["symbol", "open_time"])
    if (rows["disorder"] > 0).any():
        keyed = keyed.sort("symbol", "open_time", maintain_order=True)
    begins = ~SAME_SYMBOL
    finishes = begins.shift(-1, fill_value=True)
    cell = slot(interval)
    lazy = with_stale_run(with_sigmas(with_missing_before(keyed.lazy(), interval), interval))
    span = cell.last() - cell.first() + 1
    lazy = lazy.with_columns(
        repeated=(SAME_SYMBOL & (time == time.shift(1))).cast(pl.Int8),
        head_missing=pl.when(begins).then((cell - first_slot).clip(0)),
        tail_missing=pl.when(finishes).then((last_slot - cell).clip(0)),
        gap_share=pl.when(finishes).then((pl.col("missing_before").sum() / span).over("symbol")),
    )
    if conflicts is not None:
        marks = conflicts.group_by("symbol", open_time="bar").agg(
            disagreements=pl.len(),
            conflict=pl.format("{} in {}: {}", "fine", "coarse", "differs").str.join("; "),
        )
        lazy = lazy.join(marks.lazy(), on=["symbol", "open_time"], how="left", maintain_order="left")
        lazy = lazy.with_columns(pl.col("disagreements").fill_null(0))
    measured = lazy.collect()
    return pl.concat([measured, rows.filter(time.is_null() | pl.col("symbol").is_null())], how="diagonal")
