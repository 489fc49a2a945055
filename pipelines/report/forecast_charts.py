"""Charts of what a model foretold: the same four for every family that predicts, and its regimes."""

from __future__ import annotations

from typing import Any

from pipelines.report.charts import Chart, Spec

AHEAD: Spec = {
    "field": "bars_ahead",
    "type": "quantitative",
    "title": "bars ahead",
    "axis": {"tickMinStep": 1},
    "scale": {"zero": False, "nice": False, "padding": 12},
}
HEIGHT = 200


def _of(agent: str, **more: Any) -> list[Spec]:
    return [{"filter": {"field": name, "equal": value}} for name, value in {"agent": agent, **more}.items()]


def fan(agent: str, *, ranges: bool) -> Chart:
    """One forecast with its ranges (where it has any), and what came."""
    title = "summed reward, bp"
    bands = [
        {
            "mark": {"type": "area", "opacity": opacity},
            "encoding": {
                "x": AHEAD,
                "y": {"field": low, "type": "quantitative", "title": title},
                "y2": {"field": high},
            },
        }
        for low, high, opacity in (("q025", "q975", 0.15), ("q100", "q900", 0.2), ("q250", "q750", 0.3))
    ]
    lines = [
        {
            "mark": mark,
            "encoding": {
                "x": AHEAD,
                "y": {"field": field, "type": "quantitative", "title": title},
                "tooltip": [
                    {"field": "bars_ahead"},
                    {"field": field, "format": "+.1f", "title": f"{said}, bp"},
                ],
            },
        }
        for field, said, mark in (
            ("mean", "foretold", {"type": "line", "strokeWidth": 2}),
            ("realised", "came", {"type": "line", "strokeDash": [4, 3], "point": True, "color": "#d1495b"}),
        )
    ]
    return Chart(
        f"fan_{agent}",
        "One forecast, and what came",
        "Holding the highest exposure from the middle of the last fold on: mean and ranges (50, 80, 95 %) "
        "of what "
        "the model foretold; dashed with points: what came.",
        {
            "data": {"name": "fan"},
            "height": HEIGHT,
            "transform": _of(agent, kind="held"),
            "layer": [*(bands if ranges else []), *lines],
        },
    )


def transform(agent: str) -> Chart:
    """The histogram that is flat for a calibrated model."""
    return Chart(
        f"transform_{agent}",
        "Where in its forecasts the truth fell",
        "A flat row at 10 % is calibrated; high at both ends: too sure of itself; high in the middle: too "
        "timid; "
        "a slope: biased.",
        {
            "data": {"name": "transform"},
            "height": HEIGHT,
            "transform": _of(agent),
            "layer": [
                {
                    "mark": "bar",
                    "encoding": {
                        "x": {"field": "tenth", "type": "ordinal", "title": "from this probability on",
                              "axis": {"labelAngle": 0}},
                        "y": {"field": "share", "type": "quantitative", "title": "share of bars",
                              "axis": {"format": ".0%"}},
                        "tooltip": [{"field": "tenth"}, {"field": "share", "format": ".1%"}],
                    },
                },
                {"mark": {"type": "rule", "strokeDash": [4, 3], "color": "#888"},
                 "encoding": {"y": {"datum": 0.1}}},
            ],
        },
    )  # fmt: skip


def coverage(agent: str) -> Chart:
    """How often the ranges held, against what they claim, by horizon."""
    level: Spec = {"field": "claimed", "type": "ordinal", "legend": {"title": "claimed", "format": ".0%",
                   "orient": "bottom"}}  # fmt: skip
    return Chart(
        f"coverage_{agent}",
        "How often its ranges held the truth",
        "Solid: share of the forecasts whose range held the summed reward so many bars ahead; dashed, in "
        "the same "
        "colour: what the range claims. Below the dashed line the model is too sure.",
        {
            "data": {"name": "coverage"},
            "height": HEIGHT,
            "transform": _of(agent),
            "encoding": {"x": AHEAD, "color": level},
            "layer": [
                {
                    "mark": {"type": "line", "point": True},
                    "encoding": {
                        "y": {"field": "covered", "type": "quantitative", "title": "held the truth",
                              "axis": {"format": ".0%"}, "scale": {"domain": [0, 1]}},
                        "tooltip": [{"field": "bars_ahead"}, {"field": "claimed", "format": ".0%"},
                                    {"field": "covered", "format": ".1%"}],
                    },
                },
                {
                    "mark": {"type": "line", "strokeDash": [4, 3], "opacity": 0.7},
                    "encoding": {"y": {"field": "claimed", "type": "quantitative"}},
                },
            ],
        },
    )  # fmt: skip


def planned(agent: str) -> Chart:
    """Promise against result by step of the plan."""
    title = "reward of that bar, bp"
    return Chart(
        f"planned_{agent}",
        "What it promised, and what it earned",
        "Mean reward of the bar so many steps after a decision, for its own decisions; the whiskers are two "
        "standard errors. A promise above what came is optimism that planning then exploits.",
        {
            "data": {"name": "planned"},
            "height": HEIGHT,
            "transform": [
                *_of(agent, kind="own"),
                {"calculate": "datum.reward - 2 * datum.error", "as": "low"},
                {"calculate": "datum.reward + 2 * datum.error", "as": "high"},
            ],
            "encoding": {
                "x": AHEAD,
                "color": {"field": "line", "type": "nominal", "legend": {"title": None, "orient": "bottom"}},
            },
            "layer": [
                {"mark": "rule", "encoding": {"y": {"field": "low", "type": "quantitative", "title": title},
                                              "y2": {"field": "high"}}},
                {
                    "mark": {"type": "line", "point": True},
                    "encoding": {
                        "y": {"field": "reward", "type": "quantitative", "title": title},
                        "tooltip": [{"field": "line"}, {"field": "bars_ahead"},
                                    {"field": "reward", "format": "+.2f"}],
                    },
                },
            ],
        },
    )  # fmt: skip


def regimes(agent: str, *, first: str, symbol: str) -> Chart:
    """The price of the test windows on the colours of the regimes that the agent named."""
    zoom = [{"name": f"zoom_{agent}", "select": {"type": "interval", "encodings": ["x"]}, "bind": "scales"}]
    return Chart(
        f"regimes_{agent}",
        "The regimes it saw",
        "Price (log scale) over the regime that the agent named at each close, first seed, test windows "
        "only.",
        {
            "height": HEIGHT,
            "layer": [
                {
                    "data": {"name": "regimes"},
                    "transform": _of(agent),
                    "mark": {"type": "rect", "opacity": 0.45},
                    "encoding": {
                        "x": {"field": "start", "type": "temporal", "title": None},
                        "x2": {"field": "end"},
                        "color": {"field": "regime", "type": "nominal",
                                  "legend": {"title": None, "orient": "bottom"}},
                        "tooltip": [{"field": "regime"}, {"field": "start", "type": "temporal"},
                                    {"field": "end", "type": "temporal"}],
                    },
                },
                {
                    "data": {"name": "prices"},
                    "params": zoom,
                    "transform": [
                        {"filter": {"field": "symbol", "equal": symbol}},
                        {"filter": f"toDate(datum.time) >= toDate('{first}')"},
                    ],
                    "mark": {"type": "line", "strokeWidth": 1.2, "color": "#666"},
                    "encoding": {
                        "x": {"field": "time", "type": "temporal", "title": None},
                        "y": {"field": "relative", "type": "quantitative", "title": "price",
                              "scale": {"type": "log", "nice": False}},
                    },
                },
            ],
        },
    )  # fmt: skip
