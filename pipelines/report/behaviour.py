"""For the page: how the recorded policies fared that an offline family learns from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.report.tables import Column, Row, Table

COLUMNS = (
    Column(
        "policy", "what was recorded; a noisy one trades at random in that share of its stretches", "words"
    ),
    Column("episodes", "on the training windows of all folds"),
    Column("mean", "log return of an episode, after costs"),
    Column("5 %", "one episode in twenty fared worse"),
    Column("25 %"),
    Column("median"),
    Column("75 %"),
    Column("95 %", "one episode in twenty fared better"),
)
QUANTILES = ("mean", "q05", "q25", "median", "q75", "q95")


def table(found: Mapping[str, Any]) -> Table:
    """One row a policy of `metrics/behaviour.json`, the best mean first; all of them together at the top."""
    policies: Mapping[str, Mapping[str, float]] = found["policies"]
    names = sorted(policies, key=lambda name: (name != "all", -policies[name]["mean"], name))
    rows = [
        Row(
            "baseline" if name == "all" else "",
            [name, f"{policies[name]['episodes']:,}", *(f"{policies[name][key]:+.2%}" for key in QUANTILES)],
        )
        for name in names
    ]
    return Table(list(COLUMNS), rows)
