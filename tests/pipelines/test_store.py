"""The store: append only, all or nothing, same content same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import locks
from pipelines.locks import StoreLocked, exclusive, take_with_file
from pipelines.manifest import StoreDamaged, StoreError, subtract, union
from pipelines.store import CandleStore, Store, StoreConflict
from pipelines.tables import BadRows
from tests.pipelines.bars import START, make_bars, tree
from tests.pipelines.children import DAYS, append_and_die, append_pieces, forks, hold, wait_for

MINUTE = 60_000
BARS = make_bars(DAYS)  # 31 January to 2 February 2024
END = START + BARS.height * MINUTE
FOREVER = (0, 4_102_444_800_000)

ranges = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    max_size=6,
)


@pytest.fixture
def store(tmp_path: Path) -> CandleStore:
    return CandleStore(tmp_path / "store", lock_timeout=0.05)


@given(ranges, ranges)
def test_ranges_are_sets(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    points = {p for a, b in one for p in range(a, b)}
    taken = {p for a, b in other for p in range(a, b)}
    merged, left = union(one), subtract(one, other)
    assert [p for a, b in merged for p in range(a, b)] == sorted(points)
    assert [p for a, b in left for p in range(a, b)] == sorted(points - taken)
    assert all(end < start for (_, end), (start, _) in pairwise(merged))


def test_what_is_stored_is_read_back(store: CandleStore) -> None:
    assert store.append("BTCUSDT", "1m", BARS, fetched=(START, END)) == (BARS.height, 0)
    read = store.scan(["BTCUSDT"], "1m", *FOREVER).collect()
    assert read.equals(BARS.select(pl.lit("BTCUSDT").alias("symbol"), pl.all()))
    assert read.schema == store.table.schema
    manifest = store.manifest("BTCUSDT", "1m")
    assert (manifest.rows, manifest.first, manifest.last) == (BARS.height, START, END - MINUTE)
    assert manifest.fetched == ((START, END),)
    assert list(manifest.partitions) == ["2024-01", "2024-02"]
    assert store.verify() == []


def test_the_window_is_half_open_and_takes_aware_datetimes(store: CandleStore) -> None:
    store.append("BTCUSDT", "1m", BARS)
    first, last = datetime(2024, 1, 31, 0, 5, tzinfo=UTC), datetime(2024, 1, 31, 0, 8, tzinfo=UTC)
    times = store.scan(["BTCUSDT"], "1m", first, last).collect()["open_time"].to_list()
    assert times == [datetime(2024, 1, 31, 0, minute, tzinfo=UTC) for minute in (5, 6, 7)]
    with pytest.raises(StoreError, match="no time zone"):
        store.scan(["BTCUSDT"], "1m", datetime(2024, 1, 31), last)


def test_missing_ranges_know_holes_that_were_asked_for(store: CandleStore) -> None:
    assert store.missing_ranges("BTCUSDT", "1m", START, END) == [(START, END)]
    empty = BARS.clear()
    store.append("BTCUSDT", "1m", empty, fetched=(START, START + 10 * MINUTE))
    store.append("BTCUSDT", "1m", BARS[20:30], fetched=(START + 15 * MINUTE, START + 30 * MINUTE))
    assert store.missing_ranges("BTCUSDT", "1m", START, START + 40 * MINUTE) == [
        (START + 10 * MINUTE, START + 15 * MINUTE),
        (START + 30 * MINUTE, START + 40 * MINUTE),
    ]
    # Bounds off the grid mean the whole bars that open inside them.
    assert store.missing_ranges("BTCUSDT", "1m", START + 9 * MINUTE + 1, START + 10 * MINUTE + 1) == [
        (START + 10 * MINUTE, START + 11 * MINUTE)
    ]
    assert store.missing_ranges("BTCUSDT", "1m", END, START) == []


def test_rows_vouch_only_for_themselves_without_a_fetched_range(store: CandleStore) -> None:
    store.append("BTCUSDT", "1m", pl.concat([BARS[:5], BARS[7:9]]))
    assert store.manifest("BTCUSDT", "1m").fetched == (
        (START, START + 5 * MINUTE),
        (START + 7 * MINUTE, START + 9 * MINUTE),
    )


def test_the_same_rows_again_change_nothing(store: CandleStore, tmp_path: Path) -> None:
    store.append("BTCUSDT", "1m", BARS)
    before = tree(tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in store.folder.rglob("*") if path.is_file()}
    assert store.append("BTCUSDT", "1m", BARS[100:2000]) == (0, 1900)
    assert tree(tmp_path) == before
    assert {path: path.stat().st_mtime_ns for path in store.folder.rglob("*") if path.is_file()} == stamps


def test_a_differing_row_is_a_conflict_and_nothing_is_written(store: CandleStore, tmp_path: Path) -> None:
    store.append("BTCUSDT", "1m", BARS[:2000])
    before = tree(tmp_path)
    revised = BARS[1400:3000].with_columns(
        volume=pl.when(pl.int_range(pl.len()).is_in([3, 59])).then(pl.col("volume") + 1).otherwise("volume")
    )
    with pytest.raises(StoreConflict, match=r"BTCUSDT 1m: 2 rows differ.*2024-01-31 23:23:00") as caught:
        store.append("BTCUSDT", "1m", revised)
    january, february = caught.value.conflicts
    assert january.time == datetime(2024, 1, 31, 23, 23, tzinfo=UTC)
    assert february.time == datetime(2024, 2, 1, 0, 19, tzinfo=UTC)
    old = float(BARS["volume"][1403])
    assert (january.symbol, january.stored, january.offered) == (
        "BTCUSDT",
        {"volume": old},
        {"volume": old + 1},
    )
    assert tree(tmp_path) == before


def _nudge(row: int, **values: object) -> pl.DataFrame:
    here = pl.int_range(pl.len()) == row
    return BARS[:50].with_columns(
        pl.when(here).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
    )


REFUSED = {
    "unsorted": (BARS[:50].reverse(), "unsorted or duplicate"),
    "duplicate": (pl.concat([BARS[:50], BARS[49:50]]), r"unsorted or duplicate\): 1"),
    "off the grid": (BARS[:50].with_columns(pl.col("open_time").dt.offset_by("1s")), "off the 1m grid: 50"),
    "not a number": (_nudge(7, close=float("nan")), "close not finite"),
    "infinite": (_nudge(7, volume=float("inf")), "volume not finite"),
    "null": (_nudge(7, turnover=None), "turnover null: 1"),
    "negative volume": (_nudge(7, volume=-1.0), "volume negative"),
    "zero price": (_nudge(7, low=0.0), "low not positive"),
    "high too low": (_nudge(7, high=1.0), "close above high"),
    "low too high": (_nudge(7, low=1e6), "low above open"),
    "other symbol": (BARS[:50].with_columns(symbol=pl.lit("ETHUSDT")), "symbol other than BTCUSDT: 50"),
    "no volume": (BARS[:50].drop("volume"), "'volume'.* are missing"),
    "text": (BARS[:50].with_columns(pl.col("close").cast(pl.String)), "column close is String"),
    "naive time": (
        BARS[:50].with_columns(pl.col("open_time").dt.replace_time_zone(None)),
        "open_time is Datetime",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_bad_rows_are_refused_whole(store: CandleStore, tmp_path: Path, fault: str) -> None:
    frame, reason = REFUSED[fault]
    with pytest.raises(BadRows, match=reason):
        store.append("BTCUSDT", "1m", frame)
    assert tree(tmp_path) == {}


def test_rows_outside_the_fetched_range_are_refused(store: CandleStore) -> None:
    with pytest.raises(StoreError, match="outside the fetched range"):
        store.append("BTCUSDT", "1m", BARS[:50], fetched=(START, START + 49 * MINUTE))


@pytest.mark.parametrize("symbol", ["../evil", "", "a/b", ".hidden", "BTC USDT"])
def test_a_symbol_is_never_a_path(store: CandleStore, symbol: str) -> None:
    with pytest.raises(StoreError, match="symbol"):
        store.append(symbol, "1m", BARS[:5])


def test_unknown_names_are_clear_errors(store: CandleStore, tmp_path: Path) -> None:
    store.append("BTCUSDT", "1m", BARS[:5])
    with pytest.raises(StoreError, match="no candles of ETHUSDT at 1m"):
        store.scan(["BTCUSDT", "ETHUSDT"], "1m", *FOREVER)
    with pytest.raises(ValueError, match="interval '7m' is unknown"):
        store.missing_ranges("BTCUSDT", "7m", *FOREVER)
    with pytest.raises(StoreError, match="kind 'trades' is unknown"):
        Store(tmp_path, kind="trades")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_order_and_partition_of_appends_gives_the_same_bytes(tmp_path: Path, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, BARS.height - 1), max_size=6)))
    pieces = list(zip([0, *cuts], [*cuts, BARS.height], strict=True))
    again = data.draw(st.lists(st.sampled_from(pieces), max_size=2))
    root = tmp_path / str(time.monotonic_ns())
    whole, parts = CandleStore(root / "whole"), CandleStore(root / "parts")
    whole.append("BTCUSDT", "1m", BARS)
    for begin, end in data.draw(st.permutations(pieces + again)):
        parts.append("BTCUSDT", "1m", BARS[begin:end])
    assert tree(root / "parts") == tree(root / "whole")
    shutil.rmtree(root)


def test_interleaved_rows_and_chunked_frames_give_the_same_bytes(tmp_path: Path) -> None:
    whole, parts = CandleStore(tmp_path / "whole"), CandleStore(tmp_path / "parts")
    whole.append("BTCUSDT", "1m", BARS)
    parts.append("BTCUSDT", "1m", pl.concat([BARS[1::2][:500], BARS[1::2][500:]], rechunk=False))
    parts.append("BTCUSDT", "1m", BARS[::2].with_columns(volume=pl.col("volume") * -1 * -1))
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_minus_zero_has_the_bytes_of_zero(tmp_path: Path) -> None:
    for name, zero in (("plus", 0.0), ("minus", -0.0)):
        CandleStore(tmp_path / name).append("BTCUSDT", "1m", BARS[:9].with_columns(volume=pl.lit(zero)))
    assert tree(tmp_path / "plus") == tree(tmp_path / "minus")


def test_only_the_files_of_the_window_are_read(store: CandleStore) -> None:
    hours = make_bars(24 * 120, start=1_704_067_200_000, interval="1h")  # January to April 2024
    for symbol in ("BTCUSDT", "ETHUSDT", "XRPUSDT"):
        store.append(symbol, "1h", hours)
    first, last = datetime(2024, 2, 10, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)
    files = store.files(["BTCUSDT", "XRPUSDT"], "1h", first, last)
    assert [(path.parts[-3], path.name[:7]) for path in files] == [
        ("BTCUSDT", "2024-02"),
        ("XRPUSDT", "2024-02"),
    ]
    lazy = store.scan(["BTCUSDT", "XRPUSDT"], "1h", first, last).filter(pl.col("close") > 0)
    plan = lazy.select("symbol", "close").explain()
    assert "2024-01-" not in plan.replace("2024-01-01 ", "")
    assert plan.count(".parquet") == 2
    assert "SELECTION: " in plan
    assert "FILTER" not in plan
    # The proof that the others are never opened: ruin them.
    for path in store.folder.rglob("*.parquet"):
        if path not in files:
            path.write_bytes(b"\0" * path.stat().st_size)
    assert lazy.collect().height == 2 * 20 * 24


def test_every_symbol_is_read_in_order(store: CandleStore) -> None:
    for symbol in ("XRPUSDT", "BTCUSDT", "ETHUSDT"):
        store.append(symbol, "1m", BARS[:3])
    read = store.scan(None, "1m", *FOREVER).collect()
    assert read["symbol"].unique(maintain_order=True).to_list() == ["BTCUSDT", "ETHUSDT", "XRPUSDT"]
    assert store.scan([], "1m", *FOREVER).collect().height == 0
    assert store.scan(["BTCUSDT"], "1m", 0, 1).collect().schema == store.table.schema


# -- damage ------------------------------------------------------------------------------------------


def _partition(store: Store, month: str) -> Path:
    return next(path for path in store.folder.rglob("*.parquet") if path.name.startswith(month))


@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_a_lost_or_cut_month_is_fetched_again_and_then_whole(
    store: CandleStore, tmp_path: Path, harm: str
) -> None:
    store.append("BTCUSDT", "1m", BARS)
    before = tree(tmp_path)
    path = _partition(store, "2024-02")
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])
    february = 1_706_745_600_000
    assert [damage.path for damage in store.verify()] == [path]
    with pytest.raises(StoreDamaged, match="2024-02"):
        store.scan(["BTCUSDT"], "1m", *FOREVER)
    assert store.scan(["BTCUSDT"], "1m", START, february).collect().height == 1440
    assert store.missing_ranges("BTCUSDT", "1m", START, END) == [(february, END)]
    store.append("BTCUSDT", "1m", BARS[1440:])
    assert tree(tmp_path) == before


def test_flipped_bits_are_found_and_never_built_upon(store: CandleStore, tmp_path: Path) -> None:
    store.append("BTCUSDT", "1m", BARS[:4000])
    path = _partition(store, "2024-02")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(StoreDamaged, match="content hash"):
        store.append("BTCUSDT", "1m", BARS[4000:])
    assert [(damage.path, damage.reason) for damage in store.verify(drop=True)] == [
        (path, "the content hash differs")
    ]
    assert store.verify() == []
    store.append("BTCUSDT", "1m", BARS[1440:])
    CandleStore(tmp_path / "unbroken").append("BTCUSDT", "1m", BARS)
    assert tree(tmp_path / "store") == tree(tmp_path / "unbroken")


@pytest.mark.parametrize("text", ["", "{}", "[1", '{"version": 99}'])
def test_a_foreign_manifest_is_a_clear_error(store: CandleStore, text: str) -> None:
    store.append("BTCUSDT", "1m", BARS[:5])
    path = next(store.folder.rglob("manifest.json"))
    path.write_text(text)
    with pytest.raises(StoreDamaged, match=r"manifest\.json is not a readable manifest"):
        store.manifest("BTCUSDT", "1m")


def test_a_manifest_moved_to_another_symbol_is_refused(store: CandleStore) -> None:
    store.append("BTCUSDT", "1m", BARS[:5])
    shutil.copytree(store.folder / "BTCUSDT", store.folder / "ETHUSDT")
    with pytest.raises(StoreDamaged, match="it describes"):
        store.scan(["ETHUSDT"], "1m", *FOREVER)


def test_manifests_are_for_people_too(store: CandleStore) -> None:
    store.append("BTCUSDT", "1m", BARS)
    tree = json.loads(next(store.folder.rglob("manifest.json")).read_text())
    assert (tree["source"], tree["category"], tree["symbol"], tree["rows"]) == (
        "bybit",
        "linear",
        "BTCUSDT",
        4320,
    )
    assert set(tree["partitions"]["2024-01"]) == {"file", "rows", "first", "last", "size", "sha256"}


# -- killed at every point ---------------------------------------------------------------------------


@pytest.mark.serial
def test_a_kill_at_any_write_point_leaves_before_or_after(tmp_path: Path) -> None:
    unbroken = CandleStore(tmp_path / "unbroken")
    unbroken.append("BTCUSDT", "1m", BARS)
    base = tmp_path / "base"
    CandleStore(base).append("BTCUSDT", "1m", BARS[:2000])
    context = forks()
    outcomes: list[int] = []
    for strike in range(200):
        root = tmp_path / f"strike{strike}"
        shutil.copytree(base, root)
        process = context.Process(target=append_and_die, args=(root, strike))
        process.start()
        process.join()
        store = CandleStore(root, lock_timeout=0)
        rows = store.scan(["BTCUSDT"], "1m", *FOREVER).collect()
        assert store.verify() == []
        assert rows.height in (2000, BARS.height)
        assert store.missing_ranges("BTCUSDT", "1m", START, END) == (
            [] if rows.height == BARS.height else [(START + 2000 * MINUTE, END)]
        )
        outcomes.append(rows.height)
        store.append("BTCUSDT", "1m", BARS)
        assert tree(root) == tree(tmp_path / "unbroken")
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert process.exitcode == 0, "the append never came to its end"
    assert outcomes == sorted(outcomes), "once committed, always committed"
    assert outcomes.count(2000) >= 10
    assert outcomes.count(BARS.height) >= 5


# -- two at once -------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_holds_the_lock_and_a_kill_frees_it(
    store: CandleStore, tmp_path: Path
) -> None:
    context = forks()
    ready = tmp_path / "ready"
    process = context.Process(target=hold, args=(tmp_path / "store", ready, 60))
    process.start()
    wait_for(ready)
    with pytest.raises(StoreLocked, match=f"bybit-linear-candles-BTCUSDT-1m .*by process {process.pid};"):
        store.append("BTCUSDT", "1m", BARS[:5])
    store.append("ETHUSDT", "1m", BARS[:5])  # another series is free
    process.kill()
    process.join()
    assert store.append("BTCUSDT", "1m", BARS[:5]).added == 5


def test_two_writers_at_once_make_the_same_store(tmp_path: Path) -> None:
    context = forks()
    both = [context.Process(target=append_pieces, args=(tmp_path / "both", offset)) for offset in (0, 240)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    CandleStore(tmp_path / "one").append("BTCUSDT", "1m", BARS)
    assert tree(tmp_path / "both") == tree(tmp_path / "one")


def test_without_a_kernel_lock_the_file_is_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.lock"
    release = take_with_file(path)
    assert release is not None
    monkeypatch.setattr(locks, "_HAS_FCNTL", False)
    with (
        pytest.raises(StoreLocked, match=rf"process {os.getpid()}.*delete .*a\.lock"),
        exclusive(path, timeout=0),
    ):
        pass
    release()
    with exclusive(path, timeout=0):
        assert path.exists()
    assert not path.exists()


# -- the other tables --------------------------------------------------------------------------------


def test_funding_and_instruments_live_in_the_same_machinery(tmp_path: Path) -> None:
    stamps = pl.Series([START, START + 8 * 3_600_000, START + 12 * 3_600_000]).cast(pl.Datetime("ms", "UTC"))
    funding = Store(tmp_path, kind="funding")
    rates = pl.DataFrame({"funding_time": stamps, "rate": [0.0001, -0.0002, 0.0001]})
    funding.append("BTCUSDT", "events", rates, fetched=(START, END))
    assert funding.missing_ranges("BTCUSDT", "events", START, END + 1) == [(END, END + 1)]
    assert funding.scan(None, "events", *FOREVER).collect()["rate"].to_list() == [0.0001, -0.0002, 0.0001]
    with pytest.raises(StoreConflict):
        funding.append("BTCUSDT", "events", rates.with_columns(rate=pl.lit(0.5)))
    with pytest.raises(StoreError, match="funding has no interval '8h'"):
        funding.append("BTCUSDT", "8h", rates)

    instruments = Store(tmp_path, kind="instruments")
    terms = pl.DataFrame({"time": stamps[:1], "tick_size": [0.1], "qty_step": [0.001], "min_notional": [5.0]})
    instruments.append("BTCUSDT", "events", terms)
    instruments.append("BTCUSDT", "events", terms.with_columns(time=pl.lit(stamps[1]), tick_size=pl.lit(0.5)))
    read = instruments.scan(None, "events", *FOREVER).collect()
    assert read["tick_size"].to_list() == [0.1, 0.5]
    assert read["launch_time"].to_list() == [None, None]
    with pytest.raises(BadRows, match="qty_step not positive"):
        instruments.append("ETHUSDT", "events", terms.with_columns(qty_step=pl.lit(0.0)))

    mark = Store(tmp_path, kind="mark")
    assert mark.append("BTCUSDT", "1m", BARS.drop("volume", "turnover")).added == BARS.height
    assert mark.append("BTCUSDT", "1m", BARS).known == BARS.height  # columns it does not know are left out
