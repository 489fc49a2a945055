"""The page: everything that was found, in one self-contained file that needs no network.

Text from outside (symbol names, parameters, paths) only ever passes through the template's escaping; data
for the charts are JSON inside script elements, with `<` escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import polars as pl
from markupsafe import Markup
from ruamel.yaml import YAML
from ruamel.yaml.compat import StringIO

from pipelines.backtest import MONEY
from pipelines.report import behaviour, charts, execution, forecast_charts, nights, pictures, tables, words
from pipelines.report.charts import Chart
from pipelines.settings import Params
from pipelines.stage import rounded

TEMPLATES = Path(__file__).parent / "templates"
VEGA_LITE = "6.4"


class Inputs(NamedTuple):
    """What the page is made from.

    evidence: what stands behind the comparison (`metrics/evidence.json`).
    figures: family or "baselines" -> agent -> {"median", "runs", perhaps "model"}.
    reasons: family -> how one decision came about (`results/reasons`), empty for those that cannot say.
    series: the plot series of `compare` by name, and `training` [agent, job, step, metric, value], `prices`
        [symbol, time, close, relative], `gaps` [symbol, after, before, missing_bars].
    hallucinated, nights: `metrics/<name>.json`, where there is one.
    behaviour: `metrics/behaviour.json`, where a family of the run learns from it.
    execution: the figures of `benchmarks.execution_planner`, where they are.
    """

    params: Params
    comparison: Mapping[str, Any]
    data: Mapping[str, Any]
    features: Mapping[str, Any]
    evidence: Mapping[str, Any]
    figures: Mapping[str, Mapping[str, Any]]
    reasons: Mapping[str, Mapping[str, Any]]
    series: Mapping[str, pl.DataFrame]
    code: str
    hallucinated: Mapping[str, Any] | None = None
    nights: Mapping[str, Any] | None = None
    behaviour: Mapping[str, Any] | None = None
    execution: Mapping[str, Any] | None = None


class Banner(NamedTuple):
    title: str
    text: str


class Section(NamedTuple):
    """One agent: what is said, drawn and tabled of it."""

    name: str
    kind: str
    standing: list[str]
    behaviour: list[Chart]
    model: list[str]
    forecasts: list[Chart]
    regimes: list[str]
    reasons: str  # where the pictures are from, empty without any
    pictures: list[Chart]
    training: list[Chart]
    runs: tables.Table
    what_if: tables.Table | None


def render(inputs: Inputs) -> str:
    """The whole page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    agents = inputs.comparison["agents"]
    ranked = tables.agents(agents)
    names = [row.cells[0] for row in ranked.rows]
    common = charts.shared(agents, names, inputs.series["gaps"])
    sections = [
        _section(name, inputs) for name in names if any(name in group for group in inputs.figures.values())
    ]
    selling = None if inputs.execution is None else execution.section(execution.planned(inputs.execution))
    drawn = [*common, *(chart for section in sections for chart in _of(section))]
    drawn += [] if selling is None else selling.charts
    dreams = inputs.hallucinated
    return environment.get_template("page.html.j2").render(
        title=inputs.params.report.title,
        headline=words.headline(agents),
        page=_identity(inputs),
        banners=_banners(inputs),
        answers=words.answers(
            inputs.params, inputs.comparison, _models(inputs), leaking=bool(inputs.features["leaking"])
        ),
        agents=ranked,
        agents_note=_agents_note(inputs),
        charts={chart.name: chart for chart in common},
        costs=tables.costs(inputs.series["costs"]),
        sections=sections,
        standing=tables.standing(inputs.evidence, names),
        differences=tables.differences(inputs.evidence["differences"], _learned(inputs)),
        dreams=None if dreams is None else tables.hallucinated(dreams.get("facts", {})),
        dream_words=[] if dreams is None else words.hallucinated(dreams),
        execution=selling,
        nights=nights.section(inputs.nights),
        behaviour=None if inputs.behaviour is None else behaviour.table(inputs.behaviour),
        data=tables.data_quality(inputs.data),
        warnings=_warnings(inputs.data),
        method=words.method(inputs.params, inputs.comparison, inputs.features),
        parameters=_yaml(inputs.params),
        footer="Simulated results say how an agent would have done, not how it will do.",
        style=Markup((TEMPLATES / "page.css").read_text("utf-8")),
        script=Markup((TEMPLATES / "page.js").read_text("utf-8")),
        bundle=Markup(_bundle()),
        tables_json=Markup(_json(_rows(inputs, selling))),
        charts_json=Markup(_json({chart.name: _described(chart) for chart in drawn})),
    )


def plots_page() -> str:
    """The page that `dvc plots` fills, with the chart library inside; its placeholders are DVC's."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{refresh_tag}\n'
        f'<title>Plots</title>\n<link rel="icon" href="data:,">\n<script>{_bundle()}</script>\n</head>\n'
        "<body>\n{plot_divs}\n</body>\n</html>\n"
    )


def _bundle() -> str:
    """The chart library, safe inside a script element."""
    import vl_convert

    return _inline(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE))


def _of(section: Section) -> list[Chart]:
    return [*section.behaviour, *section.forecasts, *section.pictures, *section.training]


def _section(name: str, inputs: Inputs) -> Section:
    figures = next(group[name] for group in inputs.figures.values() if name in group)
    agents, evidence = inputs.comparison["agents"], inputs.evidence
    learned = agents[name]["kind"] == "learned"
    model = figures.get("model")
    told = inputs.reasons.get(name) or {}
    regimes = evidence.get("regimes", {}).get(name)
    account = inputs.params.account
    return Section(
        name=name,
        kind=agents[name]["kind"],
        standing=words.standing(name, agents, confidence=inputs.params.evaluation.confidence)
        if learned
        else [],
        behaviour=_behaviour(name, inputs) if learned else [],
        model=words.model(model) if model else [],
        forecasts=_forecasts(name, model, regimes, inputs),
        regimes=words.regimes(regimes) if regimes else [],
        reasons=f"The decision at {told['time']} UTC, fold {told['fold']}, seed {told['seed']}."
        if told
        else "",
        pictures=pictures.drawn(
            name,
            told.get("pictures", {}),
            grid=account.grid if account.actions == "grid" else None,
            observed=told.get("observation", []),
        ),
        training=_training(name, inputs),
        runs=tables.runs(figures["runs"]),
        what_if=tables.what_if(evidence["what_if"][name]) if name in evidence["what_if"] else None,
    )


def _behaviour(name: str, inputs: Inputs) -> list[Chart]:
    paid = inputs.series["costs"].filter(pl.col("agent") == name)
    found = dict(zip(paid["item"], paid["share"], strict=True))
    shares = {item: found[item] for item in MONEY if item in found}
    return [
        charts.histogram(
            f"positions_{name}",
            title="Share of time at each net exposure",
            caption="Over all folds and seeds. One single bar is an agent that does not decide.",
            table="exposures",
            agent=name,
            field="exposure",
            label="net exposure",
        ),
        charts.waterfall(
            f"waterfall_{name}",
            title="From what prices brought to what was left",
            caption="Sums over the test bars, as a share of the start equity of a fold; mean over folds "
            "and seeds.",
            shares=shares,
        ),
    ]


def _forecasts(
    name: str, model: Mapping[str, Any] | None, regimes: Mapping[str, Any] | None, inputs: Inputs
) -> list[Chart]:
    drawn = []
    if model:
        ranges = "coverage" in model["held"]
        drawn += [forecast_charts.fan(name, ranges=ranges), forecast_charts.planned(name)]
        if ranges:
            drawn += [forecast_charts.coverage(name), forecast_charts.transform(name)]
    spans = inputs.series["regimes"].filter(pl.col("agent") == name)
    if regimes and not spans.is_empty():
        symbol = inputs.params.data.symbols[0]
        drawn.append(forecast_charts.regimes(name, first=str(spans["start"].min()), symbol=symbol))
    return drawn


def _identity(inputs: Inputs) -> dict[str, Any]:
    data, split = inputs.params.data, inputs.params.split
    market = f"simulated market ({data.simulator.market})" if data.source == "simulator" else data.source
    return {
        "market": f"{market}: {', '.join(data.symbols)} at {data.interval}",
        "window": f"{data.start} to {data.end}",
        "folds": f"{split.folds} walk-forward folds"
        if split.method == "walk_forward"
        else f"cross-validated over {split.blocks} blocks",
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


def _rows(inputs: Inputs, selling: execution.Section | None) -> dict[str, list[dict[str, Any]]]:
    frames = {**inputs.series, "training": _results_only(inputs.series["training"])}
    rows = {name: frame.to_dicts() for name, frame in frames.items()}
    if selling is not None:
        rows |= {"execution_holdings": selling.holdings, "execution_frontier": selling.frontier}
    return {name: rounded(found, 5) for name, found in rows.items()}


def _models(inputs: Inputs) -> dict[str, Any]:
    """The figures of what was foretold, of those that foretell."""
    return {
        name: found["model"]
        for group in inputs.figures.values()
        for name, found in group.items()
        if found.get("model")
    }


def _described(chart: Chart) -> charts.Spec:
    """Vega gives a chart its description as the name that a screen reader says."""
    return {**chart.spec, "description": f"{chart.title}. {chart.caption}"}


def _learned(inputs: Inputs) -> list[str]:
    return [name for name, found in inputs.comparison["agents"].items() if found["kind"] == "learned"]


def _training(name: str, inputs: Inputs) -> list[Chart]:
    curves = inputs.series["training"]
    if curves.filter(pl.col("agent") == name).is_empty():
        return []
    caption = "One line a fold and seed, on training data: not evidence of skill."
    return [
        charts.training_curves(
            f"training_{name}", title="Training curves", caption=caption, table="training", agent=name
        )
    ]


def _results_only(training: pl.DataFrame) -> pl.DataFrame:
    """Without the series that are the same in every job: those are schedules, not results."""
    if training["job"].n_unique() < 2:
        return training
    spread = training.group_by("agent", "metric", "step").agg(pl.col("value").n_unique() > 1)
    moved = spread.filter("value").select("agent", "metric").unique()
    return training.join(moved, on=["agent", "metric"], how="semi", maintain_order="left")


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
