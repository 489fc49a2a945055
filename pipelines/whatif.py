"""The recorded decisions of an agent under other costs, other sizes and a slower fill.

The result tables hold the target of every bar. They are put through the account again; nothing is decided
anew, so an agent that would trade less if it cost more gets no credit for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import experiment
from pipelines.candles import periods_per_year
from pipelines.dataset import Dataset
from pipelines.evaluation import sensitivity
from pipelines.market.account import simulate
from pipelines.market.costs import Costs
from pipelines.settings import Params

Floats = NDArray[np.float64]
Replay = Callable[[Costs, float, int], Floats]
IMPACT = 1.0  # Y of the square-root law for the question of size
SIZES = (1e5, 1e6, 1e7, 1e8)  # money at the start


def what_if(frame: pl.DataFrame, data: Dataset, params: Params) -> dict[str, Any]:
    """Net results of one agent by cost multiple, by delay and by size, and its break-even cost."""
    periods = periods_per_year(params.data.interval)
    costs = experiment.costs(params.account)
    equity = params.account.initial_equity
    replay = replays(frame, data, params)
    even = sensitivity.break_even(lambda terms: replay(terms, equity, 0), costs)
    found: dict[str, Any] = {
        "costs": sensitivity.cost_sensitivity(lambda terms: replay(terms, equity, 0), costs, periods),
        "delay": [sensitivity.outcome_of(d, replay(costs, equity, d), periods) for d in (0, 1, 2)],
    }
    plain: dict[str, Any] = {
        name: [outcome._asdict() for outcome in outcomes] for name, outcomes in found.items()
    }
    return {
        **plain,
        **_by_size(replay, costs, periods),
        "break_even": even.multiple,
        "break_even_note": even.reason,
    }


def _by_size(replay: Replay, costs: Costs, periods: float) -> dict[str, Any]:
    """Results by the money at the start; a market without volume has no law of impact, and that is said."""
    impacted = replace(costs, impact=IMPACT)
    try:
        outcomes = sensitivity.capacity(lambda size: replay(impacted, size, 0), SIZES, periods).outcomes
    except ValueError as refusal:
        return {"size": [], "size_note": str(refusal)}
    return {"size": [outcome._asdict() for outcome in outcomes], "size_note": ""}


def replays(frame: pl.DataFrame, data: Dataset, params: Params) -> Replay:
    """(costs, initial equity, bars of delay) -> returns [T]: the mean over seeds, fold after fold."""
    columns = [f"target_{symbol}" for symbol in data.symbols]
    windows = []
    for fold in experiment.folds(params, len(data.times)):
        paths = frame.filter(pl.col("fold") == fold.index).partition_by("seed", maintain_order=True)
        targets = np.stack([path.select(columns).to_numpy() for path in paths])  # [B, T, S]
        # Row t of a window is decided at its close; the last row is never filled.
        padded = np.concatenate([targets, np.zeros_like(targets[:, :1])], axis=1)
        windows.append((data.window(fold.test.start - 1, fold.test.stop).bars, padded))

    def replay(costs: Costs, initial_equity: float, delay: int) -> Floats:
        parts = []
        for bars, targets in windows:
            late = np.stack([sensitivity.delayed(path, delay) for path in targets])
            ledger = simulate(bars, late, costs, initial_equity=initial_equity)
            parts.append(ledger.returns[:, 1:].mean(axis=0))
        return np.concatenate(parts)

    return replay
