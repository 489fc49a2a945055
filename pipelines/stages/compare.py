"""compare: every agent beside every other, beside the rules, and beside what luck alone would show.

Writes `metrics/comparison.json`, the series that people plot (`plots/*.csv`) and appends what was
evaluated to the ledger of trials (`metrics/trials.jsonl`), which only ever grows.
"""

from __future__ import annotations

import sys
from typing import Any

import polars as pl

from pipelines import comparison, experiment, layout, params, stage, whatif
from pipelines.evaluation import trials
from pipelines.evaluation.trials import Trial
from pipelines.params import Params
from pipelines.stages.backtest import BASELINES

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
    evidence = comparison.standing(records, settings)
    evidence["what_if"] = {name: whatif.what_if(frames[name], data, settings) for name in learned}
    stage.write_json(evidence, layout.EVIDENCE, NAME)
    curves = comparison.equity_curves(records, frames, learned=learned, params=settings)
    for name, series in {
        "equity": curves,
        "exposures": comparison.exposure_shares(frames),
        "costs": comparison.cost_shares(frames, settings.account.initial_equity),
    }.items():
        stage.write_table(series, layout.PLOTS / f"{name}.csv", NAME)
    verdicts = [f"{name} is {found['agents'][name]['verdict']}" for name in learned]
    return "; ".join(verdicts) or "no learned agent"


def count_trials(settings: Params) -> dict[str, Any]:
    """Records what was evaluated; twice the same is a no-op. Says what is wrong with the ledger."""
    data = experiment.data_fingerprint()
    entries = [
        Trial(
            family, trials.fingerprint(experiment.parameters_of(family, settings)), data, job.seed, job.fold
        )
        for family in settings.agents
        for job in experiment.jobs(family, settings)
    ]
    problems = trials.verify(layout.TRIALS)
    for problem in problems:
        print(f"warning: {layout.TRIALS}: {problem}", file=sys.stderr)
    trials.record(layout.TRIALS, entries)
    lines = trials.read(layout.TRIALS)
    return {**trials.count(lines)._asdict(), "problems": problems, "tips": list(trials.tips(lines))}


if __name__ == "__main__":
    sys.exit(stage.run(NAME, compare))
