"""Many runs of one agent, and many agents: distributions over folds and seeds, never one hero path.

A run is one fold with one seed. An agent's record is the walk-forward path of each seed, fold after
fold, and its mean over the seeds: what an investor earns who splits the capital evenly between them.
Read one agent at a time (`record_of`), so that memory holds one result table and not all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from pipelines.evaluation.metrics import INITIAL_EQUITY, Summary, path_of, summarise
from pipelines.evaluation.resampling import Interval, percentile_interval, resampled_means

Floats = NDArray[np.float64]


class Run(NamedTuple):
    """One fold with one seed."""

    fold: int
    seed: int
    figures: Summary


class Record(NamedTuple):
    """All runs of one agent."""

    agent: str
    open_time: pl.Series  # [T] of the bars of all folds
    returns: Floats  # [T, seeds] simple; zero after a ruin
    ruined: bool  # at least one path ended in ruin
    runs: list[Run]


class Distribution(NamedTuple):
    """A figure over folds and seeds; over the runs in which it exists."""

    median: float | None
    interval: Interval | None  # of the median, folds and seeds resampled
    lower_quartile: float | None
    upper_quartile: float | None
    runs: int
    undefined: int  # runs in which the figure does not exist (a ruin, no trade)


class Ranking(NamedTuple):
    """Standing among the agents, fold by fold; rank 1 is the best."""

    mean_rank: float
    share_first: float


class Difference(NamedTuple):
    """Mean return a year of `first` minus that of `second`, with its interval."""

    first: str
    second: str
    mean: float
    interval: Interval


def record_of(frame: pl.DataFrame, periods_per_year: float, initial_equity: float = INITIAL_EQUITY) -> Record:
    """The record of one agent from its result table (all its folds and seeds).

    Every seed must cover the same bars. After a ruin the capital of that seed is gone: its return is
    −100 % at the ruin and zero from there to the end, later folds included.
    """
    agents = frame["agent"].unique().to_list()
    if len(agents) != 1:
        raise ValueError(f"a record is of one agent, the table has {sorted(agents)}")
    times: pl.Series | None = None
    columns, runs, ruined = [], [], False
    for (seed,), by_seed in frame.sort("seed", "open_time").group_by("seed", maintain_order=True):
        if times is None:
            times = by_seed["open_time"]
        elif not times.equals(by_seed["open_time"]):
            raise ValueError(f"{agents[0]}: seed {seed} does not cover the same bars as the seeds before it")
        parts: list[Floats] = []
        lost = False
        for (fold,), part in by_seed.group_by("fold", maintain_order=True):
            runs.append(Run(int(fold), int(seed), summarise(part, periods_per_year, initial_equity)))
            path = path_of(part, initial_equity)
            returns = np.zeros(len(part))
            if not lost:
                returns[: len(path.returns)] = np.maximum(path.returns, -1.0)
            parts.append(returns)
            lost = lost or path.ruined
        columns.append(np.concatenate(parts))
        ruined = ruined or lost
    if times is None:
        raise ValueError("the result table is empty")
    return Record(str(agents[0]), times, np.column_stack(columns), ruined, runs)


def agent_returns(records: Sequence[Record]) -> dict[str, Floats]:
    """The mean over seeds [T] of each agent; all records must cover the same bars."""
    for record in records[1:]:
        if not record.open_time.equals(records[0].open_time):
            raise ValueError(f"{record.agent} does not cover the same bars as {records[0].agent}")
    return {record.agent: record.returns.mean(axis=1) for record in records}


def runs_table(records: Sequence[Record]) -> pl.DataFrame:
    """One row a run: agent, fold, seed and its figures (null where one does not exist)."""
    return pl.DataFrame(
        [
            {"agent": record.agent, "fold": run.fold, "seed": run.seed, **run.figures}
            for record in records
            for run in record.runs
        ],
        infer_schema_length=None,
    )


def figure_matrix(record: Record, name: str) -> Floats:
    """A figure of all runs as [folds, seeds], NaN where it does not exist: for the functions below."""
    folds = sorted({run.fold for run in record.runs})
    seeds = sorted({run.seed for run in record.runs})
    matrix = np.full((len(folds), len(seeds)), np.nan)
    for run in record.runs:
        value = run.figures[name]
        matrix[folds.index(run.fold), seeds.index(run.seed)] = np.nan if value is None else value
    return matrix


def distribution(
    matrix: ArrayLike, *, replications: int = 2000, level: float = 0.95, seed: int
) -> Distribution:
    """Median and quartiles of a figure [folds, seeds], the median with an interval. Consumes `seed`.

    Folds and seeds are resampled independently of each other (the pigeonhole bootstrap of Owen 2007):
    runs of one fold share its market and runs of one seed share their luck, so runs are not
    independent draws. With few folds the interval is rough, and honest about it by its width.
    """
    values = np.asarray(matrix, dtype=np.float64)
    known = np.isfinite(values)
    undefined = int(values.size - known.sum())
    if not known.any():
        return Distribution(None, None, None, None, values.size, undefined)
    low, median, high = np.quantile(values[known], [0.25, 0.5, 0.75])
    rng = np.random.default_rng(seed)
    folds = rng.integers(0, values.shape[0], size=(replications, values.shape[0], 1))
    seeds = rng.integers(0, values.shape[1], size=(replications, 1, values.shape[1]))
    drawn = values[folds, seeds].reshape(replications, -1)  # [R, folds * seeds]
    drawn = drawn[np.isfinite(drawn).any(axis=1)]
    interval = percentile_interval(np.nanmedian(drawn, axis=1), level)
    return Distribution(float(median), interval, float(low), float(high), values.size, undefined)


def performance_profile(matrix: ArrayLike, thresholds: ArrayLike) -> Floats:
    """Share of runs whose figure is above each threshold, [K]; a run without the figure is above none.

    Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice", eq. 1.
    """
    values = np.nan_to_num(np.asarray(matrix, dtype=np.float64).ravel(), nan=-np.inf, posinf=np.inf)
    levels = np.asarray(thresholds, dtype=np.float64)
    return np.asarray((values[None, :] > levels[:, None]).mean(axis=1))


def ranks(matrices: Mapping[str, ArrayLike]) -> dict[str, Ranking]:
    """Ranks of agents by a figure [folds, seeds], more being better; folds must be the same for all.

    In each fold an agent stands with its median over seeds; equal agents share their mean rank, and an
    agent without the figure is last.
    """
    names = list(matrices)
    scores = []
    for name in names:
        values = np.asarray(matrices[name], dtype=np.float64)  # [folds, seeds]
        worst = np.where(np.isfinite(values), values, -np.inf)
        # The lower median: it exists among ruined seeds too.
        scores.append(np.sort(worst, axis=1)[:, (values.shape[1] - 1) // 2])
    from scipy.stats import rankdata  # late: of all that is imported here the slowest by far

    places = rankdata(-np.array(scores), axis=0)  # [agents, folds]
    first = places == places.min(axis=0)
    shared = first / first.sum(axis=0)
    return {name: Ranking(float(places[n].mean()), float(shared[n].mean())) for n, name in enumerate(names)}


def pairwise_differences(
    returns: Mapping[str, ArrayLike],
    periods_per_year: float,
    *,
    block: float,
    replications: int = 1000,
    level: float = 0.95,
    seed: int,
) -> list[Difference]:
    """Every pair of agents: difference of their mean returns a year, on the same resampled bars.

    Intervals are for each pair by itself; read many of them with that in mind. Consumes `seed`.
    """
    names = list(returns)
    table = np.column_stack([np.asarray(returns[name], dtype=np.float64) for name in names])  # [T, N]
    means = resampled_means(table, block=block, replications=replications, seed=seed)  # [R, N]
    observed = table.mean(axis=0)
    pairs = []
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            low, high = percentile_interval((means[:, i] - means[:, j]) * periods_per_year, level)
            mean = float(observed[i] - observed[j]) * periods_per_year
            pairs.append(Difference(first, names[j], mean, Interval(low, high)))
    return pairs
