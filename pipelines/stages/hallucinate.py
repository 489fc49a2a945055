"""hallucinate: a market that never was, dreamed by a trained world model; candles like any other source's.

Writes `data/dream/<symbol>/<month>.parquet` and how far the dream resembles its source
(`metrics/hallucinated.json`). No other stage needs it. To run everything on the dream, let `data.source` be
`files` and `data.files.path` be `data/dream/{symbol}`.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

import models
from pipelines import candles, experiment, hallucination, layout, params, stage
from pipelines.dataset import Dataset
from pipelines.errors import UserError
from pipelines.evaluation import stylised
from pipelines.evaluation.stylised import Estimate
from pipelines.settings import Params

NAME = "hallucinate"
FAMILY = "world_model"


class Dreamer(Protocol):
    """An agent that dreams the returns of assets."""

    def market(self, steps: int, *, seed: int, temperature: float) -> NDArray[np.float64]:
        """Log returns [T, S] of one long dream."""
        ...


def hallucinate() -> str:
    settings = params.load()
    asked = settings.hallucinate
    folder = layout.ARTIFACTS / FAMILY / layout.job(asked.fold, asked.seed)
    dreamer = load(folder)
    data = experiment.dataset(settings)
    fold = experiment.folds(settings, len(data.times))[asked.fold]
    source = data.window(fold.train.start, fold.train.stop)
    seed = derived(settings.seed, NAME)
    steps = asked.bars or settings.data.bars
    try:
        dreamed = dreamer.market(steps, seed=derived(seed, "dream"), temperature=asked.stress)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error
    if dreamed.shape[1] != len(data.symbols):
        raise UserError(f"{folder}: it dreams of {dreamed.shape[1]} symbols, there are {len(data.symbols)}")
    table = compose(dreamed, source, settings, seed=derived(seed, "shapes"))
    with stage.replacing(layout.DREAM, NAME) as target:
        candles.write(table, target)
    metrics = compare(table, source, settings, seed=derived(seed, "intervals"))
    stage.write_json(metrics, layout.HALLUCINATED, NAME)
    auc = metrics["auc"]
    return (
        f"{steps} bars of {len(data.symbols)} symbol(s) at stress {asked.stress:g}; "
        f"a judge tells them from the source with {auc[0]:.2f} ({auc[1]:.2f} to {auc[2]:.2f})"
    )


def derived(seed: int, name: str) -> int:
    """The seed of one part of this stage."""
    return int(np.random.SeedSequence((seed, zlib.crc32(name.encode()))).generate_state(1)[0] >> 1)


def load(folder: Path) -> Dreamer:
    """The agent to dream from."""
    try:
        return cast(Dreamer, models.load(folder))
    except FileNotFoundError as error:
        raise UserError(
            f"{error}; hallucinate needs a trained {FAMILY}: name it in `agents` and train it"
        ) from error


def compose(
    log_returns: NDArray[np.float64], source: Dataset, settings: Params, *, seed: int
) -> pl.DataFrame:
    """Candles of all symbols from dreamed `log_returns` [T, S], with the shapes of `source`."""
    tables = []
    for column, symbol in enumerate(source.symbols):
        shapes = hallucination.take_apart(source.bars, column)
        bars = hallucination.put_together(
            shapes,
            log_returns[:, column],
            float(source.bars.close[0, column]),
            seed=derived(seed, symbol),
        )
        tables.append(hallucination.candles(symbol, source.interval, settings.data.window[0], bars))
    return pl.concat(tables)


def compare(table: pl.DataFrame, source: Dataset, settings: Params, *, seed: int) -> dict[str, Any]:
    """Facts of both markets, and how well a judge tells them apart; from finished candles alone."""
    asked, evaluation = settings.hallucinate, settings.evaluation
    replications, level = evaluation.replications, evaluation.confidence
    columns: dict[str, list[NDArray[np.float64]]] = {"source": [], "dream": []}
    shown: dict[str, list[NDArray[np.float64]]] = {"source": [], "dream": []}
    for index, symbol in enumerate(source.symbols):
        own = table.filter(pl.col("symbol") == symbol)
        dream = tuple(own[name].to_numpy() for name in ("high", "low", "close", "volume"))
        bars = source.bars
        real = (bars.high[:, index], bars.low[:, index], bars.close[:, index])
        volume = np.zeros(len(source.times)) if bars.volume is None else bars.volume[:, index]
        for name, (high, low, close, traded) in (("source", (*real, volume)), ("dream", dream)):
            columns[name].append(np.diff(np.log(close)))
            shown[name].append(
                stylised.stretches(np.diff(np.log(close)), np.log(high / low)[1:], np.log1p(traded)[1:])
            )
    found = {
        name: stylised.estimates(
            np.stack(parts, axis=1), replications=replications, level=level, seed=derived(seed, name)
        )
        for name, parts in columns.items()
    }
    auc = stylised.judged(
        shown["source"], shown["dream"], replications=replications, level=level, seed=derived(seed, "auc")
    )
    return {
        "facts": {
            fact: {name: _listed(found[name][fact]) for name in ("source", "dream")}
            for fact in stylised.FACTS
        },
        "auc": _listed(auc),
        "stress": asked.stress,
    }


def _listed(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high]


if __name__ == "__main__":
    sys.exit(stage.run(NAME, hallucinate))
