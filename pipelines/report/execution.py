"""Selling a block: the schedule that is known to be best, equal slices, and what the planner found.

Everything but the planned schedules is closed form and computed here, in no time. Those come from
`python -m benchmarks.execution_planner`, whose result is in git: planning on a model learned from simulated
fills takes minutes, and nothing about it depends on the market of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.market.execution import ExecutionTask, cost, schedule, twap
from pipelines.report.charts import Chart
from pipelines.report.tables import Column, Row, Table

RISK_AVERSION = 1e-6
OPTIMUM, SLICES, AT_ONCE = "Almgren-Chriss", "equal slices (TWAP)", "all at once"
_FRONTIER = np.concatenate([[0.0], np.geomspace(1e-8, 1e-4, 40)])


class Section(NamedTuple):
    """What the page shows: sentences, charts with their rows, a table.

    holdings: rows [schedule, period, left]; frontier: rows [schedule, deviation, expectation, line].
    """

    words: list[str]
    holdings: list[dict[str, Any]]
    frontier: list[dict[str, Any]]
    charts: list[Chart]
    table: Table


def planned(result: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """The planner's schedules from the figures of `benchmarks.execution_planner`: by the true model, and by
    the learned ones (of the seeds, the one in the middle)."""
    figures = result["figures"]
    found = {"planned, true model": np.asarray(figures["true"]["holdings"], np.float64)}
    for noise, name in ((False, "planned, learned model"), (True, "planned, learned from noisy fills")):
        runs = [run for run in figures["learned"] if run["noise"] is noise]
        if runs:
            middle = sorted(runs, key=lambda run: float(run["over_optimal"]))[len(runs) // 2]
            found[name] = np.asarray(middle["holdings"], np.float64)
    return found


def section(
    plans: Mapping[str, ArrayLike],
    *,
    task: ExecutionTask | None = None,
    risk_aversion: float = RISK_AVERSION,
) -> Section:
    """Charts and table for the closed form, the baselines and `plans` (name to holdings `[N + 1]`)."""
    task = task or ExecutionTask()
    at_once = np.zeros(task.periods + 1)
    at_once[0] = task.shares
    best = schedule(task, risk_aversion=risk_aversion)
    schedules: dict[str, ArrayLike] = {OPTIMUM: best, SLICES: twap(task), AT_ONCE: at_once, **plans}
    costs = {name: cost(task, held, risk_aversion=risk_aversion) for name, held in schedules.items()}
    optimum = float(costs[OPTIMUM].objective)
    over = {name: float(found.objective) / optimum - 1.0 for name, found in costs.items()}
    table = Table(
        [
            Column("schedule"),
            Column("expected cost", "money, against selling everything at the first price"),
            Column("deviation", "standard deviation of the cost"),
            Column(
                "cost + risk", f"expected cost + {risk_aversion:g} x variance, which the schedule minimises"
            ),
            Column("over the optimum"),
        ],
        [
            Row(
                "learned" if name in plans else "oracle" if name == OPTIMUM else "baseline",
                [
                    name,
                    f"{float(found.expectation):,.0f}",
                    f"{float(np.sqrt(found.variance)):,.0f}",
                    f"{float(found.objective):,.0f}",
                    f"{over[name]:+.2%}",
                ],
            )
            for name, found in costs.items()
        ],
    )
    holdings = [
        {"schedule": name, "period": period, "left": float(left) / task.shares}
        for name, held in schedules.items()
        for period, left in enumerate(np.asarray(held, np.float64))
    ]
    efficient = [cost(task, schedule(task, risk_aversion=float(each))) for each in _FRONTIER]
    frontier = [
        *({"schedule": "efficient", **_point(found), "line": True} for found in efficient),
        *({"schedule": name, **_point(found), "line": False} for name, found in costs.items()),
    ]
    return Section(_words(task, over, list(plans)), holdings, frontier, _charts(task, list(schedules)), table)


def _words(task: ExecutionTask, over: Mapping[str, float], planned: Sequence[str]) -> list[str]:
    """`over`: of every schedule, how far its cost and risk are above the best one's."""
    said = [
        f"To sell {task.shares:,.0f} shares in {task.periods} periods, moving the price against oneself, has "
        "one best way in closed form (Almgren and Chriss 2001), so that a planner can be held against the "
        "truth. Neither depends on the market above."
    ]
    if planned:
        found = "; ".join(f"{name}: {over[name]:+.2%}" for name in planned)
        said.append(
            f"Cost and risk above the best way: {found}. Equal slices are at {over[SLICES]:+.2%}, selling "
            f"all at once at {over[AT_ONCE]:+.2%}."
        )
        behind = [name for name in planned if over[name] >= over[SLICES]]
        said.append(
            f"No better than equal slices: {', '.join(behind)}."
            if behind
            else "Every planner did better than equal slices."
        )
    return said


def _point(found: Any) -> dict[str, float]:
    return {"deviation": float(np.sqrt(found.variance)), "expectation": float(found.expectation)}


def _charts(task: ExecutionTask, names: Sequence[str]) -> list[Chart]:
    colour = {
        "field": "schedule", "type": "nominal", "scale": {"domain": list(names)},
        "legend": {"title": None, "orient": "bottom", "columns": 2},
    }  # fmt: skip
    falling = {
        "data": {"name": "execution_holdings"},
        "height": 260,
        "mark": {"type": "line", "point": True},
        "encoding": {
            "x": {"field": "period", "type": "quantitative", "title": f"period of {task.tau:g} day(s)",
                  "axis": {"tickMinStep": 1}},
            "y": {"field": "left", "type": "quantitative", "title": "left to sell",
                  "axis": {"format": ".0%"}},
            "color": colour,
            "tooltip": [{"field": "schedule"}, {"field": "period"}, {"field": "left", "format": ".1%"}],
        },
    }  # fmt: skip
    plane = {
        "x": {"field": "deviation", "type": "quantitative", "title": "deviation of the cost",
              "axis": {"format": "~s"}},
        "y": {"field": "expectation", "type": "quantitative", "title": "expected cost",
              "axis": {"format": "~s"}},
    }  # fmt: skip
    trade_off = {
        "data": {"name": "execution_frontier"},
        "height": 260,
        "layer": [
            {
                "transform": [{"filter": "datum.line"}],
                "mark": {"type": "line", "order": False, "strokeDash": [4, 3]},
                "encoding": plane,
            },
            {
                "transform": [{"filter": "!datum.line"}],
                "mark": {"type": "point", "filled": True, "size": 70},
                "encoding": {
                    **plane,
                    "color": colour,
                    "tooltip": [{"field": "schedule"}, {"field": "deviation", "format": ",.0f"},
                                {"field": "expectation", "format": ",.0f"}],
                },
            },
        ],
    }  # fmt: skip
    return [
        Chart(
            "execution_holdings",
            "What is left of the block",
            "Share of the block that is not yet sold at the end of each period. The planners should lie on "
            "the Almgren-Chriss schedule.",
            falling,
        ),
        Chart(
            "execution_frontier",
            "Cost against risk",
            "Dashed: the cheapest expected cost at every risk. Above it is money given away.",
            trade_off,
        ),
    ]
