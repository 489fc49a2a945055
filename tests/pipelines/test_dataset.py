"""The dataset aligns symbols on the bars that all have, and says where it is broken."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.dataset import read_dataset, to_dataset, write_table
from pipelines.features import Scaler, compute, resolve, to_grid
from tests.pipelines.features.candles import START, walk

FEATURES = resolve(["log_return", "body", "momentum(5)"])


def table(candles: pl.DataFrame, max_gap_bars: int = 2) -> pl.DataFrame:
    return compute(to_grid(candles, "1h", max_gap_bars=max_gap_bars).lazy(), FEATURES).collect()


def without(frame: pl.DataFrame, *bars: int) -> pl.DataFrame:
    return frame.with_row_index("bar").filter(~pl.col("bar").is_in(bars)).drop("bar")


def hours(times: np.ndarray) -> list[int]:
    start = np.datetime64(START.replace(tzinfo=None), "ms")
    return ((times - start) // np.timedelta64(1, "h")).tolist()


def test_one_symbol() -> None:
    rows = table(walk(40))
    data = to_dataset(rows, "1h")
    assert data.symbols == ("AAA",)
    assert data.names == ("log_return", "body", "momentum_5")
    assert hours(data.times) == list(range(5, 40))
    assert data.features.shape == (35, 1, 3)
    np.testing.assert_array_equal(data.features[:, 0, 1], rows["body"].to_numpy())
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_array_equal(getattr(data.bars, name)[:, 0], rows[name].to_numpy())
    assert data.bars.funding is None
    assert data.segment.tolist() == [0] * 35
    assert not data.filled.any()


def test_symbols_meet_on_common_times_and_break_where_one_is_missing() -> None:
    one = without(walk(60), 30, 31, 32)
    two = without(walk(60, symbol="BBB", seed=1).slice(2), 48)
    rows = table(pl.concat([one, two]))
    data = to_dataset(rows, "1h")
    assert data.symbols == ("AAA", "BBB")
    # BBB starts two bars later; AAA has a hole at 30..32 and warms up again until 38.
    assert hours(data.times) == [*range(7, 30), *range(38, 60)]
    assert data.segment.tolist() == [0] * 23 + [1] * 22
    assert data.filled[:, 0].sum() == 0
    assert hours(data.times[data.filled[:, 1]]) == [50]
    second = rows.filter((pl.col("symbol") == "BBB") & (pl.col("open_time") == START + timedelta(hours=45)))
    at = hours(data.times).index(45)
    assert data.bars.close[at, 1] == second["close"][0]
    assert data.features[at, 1, 2] == second["momentum_5"][0]
    steps = np.diff(data.times) == np.timedelta64(1, "h")
    np.testing.assert_array_equal(steps, np.diff(data.segment) == 0)


def test_a_segment_of_either_symbol_is_a_break_even_without_a_missing_bar() -> None:
    rows = table(walk(20)).with_columns(segment=pl.lit(0, pl.Int32))
    two = rows.with_columns(symbol=pl.lit("BBB"), segment=(pl.int_range(pl.len()) >= 6).cast(pl.Int32))
    assert to_dataset(pl.concat([rows, two]), "1h").segment.tolist() == [0] * 6 + [1] * 9


def test_a_bar_taken_out_of_the_table_is_a_break() -> None:
    rows = table(walk(20))
    assert to_dataset(pl.concat([rows.head(4), rows.slice(5)]), "1h").segment.tolist() == [0] * 4 + [1] * 10


def test_order_and_choice_of_symbols() -> None:
    rows = table(pl.concat([walk(20), walk(20, symbol="BBB", seed=1)]))
    both, turned = to_dataset(rows, "1h"), to_dataset(rows, "1h", symbols=["BBB", "AAA"])
    np.testing.assert_array_equal(turned.features, both.features[:, ::-1])
    np.testing.assert_array_equal(turned.bars.close, both.bars.close[:, ::-1])
    assert to_dataset(rows, "1h", symbols=["BBB"]).symbols == ("BBB",)
    with pytest.raises(
        ValueError, match=r"no rows for the symbols \['ZZZ'\]; the table has \['AAA', 'BBB'\]"
    ):
        to_dataset(rows, "1h", symbols=["AAA", "ZZZ"])


def test_windows_are_the_same_bars() -> None:
    data = to_dataset(table(walk(40)), "1h")
    part = data.window(10, 20)
    np.testing.assert_array_equal(part.times, data.times[10:20])
    np.testing.assert_array_equal(part.bars.open, data.bars.open[10:20])
    np.testing.assert_array_equal(part.features, data.features[10:20])
    assert part.segment.shape == (10,)
    assert part.filled.shape == (10, 1)
    for start, stop in ((5, 5), (-1, 3), (0, 36)):
        with pytest.raises(ValueError, match="outside the 35 bars"):
            data.window(start, stop)


def test_observations_are_scaled_features_symbol_by_symbol() -> None:
    data = to_dataset(table(pl.concat([walk(80), walk(80, symbol="BBB", seed=1)])), "1h")
    scaler = Scaler.fit(data.features[:50], data.names)
    observed = data.observations(scaler)
    assert observed.dtype == np.float32
    assert observed.shape == (75, 6)
    scaled = scaler.transform(data.features)
    np.testing.assert_array_equal(observed[:, 3:], scaled[:, 1].astype(np.float32))
    np.testing.assert_array_equal(data.window(7, 9).observations(scaler), observed[7:9])
    with pytest.raises(ValueError, match="the scaler is for"):
        data.observations(Scaler.fit(data.features, ("x", "y", "z")))


def test_a_table_comes_back_from_disk_and_replaces_the_last(tmp_path: Path) -> None:
    rows = table(pl.concat([walk(40, symbol="AAA/USD"), walk(40, symbol="BBB", seed=1)])).with_columns(
        funding=pl.lit(1e-4)
    )
    directory = tmp_path / "features"
    write_table(table(walk(30, symbol="OLD")), directory)
    write_table(rows, directory)
    assert [child.name for child in tmp_path.iterdir()] == ["features"]
    assert sorted(child.name for child in directory.iterdir()) == ["AAA%2FUSD.parquet", "BBB.parquet"]
    loaded, kept = read_dataset(directory, "1h"), to_dataset(rows, "1h")
    assert loaded.symbols == kept.symbols == ("AAA/USD", "BBB")
    np.testing.assert_array_equal(loaded.features, kept.features)
    assert loaded.names == kept.names
    np.testing.assert_array_equal(loaded.bars.funding, np.full((35, 2), 1e-4))
    first = [path.read_bytes() for path in sorted(directory.iterdir())]
    write_table(rows, directory)
    assert [path.read_bytes() for path in sorted(directory.iterdir())] == first


def test_what_cannot_be_aligned_is_refused(tmp_path: Path) -> None:
    rows = table(walk(20))
    later = rows.with_columns(symbol=pl.lit("BBB"), open_time=pl.col("open_time") + timedelta(days=9))
    with pytest.raises(ValueError, match="no bar in common"):
        to_dataset(pl.concat([rows, later]), "1h")
    with pytest.raises(ValueError, match="repeated in the table of"):
        to_dataset(pl.concat([rows, rows]), "1h")
    with pytest.raises(FileNotFoundError, match="no feature table"):
        read_dataset(tmp_path, "1h")
