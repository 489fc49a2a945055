"""Times as files write them, to milliseconds UTC; nothing is guessed that the text does not say."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from pipelines.sources.tabular import FileError

_UTC_MS = pl.Datetime("ms", "UTC")
_NS_OF = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
# The units do not overlap between 1973 and 5138: 1e11 ms is March 1973, 1e11 s the year 5138.
_BOUNDS = ((10**8, "s"), (10**11, "ms"), (10**14, "us"), (10**17, "ns"))
_LONGEST = 9 * 10**18
_ISO = (
    r"^(?<y>\d{4})[-/](?<mo>\d{1,2})[-/](?<d>\d{1,2})"
    r"(?:[T ](?<h>\d{2}):(?<mi>\d{2})(?::(?<s>\d{2})(?:\.(?<f>\d{1,9}))?)?)?"
    r" ?(?:Z|UTC|(?<sign>[+-])(?<oh>\d{2}):?(?<om>\d{2}))?$"
)
_WHOLE = r"^\d+(\.0*)?$"


def parse_times(path: Path, column: pl.Series, unit: str | None, notes: list[str]) -> pl.Series:
    """The column as UTC milliseconds. Text without an offset, and typed times without a zone, are UTC."""
    if unit is not None and unit not in _NS_OF:
        raise FileError(path, f"time unit {unit!r} is unknown; allowed: {', '.join(_NS_OF)}")
    if column.null_count():
        raise FileError(path, f"row {int(column.is_null().arg_max() or 0) + 1} of the data has no time")
    dtype = column.dtype
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is None:
            column = column.dt.replace_time_zone("UTC")
        exact = column.dt.convert_time_zone("UTC")
        times = exact.cast(_UTC_MS)
        if (times.cast(exact.dtype) != exact).any():
            raise FileError(path, "its times are finer than a millisecond: these are not open times")
        return times
    if dtype == pl.Date:
        return column.cast(_UTC_MS)
    if dtype == pl.String:
        text = column.str.strip_chars()
        if text.str.contains(_WHOLE).all():
            return _from_numbers(path, text.str.strip_suffix(".").str.replace(r"\.0*$", ""), unit, notes)
        return _from_text(path, text)
    if dtype.is_float() and bool((column == column.floor()).all()):
        column = column.cast(pl.Int64, strict=False)
    if column.dtype.is_integer():
        return _from_numbers(path, column, unit, notes)
    raise FileError(path, f"column {column.name} holds {dtype}, not whole numbers or dates")


def _from_numbers(path: Path, column: pl.Series, unit: str | None, notes: list[str]) -> pl.Series:
    """Counts since 1970, each in the unit its size tells unless one was named."""
    counts = column.cast(pl.Int64, strict=False)
    low = _BOUNDS[0][0] if unit is None else 0
    wrong = counts.is_null() | (counts < low) | (counts > _LONGEST)
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise FileError(
            path, f"row {row + 1} of the data: {column[row]} is not a time since 1970 in s, ms, us or ns"
        )
    frame = counts.alias("count").to_frame()
    if unit is not None:
        frame = frame.with_columns(ns=pl.lit(_NS_OF[unit]), unit=pl.lit(unit))
    else:
        size: pl.Expr = pl.lit(_BOUNDS[0][1])
        for bound, name in _BOUNDS[1:]:
            size = pl.when(pl.col("count") >= bound).then(pl.lit(name)).otherwise(size)
        frame = frame.with_columns(unit=size).with_columns(
            ns=pl.col("unit").replace_strict(_NS_OF, return_dtype=pl.Int64)
        )
    units = frame["unit"].unique().sort().to_list()
    if len(units) > 1:
        notes.append(f"the times change unit within the file ({', '.join(units)}); each was read by its size")
    per_ms = _NS_OF["ms"]
    stamps = frame.select(
        ms=pl.when(pl.col("ns") >= per_ms)
        .then(pl.col("count") * (pl.col("ns") // per_ms))
        .otherwise(pl.col("count") // (per_ms // pl.col("ns").clip(1, per_ms))),
        rest=pl.when(pl.col("ns") >= per_ms).then(0).otherwise(pl.col("count") % (per_ms // pl.col("ns"))),
    )
    if (stamps["rest"] != 0).any():
        raise FileError(path, "its times are finer than a millisecond: these are not open times")
    return stamps["ms"].cast(_UTC_MS)


def _from_text(path: Path, text: pl.Series) -> pl.Series:
    """ISO 8601 dates and times, each with the offset it states."""
    parts = text.str.extract_groups(_ISO).struct.unnest()
    whole = {name: pl.col(name).cast(pl.Int64).fill_null(0) for name in ("h", "mi", "s", "oh", "om")}
    fraction = pl.col("f").fill_null("0").str.pad_end(9, "0").cast(pl.Int64)
    offset = pl.duration(hours=whole["oh"], minutes=whole["om"])
    frame = parts.with_columns(fraction=fraction).select(
        "fraction",
        ok=pl.col("y").is_not_null()
        & pl.col("mo").cast(pl.Int64).is_between(1, 12)
        & (whole["h"] < 24) & (whole["mi"] < 60) & (whole["s"] < 60)
        & (whole["oh"] < 24) & (whole["om"] < 60),
        day=pl.format("{}-{}-{}", "y", pl.col("mo").str.zfill(2), pl.col("d").str.zfill(2)).str.to_date(
            "%Y-%m-%d", strict=False
        ),
        clock=pl.duration(
            hours=whole["h"], minutes=whole["mi"], seconds=whole["s"], milliseconds=fraction // 10**6
        ),
        offset=pl.when(pl.col("sign") == "-").then(-offset).otherwise(offset),
    )  # fmt: skip
    wrong = ~frame["ok"].fill_null(False) | frame["day"].is_null()
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise FileError(
            path, f"row {row + 1} of the data: {text[row]!r} is no time of the form 2024-05-31 23:55:00+00:00"
        )
    if (frame["fraction"] % 10**6 != 0).any():
        raise FileError(path, "its times are finer than a millisecond: these are not open times")
    return frame.select(
        (pl.col("day").cast(_UTC_MS) + pl.col("clock") - pl.col("offset")).cast(_UTC_MS).alias("open_time")
    )["open_time"]
