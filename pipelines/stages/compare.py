"""compare: every agent beside every other, beside the rules, and beside what luck alone would show.

Writes `metrics/comparison.json`, the series that people plot (`plots/*.csv`) and appends what was
evaluated to the ledger of trials (`metrics/trials.jsonl`), which only ever grows.
"""

from __future__ import annotations

import sys
from typing import Any

import polars as pl

from pipelines import comparison, experiment, history, labels, layout, params, series, stage, whatif
from pipelines.dataset import Dataset
from pipelines.evaluation import forecasts, trials
from pipelines.evaluation.trials import Trial
from pipelines.settings import Params
from pipelines.stages.backtest import BASELINES, aligned
from pipelines.stages.train import CURVE

NAME = "compare"


def compare() -> str:
    settings = params.load()
    learned = list(settings.agents)
    frames: dict[str, pl.DataFrame] = {}
    for name in [*learned, BASELINES]:
        frames |= comparison.by_agent(pl.read_parquet(layout.results(name)))
    counted = count_trials(settings)
    records = comparison.records(frames, settings)
    found = comparison.compare(
        records, frames, learned=learned, trials=counted["configurations"], params=settings
    )
    found["trials"] = counted
    found["data"] = experiment.data_fingerprint()
    stage.write_json(found, layout.COMPARISON, NAME)
    data = experiment.dataset(settings)
    said = regimes({name: frames[name] for name in learned}, data, settings)
    evidence = comparison.standing(records, settings)
    evidence["what_if"] = {name: whatif.what_if(frames[name], data, settings) for name in learned}
    evidence["regimes"] = {
        name: {"rand": found.rand, "labels": [trait._asdict() for trait in found.traits]}
        for name, found in said.items()
    }
    stage.write_json(evidence, layout.EVIDENCE, NAME)
    foretold = {name: pl.read_parquet(layout.forecasts(name)) for name in learned}
    curves = {name: pl.read_csv(layout.curves(name), schema=CURVE) for name in learned}
    models = {name: model for name, table in foretold.items() if (model := quality(table, settings))}
    for name, table in {
        "equity": series.equity_curves(records, frames, learned=learned, params=settings),
        "exposures": series.exposure_shares(frames),
        "costs": series.cost_shares(frames, settings.account.initial_equity),
        "profile": series.performance_profile(records),
        "coverage": series.coverage(models),
        "transform": series.transforms(models),
        "planned": series.planned(models),
        "fan": series.fans(foretold),
        "training": series.training(curves, settings.report.points // 8),
        "regimes": pl.concat([pl.DataFrame(schema=labels.SPANS), *(each.spans for each in said.values())]),
    }.items():
        stage.write_table(table, layout.PLOTS / f"{name}.csv", NAME)
    verdicts = [f"{name} is {found['agents'][name]['verdict']}" for name in learned]
    return "; ".join(verdicts) or "no learned agent"


def quality(table: pl.DataFrame, settings: Params) -> dict[str, Any] | None:
    """The figures of a table of forecasts; None for a family that foretells nothing."""
    asked = settings.evaluation
    return forecasts.figures(
        table, replications=asked.replications, level=asked.confidence, seed=settings.seed
    )


def regimes(frames: dict[str, pl.DataFrame], data: Dataset, settings: Params) -> dict[str, labels.Labels]:
    """What the agents that name regimes said, beside the truth where it is known."""
    truth = None
    if layout.TRUTH_TABLE.exists():
        truth = aligned(pl.read_parquet(layout.TRUTH_TABLE), data.symbols[0], data, "regime")
    found = {
        name: labels.labels_of(name, frame, data, truth, points=settings.report.points)
        for name, frame in frames.items()
    }
    return {name: each for name, each in found.items() if each is not None}


def count_trials(settings: Params) -> dict[str, Any]:
    """Records what was evaluated, here and in DVC experiments. Says what is wrong with the ledger."""
    data = experiment.data_fingerprint()
    entries = [
        Trial(
            family, trials.fingerprint(experiment.parameters_of(family, settings)), data, job.seed, job.fold
        )
        for family in settings.agents
        for job in experiment.jobs(family, settings)
    ]
    problems = trials.verify(layout.TRIALS, history.sealed_tips(layout.COMPARISON))
    for problem in problems:
        print(f"warning: {layout.TRIALS}: {problem}", file=sys.stderr)
    trials.record(layout.TRIALS, {*entries, *history.tried_in_experiments(layout.TRIALS)})
    lines = trials.read(layout.TRIALS)
    return {**trials.count(lines)._asdict(), "problems": problems, "tips": list(trials.tips(lines))}


if __name__ == "__main__":
    sys.exit(stage.run(NAME, compare))
