"""Every defect is found, named and weighed; flawless candles pass.

The rules are tested in polars, one defect at a time; Great Expectations, slow to load, then runs over
a table with many defects at once and must count what polars counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.candles import SCHEMA
from pipelines.checks.expectations import CheckSettings, Report, check_candles, summary
from pipelines.checks.rules import measure, rules
from tests.pipelines.checks.made import BARS, END, HOUR, ROOT, START, SYMBOLS, clean, drop, put, real

Corruption = Callable[[pl.DataFrame], pl.DataFrame]
NAN, INF = float("nan"), float("inf")


def broken(table: pl.DataFrame, limits: CheckSettings | None = None) -> dict[str, int]:
    """By rule, on how many bars it is broken."""
    limits = limits or CheckSettings()
    rows = measure(table, interval="1h", start=START, end=END)
    counts = {rule.name: int(rows.select(rule.broken().sum()).item()) for rule in rules(limits, others=False)}
    return {name: count for name, count in counts.items() if count}


def _swap(table: pl.DataFrame, row: int) -> pl.DataFrame:
    """The table with a row and its follower exchanged."""
    order = np.arange(table.height)
    order[[row, row + 1]] = order[[row + 1, row]]
    return table[order]


def _repeat(table: pl.DataFrame, row: int) -> pl.DataFrame:
    """The table with a row twice."""
    return pl.concat([table[: row + 1], table[row:]])


def _freeze(table: pl.DataFrame, first: int, bars: int) -> pl.DataFrame:
    """One close and no volume for a while; the low and high stay consistent."""
    here = pl.int_range(pl.len()).is_between(first, first + bars - 1)
    price = table["close"][first - 1]
    after = pl.int_range(pl.len()) == first + bars
    return table.with_columns(
        *(pl.when(here).then(price).otherwise(name).alias(name) for name in ("open", "close")),
        high=pl.when(here | after).then(pl.max_horizontal("high", pl.lit(price))).otherwise("high"),
        low=pl.when(here | after).then(pl.min_horizontal("low", pl.lit(price))).otherwise("low"),
        volume=pl.when(here).then(0.0).otherwise("volume"),
    )


# One defect a line: what is done to a flawless table, and on how many bars which rule is broken then.
DEFECTS: dict[str, tuple[Corruption, dict[str, int]]] = {
    "high below the close": (lambda t: put(t, 9, high=t["close"][9] * 0.99), {"ohlc_order": 1}),
    "low above the open": (lambda t: put(t, 9, low=t["open"][9] * 1.01), {"ohlc_order": 1}),
    "negative volume": (lambda t: put(t, 9, volume=-1.0), {"volume": 1}),
    "negative turnover": (lambda t: put(t, 9, turnover=-1e-9), {"volume": 1}),
    "empty close": (lambda t: put(t, 9, close=None), {"no_nulls": 1}),
    "empty volume": (lambda t: put(t, 9, volume=None), {"no_nulls": 1}),
    "one empty turnover": (lambda t: put(t, 9, turnover=None), {"no_nulls": 1}),
    "empty time": (lambda t: put(t, 9, open_time=None), {"no_nulls": 1, "gaps": 1}),
    "empty symbol": (lambda t: put(t, 9, symbol=None), {"no_nulls": 1, "gaps": 1}),
    "NaN close": (lambda t: put(t, 9, close=NAN), {"finite": 1}),
    "NaN low": (lambda t: put(t, 9, low=NAN), {"finite": 1}),
    "NaN volume": (lambda t: put(t, 9, volume=NAN), {"finite": 1}),
    "infinite high": (lambda t: put(t, 9, high=INF), {"finite": 1}),
    "minus infinite low": (lambda t: put(t, 9, low=-INF), {"finite": 1, "positive_prices": 1}),
    "zero low": (lambda t: put(t, 9, low=0.0), {"positive_prices": 1}),
    "negative low": (lambda t: put(t, 9, low=-5.0), {"positive_prices": 1}),
    "repeated bar": (lambda t: _repeat(t, 9), {"unique": 1}),
    "rows out of order": (lambda t: _swap(t, 9), {"order": 1}),
    "symbols out of order": (lambda t: pl.concat([t[BARS:], t[:BARS]]), {"order": 1}),
    "bar off the grid": (lambda t: put(t, 9, open_time=START + 9 * HOUR + timedelta(minutes=1)), {"grid": 1}),
    "bar before the window": (
        lambda t: pl.concat([put(t[:1], 0, open_time=START - HOUR), t]),
        {"window": 1},
    ),
    "bar that closes after the window": (
        lambda t: pl.concat([t, put(t[-1:], 0, open_time=END)]),
        {"window": 1},
    ),
    "missing bar": (lambda t: drop(t, 100), {"gaps": 1}),
    "missing head": (lambda t: drop(t, 0), {"window_start": 1}),
    "missing tail": (lambda t: drop(t, BARS - 1), {"window_end": 1}),
    "missing tail of the last symbol": (lambda t: t[:-3], {"window_end": 1}),
    "long hole": (lambda t: drop(t, *range(50, 63)), {"gaps": 1, "gap_length": 1, "gap_share": 1}),
    "many holes": (lambda t: drop(t, 20, 40, 60), {"gaps": 3, "gap_share": 1}),
    "stale run": (lambda t: _freeze(t, 100, 12), {"stale": 1}),
    "jump": (lambda t: put(t, 9, high=t["high"][9] * 2), {"jumps": 1}),
}
SEVERITY = {
    "gaps": "warning",
    "gap_length": "warning",
    "stale": "warning",
    "jumps": "warning",
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_has_one_name(name: str) -> None:
    corrupt, expected = DEFECTS[name]
    assert broken(corrupt(clean())) == expected


def test_limits_are_limits() -> None:
    assert broken(_freeze(clean(), 100, 11)) == {}
    holed = drop(clean(), *range(50, 62))
    assert broken(holed, CheckSettings(max_gap_share=0.06)) == {"gaps": 1}
    assert broken(holed, CheckSettings(max_gap_share=12 / 240)) == {"gaps": 1}
    assert broken(holed, CheckSettings(max_gap_share=11.9 / 240)) == {"gaps": 1, "gap_share": 1}
    assert broken(holed, CheckSettings(max_gap_share=0.06, max_gap_bars=11)) == {"gaps": 1, "gap_length": 1}
    edges = drop(clean(), 0, 1, BARS - 1)
    assert broken(edges, CheckSettings(max_head_gap_bars=2, max_tail_gap_bars=1)) == {}
    assert broken(edges, CheckSettings(max_head_gap_bars=1, max_tail_gap_bars=1)) == {"window_start": 1}


def test_a_source_without_any_turnover_is_fine() -> None:
    assert broken(clean().with_columns(turnover=pl.lit(None, pl.Float64))) == {}


def test_a_window_off_the_grid_asks_for_the_bars_inside_it() -> None:
    start, end = START - timedelta(minutes=30), END + timedelta(minutes=59)
    rows = measure(clean(), interval="1h", start=start, end=end)
    assert not any(rows.select(rule.broken().any()).item() for rule in rules(CheckSettings(), others=False))


def test_a_time_without_a_zone_is_no_time() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        measure(clean(), interval="1h", start=START.replace(tzinfo=None), end=END)


@pytest.mark.parametrize(
    ("key", "value"),
    [("max_gap_bars", -1), ("max_gap_share", 1.5), ("jump_sigmas", 0.0), ("stale_bars", 0)],
)
def test_senseless_settings_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        CheckSettings(**{key: value})


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_flawless_candles_pass(seed: int) -> None:
    assert broken(clean(seed=seed)) == {}


@given(st.integers(0, 2**32 - 1), st.integers(0, 2 * BARS - 1), st.data())
@settings(max_examples=60, deadline=None)
def test_one_wrong_value_never_passes(seed: int, row: int, data: st.DataObject) -> None:
    table = clean(seed=seed)
    prices = ("open", "high", "low", "close")
    field = data.draw(st.sampled_from([*prices, "volume", "turnover"]))
    old = table[field][row]
    wrong = [None, NAN, INF, -INF, -old]
    # What no bar by itself can betray (a close a little off) is not claimed to be found.
    wrong += {"high": [old * 0.9], "low": [old * 1.1], "open": [old * 2, 0.0], "close": [old / 2, 0.0]}.get(
        field, []
    )
    value = data.draw(st.sampled_from(wrong))
    limits = CheckSettings()
    errors = {rule.name for rule in rules(limits, others=False) if rule.severity == "error"}
    assert errors & set(broken(put(table, row, **{field: value}), limits))


def _check(table: pl.DataFrame, **arguments: object) -> Report:
    window: dict[str, object] = {"interval": "1h", "start": START, "end": END, "symbols": SYMBOLS}
    return check_candles(table, **{**window, **arguments})


# Defects that do not hide one another, each on its own row.
TOGETHER = {
    "ohlc_order": lambda t: put(t, 10, high=1.0),
    "volume": lambda t: put(t, 20, volume=-1.0),
    "no_nulls": lambda t: put(t, 30, close=None),
    "finite": lambda t: put(t, 40, close=NAN),
    "positive_prices": lambda t: put(t, 50, low=0.0),
    "grid": lambda t: put(t, 60, open_time=START + 60 * HOUR + timedelta(seconds=1)),
    "stale": lambda t: _freeze(t, 70, 15),
    "jumps": lambda t: put(t, 300, high=1e4),
    "gaps, gap_length, gap_share": lambda t: drop(t, *range(100, 120)),
    "order": lambda t: _swap(t, 150),
    "unique": lambda t: _repeat(t, 160),
    "window_start, window_end": lambda t: drop(t, 0, t.height - 1),
    "window": lambda t: pl.concat([t, put(t[-1:], 0, open_time=END)]),
}


@pytest.fixture(scope="module")
def spoilt() -> pl.DataFrame:
    table = clean()
    for corrupt in TOGETHER.values():
        table = corrupt(table)
    return table


@pytest.fixture(scope="module")
def spoilt_report(spoilt: pl.DataFrame) -> Report:
    return _check(spoilt, symbols=[*SYMBOLS, "CCCUSDT"])


@pytest.fixture(scope="module")
def clean_report() -> Report:
    return _check(clean().lazy())


def test_flawless_candles_pass_great_expectations(clean_report: Report) -> None:
    assert clean_report.passed
    assert clean_report.failures == clean_report.warnings == []
    assert all(one.count == 0 for one in clean_report.expectations)
    assert len(clean_report.expectations) == 4 + len(rules(CheckSettings(), others=False))
    assert clean_report.gaps.is_empty()
    assert clean_report.outliers.is_empty()


def test_great_expectations_finds_what_polars_finds(spoilt: pl.DataFrame, spoilt_report: Report) -> None:
    found = {one.name: one for one in spoilt_report.expectations if not one.passed}
    planted = {name for names in TOGETHER for name in names.split(", ")}
    # The last bar is missing and one outside the window takes its place, so that nothing stops early.
    assert set(found) == (planted | {"symbols"}) - {"window_end"}
    assert {name: one.count for name, one in found.items() if name != "symbols"} == broken(spoilt)
    assert all(one.severity == SEVERITY.get(name, "error") for name, one in found.items())
    assert not spoilt_report.passed
    assert {one.name for one in spoilt_report.warnings} == set(SEVERITY)


def test_a_failure_names_symbol_time_and_count(spoilt_report: Report) -> None:
    texts = {one.name: one.text for one in spoilt_report.expectations}
    assert texts["volume"].startswith(
        "Negative volume or turnover: AAAUSDT 1 at 2024-01-01 20:00 (volume -1.0, turnover "
    )
    assert texts["finite"] == "NaN or infinite numbers: AAAUSDT 1 at 2024-01-02 16:00 (close)"
    assert texts["no_nulls"] == "Empty fields: AAAUSDT 1 at 2024-01-02 06:00 (close)"
    assert texts["gap_length"] == (
        "Holes longer than 12 bars (episodes are cut there), before: "
        "AAAUSDT 1 at 2024-01-06 00:00 (20 missing)"
    )
    assert texts["window_start"] == "Symbols that begin late: AAAUSDT 1 at 2024-01-01 01:00 (1 missing)"
    assert texts["symbols"] == "Symbols are not those requested (missing: CCCUSDT)"
    assert all("\n" not in text for text in texts.values())


def test_the_tables_hold_the_places(spoilt_report: Report) -> None:
    assert spoilt_report.gaps.filter(pl.col("missing_bars") > 1).rows() == [
        ("AAAUSDT", START + 99 * HOUR, START + 120 * HOUR, 20)
    ]
    assert spoilt_report.outliers.select("symbol", "open_time").rows() == [
        ("AAAUSDT", START + 10 * HOUR),  # the high of 1.0
        ("BBBUSDT", START + 60 * HOUR),
    ]
    assert spoilt_report.stale.rows() == [("AAAUSDT", START + 70 * HOUR, START + 84 * HOUR, 15)]


def test_the_summary_is_small_sorted_and_without_the_run(clean_report: Report, spoilt_report: Report) -> None:
    assert summary(clean_report) == {
        "expectations": {"failed": 0, "passed": 20, "warned": 0},
        "symbols": {
            symbol: {
                "first": "2024-01-01 00:00",
                "gap_share": 0.0,
                "gaps": 0,
                "last": "2024-01-10 23:00",
                "longest_gap": 0,
                "missing_bars": 0,
                "outliers": 0,
                "rows": BARS,
                "stale_runs": 0,
            }
            for symbol in SYMBOLS
        },
    }
    text = json.dumps(summary(spoilt_report))
    assert text == json.dumps(summary(spoilt_report), sort_keys=True)
    figures = summary(spoilt_report)["symbols"]["AAAUSDT"]
    assert (figures["missing_bars"], figures["longest_gap"], figures["stale_runs"]) == (20, 20, 1)
    assert figures["gap_share"] == round(20 / 239, 6)


def test_wrong_columns_and_types_are_named_and_stop_there() -> None:
    table = clean().drop("volume").with_columns(pl.col("close").cast(pl.String), note=pl.lit(1))
    report = _check(table)
    assert [(one.name, one.text) for one in report.failures] == [
        (
            "columns",
            "Columns are not as agreed (missing: volume; unknown: note); the bars were not looked at",
        ),
        (
            "types",
            "Types are not as agreed (close is String, not Float64); the bars were not looked at",
        ),
    ]
    assert len(report.expectations) == 2
    assert report.counts.is_empty()


@pytest.mark.parametrize("unit", ["us", "ns"])
def test_another_unit_of_time_is_a_wrong_type(unit: str) -> None:
    report = _check(clean().with_columns(pl.col("open_time").dt.cast_time_unit(unit)))
    assert [one.name for one in report.failures] == ["types"]


def test_columns_in_another_order_are_an_error() -> None:
    report = _check(clean().select(reversed(SCHEMA)))
    assert [one.text for one in report.failures] == [
        "Columns are not as agreed (wrong order); the bars were not looked at"
    ]


def test_an_empty_table_fails() -> None:
    report = _check(clean().clear())
    assert {one.name for one in report.failures} == {"not_empty", "symbols"}
    assert report.failures[0].text == "There is not a single candle"


def test_the_other_intervals_of_the_real_pulls_convict_their_last_bar() -> None:
    hourly, fine = (real(f"bybit/BTCUSDT_{name}.csv", "BTCUSDT") for name in ("60m", "5m"))
    end = datetime(2025, 6, 29, 17, tzinfo=UTC)
    report = _check(
        hourly,
        start=hourly["open_time"][0],
        end=end,
        symbols=["BTCUSDT"],
        others={"5m": fine, "4h": hourly.clear()},
    )
    assert [one.text for one in report.failures] == [
        "Bars that another interval contradicts (saved while still open?): "
        "BTCUSDT 1 at 2025-06-29 16:00 (5m in 1h: low, close, volume)"
    ]
    assert report.disagreements.select("bar", "fine_volume", "volume").rows() == [
        (datetime(2025, 6, 29, 16, tzinfo=UTC), pytest.approx(3275.688), 1591.5)
    ]


def test_great_expectations_is_loaded_only_when_it_runs() -> None:
    code = (
        "import sys, pipelines.checks.expectations as e; "
        "assert not {'great_expectations', 'pandas'} & set(sys.modules), 'loaded too early'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
