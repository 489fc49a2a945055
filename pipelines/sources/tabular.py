"""A table out of whatever kind of file it is in, before anybody asks what the columns mean.

Delimited text comes as text (the caller decides what is a number); Parquet, Feather and JSON keep their
types.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from pathlib import Path

import polars as pl

_SEPARATORS = ",;\t|"
# Columns of the files that come without a header line: the archives of Binance, and bare candles.
_HEADERLESS = {
    12: ("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count",
         "taker_buy_volume", "taker_buy_quote_volume", "ignore"),
}  # fmt: skip
_FREQTRADE = ("date", "open", "high", "low", "close", "volume")


class FileError(ValueError):
    """A file that cannot be taken for candles; the text has its path and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


def read_table(path: Path) -> pl.DataFrame:
    """The file as a table with at least one row and distinct column names; its content tells its kind.

    A folder is one table in several Parquet files, in the order of their names.
    """
    if path.is_dir():
        parts = [read_table(part) for part in sorted(path.glob("*.parquet"))]
        if not parts:
            raise FileError(path, "is a folder without Parquet files")
        return pl.concat(parts)
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(path, f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not content.strip():
        raise FileError(path, "is empty")
    try:
        table = _parse(path, content)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FileError(path, f"is not a readable table ({str(error).splitlines()[0]})") from error
    if not table.height:
        raise FileError(path, "has no rows")
    return table


def _parse(path: Path, content: bytes) -> pl.DataFrame:
    if content[:4] == b"PAR1":
        return pl.read_parquet(io.BytesIO(content))
    if content[:6] == b"ARROW1":
        return pl.read_ipc(io.BytesIO(content))
    if content[:4] == b"FEA1":
        raise FileError(path, "is Feather version 1; write it anew as version 2 (or as Parquet)")
    if content[:2] == b"PK":
        raise FileError(path, "is a zip archive; unpack it first")
    if content.lstrip()[:1] in (b"[", b"{"):
        return _parse_json(path, content)
    return _parse_text(path, content)


def _parse_json(path: Path, content: bytes) -> pl.DataFrame:
    """Freqtrade's JSON: a list of `[ms, open, high, low, close, volume]`."""
    rows = json.loads(content)
    width = len(_FREQTRADE)
    if not isinstance(rows, list) or any(not isinstance(row, list) or len(row) != width for row in rows):
        raise FileError(path, f"JSON is understood as a list of [{', '.join(_FREQTRADE)}] only")
    numeric = all(isinstance(value, int | float) for row in rows for value in row)
    if not numeric:
        raise FileError(path, "JSON candles hold something that is not a number")
    columns = [[row[index] for row in rows] for index in range(width)]
    return pl.DataFrame(
        [pl.Series(name, values, dtype=pl.Int64 if name == "date" else pl.Float64, strict=False)
         for name, values in zip(_FREQTRADE, columns, strict=True)]
    )  # fmt: skip


def _parse_text(path: Path, content: bytes) -> pl.DataFrame:
    """Delimited text; every column stays text. A first line that is only a web address is skipped."""
    text = content.decode("utf-8-sig").lstrip("\r\n")
    first, _, rest = text.partition("\n")
    if "://" in first:
        text = rest
        first = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=first.count)
    names = [name.strip().strip('"') for name in first.rstrip("\r").split(separator)]
    if len(names) < 2:
        raise FileError(path, f"is not a table: its first line is {first[:60]!r}")
    headed = not all(_is_number(name) for name in names)
    if headed:
        text = text.partition("\n")[2]
    else:
        names = list(_HEADERLESS.get(len(names), (f"column_{index + 1}" for index in range(len(names)))))
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise FileError(path, f"has several columns called {doubles}")
    if not text.strip():
        raise FileError(path, f"has a header ({names}) and no rows")
    return pl.read_csv(
        text.encode(), has_header=False, new_columns=names, separator=separator, infer_schema=False,
        schema=dict.fromkeys(names, pl.String),
    )  # fmt: skip


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
