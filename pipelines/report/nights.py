"""For the page of a night: what the nights before it decided, and what a warm start was worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipelines.report.tables import NOTHING, Column, Row, Table, percent, probability

STARTS = {"scratch": "from scratch", "warm": "from the champion"}


class Section(NamedTuple):
    """What the page shows: sentences, newcomers by start, the last nights (latest first)."""

    words: list[str]
    starts: Table
    last: Table


def section(found: Mapping[str, Any] | None) -> Section | None:
    """From `metrics/nights.json`; none without a night."""
    if not found or not found["count"]:
        return None
    return Section(_words(found), _starts(found["starts"]), _last(found["nights"]))


def _words(found: Mapping[str, Any]) -> list[str]:
    nights, starts = found["nights"], found["starts"]
    promoted = sum(night["promoted"] is not None for night in nights)
    said = [
        f"{found['count']:,} night(s) came before this page; of the last {len(nights)}, {promoted} put a new "
        "champion in place."
    ]
    leads = {name: starts[name]["mean_lead"] for name in STARTS}
    if None in leads.values():
        without = " and ".join(STARTS[name] for name, lead in leads.items() if lead is None)
        said.append(
            f"Warm starts cannot be judged yet: no newcomer of the champion's family {without} was measured."
        )
    else:
        ahead = "scratch" if leads["scratch"] > leads["warm"] else "warm"
        other = "warm" if ahead == "scratch" else "scratch"
        said.append(
            f"Newcomers {STARTS[ahead]} were ahead so far: {leads[ahead]:+.1%} against the champion of their "
            f"night on average, and {leads[other]:+.1%} {STARTS[other]}. These are means of "
            f"{starts[ahead]['newcomers']} and {starts[other]['newcomers']} newcomers whose test windows "
            "overlap, so no proof."
        )
    return said


def _starts(starts: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = [
        Column("trained"),
        Column("newcomers", "of the champion's family, on nights on which the champion was measured too"),
        Column("promoted"),
        Column("mean return", "on the last test window of their night, after costs"),
        Column("mean lead", "return less that of the champion over the same window"),
    ]
    rows = []
    for name, words in STARTS.items():
        figures = starts[name]
        counts = [f"{figures[key]:,}" for key in ("newcomers", "promoted")]
        rows.append(Row("", [words, *counts, percent(figures["mean_return"]), percent(figures["mean_lead"])]))
    return Table(columns, rows)


def _last(nights: list[Mapping[str, Any]]) -> Table:
    columns = [
        Column("night"),
        Column("trained", "what this night's training started from", "words"),
        Column("champion", "who was put in place", "words"),
        Column("lead", "mean log return a bar of the best newcomer less its rival's, in basis points"),
        Column("p", "of a lead this large by luck"),
        Column("needed", "p at most this to be promoted: stricter the more newcomers there are"),
        Column("why", "", "words"),
    ]
    rows = []
    for night in reversed(nights):
        compared = night["comparison"] or {}
        lead = compared.get("difference_bps")
        rows.append(
            Row(
                "" if night["promoted"] is None else "learned",
                [
                    night["night"],
                    STARTS[night["start"]],
                    night["promoted"] or "as before",
                    NOTHING if lead is None else f"{lead:+.2f}",
                    probability(compared.get("p")),
                    probability(compared.get("p_needed")),
                    night["reason"],
                ],
            )
        )
    return Table(columns, rows)
