"""The execution section: the paper's figures, and plans held against them."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines import layout
from pipelines.market.execution import ExecutionTask
from pipelines.report import execution
from pipelines.stage import rounded

PLANS = {"planned, true model": [1e6, 541_955.0, 289_854.0, 147_897.0, 62_142.0, 0.0]}


def test_the_table_has_the_papers_figures_and_ranks_the_plans():
    rows = {row.cells[0]: row for row in execution.section(PLANS).table.rows}
    assert rows[execution.OPTIMUM].cells[1:] == ["911,227", "603,431", "1,275,356", "+0.00%"]
    assert rows[execution.SLICES].cells[4] == "+36.86%"
    assert rows[execution.AT_ONCE].cells[1:3] == ["2,562,500", "0"]
    assert rows["planned, true model"].cells[3:] == ["1,275,356", "+0.00%"]
    assert [rows[name].kind for name in (execution.OPTIMUM, execution.SLICES, *PLANS)] == [
        "oracle", "baseline", "learned",
    ]  # fmt: skip


def test_no_schedule_lies_below_the_frontier_and_the_charts_find_their_rows():
    found = execution.section(PLANS)
    line = [row for row in found.frontier if row["line"]]
    risk, expected = (np.array([row[name] for row in line]) for name in ("deviation", "expectation"))
    order = np.argsort(risk)
    for row in found.frontier:
        if not row["line"]:
            assert row["expectation"] >= np.interp(row["deviation"], risk[order], expected[order]) * 0.98
    assert len(found.holdings) == 4 * 6
    assert {row["left"] for row in found.holdings if row["period"] == 0} == {1.0}
    assert {row["left"] for row in found.holdings if row["period"] == 5} == {0.0}
    json.dumps(
        [rounded(found.holdings, 5), rounded(found.frontier, 5), [chart.spec for chart in found.charts]]
    )
    named = {chart.spec["data"]["name"] for chart in found.charts}
    assert named == {"execution_holdings", "execution_frontier"}


def test_the_planners_schedules_are_the_middle_ones_of_the_seeds():
    runs = [{"noise": noise, "over_optimal": 1 + place / 100, "holdings": [1.0, place, 0.0]}
            for noise in (False, True) for place in (3, 1, 2)]  # fmt: skip
    figures = {"figures": {"true": {"holdings": [1.0, 0.5, 0.0]}, "learned": runs}}
    found = execution.planned(figures)
    assert list(found) == [
        "planned, true model",
        "planned, learned model",
        "planned, learned from noisy fills",
    ]
    assert [held[1] for held in found.values()] == [0.5, 2.0, 2.0]
    assert list(execution.planned({"figures": {**figures["figures"], "learned": runs[:3]}}))[-1].endswith(
        "model"
    )


def test_the_words_name_what_no_planning_was_needed_for():
    good = " ".join(execution.section(PLANS).words)
    assert "planned, true model: +0.00%. Equal slices are at +36.86%, selling all at once at +100.92%" in good
    assert good.endswith("Every planner did better than equal slices.")
    slices = {**PLANS, "lazy": np.linspace(1e6, 0.0, 6)}
    assert execution.section(slices).words[-1] == "No better than equal slices: lazy."
    assert len(execution.section({}).words) == 1


def test_the_committed_plans_are_those_of_the_same_task():
    root = Path(__file__).parents[2]
    plans = execution.planned(json.loads((root / layout.EXECUTION_PLANNER).read_text("utf-8")))
    cells = {row.cells[0]: row.cells[-1] for row in execution.section(plans).table.rows}
    assert cells["planned, true model"] == "+0.00%"
    assert len(plans) == 3


def test_another_market_is_shown_as_well():
    task = ExecutionTask(shares=1e5, periods=10, days=1.0)
    found = execution.section({}, task=task, risk_aversion=1e-7)
    assert len(found.table.rows) == 3
    with pytest.raises(ValueError, match="must run from 100000 to 0"):
        execution.section({"wrong": np.zeros(11)}, task=task)
