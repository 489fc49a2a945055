"""Holes, outliers, stale runs and disagreements between intervals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.checks.gaps import find_gaps, find_outliers, find_stale_runs
from pipelines.checks.intervals import compare_intervals
from tests.pipelines.checks.made import BARS, HOUR, START, clean, drop, put, real

# The bars that the real pull lost: one every 1001 minutes, as its pages of 1000 rows were 1001 apart.
_FIRST_HOLE = datetime(2025, 5, 30, 9, 45, tzinfo=UTC)
_HOLES = 42


def test_the_42_holes_of_a_real_pull_are_found_at_the_right_times() -> None:
    gaps = find_gaps(real("defects/bybit_BTCUSDT_1m_42gaps.csv", "BTCUSDT"), "1m")
    minute = timedelta(minutes=1)
    missing = [_FIRST_HOLE + i * timedelta(minutes=1001) for i in range(_HOLES)]
    assert gaps.columns == ["symbol", "after", "before", "missing_bars"]
    assert gaps["after"].to_list() == [time - minute for time in missing]
    assert gaps["before"].to_list() == [time + minute for time in missing]
    assert gaps["missing_bars"].to_list() == [1] * _HOLES


def test_a_hole_is_named_by_the_bars_at_its_edges() -> None:
    gaps = find_gaps(drop(clean(), 10, 11, 12, BARS + 5), "1h")
    assert gaps.rows() == [
        ("AAAUSDT", START + 9 * HOUR, START + 13 * HOUR, 3),
        ("BBBUSDT", START + 4 * HOUR, START + 6 * HOUR, 1),
    ]


@given(st.sets(st.integers(1, BARS - 2)))
@settings(max_examples=30, deadline=None)
def test_holes_add_up_whatever_the_order_of_rows(missing: set[int]) -> None:
    table = clean(symbols=("AAAUSDT",))
    kept = drop(table, *missing).sample(fraction=1.0, shuffle=True, seed=len(missing))
    gaps = find_gaps(pl.concat([kept, kept.head(3)]).lazy(), "1h")
    found = {
        row["after"] + i * HOUR
        for row in gaps.iter_rows(named=True)
        for i in range(1, row["missing_bars"] + 1)
    }
    assert found == {START + i * HOUR for i in missing}


def test_nothing_is_missing_between_two_symbols_or_in_nothing() -> None:
    late = clean().filter((pl.col("symbol") == "AAAUSDT") | (pl.col("open_time") > START + 50 * HOUR))
    assert find_gaps(late, "1h").is_empty()
    assert find_gaps(clean().clear(), "1h").is_empty()


def test_an_outlier_is_flagged_there_and_back_and_left_as_it_is() -> None:
    table = clean()
    row = 100
    wick = put(table, row, high=table["high"][row] * 1.4)
    (found,) = find_outliers(wick, "1h", jump_sigmas=20).rows(named=True)
    assert (found["symbol"], found["open_time"]) == ("AAAUSDT", START + row * HOUR)
    assert found["previous_close"] == table["close"][row - 1]
    assert found["log_move"] == pytest.approx(0.336, abs=0.02)  # log 1.4
    assert found["sigmas"] == pytest.approx(0.336 / 0.003, rel=0.25)
    leap = put(table, row, high=table["high"][row] * 1.4, close=table["close"][row] * 1.4)
    assert find_outliers(leap, "1h", jump_sigmas=20)["open_time"].to_list() == [
        START + row * HOUR,
        START + (row + 1) * HOUR,
    ]


def test_the_yardstick_is_each_symbols_own_and_sleep_does_not_shrink_it() -> None:
    table = clean()
    calm = table.with_columns(
        pl.when(pl.col("symbol") == "AAAUSDT").then(pl.col(name).pow(0.01)).otherwise(name).alias(name)
        for name in ("open", "high", "low", "close")
    )
    assert find_outliers(calm, "1h", jump_sigmas=20).is_empty()
    asleep = table.with_columns(
        pl.col(name).gather(pl.int_range(pl.len()) // 4 * 4).over("symbol")
        for name in ("high", "low", "close")
    )
    assert find_outliers(asleep, "1h", jump_sigmas=20).is_empty()


def test_a_move_across_a_hole_is_measured_by_the_time_it_had() -> None:
    table = clean(symbols=("AAAUSDT",))
    sigma = 0.003
    jump = put(table, 110, **{name: table[name][110] * (1 + 30 * sigma) for name in ("high", "low", "close")})
    whole = find_outliers(jump, "1h", jump_sigmas=20)
    across = find_outliers(drop(jump, *range(101, 110)), "1h", jump_sigmas=20)
    assert START + 110 * HOUR in whole["open_time"].to_list()
    assert START + 110 * HOUR not in across["open_time"].to_list()  # 30 / sqrt(10) sigmas


def test_moves_across_holes_do_not_stretch_the_yardstick() -> None:
    table = clean(symbols=("AAAUSDT",))
    half = drop(put(table, 100, high=table["high"][100] * 1.4), *range(1, BARS, 2))
    (found,) = find_outliers(half, "1h", jump_sigmas=20).rows(named=True)
    assert found["sigmas"] == pytest.approx(found["log_move"] / (0.003 * 2**0.5), rel=0.2)


def test_stale_runs_repeat_a_close_without_volume() -> None:
    table = clean()
    frozen = table.with_columns(
        close=pl.when(pl.int_range(pl.len()).is_between(51, 70)).then(table["close"][50]).otherwise("close"),
        volume=pl.when(pl.int_range(pl.len()).is_between(51, 70)).then(0.0).otherwise("volume"),
    )
    runs = find_stale_runs(frozen, stale_bars=20)
    assert runs.rows() == [("AAAUSDT", START + 51 * HOUR, START + 70 * HOUR, 20)]
    assert find_stale_runs(frozen, stale_bars=21).is_empty()
    traded = frozen.with_columns(volume=pl.lit(1.0))
    assert find_stale_runs(traded, stale_bars=2).is_empty()


@pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHUSDT"])
def test_two_real_pulls_end_in_an_open_bar(symbol: str) -> None:
    names = {"5m": "5m", "15m": "15m", "1h": "60m", "4h": "240m"}
    pulls = {key: real(f"bybit/{symbol}_{name}.csv", symbol) for key, name in names.items()}

    def contradicted(fine: str, coarse: str) -> list[tuple[object, ...]]:
        rows = compare_intervals(pulls[fine], pulls[coarse], fine_interval=fine, coarse_interval=coarse)
        return rows.select("open_time", "fine_last", "fine_bars", "whole_bars", "differs").rows()

    hourly = datetime(2025, 6, 29, 16, tzinfo=UTC)
    differs = {"BTCUSDT": "low, close, volume", "ETHUSDT": "close, volume"}[symbol]
    assert contradicted("5m", "1h") == [(hourly, hourly + timedelta(minutes=55), 12, 12, differs)]
    assert contradicted("15m", "1h") == [(hourly, hourly + timedelta(minutes=45), 4, 4, differs)]
    fine = datetime(2025, 7, 2, 17, tzinfo=UTC)
    assert contradicted("5m", "15m") == [(fine, fine, 1, 3, "close, volume")]


def _coarse(table: pl.DataFrame) -> pl.DataFrame:
    """Four-hour bars of hourly ones."""
    prices = [pl.first("open"), pl.max("high"), pl.min("low"), pl.last("close")]
    sums = [pl.sum("volume"), pl.sum("turnover")]
    return table.group_by("symbol", pl.col("open_time").dt.truncate("4h"), maintain_order=True).agg(
        *prices, *sums
    )


def _differs(fine: pl.DataFrame, coarse: pl.DataFrame) -> list[tuple[str, datetime, str]]:
    rows = compare_intervals(fine, coarse, fine_interval="1h", coarse_interval="4h")
    return rows.select("symbol", "open_time", "differs").rows()


def test_intervals_that_agree_agree_with_holes_too() -> None:
    table = clean()
    assert _differs(table, _coarse(table)) == []
    # A hole in the fine bars, a late start and an early end at a bar's edge contradict nobody.
    assert _differs(drop(table, 0, 1, 2, 50, 51, *range(BARS - 4, BARS)), _coarse(table)) == []


@pytest.mark.parametrize("field", ["open", "high", "low", "close", "volume"])
@pytest.mark.parametrize("factor", [0.999, 1.001])
def test_each_field_is_compared(field: str, factor: float) -> None:
    table = clean()
    coarse = _coarse(table)
    wrong = put(coarse, 7, **{field: coarse[field][7] * factor})
    assert _differs(table, wrong) == [("AAAUSDT", START + 28 * HOUR, field)]


def test_what_must_hold_is_held_where_fine_bars_are_missing() -> None:
    table = clean()
    coarse = _coarse(table)
    holed = drop(table, 29)
    assert _differs(holed, put(coarse, 7, low=table["low"][30] * 1.001)) == [
        ("AAAUSDT", START + 28 * HOUR, "low")
    ]
    assert _differs(holed, put(coarse, 7, volume=table["volume"][30] * 0.5)) == [
        ("AAAUSDT", START + 28 * HOUR, "volume")
    ]


def test_intervals_must_fit_into_each_other() -> None:
    with pytest.raises(ValueError, match="2h bars are not made of whole 4h bars"):
        compare_intervals(clean(), clean(), fine_interval="4h", coarse_interval="2h")
