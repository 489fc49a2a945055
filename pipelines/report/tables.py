"""The tables of the page: rows of ready-made text, so that the template only lays them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

NOTHING = "–"


class Column(NamedTuple):
    label: str
    help: str = ""
    kind: str = "figure"  # a CSS class: figure or words


class Row(NamedTuple):
    kind: str  # a CSS class: learned, baseline, oracle or ""
    cells: list[str]


class Table(NamedTuple):
    columns: list[Column]
    rows: list[Row]


def percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:+.1%}"


def share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0%}"


def number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def probability(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def times_a_year(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}×"


def as_is(value: str) -> str:
    return value


Shown = tuple[str, str, Callable[[Any], str], str]

AGENT_COLUMNS: tuple[Shown, ...] = (
    ("words", "verdict", str, "by the rules of the method section"),
    ("total_return", "return", percent, "whole walk-forward path, net; median over seeds"),
    ("sharpe", "Sharpe", number, "a year, net; years are counted in bars of a market that never closes"),
    ("sharpe_range", "95 %", as_is, "interval of the annual Sharpe ratio by stationary bootstrap"),
    ("max_drawdown", "drawdown", percent, "deepest fall from a peak"),
    ("turnover_per_year", "turnover", times_a_year, "traded notional over equity, a year"),
    ("gross_exposure", "invested", share, "mean gross exposure"),
    ("cost_total", "costs", percent, "all costs over the path, as a share of the start equity"),
    ("oracle_share", "of oracle", share, "mean net return as a share of what the known market allows"),
    ("psr", "PSR", probability, "probability that the true Sharpe ratio is above zero, for this agent alone"),
    ("dsr", "DSR", probability, "the same against the best that luck finds in all trials on record"),
)


def agents(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """Learned agents, then rules, then the oracle; each group by return."""
    order = {"learned": 0, "baseline": 1, "oracle": 2}
    ranked = sorted(
        found.items(), key=lambda item: (order[item[1]["kind"]], -(item[1]["total_return"] or 0.0))
    )
    rows = []
    for name, figures in ranked:
        filled = {**figures, "sharpe_range": _range(figures), "words": figures.get("words") or NOTHING}
        if figures["ruined"]:
            filled["words"] = "ruined"
        rows.append(
            Row(figures["kind"], [name, *(form(filled.get(key)) for key, _, form, _ in AGENT_COLUMNS)])
        )
    columns = [
        Column(label, help, "words" if form is str else "figure") for _, label, form, help in AGENT_COLUMNS
    ]
    return Table([Column("agent"), *columns], rows)


def _range(figures: Mapping[str, Any]) -> str:
    low, high = figures.get("sharpe_low"), figures.get("sharpe_high")
    return NOTHING if low is None or high is None else f"{low:.1f} … {high:.1f}"


RUN_COLUMNS: tuple[Shown, ...] = (
    ("total_return", "return", percent, ""),
    ("sharpe", "Sharpe", number, ""),
    ("max_drawdown", "drawdown", percent, ""),
    ("turnover_per_year", "turnover", times_a_year, ""),
    ("time_long", "long", share, "share of the time"),
    ("time_short", "short", share, "share of the time"),
    ("hit_rate", "hits", share, "winning bars among the bars that moved"),
    ("cost_total", "costs", percent, ""),
)


def runs(paths: Mapping[str, Mapping[str, Any]]) -> Table:
    """Every fold and seed of one agent: distributions, not points."""
    rows = [
        Row("", [name.replace("-", " "), *(form(figures.get(key)) for key, _, form, _ in RUN_COLUMNS)])
        for name, figures in paths.items()
    ]
    return Table([Column("path"), *(Column(label, help) for _, label, _, help in RUN_COLUMNS)], rows)


def what_if(found: Mapping[str, Any]) -> Table:
    """One row a question: the same decisions under other costs, later fills and other sizes."""
    asked = [
        *((f"costs × {row['setting']:g}", row) for row in found["costs"]),
        *((f"filled {row['setting']:g} bar(s) later", row) for row in found["delay"] if row["setting"]),
        *((f"start with {row['setting']:,.0f}, square-root impact", row) for row in found["size"]),
    ]
    rows = [
        Row("", [question, percent(row["total_return"]), number(row["sharpe"])]) for question, row in asked
    ]
    even = found["break_even"]
    answer = found["break_even_note"] if even is None else f"{even:.2f} × the costs"
    rows.append(Row("", ["break-even", answer, NOTHING]))
    return Table([Column("what if"), Column("return"), Column("Sharpe")], rows)


def differences(pairs: Sequence[Mapping[str, Any]], learned: Sequence[str]) -> Table:
    """Mean return a year of every learned agent minus that of every other agent, with its interval."""
    rows = []
    for pair in pairs:
        first, second, sign = pair["first"], pair["second"], 1.0
        if first not in learned:
            first, second, sign = second, first, -1.0
        if first in learned:
            ends = sorted((sign * pair["low"], sign * pair["high"]))
            cells = [f"{first} − {second}", percent(sign * pair["mean"]), f"{ends[0]:+.0%} … {ends[1]:+.0%}"]
            rows.append(Row("", cells))
    return Table([Column("pair"), Column("a year", "difference of the mean returns"), Column("95 %")], rows)


def standing(evidence: Mapping[str, Any], order: Sequence[str]) -> Table:
    """Ranks over the folds, the spread over folds and seeds, and who may be the best of all."""
    rows = []
    for name in order:
        rank, best, spread = (evidence[key].get(name) for key in ("ranks", "best", "runs"))
        if rank is None:
            continue
        interval = spread["interval"]
        rows.append(
            Row(
                "",
                [
                    name,
                    f"{rank['mean_rank']:.1f}",
                    share(rank["share_first"]),
                    number(spread["median"]),
                    NOTHING if interval is None else f"{interval[0]:.1f} … {interval[1]:.1f}",
                    NOTHING
                    if spread["lower_quartile"] is None
                    else f"{spread['lower_quartile']:.1f} … {spread['upper_quartile']:.1f}",
                    "yes" if best["included"] else "no",
                    probability(best["p"]),
                ],
            )
        )
    columns = [
        Column("agent"),
        Column("mean rank", "by return, fold by fold; 1 is best"),
        Column("folds first", "share of the folds in which it stood first"),
        Column("median Sharpe", "over folds and seeds"),
        Column("95 %", "of the median; folds and seeds resampled"),
        Column("middle half", "of the folds and seeds"),
        Column("may be best", "in the model confidence set at 90 %"),
        Column("p", "of being as good as the best"),
    ]
    return Table(columns, rows)


def hallucinated(facts: Mapping[str, Mapping[str, Sequence[float]]]) -> Table:
    """Every fact of the market beside the same one of the invented market."""

    def cell(values: Sequence[float] | None) -> str:
        if not values:
            return NOTHING
        estimate, *ends = values
        return f"{estimate:.3g}" + (f" ({ends[0]:.3g} … {ends[1]:.3g})" if len(ends) == 2 else "")

    rows = []
    for name, sides in facts.items():
        source, dream = sides.get("source"), sides.get("dream")
        known = source is not None and dream is not None and len(source) == len(dream) == 3
        overlap = known and source[1] <= dream[2] and dream[1] <= source[2]  # type: ignore[index]
        same = NOTHING if not known else "yes" if overlap else "no"
        rows.append(Row("", [name.replace("_", " "), cell(source), cell(dream), same]))
    return Table(
        [
            Column("fact"),
            Column("market"),
            Column("invented"),
            Column("overlap", "do the intervals overlap?"),
        ],
        rows,
    )


def costs(shares: pl.DataFrame) -> Table:
    """Ledger items as columns, agents as rows; their sum is the net result."""
    wide = shares.pivot("item", index="agent", values="share", maintain_order=True)
    items = [name for name in wide.columns if name != "agent"]
    rows = [
        Row(
            "",
            [
                row["agent"],
                *(f"{row[item]:+.2%}" for item in items),
                f"{sum(row[item] for item in items):+.2%}",
            ],
        )
        for row in wide.iter_rows(named=True)
    ]
    return Table([Column("agent"), *(Column(item) for item in items), Column("net")], rows)


def data_quality(found: Mapping[str, Any]) -> Table:
    """A row a symbol, from `metrics/data.json`."""
    symbols: Mapping[str, Mapping[str, Any]] = found.get("symbols", {})
    keys: Sequence[str] = sorted({key for figures in symbols.values() for key in figures})
    rows = [
        Row("", [symbol, *(_plain(figures.get(key)) for key in keys)]) for symbol, figures in symbols.items()
    ]
    return Table([Column("symbol"), *(Column(key.replace("_", " ")) for key in keys)], rows)


def _plain(value: Any) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
