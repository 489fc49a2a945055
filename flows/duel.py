"""Newcomers and champion on the last test window: the returns that the rule of promotion compares.

The newcomers' are in the result tables of the night. The champion walks through the same bars anew, in a
process of its own (`python -m flows.duel`), because only there is TensorFlow needed:

    python -m flows.duel        # in a checkout whose pipeline has run; writes work/duel.parquet
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl

from flows import champion as reign
from flows.promotion import Contender, optimism
from pipelines import backtest, experiment, layout, params, stage
from pipelines.errors import UserError
from pipelines.features.scaling import Scaler

TABLE = Path("work/duel.parquet")
EVERY_BAR = "flat"  # the rule that is never ruined: its path tells the bars of the window
INCOMPATIBLE = 3  # exit status


def newcomers(root: Path, families: list[str]) -> list[Contender]:
    """Every agent of the last fold, named by its folder below `artifacts`."""
    window = pl.read_parquet(root / layout.results("baselines")).filter(pl.col("agent") == EVERY_BAR)
    last = window["fold"].max()
    times = window.filter(pl.col("fold") == last).sort("open_time")["open_time"]
    found = []
    for family in families:
        table = pl.read_parquet(root / layout.results(family)).filter(pl.col("fold") == last)
        for (fold, seed), path in table.group_by("fold", "seed", maintain_order=True):
            name = Path(family) / layout.job(int(str(fold)), int(str(seed)))
            discount = discount_of(root / layout.ARTIFACTS / name)
            found.append(contender(name.as_posix(), path, times, discount))
    return found


def contender(name: str, path: pl.DataFrame, times: pl.Series, discount: float | None) -> Contender:
    """One path of a result table over the bars `times`; after a ruin nothing more is won or lost."""
    ordered = path.sort("open_time")
    if not ordered["open_time"].equals(times.head(len(ordered))):
        raise ValueError(f"{name} was not tested on the bars of the window")
    log_returns = ordered["log_return"].to_numpy()
    returns = np.zeros(len(times))
    returns[: len(log_returns)] = np.expm1(log_returns)
    claimed = None
    if discount is not None and "info_value" in ordered.columns:
        claimed = optimism(ordered["info_value"].to_numpy(), log_returns, discount)
    naive = times.dt.replace_time_zone(None).cast(pl.Datetime("ms")).to_numpy()
    return Contender(name, naive, returns, bool(ordered["ruined"].any()), claimed)


def discount_of(agent: Path) -> float | None:
    """The discount a step that the agent's values were learned with, where it has one."""
    config = json.loads((agent / "agent.json").read_text("utf-8"))["config"]
    found = config.get("discount")
    return None if found is None else float(found)


def champion(root: Path, reigning: reign.Champion, times: np.ndarray) -> Contender:
    """The champion's path as `walk` has left it."""
    table = pl.read_parquet(root / TABLE)
    bars = pl.Series(times).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    return contender(reigning.name, table, bars, discount_of(root / reign.FOLDER))


def walk() -> str:
    """The champion of this checkout through the last test window of its features."""
    import models

    settings = params.load()
    reigning = reign.read(Path())
    if reigning is None:
        raise UserError("there is no champion in this folder")
    data = experiment.dataset(settings)
    fold = experiment.folds(settings, len(data.times))[-1]
    scaler = Scaler.load(reign.FOLDER / "scaler.json")
    if scaler.names != data.names:
        raise Incompatible(
            f"it was trained on the features {list(scaler.names)}, now there are {list(data.names)}"
        )
    env = experiment.test_env(data, fold, scaler, settings)
    agent = models.load(reign.FOLDER)
    saved = json.loads((reign.FOLDER / "agent.json").read_text("utf-8"))["spaces"]
    shape = list(env.single_observation_space.shape)
    if saved["observation"]["shape"] != shape:
        raise Incompatible(f"it sees {saved['observation']['shape']} numbers, now there are {shape}")
    walked = backtest.run_agent(agent, env, seed=settings.seed)
    times = data.times[fold.test.rows]
    table = backtest.table(reigning.family, fold.index, 0, times, data.symbols, walked)
    stage.write_table(table, TABLE, "duel")
    return f"{reigning.name}: {len(table)} bars"


class Incompatible(Exception):
    """The champion cannot act on what the agents see today."""


def main() -> int:
    try:
        return stage.run("duel", walk)
    except Incompatible as error:
        print(f"the champion cannot be compared: {error}", file=sys.stderr)
        return INCOMPATIBLE


if __name__ == "__main__":
    sys.exit(main())
