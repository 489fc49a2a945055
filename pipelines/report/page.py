"""The page: everything that was found, in one self-contained file that needs no network.

Text from outside (symbol names, parameters, paths) only ever passes through the template's escaping; data
for the charts are JSON inside script elements, with `<` escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import polars as pl
from markupsafe import Markup
from ruamel.yaml import YAML
from ruamel.yaml.compat import StringIO

from pipelines.evaluation.verdict import RULES
from pipelines.params import Params
from pipelines.report import charts, tables
from pipelines.report.charts import Chart
from pipelines.stage import rounded

TEMPLATES = Path(__file__).parent / "templates"
VEGA_LITE = "6.4"


class Inputs(NamedTuple):
    """What the page is made from.

    evidence: what stands behind the comparison (`metrics/evidence.json`).
    prices: [symbol, time, close, relative], thinned; gaps: [symbol, after, before, missing_bars].
    curves, exposures, costs: the plot series of `compare`; training: [job, step, metric, value, family].
    figures: family or "baselines" -> agent -> {"median", "runs"}.
    """

    params: Params
    comparison: Mapping[str, Any]
    data: Mapping[str, Any]
    features: Mapping[str, Any]
    evidence: Mapping[str, Any]
    figures: Mapping[str, Mapping[str, Any]]
    curves: pl.DataFrame
    exposures: pl.DataFrame
    costs: pl.DataFrame
    training: pl.DataFrame
    prices: pl.DataFrame
    gaps: pl.DataFrame
    code: str


class Banner(NamedTuple):
    title: str
    text: str


def render(inputs: Inputs) -> str:
    """The whole page as HTML."""
    import vl_convert

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    drawn = _charts(inputs)
    agents = inputs.comparison["agents"]
    return environment.get_template("page.html.j2").render(
        title=inputs.params.report.title,
        headline=headline(agents),
        page=_identity(inputs),
        banners=_banners(inputs),
        agents=tables.agents(agents),
        agents_note=_agents_note(inputs),
        charts={chart.name: chart for chart in drawn},
        costs=tables.costs(inputs.costs),
        details=[
            {"name": name, "runs": tables.runs(found["runs"]), "what_if": _what_if(name, inputs)}
            for group in inputs.figures.values()
            for name, found in group.items()
        ],
        differences=tables.differences(inputs.evidence["differences"], _learned(inputs)),
        data=tables.data_quality(inputs.data),
        warnings=_warnings(inputs.data),
        method=_method(inputs),
        parameters=_yaml(inputs.params),
        footer="Simulated results say how an agent would have done, not how it will do.",
        style=Markup((TEMPLATES / "page.css").read_text("utf-8")),
        script=Markup((TEMPLATES / "page.js").read_text("utf-8")),
        bundle=Markup(_inline(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE))),
        tables_json=Markup(_json(_rows(inputs))),
        charts_json=Markup(_json({chart.name: _described(chart) for chart in drawn})),
    )


def headline(agents: Mapping[str, Mapping[str, Any]]) -> str:
    """One sentence: whether any learned agent is worth trusting."""
    learned = {name: found for name, found in agents.items() if found["kind"] == "learned"}
    best = [name for name, found in learned.items() if found.get("verdict") == "better than buy and hold"]
    good = [name for name, found in learned.items() if found.get("verdict") == "better than zero"]
    if best:
        return f"{_listed(best)} did better than buy and hold, beyond what luck explains."
    if good:
        return f"{_listed(good)} earned more than nothing, but not provably more than buy and hold."
    if not learned:
        return "No agent was trained."
    worse = [name for name, found in learned.items() if found.get("verdict") == "worse than doing nothing"]
    if len(worse) == len(learned):
        return "Doing nothing would have been better than every agent here."
    return "No agent can be told apart from doing nothing. None of them deserves your money yet."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _identity(inputs: Inputs) -> dict[str, Any]:
    data, split = inputs.params.data, inputs.params.split
    market = f"simulated market ({data.simulator.market})" if data.source == "simulator" else data.source
    return {
        "market": f"{market}: {', '.join(data.symbols)} at {data.interval}",
        "window": f"{data.start} to {data.end}",
        "folds": split.folds,
        "seeds": split.seeds,
        "data_hash": inputs.comparison["data"],
        "code_hash": inputs.code[:12],
    }


def _banners(inputs: Inputs) -> list[Banner]:
    banners = []
    if inputs.features["leaking"]:
        names = ", ".join(inputs.features["leaking"])
        banners.append(
            Banner(
                "These results know the future.",
                f"The leak gate was forced open for: {names}. Trust nothing.",
            )
        )
    if inputs.comparison["trials"]["problems"]:
        banners.append(
            Banner(
                "The record of trials was tampered with.", "; ".join(inputs.comparison["trials"]["problems"])
            )
        )
    ruined = [name for name, found in inputs.comparison["agents"].items() if found["ruined"]]
    if ruined:
        banners.append(Banner("Ruin.", f"At least one path of {', '.join(ruined)} lost everything."))
    return banners


def _agents_note(inputs: Inputs) -> str:
    trials = inputs.comparison["trials"]
    return (
        f"{trials['configurations']} configuration(s) are on record ({trials['runs']} runs); the verdicts "
        "pay for all of them. A Sharpe ratio without its interval says nothing: look at the 95 % column."
    )


def _warnings(data: Mapping[str, Any]) -> list[str]:
    found = data.get("warnings", [])
    return [str(warning) for warning in found] if isinstance(found, list) else []


def _method(inputs: Inputs) -> list[str]:
    params = inputs.params
    split, account = params.split, params.account
    rules = "; ".join(f"“{rule.name}”: {rule.when}" for rule in RULES)
    return [
        f"{split.folds} folds: train on {split.train_bars:,} bars, leave out "
        f"{split.purge_bars + split.embargo_bars}, test on the next {split.test_bars:,}; scalers are fitted "
        "on the training bars of their own fold.",
        "A decision at the close of a bar is filled at the open of the next one, worse by half the spread, "
        "slippage and impact; fees are paid on the traded notional. Nothing is filled backwards.",
        f"Costs: fee {account.fee_bps} bp, half-spread {account.half_spread_bps} bp, slippage "
        f"{account.slippage_bps} bp of the traded notional; leverage at most {account.leverage}.",
        f"{split.seeds} seeds a fold. Every figure, test and curve is of the whole walk-forward path with "
        "the equity split evenly between the seeds; intervals come from the stationary bootstrap "
        f"({params.evaluation.replications} records, blocks of "
        f"{inputs.comparison['family']['block_bars']:.0f} bars on average).",
        _family(inputs),
        f"Verdicts, the first rule that applies: {rules}.",
        "Features pass the leak gate: each is recomputed on histories that end earlier "
        f"({inputs.features['features']} features, {inputs.features['warm_up_bars']} bars of warm-up).",
    ]


def _family(inputs: Inputs) -> str:
    """The tests of all agents at once, in words."""
    family = inputs.comparison["family"]
    said = []
    for key, claim in (("spa_zero", "earns more than zero"), ("spa_hold", "earns more than buy and hold")):
        if family[key] is not None:
            said.append(f"no agent {claim}: p = {family[key]:.3f} (Hansen's superior predictive ability)")
    if family["overfitting"] is not None:
        said.append(
            f"probability that picking the best agent here is overfitting: {family['overfitting']:.0%}"
        )
    return "Tests of all agents at once: " + ("; ".join(said) or "none could be made") + "."


def _charts(inputs: Inputs) -> list[Chart]:
    agents = inputs.comparison["agents"]
    names = [row.cells[0] for row in tables.agents(agents).rows]
    learned = [name for name in names if agents[name]["kind"] == "learned"]
    common: dict[str, Any] = {"table": "curves", "agents": names, "learned": learned}
    best = max(names, key=lambda name: agents[name]["total_return"] or 0.0)
    drawn = [
        charts.line_over_time(
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
        charts.line_over_time(
            "drawdown",
            title="Drawdown",
            caption="How far below its peak each path stood.",
            field="drawdown",
            label="below the peak",
            form=".0%",
            **common,
        ),
        charts.line_over_time(
            "exposure",
            title="Exposure of the learned agents",
            caption="Net position as a share of equity, at the close; mean over seeds. A flat line is an "
            "agent that does not decide.",
            field="exposure",
            label="net exposure",
            form=".1f",
            **{**common, "agents": learned or names},
        ),
        charts.cost_waterfall(
            "costs",
            title="What prices brought and what costs took",
            caption="Bars to the right earned, bars to the left cost. Exact figures in the table below.",
            table="costs",
            agents=names,
        ),
        charts.histogram(
            "positions",
            title="Share of time at each net exposure",
            caption="One panel an agent, over all folds and seeds.",
            table="exposures",
            field="exposure",
            label="net exposure",
        ),
        charts.price_with_gaps(
            "price",
            title="The price, and where it is missing",
            caption=f"Log scale; red where bars are missing ({len(inputs.gaps)} hole(s)).",
            prices="prices",
            gaps="gaps",
            holes=not inputs.gaps.is_empty(),
        ),
    ]
    if not inputs.training.is_empty():
        drawn.append(
            charts.training_curves(
                "training",
                title="Training curves",
                caption="One line a fold and seed, on training data: not evidence of skill.",
                table="training",
            )
        )
    return drawn


def _rows(inputs: Inputs) -> dict[str, list[dict[str, Any]]]:
    frames = {
        "curves": inputs.curves,
        "exposures": inputs.exposures,
        "costs": inputs.costs,
        "training": _results_only(inputs.training),
        "prices": inputs.prices,
        "gaps": inputs.gaps,
    }
    return {name: rounded(frame.to_dicts(), 5) for name, frame in frames.items()}


def _described(chart: Chart) -> charts.Spec:
    """Vega gives a chart its description as the name that a screen reader says."""
    return {**chart.spec, "description": f"{chart.title}. {chart.caption}"}


def _learned(inputs: Inputs) -> list[str]:
    return [name for name, found in inputs.comparison["agents"].items() if found["kind"] == "learned"]


def _what_if(name: str, inputs: Inputs) -> tables.Table | None:
    found = inputs.evidence["what_if"].get(name)
    return None if found is None else tables.what_if(found)


def _results_only(training: pl.DataFrame) -> pl.DataFrame:
    """Without the series that are the same in every job: those are schedules, not results."""
    if training["job"].n_unique() < 2:
        return training
    spread = training.group_by("metric", "step").agg(pl.col("value").n_unique() > 1)
    moved = spread.filter("value")["metric"].unique().to_list()
    return training.filter(pl.col("metric").is_in(moved))


def _json(value: Any) -> str:
    return _inline(json.dumps(value, separators=(",", ":"), allow_nan=False, default=str))


def _inline(text: str) -> str:
    """Safe inside a script element: nothing in it can end the element or open a comment.

    Only what the HTML parser looks for is touched: in a program, `</` alone may be part of a pattern.
    """
    return re.sub(r"<(/script|!--)", r"<\\\1", text, flags=re.IGNORECASE)


def _yaml(params: Params) -> str:
    from pipelines.params import plain

    stream = StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(plain(params), stream)
    return stream.getvalue()
