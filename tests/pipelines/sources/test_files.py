"""Files: every layout that is about reads the same, real ones included; what is not understood says so."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from pipelines.candles import SCHEMA
from pipelines.sources.files import read_candles, read_file
from pipelines.sources.tabular import FileError
from pipelines.store import CandleStore
from pipelines.tables import BadRows
from tests.pipelines.bars import START, make_bars

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data"))

BARS = make_bars(20, interval="1h").with_columns(pl.col("turnover").round(6))
STAMPS = BARS["open_time"].to_physical()
EXPECTED = BARS.select(pl.lit("BTCUSDT").alias("symbol"), pl.all())
OHLCV = BARS.select("open", "high", "low", "close", "volume")
ESTIMATED = EXPECTED.with_columns(turnover=pl.col("volume") * pl.col("close"))


def _csv(
    times: pl.Series, rest: pl.DataFrame, *names: str, header: bool = True, separator: str = ","
) -> bytes:
    table = pl.DataFrame([times.alias("time"), *rest.get_columns()])
    if header:
        table.columns = list(names)
    return table.write_csv(include_header=header, separator=separator).encode()


def _text(pattern: str) -> pl.Series:
    return BARS["open_time"].dt.strftime(pattern)


def _binance(header: bool, per_ms: int = 1) -> bytes:
    """The layout of Binance's archives, with which older ones come without the header line."""
    zero = pl.lit(0)
    table = BARS.select(
        open_time=STAMPS * per_ms, open="open", high="high", low="low", close="close", volume="volume",
        close_time=(STAMPS + 3_599_999) * per_ms, quote_volume="turnover", count=zero,
        taker_buy_volume=zero, taker_buy_quote_volume=zero, ignore=zero,
    )  # fmt: skip
    return table.write_csv(include_header=header).encode()


def _cryptodatadownload(unix: pl.Series) -> bytes:
    table = BARS.select(
        unix.alias("unix"),
        _text("%Y-%m-%d %H:%M:%S").alias("date"),
        pl.lit("BTC/USDT").alias("symbol"),
        *("open", "high", "low", "close"),
        pl.col("volume").alias("Volume BTC"),
        pl.col("turnover").alias("Volume USDT"),
    )
    return b"https://www.CryptoDataDownload.com\n" + table.reverse().write_csv().encode()


def _binary(write: Callable[[pl.DataFrame, Path], object], frame: pl.DataFrame, folder: Path) -> bytes:
    write(frame, folder / "scratch")
    return (folder / "scratch").read_bytes()


FREQTRADE = BARS.select(pl.col("open_time").alias("date"), *OHLCV.columns)
FULL = ("open_time", "open", "high", "low", "close", "volume", "turnover")
SIX = ("Date", "Open", "High", "Low", "Close", "Volume")
WHOLE = BARS.drop("open_time")

TEXTS: dict[str, tuple[bytes, pl.DataFrame]] = {
    "ours": (_csv(_text("%Y-%m-%dT%H:%M:%S%.3fZ"), WHOLE, *FULL), EXPECTED),
    "ours, whole frame": (EXPECTED.write_csv().encode(), EXPECTED),
    "milliseconds": (_csv(STAMPS, WHOLE, *FULL), EXPECTED),
    "seconds": (_csv(STAMPS // 1000, OHLCV, "timestamp", *OHLCV.columns), ESTIMATED),
    "seconds as floats": (_csv(STAMPS / 1000, OHLCV, "time", *OHLCV.columns), ESTIMATED),
    "microseconds": (_csv(STAMPS * 1000, OHLCV, "t", "o", "h", "l", "c", "v"), ESTIMATED),
    "nanoseconds": (_csv(STAMPS * 10**6, OHLCV, "ts", *OHLCV.columns), ESTIMATED),
    "naive ISO": (_csv(_text("%Y-%m-%d %H:%M"), OHLCV, *SIX), ESTIMATED),
    "ISO with offset": (
        _csv(
            BARS["open_time"].dt.convert_time_zone("Asia/Kolkata").dt.strftime("%Y-%m-%d %H:%M:%S%:z"),
            OHLCV,
            *SIX,
        ),
        ESTIMATED,
    ),
    "ISO west of Greenwich": (
        _csv(
            BARS["open_time"].dt.convert_time_zone("America/New_York").dt.strftime("%Y-%m-%dT%H:%M:%S%z"),
            OHLCV,
            *SIX,
        ),
        ESTIMATED,
    ),
    "semicolons": (_csv(STAMPS, OHLCV, *SIX, separator=";"), ESTIMATED),
    "tabs, byte order mark, CRLF": (
        b"\xef\xbb\xbf" + _csv(STAMPS, OHLCV, *SIX, separator="\t").replace(b"\n", b"\r\n"),
        ESTIMATED,
    ),
    "descending": (_csv(STAMPS.reverse(), OHLCV.reverse(), *SIX), ESTIMATED),
    "Binance with header": (_binance(True), EXPECTED),
    "Binance without header": (_binance(False), EXPECTED),
    "Binance since 2025, microseconds": (_binance(False, 1000), EXPECTED),
    "CryptoDataDownload, seconds": (_cryptodatadownload(STAMPS // 1000), EXPECTED),
    "CryptoDataDownload, milliseconds": (_cryptodatadownload(STAMPS), EXPECTED),
    "CryptoDataDownload, both": (
        _cryptodatadownload(pl.concat([STAMPS[:9] // 1000, STAMPS[9:]])),
        EXPECTED,
    ),
    "gzip": (gzip.compress(_csv(STAMPS, OHLCV, *SIX), mtime=0), ESTIMATED),
    "freqtrade JSON": (
        json.dumps([[int(t), *row] for t, row in zip(STAMPS, OHLCV.iter_rows(), strict=True)]).encode(),
        ESTIMATED,
    ),
}


@pytest.mark.parametrize("layout", TEXTS)
def test_every_text_layout_reads_the_same(tmp_path: Path, layout: str) -> None:
    content, expected = TEXTS[layout]
    path = tmp_path / "candles"
    path.write_bytes(content)
    frame, notes = read_file(path, symbol="BTCUSDT", interval="1h")
    assert frame.schema == SCHEMA
    assert frame.equals(expected)
    assert ("the file has no turnover; it is taken as volume x close" in notes) == (expected is ESTIMATED)
    assert any("change unit" in note for note in notes) == (layout == "CryptoDataDownload, both")


BINARY: dict[str, tuple[Callable[[pl.DataFrame, Path], object], pl.DataFrame, pl.DataFrame]] = {
    "our Parquet": (pl.DataFrame.write_parquet, EXPECTED, EXPECTED),
    "Parquet, ns, naive": (
        pl.DataFrame.write_parquet,
        BARS.with_columns(pl.col("open_time").dt.cast_time_unit("ns").dt.replace_time_zone(None)),
        EXPECTED,
    ),
    "Parquet, another zone": (
        pl.DataFrame.write_parquet,
        BARS.with_columns(pl.col("open_time").dt.convert_time_zone("Europe/Berlin")),
        EXPECTED,
    ),
    "Parquet, milliseconds": (pl.DataFrame.write_parquet, BARS.with_columns(STAMPS), EXPECTED),
    "freqtrade Feather": (lambda frame, path: frame.write_ipc(path, compression="lz4"), FREQTRADE, ESTIMATED),
}


@pytest.mark.parametrize("layout", BINARY)
def test_every_binary_layout_reads_the_same(tmp_path: Path, layout: str) -> None:
    write, frame, expected = BINARY[layout]
    write(frame, tmp_path / "candles")
    assert read_candles(tmp_path / "candles", symbol="BTCUSDT", interval="1h").equals(expected)


def test_a_mapping_names_the_columns_of_anything_else(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_bytes(_csv(STAMPS // 1000, OHLCV, "Opened", "First", "Top", "Bottom", "close", "close price"))
    mapping = {
        "open_time": "Opened",
        "open": "First",
        "high": "Top",
        "low": "Bottom",
        "volume": "close price",
    }
    assert read_candles(path, symbol="BTCUSDT", interval="1h", mapping=mapping).equals(ESTIMATED)
    path.write_bytes(_csv(STAMPS, OHLCV, header=False))
    mapping = dict(zip(["open_time", *OHLCV.columns], [f"column_{i}" for i in range(1, 7)], strict=True))
    assert read_candles(path, symbol="BTCUSDT", interval="1h", mapping=mapping).equals(ESTIMATED)
    with pytest.raises(FileError, match=r"the mapping points to \['Opened'\]"):
        read_candles(path, symbol="BTCUSDT", interval="1h", mapping={"open_time": "Opened"})
    with pytest.raises(FileError, match=r"the mapping names \['opening'\]"):
        read_candles(path, symbol="BTCUSDT", interval="1h", mapping={"opening": "column_1"})


def test_a_named_unit_wins_over_the_size(tmp_path: Path) -> None:
    path = tmp_path / "early.csv"
    path.write_bytes(_csv(STAMPS - STAMPS[0], OHLCV, *SIX))
    times = read_candles(path, symbol="X", interval="1h", time_unit="ms")["open_time"]
    assert times[0] == datetime(1970, 1, 1, tzinfo=UTC)
    with pytest.raises(FileError, match="row 1 of the data: 0 is not a time since 1970"):
        read_candles(path, symbol="X", interval="1h")
    with pytest.raises(FileError, match="time unit 'h' is unknown"):
        read_candles(path, symbol="X", interval="1h", time_unit="h")


def test_the_symbol_decides_which_volume_is_which(tmp_path: Path) -> None:
    path = tmp_path / "ethbtc.csv"
    path.write_bytes(_csv(STAMPS, WHOLE, "unix", "open", "high", "low", "close", "Volume ETH", "Volume BTC"))
    assert read_candles(path, symbol="ETHBTC", interval="1h").drop("symbol").equals(BARS)
    swapped = ("unix", "open", "high", "low", "close", "Volume BTC", "Volume ETH")
    path.write_bytes(_csv(STAMPS, WHOLE, *swapped))
    frame, notes = read_file(path, symbol="ETHBTC", interval="1h")
    assert frame["volume"].equals(BARS["turnover"], check_names=False)
    assert any(note.startswith("20 of 20 rows") and "swapped" in note for note in notes)


def test_a_file_of_many_symbols_gives_the_one_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "many.parquet"
    pl.concat([EXPECTED.with_columns(symbol=pl.lit("ETHUSDT")), EXPECTED]).write_parquet(path)
    assert read_candles(path, symbol="BTCUSDT", interval="1h").equals(EXPECTED)
    with pytest.raises(FileError, match=r"holds the symbols \['BTCUSDT', 'ETHUSDT'\], none of them XRPUSDT"):
        read_candles(path, symbol="XRPUSDT", interval="1h")
    EXPECTED.write_parquet(path)
    frame, notes = read_file(path, symbol="XRPUSDT", interval="1h")
    assert frame["symbol"].unique().to_list() == ["XRPUSDT"]
    assert notes == ("the file calls its symbol 'BTCUSDT'; it is read as XRPUSDT",)


def test_defects_go_through_to_validation_and_the_store_refuses_them(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    rows = pl.concat([EXPECTED[:8], EXPECTED[7:8], EXPECTED[10:]]).with_columns(
        close=pl.when(pl.int_range(pl.len()) == 3).then(float("nan")).otherwise("close")
    )
    path.write_bytes(rows.write_csv().encode())
    frame = read_candles(path, symbol="BTCUSDT", interval="1h")
    assert frame.height == 19
    assert frame["open_time"].is_duplicated().sum() == 2
    assert frame["close"].is_nan().sum() == 1
    with pytest.raises(BadRows, match=r"close not finite: 1.*unsorted or duplicate\): 1"):
        CandleStore(tmp_path / "store").append("BTCUSDT", "1h", frame)
    shuffled = pl.concat([EXPECTED[10:], EXPECTED[:10]])
    path.write_bytes(shuffled.write_csv().encode())
    frame, notes = read_file(path, symbol="BTCUSDT", interval="1h")
    assert frame.equals(shuffled)
    assert notes == ("the rows are in no order of time; they are left as they are",)


ROW = b"2024-01-31 00:00:00,1,2,1,2,5\n"
HEAD = b"date,open,high,low,close,volume\n"
GARBAGE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "blank": (b"\n \n", "is empty"),
    "header only": (HEAD, "no rows"),
    "binary": (bytes(range(128, 256)) * 40, "not a readable table"),
    "prose": (b"The candles are in the other folder.\n", "not a table"),
    "web page": (b"<html><body>404</body></html>", "not a table"),
    "cut Parquet": (b"PAR1" + bytes(60), "not a readable table"),
    "cut Feather": (b"ARROW1" + bytes(60), "not a readable table"),
    "Feather 1": (b"FEA1" + bytes(60), "version 2"),
    "cut gzip": (gzip.compress(HEAD + ROW * 99)[:40], "cannot be read"),
    "zip": (b"PK\x03\x04" + bytes(60), "unpack it first"),
    "JSON object": (b'{"candles": []}', r"list of \[date, open"),
    "cut JSON": (b"[[1706659200000, 1, 2, 1,", "not a readable table"),
    "JSON of text": (b'[["a", 1, 2, 1, 2, 5]]', "not a number"),
    "no volume": (b"date,open,high,low,close\n2024-01-31,1,2,1,2\n", r"no column for \['volume'\]"),
    "unknown names": (b"a,b,c,d,e,f\n1,2,3,4,5,6\n", "no column for.*or give a mapping"),
    "no header, six columns": (b"1706659200000,1,2,1,2,5\n", "column_1"),
    "two times": (b"time,date,open,high,low,close,volume\n1,1,1,2,1,2,5\n", "could each be open_time"),
    "two volumes": (b"date,open,high,low,close,vol,volume\n1,1,2,1,2,5,6\n", "could each be volume"),
    "doubled name": (b"date,open,open,low,close,volume\n1,1,2,1,2,5\n", r"several columns called \['open'\]"),
    "text for a price": (
        HEAD + ROW + b"2024-01-31 01:00:00,1,n/a,1,2,5\n",
        "row 2 of the data: high is 'n/a'",
    ),
    "cut last row": (HEAD + ROW + b"2024-01-31 01:00:00,1,2", "row 2 of the data: low is None"),
    "long row": (HEAD + ROW + b"2024-01-31 01:00:00,1,2,1,2,5,9,9\n", "not a readable table"),
    "no time": (HEAD + ROW + b",1,2,1,2,5\n", "row 2 of the data has no time"),
    "American date": (HEAD + b"01/31/2024,1,2,1,2,5\n", "'01/31/2024' is no time"),
    "the 30th of February": (HEAD + b"2024-02-30,1,2,1,2,5\n", "'2024-02-30' is no time"),
    "hour 25": (HEAD + b"2024-01-31 25:00:00,1,2,1,2,5\n", "is no time"),
    "half a millisecond": (HEAD + b"2024-01-31 00:00:00.0005,1,2,1,2,5\n", "finer than a millisecond"),
    "odd microseconds": (HEAD + b"1706659200000001,1,2,1,2,5\n", "finer than a millisecond"),
    "a negative time": (HEAD + b"-5,1,2,1,2,5\n", "is no time"),
    "huge time": (HEAD + b"99999999999999999999999,1,2,1,2,5\n", "not a time since 1970"),
    "other interval": (HEAD + ROW + b"2024-01-31 00:05:00,1,2,1,2,5\n", "5 minutes apart, not 1h"),
}


@pytest.mark.parametrize("fault", GARBAGE)
def test_what_is_not_understood_is_one_clear_error(tmp_path: Path, fault: str) -> None:
    content, reason = GARBAGE[fault]
    path = tmp_path / "candles.csv"
    path.write_bytes(content)
    with pytest.raises(FileError, match=reason) as caught:
        read_candles(path, symbol="BTCUSDT", interval="1h")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_a_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.csv: cannot be read \(No such file"):
        read_candles(tmp_path / "none.csv", symbol="BTCUSDT", interval="1h")
    with pytest.raises(FileError, match="is a folder without Parquet files"):
        read_candles(tmp_path, symbol="BTCUSDT", interval="1h")


def test_a_whole_file_goes_into_the_store_with_its_holes_known(tmp_path: Path) -> None:
    path = tmp_path / "candles.parquet"
    pl.concat([EXPECTED[:5], EXPECTED[8:]]).write_parquet(path)
    frame = read_candles(path, symbol="BTCUSDT", interval="1h")
    store = CandleStore(tmp_path / "store", source="files")
    end = START + 20 * 3_600_000
    store.append("BTCUSDT", "1h", frame, fetched=(START, end))
    assert store.missing_ranges("BTCUSDT", "1h", START, end) == []
    assert store.scan(["BTCUSDT"], "1h", START, end).collect().equals(frame)


# -- real files --------------------------------------------------------------------------------------

REAL = {
    "bybit/BTCUSDT_5m.csv": ("BTCUSDT", "5m", 25920, "2025-04-03 17:05", "2025-07-02 17:00"),
    "bybit/BTCUSDT_15m.csv": ("BTCUSDT", "15m", 8640, "2025-04-03 17:15", "2025-07-02 17:00"),
    "bybit/BTCUSDT_60m.csv": ("BTCUSDT", "1h", 720, "2025-05-30 17:00", "2025-06-29 16:00"),
    "bybit/BTCUSDT_240m.csv": ("BTCUSDT", "4h", 180, "2025-05-30 20:00", "2025-06-29 16:00"),
    "bybit/ETHUSDT_5m.csv": ("ETHUSDT", "5m", 25920, "2025-04-03 17:05", "2025-07-02 17:00"),
    "bybit/ETHUSDT_15m.csv": ("ETHUSDT", "15m", 8640, "2025-04-03 17:15", "2025-07-02 17:00"),
    "bybit/ETHUSDT_60m.csv": ("ETHUSDT", "1h", 720, "2025-05-30 17:00", "2025-06-29 16:00"),
    "bybit/ETHUSDT_240m.csv": ("ETHUSDT", "4h", 180, "2025-05-30 20:00", "2025-06-29 16:00"),
    "binance_usdm/BTCUSDT_1h.csv": ("BTCUSDT", "1h", 37660, "2020-01-01 00:00", "2024-04-18 03:00"),
    "bitstamp/BTCUSD_1h.csv": ("BTCUSD", "1h", 33259, "2018-05-15 06:00", "2022-03-01 00:00"),
    "defects/bybit_BTCUSDT_1m_42gaps.csv": ("BTCUSDT", "1m", 43158, "2025-05-29 17:05", "2025-06-28 17:04"),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_read_whole(tmp_path: Path, name: str) -> None:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not here (set SHARED_DATA)")
    symbol, interval, rows, first, last = REAL[name]
    frame, notes = read_file(path, symbol=symbol, interval=interval)
    times = frame["open_time"]
    assert (frame.height, f"{times[0]:%Y-%m-%d %H:%M}", f"{times[-1]:%Y-%m-%d %H:%M}") == (rows, first, last)
    assert times.is_sorted()
    if name.startswith("bitstamp"):
        # A defect of that file: until 12 October 2020 its volume column holds dollars and the other coins.
        assert notes == (
            "20143 of 33259 rows, between 2018-05-15 06:00 and 2020-10-12 08:00, have a turnover that is not "
            "near volume x close; the two columns may be swapped there",
        )
    else:
        assert notes == ("the file has no turnover; it is taken as volume x close",)
    store = CandleStore(tmp_path, source="files")
    assert store.append(symbol, interval, frame).added == rows
    if name.startswith("defects"):
        assert len(store.manifest(symbol, interval).fetched) == 43  # 42 holes
