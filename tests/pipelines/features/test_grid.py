"""Holes are bridged only up to the limit, forwards and flagged; longer ones begin a new segment."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.features import holes, to_grid
from tests.pipelines.features.candles import START, walk


def without(frame: pl.DataFrame, *bars: int) -> pl.DataFrame:
    return frame.with_row_index("bar").filter(~pl.col("bar").is_in(bars)).drop("bar")


def test_a_whole_history_stays_as_it_is() -> None:
    candles = walk(50)
    grid = to_grid(candles, "1h", max_gap_bars=3)
    assert grid.drop("filled", "segment").equals(candles)
    assert not grid["filled"].any()
    assert grid["segment"].unique().to_list() == [0]
    assert holes(candles, "1h").is_empty()


def test_a_short_hole_is_bridged_with_the_close_before_it() -> None:
    candles = without(walk(10), 4, 5)
    grid = to_grid(candles, "1h", max_gap_bars=2)
    assert grid.height == 10
    assert grid["filled"].arg_true().to_list() == [4, 5]
    close = candles["close"][3]
    for row in grid.slice(4, 2).iter_rows(named=True):
        assert [row[name] for name in ("open", "high", "low", "close")] == [close] * 4
        assert row["volume"] == row["turnover"] == 0.0
        assert row["segment"] == 0
    assert (grid["open_time"].diff().drop_nulls() == timedelta(hours=1)).all()


def test_a_long_hole_is_kept_and_begins_a_segment() -> None:
    candles = without(walk(10), 4, 5)
    grid = to_grid(candles, "1h", max_gap_bars=1)
    assert grid.height == 8
    assert not grid["filled"].any()
    assert grid["segment"].to_list() == [0] * 4 + [1] * 4


def test_symbols_do_not_run_into_each_other() -> None:
    candles = pl.concat([without(walk(6), 2), walk(6, symbol="BBB", seed=1)])
    grid = to_grid(candles, "1h", max_gap_bars=0)
    assert grid.filter(pl.col("symbol") == "AAA")["segment"].to_list() == [0, 0, 1, 1, 1]
    assert grid.filter(pl.col("symbol") == "BBB")["segment"].to_list() == [0] * 6


def test_holes_are_listed() -> None:
    found = holes(without(walk(12), 3, 7, 8), "1h")
    assert found["start"].to_list() == [START + timedelta(hours=3), START + timedelta(hours=7)]
    assert found["bars"].to_list() == [1, 2]


@settings(max_examples=50, deadline=None)
@given(missing=st.sets(st.integers(1, 38)), limit=st.integers(0, 5))
def test_every_bar_is_recorded_bridged_or_in_a_listed_hole(missing: set[int], limit: int) -> None:
    candles = without(walk(40), *missing)
    grid = to_grid(candles, "1h", max_gap_bars=limit)
    kept = grid.filter(~pl.col("filled"))
    assert kept.drop("filled", "segment").equals(candles)
    long = holes(candles, "1h").filter(pl.col("bars") > limit)
    assert grid.height + int(long["bars"].sum()) == 40
    assert grid["segment"].max() == long.height
    for part in grid.partition_by("segment"):
        assert (part["open_time"].diff().drop_nulls() == timedelta(hours=1)).all()


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda f: pl.concat([f, f.tail(1)]), id="repeated"),
        pytest.param(lambda f: f.reverse(), id="descending"),
        pytest.param(
            lambda f: f.with_columns(open_time=pl.col("open_time") + timedelta(minutes=1)), id="off the grid"
        ),
    ],
)
def test_times_that_are_wrong_are_refused(spoil) -> None:
    with pytest.raises(ValueError, match="AAA has a candle at"):
        to_grid(spoil(walk(5)), "1h", max_gap_bars=1)


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="max_gap_bars is -1"):
        to_grid(walk(5), "1h", max_gap_bars=-1)
