"""behaviour: the recorded trades that families learn from which do not trade while they learn.

Writes `data/behaviour/<family>/fold-<i>` for these families, one data set a fold, recorded on that fold's
training window alone (the form is told in `pipelines/behaviour.py`), and `metrics/behaviour.json`, how the
recorded policies fared. Every other family gets a note that says that it needs none: it never changes, and
so nothing that happens here trains such a family anew.

With `behaviour.path` the data sets are your own, checked, and cut to the training window of each fold.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import polars as pl

import models
from models.agent import spaces_of
from models.trajectory import data as trajectory
from pipelines import behaviour, experiment, layout, params, stage
from pipelines.dataset import Dataset
from pipelines.errors import UserError
from pipelines.experiment import Job
from pipelines.market.env import TradingVectorEnv
from pipelines.settings import Params
from pipelines.splits import Fold

NAME = "behaviour"
NOTE = "learns.json"


def record() -> str:
    settings = params.load()
    data = experiment.dataset(settings)
    folds = experiment.folds(settings, len(data.times))
    tables = [data_set(settings, data, fold) for fold in folds]
    with stage.replacing(layout.BEHAVIOUR, NAME) as target:
        for family in models.FAMILIES:
            folder = target / family
            folder.mkdir(parents=True)
            if family in models.OFFLINE:
                for fold, table in zip(folds, tables, strict=True):
                    behaviour.write(table, folder / f"fold-{fold.index}", symbols=data.symbols)
            note = {"learns_from": "these records" if family in models.OFFLINE else "its own trades"}
            (folder / NOTE).write_text(json.dumps(note) + "\n", "utf-8")
    policies = behaviour.returns(tables)
    stage.write_json({"folds": len(folds), "policies": policies}, layout.BEHAVIOUR_METRICS, NAME)
    return f"{policies['all']['steps']} steps in {policies['all']['episodes']} episodes"


def data_set(settings: Params, data: Dataset, fold: Fold) -> pl.DataFrame:
    """The trades to learn a fold from: recorded now, or the user's own."""
    scaler = experiment.fit_scaler(data, fold, settings)
    env = experiment.training_env(data, fold, scaler, settings)
    window = data.window(fold.train.start, fold.train.stop)
    asked = settings.behaviour
    if not asked.path:
        return behaviour.record(
            env,
            window.bars.close,
            settings.evaluation.baselines,
            asked.steps,
            seed=experiment.stream(settings.seed, NAME, fold.index),
            times=window.times,
        )
    own = Path(asked.path) / f"fold-{fold.index}"
    source = own if own.is_dir() else Path(asked.path)
    table = behaviour.within(behaviour.read(source), window.times[0], window.times[-1])
    if table.is_empty():
        raise UserError(
            f"{source}: no episode lies inside the training window of fold {fold.index}, "
            f"{window.times[0]} to {window.times[-1]}"
        )
    try:
        trajectory.check(behaviour.to_record(table, env), spaces_of(env))
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
    return table


def learn_from(job: Job, data: Dataset, fold: Fold, env: TradingVectorEnv) -> TradingVectorEnv:
    """`env`, with the recorded trades for a family that needs them.

    A job with other symbols than were recorded (one symbol of a sweep) has records of its own made.
    """
    if job.family not in models.OFFLINE:
        return env
    folder = layout.behaviour(job.family, job.fold)
    table = behaviour.read(folder)
    if tuple(behaviour.symbols(folder)) != data.symbols:
        table = data_set(job.params, data, fold)
    return behaviour.attach(env, table)


if __name__ == "__main__":
    sys.exit(stage.run(NAME, record))
