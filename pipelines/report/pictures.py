"""How one decision came about, drawn by kind: search tree, beams, attention, plan.

What a family tells (`models.agent.Explainer`) comes as named lists. The pictures carry their own few rows;
a search that is larger than the eye can take is cut to its most visited part, and the caption says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.report.charts import Chart

BASIS_POINTS = 1e4
MOST_NODES = 60
MOST_COMPONENTS = 15
HEIGHT = 240

Say = Callable[[Any], str]


def drawn(
    agent: str,
    told: Mapping[str, Mapping[str, Any]],
    *,
    grid: Sequence[float] | None,
    observed: Sequence[str],
) -> list[Chart]:
    """A chart for every kind that is known here.

    Args:
        told: kind -> arrays, as nested lists.
        grid: exposures of a discrete action; None where actions are exposures themselves.
        observed: names of the components of an observation.
    """
    say = exposure_words(grid)
    makers: dict[str, Callable[[Mapping[str, Any]], Chart]] = {
        "tree": lambda found: tree(agent, found, say),
        "beams": lambda found: beams(agent, found, say),
        "attention": lambda found: attention(agent, found, observed),
        "plan": lambda found: plan(agent, found, say),
    }
    return [makers[kind](told[kind]) for kind in makers if kind in told]


def exposure_words(grid: Sequence[float] | None) -> Say:
    """How an action is written: as the exposure it asks for."""

    def say(action: Any) -> str:
        if isinstance(action, list):
            return " ".join(say(part) for part in action)
        if grid is None:
            return f"{action:+.2f}"
        place = int(action)
        return f"{grid[place]:+g}" if 0 <= place < len(grid) else "now"

    return say


def tree(agent: str, found: Mapping[str, Any], say: Say) -> Chart:
    """The search tree, its branches as wide as they were visited."""
    visits = np.asarray(found["visits"], np.float64)
    parents = [int(parent) for parent in found["parent"]]
    shown = _most_visited(parents, visits)
    across, down = _layout(parents, shown)
    total = max(1.0, float(visits.max()))
    nodes = [
        {
            "x": across[node],
            "y": down[node],
            "px": across[parents[node]] if parents[node] >= 0 else across[node],
            "py": down[parents[node]] if parents[node] >= 0 else down[node],
            "label": "now" if parents[node] < 0 else say(found["action"][node]),
            "visits": visits[node],
            "width": 1.0 + 9.0 * visits[node] / total,
            "value": BASIS_POINTS * float(found["value"][node]),
            "prior": float(found["prior"][node]),
            "reward": BASIS_POINTS * float(found["reward"][node]),
        }
        for node in shown
    ]
    place: dict[str, dict[str, Any]] = {
        "x": {"field": "x", "type": "quantitative", "axis": None, "scale": {"nice": False, "padding": 18}},
        "y": {
            "field": "y",
            "type": "quantitative",
            "title": "steps ahead",
            "scale": {"reverse": True, "nice": False, "padding": 18},
            "axis": {"tickMinStep": 1, "grid": False},
        },
    }
    told = [{"field": "label", "title": "exposure"}, {"field": "visits"},
            {"field": "value", "format": "+.1f", "title": "value, bp"}, {"field": "prior", "format": ".1%"},
            {"field": "reward", "format": "+.1f", "title": "expected reward, bp"}]  # fmt: skip
    cut = f" The {len(shown)} most visited of {len(parents)} positions." if len(shown) < len(parents) else ""
    first = max(
        (n for n in shown if parents[n] >= 0 and parents[parents[n]] < 0), key=lambda n: visits[n], default=-1
    )
    best = f" Most visited first step: {say(found['action'][first])}." if first >= 0 else ""
    depth = int(max(down.values()))
    return Chart(
        f"tree_{agent}",
        "Its search before one decision",
        f"Each branch is an exposure, as wide as it was visited, {depth} steps deep.{best}{cut}",
        {
            "height": 60 * max(2, depth) + 60,
            "data": {"values": nodes},
            "layer": [
                {
                    "mark": {"type": "rule", "opacity": 0.55, "strokeCap": "round"},
                    "encoding": {
                        "x": {**place["x"], "field": "px"},
                        "x2": {"field": "x"},
                        "y": {**place["y"], "field": "py"},
                        "y2": {"field": "y"},
                        "strokeWidth": {"field": "width", "type": "quantitative", "scale": None},
                    },
                },
                {
                    "mark": {"type": "circle", "size": 60, "opacity": 1.0},
                    "encoding": {**place, "tooltip": told},
                },
                {
                    "mark": {"type": "text", "dy": -10, "fontSize": 10},
                    "encoding": {**place, "text": {"field": "label"}},
                },
            ],
        },
    )


def _most_visited(parents: Sequence[int], visits: np.ndarray) -> list[int]:
    """At most `MOST_NODES`, a parent before its children; ties by position, so that it is always the same."""
    kept: set[int] = set()
    for node in sorted(range(len(parents)), key=lambda n: (-visits[n], n)):
        line = [node]
        while parents[line[-1]] >= 0 and parents[line[-1]] not in kept:
            line.append(parents[line[-1]])
        if len(kept | set(line)) <= MOST_NODES:
            kept |= set(line)
    return sorted(kept)


def _layout(parents: Sequence[int], shown: Sequence[int]) -> tuple[dict[int, float], dict[int, float]]:
    """Leaves side by side, every parent over the middle of its children; depth downwards."""
    children: dict[int, list[int]] = {node: [] for node in shown}
    roots: list[int] = []
    for node in shown:
        (children[parents[node]] if parents[node] >= 0 else roots).append(node)
    across: dict[int, float] = {}
    down: dict[int, float] = {}
    leaves = 0

    def place(node: int, depth: int) -> None:
        nonlocal leaves
        down[node] = float(depth)
        for child in children[node]:
            place(child, depth + 1)
        if children[node]:
            across[node] = sum(across[child] for child in children[node]) / len(children[node])
        else:
            across[node] = float(leaves)
            leaves += 1

    for root in roots:
        place(root, 0)
    return across, down


def beams(agent: str, found: Mapping[str, Any], say: Say) -> Chart:
    """The plans that were compared: what each expects to have earned by each step."""
    rewards = BASIS_POINTS * np.cumsum(np.asarray(found["rewards"], np.float64), axis=1)  # [W, H]
    order = np.argsort(-np.asarray(found["score"], np.float64), kind="stable")
    rows = [
        {"beam": str(rank + 1), "chosen": "chosen" if rank == 0 else "others", "step": step + 1,
         "reward": rewards[beam, step], "exposure": say(found["actions"][beam][step]),
         "log_probability": float(found["log_probability"][beam])}
        for rank, beam in enumerate(order)
        for step in range(rewards.shape[1])
    ]  # fmt: skip
    return Chart(
        f"beams_{agent}",
        "The plans it compared before one decision",
        f"{len(order)} beams: summed reward that each expects by that step; the chosen one begins with "
        f"{say(found['actions'][int(order[0])][0])}.",
        {
            "height": HEIGHT,
            "data": {"values": rows},
            "mark": {"type": "line", "point": True},
            "encoding": {
                "x": {"field": "step", "type": "quantitative", "title": "bars ahead",
                      "axis": {"tickMinStep": 1}},
                "y": {"field": "reward", "type": "quantitative", "title": "expected, summed, bp"},
                "detail": {"field": "beam"},
                "color": {"field": "chosen", "type": "nominal", "legend": {"title": None, "orient": "bottom"},
                          "scale": {"domain": ["chosen", "others"]}},
                "opacity": {"condition": {"test": "datum.chosen == 'chosen'", "value": 1}, "value": 0.4},
                "tooltip": [{"field": "beam"}, {"field": "step"}, {"field": "exposure"},
                            {"field": "reward", "format": "+.1f"},
                            {"field": "log_probability", "format": ".2f", "title": "log probability"}],
            },
        },
    )  # fmt: skip


def attention(agent: str, found: Mapping[str, Any], observed: Sequence[str]) -> Chart:
    """What the decision looked at, by the names of the features."""
    weights = np.asarray(found["weight"], np.float64).ravel()
    names = list(observed) if len(observed) == len(weights) else [f"input {n}" for n in range(len(weights))]
    order = np.argsort(-weights, kind="stable")[:MOST_COMPONENTS]
    rows = [{"input": names[n], "weight": weights[n]} for n in order]
    return Chart(
        f"attention_{agent}",
        "What one decision looked at",
        f"Attention by component of the observation, the {len(rows)} largest; most: {rows[0]['input']}.",
        {
            "height": 18 * len(rows) + 20,
            "data": {"values": rows},
            "mark": "bar",
            "encoding": {
                "y": {"field": "input", "type": "nominal", "sort": None, "title": None},
                "x": {
                    "field": "weight",
                    "type": "quantitative",
                    "title": "attention",
                    "axis": {"format": ".0%"},
                },
                "tooltip": [{"field": "input"}, {"field": "weight", "format": ".1%"}],
            },
        },
    )


def plan(agent: str, found: Mapping[str, Any], say: Say) -> Chart:
    """The plan behind one decision: the reward it expects step by step, and the exposures it would take."""
    rewards = BASIS_POINTS * np.asarray(found["rewards"], np.float64)
    spread = BASIS_POINTS * np.asarray(found.get("spread", np.zeros(len(rewards))), np.float64)
    rows = [
        {"step": step + 1, "reward": rewards[step], "low": rewards[step] - spread[step],
         "high": rewards[step] + spread[step], "exposure": say(found["actions"][step])}
        for step in range(len(rewards))
    ]  # fmt: skip
    x = {"field": "step", "type": "ordinal", "title": "bars ahead", "axis": {"labelAngle": 0}}
    title = "expected reward, bp"
    return Chart(
        f"plan_{agent}",
        "The plan behind one decision",
        f"Expected reward step by step (whiskers: one deviation over the model's samples), and above it the "
        f"exposure it would take; it begins with {rows[0]['exposure']}.",
        {
            "height": HEIGHT,
            "data": {"values": rows},
            "encoding": {"x": x},
            "layer": [
                {"mark": "bar", "encoding": {"y": {"field": "reward", "type": "quantitative", "title": title},
                                             "tooltip": [{"field": "step"}, {"field": "exposure"},
                                                         {"field": "reward", "format": "+.2f"}]}},
                {"mark": "rule", "encoding": {"y": {"field": "low", "type": "quantitative", "title": title},
                                              "y2": {"field": "high"}}},
                {"mark": {"type": "text", "dy": -8, "fontSize": 10},
                 "encoding": {"y": {"field": "high", "type": "quantitative", "title": title},
                              "text": {"field": "exposure"}}},
            ],
        },
    )  # fmt: skip
