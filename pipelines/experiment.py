"""One experiment, walk-forward or cross-validated: its folds, its jobs, and the market that each job sees.

A job is one family on one fold with one seed. What it may see is decided here and nowhere else: the
scaler is fitted on the training rows of its own fold, training episodes lie inside the training window,
and the test window is walked through once, bar by bar.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

import models
from pipelines import layout, stage
from pipelines.dataset import Dataset, read_dataset
from pipelines.errors import UserError
from pipelines.features.scaling import Scaler
from pipelines.market.bars import Bars
from pipelines.market.costs import Costs
from pipelines.market.env import TradingVectorEnv
from pipelines.settings import Account, Params
from pipelines.splits import Fold, Window, backtest_paths, combinatorial_purged, walk_forward

TRAINING_ENVS = 16
RETURN_FEATURE = "log_return"
"""The feature that shows each symbol's last return to families that follow accounts, where it is chosen."""


class Job(NamedTuple):
    """One agent to train or to test."""

    family: str
    fold: int
    seed: int
    params: Params

    @property
    def name(self) -> str:
        return f"{self.family} fold {self.fold} seed {self.seed}"

    @property
    def consumed_seed(self) -> int:
        """Of the root seed, the stream that belongs to this job alone."""
        return stream(self.params.seed, self.family, self.fold, self.seed)


def stream(root: int, name: str, *numbers: int) -> int:
    """Of the root seed, the stream that belongs to one thing alone."""
    parts = (root, zlib.crc32(name.encode()), *numbers)
    return int(np.random.SeedSequence(parts).generate_state(1)[0] >> 1)


def jobs(family: str, params: Params) -> list[Job]:
    """Every fold (of cross-validation: every split) with every seed."""
    split = params.split
    walk = split.method == "walk_forward"
    trained = split.folds if walk else math.comb(split.blocks, split.test_blocks)
    return [Job(family, fold, seed, params) for fold in range(trained) for seed in range(split.seeds)]


def fingerprint(job: Job) -> str:
    """Identity of the job's result: the same parameters, data and code give the same bytes."""
    params = job.params
    asked = {
        "job": [job.family, job.fold, job.seed],
        "seed": params.seed,
        "config": asdict(params.agents[job.family]),
        "sections": [params.features.model_dump(), params.split.model_dump(), params.account.model_dump()],
        "behaviour": _recorded_hash(job),
        "origin": params.training.init_from.get(job.family),
        "data": stage.file_hash(layout.FEATURES),
        "code": stage.code_hash(),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _recorded_hash(job: Job) -> str | None:
    """Of the recorded trades that the job learns from, if it is one that does."""
    return stage.file_hash(layout.behaviour(job.family, job.fold)) if job.family in models.OFFLINE else None


def dataset(params: Params) -> Dataset:
    """The features of all symbols, in the order of the parameters."""
    return read_dataset(layout.FEATURES, params.data.interval, symbols=params.data.symbols)


class Tested(NamedTuple):
    """A test window of a job, and which of the whole histories (paths) its result belongs to."""

    fold: Fold
    path: int


def folds(params: Params, bars: int) -> list[Fold]:
    """The test windows over a data set of `bars` bars, in time: what `fold` in a result table counts.

    Of cross-validation these are the blocks; each is tested by several jobs (`tested`).
    """
    found = {each.fold.index: each.fold for job in _splits(params, bars) for each in job}
    return [found[index] for index in sorted(found)]


def tested(job: Job, bars: int) -> list[Tested]:
    """The test windows of one job; all are tested by the same agent."""
    return _splits(job.params, bars)[job.fold]


def path_seed(job: Job, path: int) -> int:
    """What `seed` in a result table counts: seeds, and of cross-validation the seeds of every path."""
    return path * job.params.split.seeds + job.seed


def _splits(params: Params, bars: int) -> list[list[Tested]]:
    """Per job (of one seed) what it tests."""
    split = params.split
    gaps = {"purge_bars": split.purge_bars, "embargo_bars": split.embargo_bars}
    try:
        if split.method == "walk_forward":
            sizes = {"folds": split.folds, "train_bars": split.train_bars, "test_bars": split.test_bars}
            walked = walk_forward(bars, **sizes, **gaps, anchored=split.anchored)
            return [[Tested(fold, 0)] for fold in walked]
        crossed = combinatorial_purged(bars, folds=split.blocks, test_folds=split.test_blocks, **gaps)
    except ValueError as error:
        raise UserError(f"params.yaml: split: {error}") from error
    blocks = list(itertools.combinations(range(split.blocks), split.test_blocks))
    paths = backtest_paths(split.blocks, split.test_blocks)  # [path, block] -> split
    found = []
    for one, tests in zip(crossed, blocks, strict=True):
        hull = Window(one.train[0].start, one.train[-1].stop)
        found.append(
            [
                # The first decision falls at the close before the window, so the first bar has none.
                Tested(
                    Fold(block, hull, window._replace(start=max(window.start, 1)), one.train),
                    int(np.flatnonzero(paths[:, block] == one.index)[0]),
                )
                for block, window in zip(tests, one.test, strict=True)
            ]
        )
    return found


def costs(account: Account) -> Costs:
    """The terms of the account as the parameters state them; no order is smaller than the venue takes."""
    terms = account.model_dump(include=set(Costs.__dataclass_fields__))
    venue = json.loads(layout.MARKET_TERMS.read_text("utf-8"))
    terms["min_order"] = max(account.min_order, venue["min_notional"])
    try:
        return Costs(**terms)
    except ValueError as error:
        raise UserError(f"params.yaml: account: {error}") from error


def fit_scaler(data: Dataset, fold: Fold, params: Params) -> Scaler:
    """Fitted on the training rows of the fold alone."""
    rows = np.concatenate([data.features[window.rows] for window in fold.windows])  # [N, S, F]
    return Scaler.fit(rows, data.names, method=params.features.scaling, clip=params.features.clip)


def training_env(data: Dataset, fold: Fold, scaler: Scaler, params: Params) -> TradingVectorEnv:
    """Random episodes inside the training windows; none runs across a hole, nor from one to the next."""
    window = joined([data.window(*each) for each in fold.windows])
    return _env(window, scaler, params, num_envs=TRAINING_ENVS, episode_bars=params.account.episode_bars)


def test_env(data: Dataset, fold: Fold, scaler: Scaler, params: Params) -> TradingVectorEnv:
    """One pass over the test window. The first decision falls at the close before its first bar."""
    window = data.window(fold.test.start - 1, fold.test.stop)
    return _env(window, scaler, params, num_envs=1, episode_bars=None)


def _env(
    window: Dataset, scaler: Scaler, params: Params, *, num_envs: int, episode_bars: int | None
) -> TradingVectorEnv:
    account = params.account
    return TradingVectorEnv(
        window.bars,
        window.observations(scaler),
        costs(account),
        num_envs=num_envs,
        episode_bars=episode_bars,
        actions=account.actions,
        grid=tuple(account.grid),
        segments=window.segment if episode_bars is not None else None,
        initial_equity=account.initial_equity,
        drawdown_penalty=account.drawdown_penalty if episode_bars is not None else 0.0,
        start="random" if episode_bars is not None else "first",
        return_columns=return_columns(window),
    )


def observed(data: Dataset) -> list[str]:
    """Names of the components of an observation of the trading environment, in their order."""
    several = len(data.symbols) > 1
    named = [f"{symbol} {name}" if several else name for symbol in data.symbols for name in data.names]
    return [*named, *(f"exposure {symbol}" for symbol in data.symbols), "drawdown"]


def joined(parts: Sequence[Dataset]) -> Dataset:
    """Stretches of one data set, one after the other; each begins a new segment."""
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(int(part.segment[-1] - part.segment[0]) + 1 for part in parts)])
    bars = [
        None if column[0] is None else np.concatenate(column)
        for column in zip(*(part.bars for part in parts), strict=True)
    ]
    return parts[0]._replace(
        times=np.concatenate([part.times for part in parts]),
        bars=Bars(*bars),  # type: ignore[arg-type]
        features=np.concatenate([part.features for part in parts]),
        segment=np.concatenate(
            [part.segment - part.segment[0] + offset for part, offset in zip(parts, offsets, strict=False)]
        ).astype(np.int32),
        filled=np.concatenate([part.filled for part in parts]),
    )


def return_columns(data: Dataset) -> list[int]:
    """Where an observation shows the last return of each symbol; empty if no feature does."""
    if RETURN_FEATURE not in data.names:
        return []
    first = data.names.index(RETURN_FEATURE)
    return [symbol * len(data.names) + first for symbol in range(len(data.symbols))]


def data_fingerprint() -> str:
    """Short identity of the features that everything was learned from."""
    return stage.file_hash(layout.FEATURES)[:12]


def parameters_of(family: str, params: Params) -> dict[str, Any]:
    """What distinguishes one evaluated configuration of a family from another."""
    shared = {
        "features": params.features.model_dump(),
        "split": params.split.model_dump(),
        "account": params.account.model_dump(),
    }
    if family in models.OFFLINE:
        shared["behaviour"] = params.behaviour.model_dump()
    return {"family": family, "own": asdict(params.agents[family]), **shared}
