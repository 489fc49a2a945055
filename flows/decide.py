"""What to hold now: the champion looks at the newest closed bars and says its target, with its reasons.

    python -m flows.decide [--held BTCUSDT=0.5 ...] [--drawdown 0.02] [--out FILE]

Prints one JSON document and writes it. The champion, the parameters and the presets are those of the last
finished night (the branch `nightly`), never of a night at work. Refuses, with exit status 3 and the reason
in the document, when the newest bar is too old, was never traded, or breaks a rule of the candle table.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from flows import champion as reign
from flows import workspace
from pipelines import candles, dataset, experiment, layout, manifest, params, stage, tables
from pipelines.dataset import Dataset
from pipelines.errors import UserError
from pipelines.features import compute, resolve, to_grid
from pipelines.features.scaling import Scaler
from pipelines.manifest import StoreError
from pipelines.market.env import TradingVectorEnv
from pipelines.settings import Params
from pipelines.sources.gather import gather
from pipelines.splits import Fold, Window
from pipelines.stages.features import with_funding

REFUSED = 3  # exit status
MEMORY_BARS = 128  # that an agent with a memory walks through before it decides
SHOWN = 64  # largest array of an agent's reasons that is written


class Refusal(Exception):
    """The data do not allow a decision."""


def decide(root: Path, now: datetime, *, held: Mapping[str, float], drawdown: float) -> dict[str, Any]:
    """The decision at the last close before `now` as plain values; `Refusal` when the data forbid one.

    held: exposure by symbol, as a fraction of equity; drawdown: of the account, 0 to 1.
    """
    with tempfile.TemporaryDirectory() as scratch:
        night = Path(scratch)
        commit = checkout(root, night)
        settings = params.load(night / params.FILE, night / params.PRESETS)
        unknown = sorted(set(held) - set(settings.data.symbols))
        if unknown:
            raise UserError(f"--held {unknown[0]}: the champion trades {', '.join(settings.data.symbols)}")
        champion = reign.read(night)
        if champion is None:
            flat = dict.fromkeys(settings.data.symbols, 0.0)
            return {"state": "vacant", "target": flat, "reason": "nobody reigns: cash has not been beaten"}
        table = newest(root, settings, now)
        with contextlib.chdir(night):
            answer = ask(settings, table, held, drawdown)
    return {
        "state": "decided",
        "champion": champion.name,
        "agent": champion.agent,
        "commit": commit,
        "held": {symbol: held.get(symbol, 0.0) for symbol in settings.data.symbols},
        **answer,
    }


def checkout(root: Path, target: Path) -> str:
    """What a decision needs of the last finished night; of the current commit where there is none yet."""
    refs = workspace.git(root, "for-each-ref", "--format=%(objectname)", f"refs/heads/{workspace.BRANCH}")
    commit = refs or workspace.git(root, "rev-parse", "HEAD")
    wanted = [str(reign.FILE), str(reign.FOLDER), str(params.FILE), str(params.PRESETS)]
    present = workspace.git(root, "ls-tree", "--name-only", commit, *wanted).split()
    packed = subprocess.run(["git", "archive", commit, *present], cwd=root, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(target, filter="data")
    return commit


def newest(root: Path, settings: Params, now: datetime) -> pl.DataFrame:
    """The features up to the last bar that has closed by `now`, after the checks that a decision needs."""
    data = settings.data
    until = now.astimezone(UTC)
    moved = data.model_copy(update={"end": until.date() + timedelta(days=1)})
    clone = (root / settings.nightly.work_folder / "clone").absolute()
    at = clone if data.source == "bybit" and clone.is_dir() else root  # the store of the nights
    with contextlib.chdir(at):
        found = gather(settings.model_copy(update={"data": moved}))
    bar = timedelta(milliseconds=candles.interval_ms(data.interval))
    closed = found.candles.filter(pl.col("open_time") + bar <= until)
    oldest = until - settings.nightly.max_age_bars * bar
    for symbol in data.symbols:
        own = closed.filter(pl.col("symbol") == symbol)
        try:
            tables.check(own, tables.CANDLES, symbol, data.interval)
        except StoreError as error:
            raise Refusal(str(error)) from error
        last = own["open_time"].to_list()[-1] if len(own) else None
        if last is None or last + bar < oldest:
            raise Refusal(
                f"{symbol}: the newest bar opened at {last}, and at {until:%Y-%m-%d %H:%M} it may be "
                f"{settings.nightly.max_age_bars} bars old"
            )
    if closed.group_by("symbol").agg(pl.col("open_time").max())["open_time"].n_unique() > 1:
        raise Refusal("the symbols do not end with the same bar")
    grid = to_grid(closed, data.interval, max_gap_bars=settings.checks.max_gap_bars)
    return compute(with_funding(grid, found.funding).lazy(), resolve(settings.features.names)).collect()


def ask(settings: Params, table: pl.DataFrame, held: Mapping[str, float], drawdown: float) -> dict[str, Any]:
    """The champion's answer at the last bar of the table; the current folder is the night's."""
    import models

    dataset.write_table(table, layout.FEATURES)
    terms = layout.FEATURES / "terms.json"  # nothing is ordered here: the smallest order does not matter
    manifest.write_atomic(terms, json.dumps({"min_notional": 0.0}).encode())
    data = experiment.dataset(settings)
    scaler = Scaler.load(reign.FOLDER / "scaler.json")
    if scaler.names != data.names:
        raise Refusal(f"the champion knows the features {list(scaler.names)}, not {list(data.names)}")
    agent = models.load(reign.FOLDER)
    state = agent.initial_state(1)
    env, observation = last_bars(data, scaler, settings, MEMORY_BARS)
    if not isinstance(state, tuple) or state:  # it remembers: show it what came before
        for bar in range(min(MEMORY_BARS, len(data.times) - 1)):
            seen = agent.act(observation, state, seed=settings.seed + bar)
            state = seen.state
            observation, *_ = env.step(seen.action)
    row = data.observations(scaler)[-1]
    account = [*(held.get(symbol, 0.0) for symbol in data.symbols), drawdown]
    now = np.concatenate([row, account], dtype=np.float32)[np.newaxis]  # [1, F + S + 1]
    decision = agent.act(now, state, seed=settings.seed + MEMORY_BARS)
    exposure = env.exposures(decision.action)[0]  # [S]
    bar_ms = np.timedelta64(candles.interval_ms(settings.data.interval), "ms")
    return {
        "bar": str(data.times[-1]),
        "fills_at": str(data.times[-1] + bar_ms),
        "target": dict(zip(data.symbols, exposure.tolist(), strict=True)),
        "reasons": {
            name: values[0].tolist() for name, values in decision.info.items() if values[0].size <= SHOWN
        },
        "market": {
            symbol: dict(zip(data.names, data.features[-1, column].tolist(), strict=True))
            for column, symbol in enumerate(data.symbols)
        },
    }


def last_bars(
    data: Dataset, scaler: Scaler, settings: Params, bars: int
) -> tuple[TradingVectorEnv, np.ndarray]:
    """An environment over the last bars, reset, and its first observation."""
    stop = len(data.times)
    fold = Fold(0, Window(0, 1), Window(stop - min(bars, stop - 1), stop))
    env = experiment.test_env(data, fold, scaler, settings)
    observation, _ = env.reset(seed=settings.seed)
    return env, observation


def _held(text: str) -> tuple[str, float]:
    symbol, _, value = text.partition("=")
    try:
        return symbol, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: must be SYMBOL=EXPOSURE, as in BTCUSDT=0.5") from None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.decide", description=__doc__.split("\n")[0])
    parser.add_argument("--held", type=_held, nargs="*", default=[], metavar="SYMBOL=EXPOSURE")
    parser.add_argument("--drawdown", type=float, default=0.0, help="of the account, 0 to 1")
    parser.add_argument("--now", help="the time to take for now (ISO, UTC); for rehearsals")
    parser.add_argument("--out", type=Path, default=Path("work/decision.json"))
    arguments = parser.parse_args(argv)
    stage.prepare_process()
    now = datetime.fromisoformat(arguments.now) if arguments.now else datetime.now(UTC)
    now = now if now.tzinfo else now.replace(tzinfo=UTC)
    status = 0
    try:
        answer = decide(Path.cwd(), now, held=dict(arguments.held), drawdown=arguments.drawdown)
    except Refusal as refusal:
        answer, status = {"state": "refused", "reason": str(refusal)}, REFUSED
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(stage.rounded(answer), indent=2, sort_keys=True, allow_nan=False) + "\n"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    scratch = arguments.out.with_name(arguments.out.name + ".partial")
    scratch.write_text(text, "utf-8")
    os.replace(scratch, arguments.out)
    print(text, end="")
    return status


if __name__ == "__main__":
    sys.exit(main())
