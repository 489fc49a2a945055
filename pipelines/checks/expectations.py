"""The candle checks, run by Great Expectations: one checkpoint a run, one report for people and machines.

An error stops the run; a warning is reported and the run goes on. The logic lies in `rules` (polars);
Great Expectations evaluates the bounds, keeps the record and draws the pages (see `docs`). It is
imported inside the functions that need it, because the import alone takes five seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from pipelines.candles import SCHEMA, interval_ms
from pipelines.checks import docs as pages
from pipelines.checks.gaps import Frame, find_stale_runs
from pipelines.checks.intervals import compare_intervals
from pipelines.checks.rules import CheckSettings, Rule, Severity, measure, rules

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CheckSettings", "Outcome", "Report", "check_candles", "summary"]

_SEVERITY = {"error": "critical", "warning": "warning"}  # ours: theirs


@dataclass(frozen=True)
class Outcome:
    """What became of one expectation; `text` says in one line what was found, and where."""

    name: str
    severity: Severity
    passed: bool
    count: int  # bars (or fields, symbols) that break it
    text: str


@dataclass(frozen=True)
class Report:
    """What is known of the candles; see `expectations` for the verdicts, the tables for the places.

    counts: a row a symbol [symbol, rows, first, last, gaps, missing_bars, longest_gap, gap_share,
    outliers, stale_runs]; gaps [symbol, after, before, missing_bars]; outliers [symbol, open_time,
    previous_close, log_move, sigmas]; stale [symbol, first, last, bars]; disagreements as
    `intervals.compare_intervals` with `fine` and `coarse` in front. The tables are empty where the
    columns or types are not as agreed, because nothing else was looked at then.
    """

    interval: str
    start: datetime
    end: datetime
    expectations: tuple[Outcome, ...]
    counts: pl.DataFrame
    gaps: pl.DataFrame
    outliers: pl.DataFrame
    stale: pl.DataFrame
    disagreements: pl.DataFrame

    @property
    def failures(self) -> list[Outcome]:
        """Broken expectations that stop the run."""
        return [one for one in self.expectations if not one.passed and one.severity == "error"]

    @property
    def warnings(self) -> list[Outcome]:
        """Broken expectations that are worth knowing and stop nothing."""
        return [one for one in self.expectations if not one.passed and one.severity == "warning"]

    @property
    def passed(self) -> bool:
        """No error."""
        return not self.failures


class _Expected(NamedTuple):
    """An expectation of the suite, with how to say what it found (given the number of findings)."""

    name: str
    severity: Severity
    says: str
    kind: str  # the class in great_expectations.expectations
    arguments: dict[str, Any]
    found: str


def check_candles(
    candles: Frame,
    *,
    interval: str,
    start: datetime,
    end: datetime,
    symbols: Sequence[str],
    settings: CheckSettings | None = None,
    others: Mapping[str, Frame] | None = None,
    docs: Path | None = None,
) -> Report:
    """Checks a candle table against the window [start, end) and the symbols that were asked for.

    others: candles of the same symbols at other intervals, by interval name, to be held against ours.
    docs: a directory to be replaced by pages for people; the same data give the same bytes.
    """
    settings = settings or CheckSettings()
    table = candles.lazy().collect()
    wrong = [
        f"{name} is {table.schema[name]}, not {dtype}"
        for name, dtype in SCHEMA.items()
        if name in table.columns and table.schema[name] != dtype
    ]
    usable = not wrong and table.columns == list(SCHEMA)
    conflicts = _conflicts(table, interval, others or {}) if usable else None
    # Where columns or types are not as agreed the bars cannot be looked at.
    rows = measure(
        table if usable else pl.DataFrame(schema=SCHEMA),
        interval=interval,
        start=start,
        end=end,
        conflicts=conflicts,
    )
    report = _report(rows, interval, start, end, settings, conflicts)
    expected: list[_Expected] = []
    if usable:
        asked = rules(settings, others=conflicts is not None) if table.height else ()
        expected += _table_expectations(table, symbols)
        expected += [_row_expectation(rule, rows) for rule in asked]
        columns = dict.fromkeys([*SCHEMA, *(rule.column for rule in asked)])
        frame = _to_pandas(rows.select(*columns))
    else:
        # One row in which the columns' types stand in for their values.
        frame = _to_pandas(pl.DataFrame({name: [str(dtype)] for name, dtype in table.schema.items()}))
    del rows  # half a gigabyte for five million bars
    frame["wrong_types"] = np.full(max(len(frame), not usable), len(wrong), np.int64)
    expected = [*_schema_expectations(table, list(frame.columns), wrong), *expected]
    with tempfile.TemporaryDirectory() as scratch:
        site = Path(scratch) / "site"
        found = _run(expected, frame, end, site if docs else None)
        outcomes = tuple(
            Outcome(one.name, one.severity, passed, count, one.says if passed else one.found)
            for one, (passed, count) in zip(expected, found, strict=True)
        )
        report = replace(report, expectations=outcomes)
        if docs:
            pages.write(report, site, docs)
    return report


def summary(report: Report) -> dict[str, Any]:
    """The figures that `dvc metrics diff` shows: counts only, sorted, nothing that depends on the run."""
    return {
        "expectations": {
            "failed": len(report.failures),
            "passed": sum(one.passed for one in report.expectations),
            "warned": len(report.warnings),
        },
        "symbols": {
            row["symbol"]: {key: _plain(value) for key, value in sorted(row.items()) if key != "symbol"}
            for row in report.counts.iter_rows(named=True)
        },
    }


def _plain(value: Any) -> Any:
    """A number or a time the way it stands in a metrics file."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return round(value, 6) if isinstance(value, float) else value


def _conflicts(table: pl.DataFrame, interval: str, others: Mapping[str, Frame]) -> pl.DataFrame | None:
    """The disagreements of ours with all the others; `bar` is the bar of ours that is concerned."""
    found = []
    for other, frame in sorted(others.items(), key=lambda item: interval_ms(item[0])):
        finer = interval_ms(other) < interval_ms(interval)
        fine, coarse = (frame, table) if finer else (table, frame)
        names = (other, interval) if finer else (interval, other)
        rows = compare_intervals(fine, coarse, fine_interval=names[0], coarse_interval=names[1])
        found.append(
            rows.select(
                pl.lit(names[0]).alias("fine"),
                pl.lit(names[1]).alias("coarse"),
                pl.col("open_time" if finer else "fine_last").alias("bar"),
                *rows.columns,
            )
        )
    return pl.concat(found) if found else None


def _report(
    rows: pl.DataFrame,
    interval: str,
    start: datetime,
    end: datetime,
    settings: CheckSettings,
    conflicts: pl.DataFrame | None,
) -> Report:
    """The tables of the report, from measured rows."""
    time = pl.col("open_time")
    gaps = rows.select(
        "symbol", after=time.shift(1), before=time, missing_bars=pl.col("missing_before")
    ).filter(pl.col("missing_bars") > 0)
    strays = pl.col("sigmas") > settings.jump_sigmas
    counts = (
        rows.group_by("symbol")
        .agg(
            rows=pl.len(),
            first=time.min(),
            last=time.max(),
            gaps=(pl.col("missing_before") > 0).sum(),
            missing_bars=pl.col("missing_before").sum(),
            longest_gap=pl.col("missing_before").max().fill_null(0),
            gap_share=pl.col("gap_share").max(),
            outliers=strays.sum(),
            stale_runs=(pl.col("stale_run") >= settings.stale_bars).sum(),
        )
        .drop_nulls("symbol")
        .sort("symbol")
    )
    outliers = rows.filter(strays).select("symbol", "open_time", "previous_close", "log_move", "sigmas")
    stale = find_stale_runs(rows, stale_bars=settings.stale_bars)
    disagreements = pl.DataFrame() if conflicts is None else conflicts
    return Report(interval, start, end, (), counts, gaps, outliers, stale, disagreements)


def _differences(**groups: Iterable[str]) -> str:
    """The names in each group that has any: `missing: a, b; unknown: c`."""
    named = {what.replace("_", " "): sorted(names) for what, names in groups.items()}
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in named.items() if names)


def _schema_expectations(
    table: pl.DataFrame, columns: Sequence[str], wrong: Sequence[str]
) -> list[_Expected]:
    """The columns and their types; `columns` also has those that were added for the rules."""
    added = [name for name in columns if name not in table.columns]
    differences = _differences(
        missing=set(SCHEMA) - set(table.columns), unknown=set(table.columns) - set(SCHEMA)
    )
    return [
        _Expected(
            "columns",
            "error",
            f"The columns are {', '.join(SCHEMA)}, in this order",
            "ExpectTableColumnsToMatchOrderedList",
            {"column_list": [*SCHEMA, *added]},
            f"Columns are not as agreed ({differences or 'wrong order'}); the bars were not looked at",
        ),
        _Expected(
            "types",
            "error",
            "Times are UTC milliseconds, numbers are 64 bit floats",
            "ExpectColumnValuesToBeBetween",
            {"column": "wrong_types", "max_value": 0},
            f"Types are not as agreed ({'; '.join(wrong)}); the bars were not looked at",
        ),
    ]


def _table_expectations(table: pl.DataFrame, symbols: Sequence[str]) -> list[_Expected]:
    """What is asked of the table as a whole."""
    present = set(table["symbol"].drop_nulls().unique())
    differences = _differences(missing=set(symbols) - present, not_asked_for=present - set(symbols))
    return [
        _Expected(
            "not_empty",
            "error",
            "There are candles",
            "ExpectTableRowCountToBeBetween",
            {"min_value": 1},
            "There is not a single candle",
        ),
        _Expected(
            "symbols",
            "error",
            "Exactly the requested symbols are there",
            "ExpectColumnDistinctValuesToEqualSet",
            {"column": "symbol", "value_set": sorted(set(symbols))},
            f"Symbols are not those requested ({differences})",
        ),
    ]


def _row_expectation(rule: Rule, rows: pl.DataFrame) -> _Expected:
    """The rule as an expectation, and what breaks it in one line."""
    return _Expected(
        rule.name,
        rule.severity,
        rule.says,
        "ExpectColumnValuesToBeBetween",
        {
            "column": rule.column,
            "min_value": rule.minimum,
            "max_value": rule.maximum,
            "strict_min": rule.strict_minimum,
        },
        rule.describe(rows),
    )


def _to_pandas(rows: pl.DataFrame) -> pd.DataFrame:
    """NumPy-backed pandas: on Arrow-backed columns Great Expectations takes minutes instead of seconds.

    Numbers become 64 bit, for it compares any other kind value by value, in Python.
    """
    import pandas as pd

    def column(values: pl.Series) -> pd.Series[Any]:
        if values.dtype == pl.String:
            return pd.Series(np.asarray(values.to_numpy(), dtype=object), dtype=object)
        if values.dtype.is_integer():
            values = values.cast(pl.Float64 if values.null_count() else pl.Int64)
        return pd.Series(values.to_numpy(), copy=False)

    return pd.DataFrame({name: column(rows[name]) for name in rows.columns}, copy=False)


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Mutes a chatty logger below warnings."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _run(
    expected: Sequence[_Expected], frame: pd.DataFrame, end: datetime, site: Path | None
) -> list[tuple[bool, int]]:
    """One checkpoint over all expectations: for each, whether it holds and how many findings there are.

    The run is stamped with the end of the window: its wall-clock time would be the one thing that
    differs between two runs on the same data.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.checkpoint import UpdateDataDocsAction
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import ProgressBarsConfig

    with _quiet("great_expectations"):
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        asset = context.data_sources.add_pandas("candles").add_dataframe_asset("candles")
        batch = asset.add_batch_definition_whole_dataframe("window")
        suite = context.suites.add(gx.ExpectationSuite(name="candles"))
        for one in expected:
            suite.add_expectation(
                getattr(gx.expectations, one.kind)(
                    **one.arguments,
                    severity=_SEVERITY[one.severity],
                    description=one.says,
                    meta={"name": one.name},
                )
            )
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(name="candles", data=batch, suite=suite)
        )
        actions = []
        if site:
            context.update_data_docs_site("local_site", pages.site_config(site))
            actions.append(UpdateDataDocsAction(name="docs", site_names=["local_site"]))
        checkpoint = context.checkpoints.add(
            gx.Checkpoint(
                name="candles",
                validation_definitions=[definition],
                actions=actions,
                result_format={"result_format": "SUMMARY", "partial_unexpected_count": 10},
            )
        )
        result = checkpoint.run(
            batch_parameters={"dataframe": frame}, run_id=RunIdentifier(run_name="candles", run_time=end)
        )
    found = {}
    for validation in result.run_results.values():
        for one in validation.results:
            name = one.expectation_config.meta["name"]
            if one.exception_info and one.exception_info.get("raised_exception"):
                raise RuntimeError(f"the expectation {name} could not be evaluated: {one.exception_info}")
            count = one.result.get("unexpected_count")
            found[name] = (bool(one.success), int(not one.success) if count is None else int(count))
    return [found[one.name] for one in expected]
