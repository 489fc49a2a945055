"""The charts of the page as Vega-Lite specifications: what is drawn, not how it looks.

A chart names a table of the page instead of carrying its rows, so that several charts share one copy;
colours, fonts and the dark theme are the page's (`page.js`). Every chart says in words what it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

Spec = dict[str, Any]

BASELINE_DASH = [4, 3]


class Chart(NamedTuple):
    """One figure: `title` and `caption` are for everybody, also for those who do not see the picture."""

    name: str
    title: str
    caption: str
    spec: Spec


def line_over_time(
    name: str,
    *,
    title: str,
    caption: str,
    table: str,
    field: str,
    label: str,
    agents: Sequence[str],
    learned: Sequence[str],
    form: str = ".3~s",
    log: bool = False,
    band: tuple[str, str] | None = None,
) -> Chart:
    """One line an agent; click the legend to single agents out, drag or scroll to zoom in time.

    Args:
      table: name of the page's table with the columns `time`, `agent`, `field` (and the `band`'s two).
      learned: these agents are drawn solid, the others dashed.
      band: lower and upper column of a shaded range around every line.
    """
    colour = {
        "field": "agent",
        "type": "nominal",
        "scale": {"domain": list(agents)},
        "legend": {
            "title": None,
            "orient": "bottom",
            "symbolType": "circle",
            "symbolOpacity": 1,
        },
    }
    x = {"field": "time", "type": "temporal", "title": None}
    faded = {"condition": {"param": "chosen", "value": 1.0}, "value": 0.12}
    mine = {"field": "agent", "oneOf": list(learned)}
    line: Spec = {
        "transform": [{"filter": {"field": "agent", "oneOf": list(agents)}}],
        "mark": {"type": "line", "interpolate": "step-after" if field == "exposure" else "linear"},
        "params": [
            {"name": "chosen", "select": {"type": "point", "fields": ["agent"]}, "bind": "legend"},
            {"name": "zoom", "select": {"type": "interval", "encodings": ["x"]}, "bind": "scales"},
        ],
        "encoding": {
            "x": x,
            "y": {
                "field": field,
                "type": "quantitative",
                "title": label,
                "scale": {"type": "log", "nice": False} if log else {"zero": False},
                "axis": {"format": form},
            },
            "color": colour,
            "strokeDash": {
                "condition": {"test": mine, "value": [1, 0]},
                "value": BASELINE_DASH,
            },
            "strokeWidth": {"condition": {"test": mine, "value": 2.4}, "value": 1.2},
            "opacity": faded,
            "tooltip": [
                {"field": "agent"},
                {"field": "time", "type": "temporal", "format": "%Y-%m-%d %H:%M"},
                {"field": field, "format": form, "title": label},
            ],
        },
    }
    layers: list[Spec] = [line]
    if band:
        low, high = band
        layers.insert(
            0,
            {
                "transform": [{"filter": mine}],
                "mark": {"type": "area", "opacity": 0.15},
                "encoding": {
                    "x": x,
                    "y": {"field": low, "type": "quantitative"},
                    "y2": {"field": high},
                    "color": colour,
                },
            },
        )
    return Chart(name, title, caption, {"data": {"name": table}, "height": 300, "layer": layers})


def cost_waterfall(name: str, *, title: str, caption: str, table: str, agents: Sequence[str]) -> Chart:
    """Stacked bars: what prices brought and what every kind of cost took, as a share of the start equity."""
    spec: Spec = {
        "data": {"name": table},
        "height": 28 * len(agents) + 10,
        "mark": "bar",
        "encoding": {
            "y": {"field": "agent", "type": "nominal", "sort": list(agents), "title": None},
            "x": {"field": "share", "type": "quantitative", "title": "share of the start equity",
                  "axis": {"format": "+.0%"}},
            "color": {"field": "item", "type": "nominal",
                      "legend": {"title": None, "orient": "bottom"}},
            "tooltip": [{"field": "agent"}, {"field": "item"}, {"field": "share", "format": "+.2%"}],
        },
    }  # fmt: skip
    return Chart(name, title, caption, spec)


def waterfall(name: str, *, title: str, caption: str, shares: Mapping[str, float]) -> Chart:
    """From what prices brought, cost by cost, down to what was left; items that are nothing are left out."""
    rows: list[Spec] = []
    level = 0.0
    for item, share in shares.items():
        if share:
            rows.append({"item": item, "start": level, "end": level + share, "share": share,
                         "kind": "earned" if share > 0 else "paid or lost"})  # fmt: skip
            level += share
    rows.append({"item": "net", "start": 0.0, "end": level, "share": level, "kind": "net"})
    spec: Spec = {
        "data": {"values": rows},
        "height": 24 * len(rows) + 10,
        "mark": "bar",
        "encoding": {
            "y": {"field": "item", "type": "nominal", "sort": None, "title": None},
            "x": {"field": "start", "type": "quantitative", "title": "share of the start equity",
                  "axis": {"format": "+.0%"}},
            "x2": {"field": "end"},
            "color": {"field": "kind", "type": "nominal", "legend": {"title": None, "orient": "bottom"},
                      "scale": {"domain": ["net", "paid or lost", "earned"]}},
            "tooltip": [{"field": "item"}, {"field": "share", "format": "+.2%"}],
        },
    }  # fmt: skip
    return Chart(name, title, caption, spec)


def histogram(
    name: str, *, title: str, caption: str, table: str, agent: str, field: str, label: str
) -> Chart:
    """Bars of one agent in a ready-made histogram with the columns `agent`, `field` (bin) and `share`."""
    ends = [
        {"calculate": f"datum.{field} {sign} 0.04", "as": end} for sign, end in (("-", "from"), ("+", "to"))
    ]
    spec: Spec = {
        "data": {"name": table},
        "height": 160,
        "transform": [{"filter": {"field": "agent", "equal": agent}}, *ends],
        "mark": "bar",
        "encoding": {
            "x": {"field": "from", "type": "quantitative", "title": label, "scale": {"domain": [-1.05, 1.05]},
                  "axis": {"format": "+.1f", "values": [-1, -0.5, 0, 0.5, 1]}},
            "x2": {"field": "to"},
            "y": {"field": "share", "type": "quantitative", "title": None, "axis": {"format": ".0%"}},
            "y2": {"datum": 0},
            "tooltip": [{"field": field, "title": label}, {"field": "share", "format": ".1%"}],
        },
    }  # fmt: skip
    return Chart(name, title, caption, spec)


def profile(name: str, *, title: str, caption: str, table: str, agents: Sequence[str]) -> Chart:
    """Share of the runs above each value, one falling line an agent (Agarwal et al. 2021)."""
    spec: Spec = {
        "data": {"name": table},
        "height": 240,
        "transform": [{"filter": {"field": "agent", "oneOf": list(agents)}}],
        "mark": {"type": "line", "interpolate": "step-after"},
        "encoding": {
            "x": {"field": "sharpe", "type": "quantitative", "title": "Sharpe ratio a year, fold by fold"},
            "y": {"field": "share", "type": "quantitative", "title": "share of runs above",
                  "axis": {"format": ".0%"}},
            "color": {"field": "agent", "type": "nominal", "scale": {"domain": list(agents)},
                      "legend": {"title": None, "orient": "bottom"}},
            "tooltip": [{"field": "agent"}, {"field": "sharpe", "format": ".2f"},
                        {"field": "share", "format": ".0%"}],
        },
    }  # fmt: skip
    return Chart(name, title, caption, spec)


def training_curves(name: str, *, title: str, caption: str, table: str, agent: str) -> Chart:
    """One thin line a job (fold and seed), one panel a metric."""
    spec: Spec = {
        "data": {"name": table},
        "transform": [{"filter": {"field": "agent", "equal": agent}}],
        "facet": {"field": "metric", "type": "nominal", "title": None},
        "columns": 3,
        "resolve": {"scale": {"y": "independent"}},
        "spec": {
            "width": 250,
            "height": 110,
            "mark": {"type": "line", "strokeWidth": 1.2},
            "encoding": {
                "x": {"field": "step", "type": "quantitative", "title": "real steps",
                      "axis": {"format": "~s"}},
                "y": {"field": "value", "type": "quantitative", "title": None, "scale": {"zero": False}},
                "color": {"field": "job", "type": "nominal", "legend": None},
                "tooltip": [{"field": "job"}, {"field": "step"}, {"field": "value", "format": ".4~g"}],
            },
        },
    }  # fmt: skip
    return Chart(name, title, caption, spec)


def price_with_gaps(name: str, *, title: str, caption: str, prices: str, gaps: str, holes: bool) -> Chart:
    """The price of every symbol, with real holes and outliers marked on it."""
    x = {"field": "time", "type": "temporal", "title": None}
    marked = {
        "data": {"name": gaps},
        "mark": {"type": "rect", "opacity": 0.35, "color": "#d33"},
        "encoding": {
            "x": {"field": "after", "type": "temporal", "title": None},
            "x2": {"field": "before"},
            "tooltip": [{"field": "symbol"}, {"field": "missing_bars"}],
        },
    }
    spec: Spec = {
        "height": 220,
        "layer": [
            {
                "data": {"name": prices},
                "mark": "line",
                "params": [{"name": "zoom", "select": {"type": "interval", "encodings": ["x"]},
                            "bind": "scales"}],
                "encoding": {
                    "x": x,
                    "y": {"field": "relative", "type": "quantitative", "title": "price, first bar = 1",
                          "scale": {"type": "log", "nice": False}},
                    "color": {"field": "symbol", "type": "nominal",
                              "legend": {"title": None, "orient": "bottom"}},
                    "tooltip": [{"field": "symbol"}, {"field": "time", "type": "temporal"},
                                {"field": "close", "format": ".6~g"}],
                },
            },
            *([marked] if holes else []),
        ],
    }  # fmt: skip
    return Chart(name, title, caption, spec)


def shared(agents: Mapping[str, Mapping[str, Any]], names: Sequence[str], gaps: pl.DataFrame) -> list[Chart]:
    """The charts that hold all agents (`metrics/comparison.json`, in the order of `names`) and the data's."""
    learned = [name for name in names if agents[name]["kind"] == "learned"]
    common: dict[str, Any] = {"table": "equity", "agents": names, "learned": learned}
    best = max(names, key=lambda name: agents[name]["total_return"] or 0.0)
    return [
        line_over_time(
            "equity",
            title="Equity, net of every cost",
            caption="Start of the first test fold = 1, the equity split evenly between the seeds. Solid: "
            f"learned agents with their bootstrap band; dashed: rules. Highest at the end: {best}. Click a "
            "name in the legend to single it out.",
            field="equity",
            label="equity",
            form=".2f",
            log=True,
            band=("low", "high"),
            **common,
        ),
        line_over_time(
            "drawdown",
            title="Drawdown",
            caption="How far below its peak each path stood.",
            field="drawdown",
            label="below the peak",
            form=".0%",
            **common,
        ),
        line_over_time(
            "exposure",
            title="Exposure of the learned agents",
            caption="Net position as a share of equity, at the close; mean over seeds. A flat line is an "
            "agent that does not decide.",
            field="exposure",
            label="net exposure",
            form=".1f",
            **{**common, "agents": learned or names},
        ),
        cost_waterfall(
            "costs",
            title="What prices brought and what costs took",
            caption="Bars to the right earned, bars to the left cost. Exact figures in the table below.",
            table="costs",
            agents=names,
        ),
        profile(
            "profile",
            title="Performance profile",
            caption="Share of the folds and seeds of each agent whose Sharpe ratio is above the value "
            "below: a "
            "line further right and higher is better, a steep one is reliable.",
            table="profile",
            agents=names,
        ),
        price_with_gaps(
            "price",
            title="The price, and where it is missing",
            caption=f"Log scale; red where bars are missing ({len(gaps)} hole(s)).",
            prices="prices",
            gaps="gaps",
            holes=not gaps.is_empty(),
        ),
    ]
