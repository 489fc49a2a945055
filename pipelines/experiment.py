"""One walk-forward experiment: its folds, its jobs, and the market that each job sees.

A job is one family on one fold with one seed. What it may see is decided here and nowhere else: the
scaler is fitted on the training rows of its own fold, training episodes lie inside the training window,
and the test window is walked through once, bar by bar.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

import models
from pipelines import layout, stage
from pipelines.dataset import Dataset, read_dataset
from pipelines.errors import UserError
from pipelines.features.scaling import Scaler
from pipelines.market.costs import Costs
from pipelines.market.env import TradingVectorEnv
from pipelines.params import Account, Params
from pipelines.splits import Fold, walk_forward

TRAINING_ENVS = 16


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
    """Every fold with every seed."""
    split = params.split
    return [Job(family, fold, seed, params) for fold in range(split.folds) for seed in range(split.seeds)]


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


def folds(params: Params, bars: int) -> list[Fold]:
    """The walk-forward folds over a data set of `bars` bars."""
    split = params.split
    try:
        return walk_forward(
            bars,
            folds=split.folds,
            train_bars=split.train_bars,
            test_bars=split.test_bars,
            purge_bars=split.purge_bars,
            embargo_bars=split.embargo_bars,
            anchored=split.anchored,
        )
    except ValueError as error:
        raise UserError(f"params.yaml: split: {error}") from error


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
    rows = data.features[fold.train.rows]  # [N, S, F]
    return Scaler.fit(rows, data.names, method=params.features.scaling, clip=params.features.clip)


def training_env(data: Dataset, fold: Fold, scaler: Scaler, params: Params) -> TradingVectorEnv:
    """Random episodes inside the training window; none runs across a hole."""
    window = data.window(fold.train.start, fold.train.stop)
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
    )


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
