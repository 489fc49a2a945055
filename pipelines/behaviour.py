"""What others did, recorded: a mixture of rule policies through the trading environment, as Parquet.

Offline learning needs trades to learn from, good and bad ones. The recorder lets several policies trade the
training window of a fold: momentum, mean reversion, buy and hold, flat, random positions, noisy versions of
all of them, and trained agents if they are handed in. None sees ahead: a rule's row t looks at closes <= t,
noise looks at nothing, and an agent sees what the environment shows.

A data set is a directory with two files:

- `behaviour.parquet`, one row a transition, those of an episode in order: `episode` i64, `step` i32, `policy`
  text, `open_time` (UTC, of the bar at whose close it was decided), `observation_0` ... f32, `action_0` ...
  (f64 for a box, i64 otherwise), `reward` f64, `terminated` and `truncated` bool;
- `behaviour.json`, its version, sizes and the SHA-256 of the table.

Anybody's own recordings in this form train a family just as well (`write` makes the second file); `policy`,
`truncated` and `open_time` may be missing. With `open_time` what was recorded outside of a fold's
training window is left out, without it nobody can tell. Models know arrays only, so the data reach them
with the environment: `attach` puts a `Record` there, and an offline family takes it instead of stepping.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.agent import Agent
from models.trajectory.data import Record
from pipelines.errors import UserError
from pipelines.market.baselines import Rule, Settings, rules
from pipelines.market.env import TradingVectorEnv

VERSION = 1
TABLE, ABOUT = "behaviour.parquet", "behaviour.json"
NOISE = (0.1, 0.4)
"""Shares of random positions in the noisy versions of a rule."""
_HOLD = 4  # bars that a noisy version keeps a random position

Env = TypeVar("Env")


class Behaviour(NamedTuple):
    """One policy of the mixture: wishes `[N, S]` for the rows `[N]` of the market that episodes stand at."""

    name: str
    wish: Callable[[NDArray[np.int64]], NDArray[np.float64]]


def behaviours(
    closes: NDArray[np.float64], settings: Settings, *, grid: Sequence[float], seed: int
) -> list[Behaviour]:
    """Every rule on `closes [T, S]`, each also with two shares of noise; consumes `seed`."""
    found: list[Behaviour] = []
    known: dict[str, Rule] = dict(rules(settings, grid=tuple(grid), seed=seed))
    known["momentum"] = lambda closes: _momentum(closes, settings.sma_slow)
    for number, (name, rule) in enumerate(sorted(known.items())):
        weights = rule(closes)  # [T, S]
        found.append(_follow(name, weights))
        for noise in NOISE:
            draw = np.random.default_rng([seed, number, round(1000 * noise)])
            found.append(_follow(f"{name} with {noise:g} noise", _disturb(weights, grid, noise, draw)))
    return found


def _follow(name: str, weights: NDArray[np.float64]) -> Behaviour:
    return Behaviour(name, lambda rows: weights[rows])


def _momentum(closes: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Long after a rise over `window` bars, short after a fall."""
    sign = np.zeros_like(closes)
    sign[window:] = np.sign(closes[window:] - closes[:-window])
    weights: NDArray[np.float64] = sign / closes.shape[1]
    return weights


def _disturb(
    weights: NDArray[np.float64], grid: Sequence[float], share: float, draw: np.random.Generator
) -> NDArray[np.float64]:
    """`weights [T, S]` with stretches of random positions in their place."""
    blocks = -(-len(weights) // _HOLD)
    struck = np.repeat(draw.random(blocks) < share, _HOLD)[: len(weights)]
    random = np.repeat(draw.choice(np.asarray(grid), (blocks, weights.shape[1])), _HOLD, axis=0)[
        : len(weights)
    ]
    mixed: NDArray[np.float64] = np.where(struck[:, None], random / weights.shape[1], weights)
    return mixed


def record(
    env: TradingVectorEnv,
    closes: NDArray[np.float64],
    settings: Settings,
    steps: int,
    *,
    seed: int,
    agents: Mapping[str, Agent] | None = None,
    times: NDArray[np.datetime64] | None = None,
) -> pl.DataFrame:
    """At least `steps` transitions of the mixture on `env`, whose bars have `closes [T, S]`; consumes `seed`.

    With `times [T]`, the opens of the bars, the table says when each decision fell. Each episode draws its
    policy; `agents`, by name, are as likely as a rule and act with their own state.
    """
    mixture = behaviours(
        closes, settings, grid=(-1.0, -0.5, 0.0, 0.5, 1.0) if env.grid is None else tuple(env.grid), seed=seed
    )
    trained = list((agents or {}).items())
    draw = np.random.default_rng([seed, 1])
    count = env.num_envs
    observation, _ = env.reset(seed=seed)
    policy = draw.integers(0, len(mixture) + len(trained), count)
    states = [agent.initial_state(count) for _, agent in trained]
    episode, step = np.arange(count), np.zeros(count, np.int64)
    began, resting, kept = count, np.zeros(count, bool), 0
    parts: list[dict[str, NDArray[Any]]] = []
    while kept < steps:
        wishes = np.zeros((count, env.market.symbols))
        for number, behaviour in enumerate(mixture):
            mine = policy == number
            wishes[mine] = behaviour.wish(env.rows[mine])
        action = nearest(env, wishes)
        for number, (_, agent) in enumerate(trained):
            decision = agent.act(observation, states[number], seed=seed + kept)
            states[number] = decision.state
            mine = policy == len(mixture) + number
            action[mine] = decision.action[mine]
        row = env.rows.copy()
        shown, reward, terminated, truncated, _ = env.step(action)
        real = ~resting  # the step after an end only resets
        parts.append(
            {
                "episode": episode[real],
                "step": step[real],
                "policy": policy[real],
                "row": row[real],
                "observation": observation[real],
                "action": action[real],
                "reward": reward[real],
                "terminated": terminated[real],
                "truncated": truncated[real],
            }
        )
        kept += int(real.sum())
        step[real] += 1
        fresh = resting
        episode[fresh] = began + np.arange(int(fresh.sum()))
        began += int(fresh.sum())
        step[fresh] = 0
        policy = np.where(fresh, draw.integers(0, len(mixture) + len(trained), count), policy)
        for number, (_, agent) in enumerate(trained):
            if fresh.any():
                states[number] = _renew(states[number], agent.initial_state(count), fresh)
        resting = (terminated | truncated) & real
        observation = shown
    names = np.array([behaviour.name for behaviour in mixture] + [name for name, _ in trained])
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((whole["step"], whole["episode"]))
    whole = {name: values[order] for name, values in whole.items()}
    table = _frame(whole, names[whole["policy"]])
    if times is None:
        return table
    stamps = pl.Series("open_time", times[whole["row"]]).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    return table.insert_column(3, stamps)


def _renew(state: Any, new: Any, fresh: NDArray[np.bool_]) -> Any:
    """`state` with the rows of `fresh` from `new`, through nested tuples and dicts."""
    if isinstance(state, dict):
        return {name: _renew(state[name], new[name], fresh) for name in state}
    if isinstance(state, tuple):
        return tuple(_renew(old, begin, fresh) for old, begin in zip(state, new, strict=True))
    return np.where(fresh.reshape(-1, *[1] * (np.ndim(state) - 1)), new, state)


def nearest(env: TradingVectorEnv, wishes: NDArray[np.float64]) -> NDArray[Any]:
    """The action nearest to the exposures `[N, S]`."""
    if env.grid is None:
        boxed: NDArray[Any] = np.clip(wishes / env.costs.leverage, -1.0, 1.0).astype(np.float32)
        return boxed
    nearest = np.abs(wishes[..., None] - env.grid).argmin(axis=-1)  # [N, S]
    shaped: NDArray[Any] = nearest.reshape(len(wishes), *(env.single_action_space.shape or ()))
    return shaped


def _frame(columns: Mapping[str, NDArray[Any]], policy: NDArray[np.str_]) -> pl.DataFrame:
    action = columns["action"].reshape(len(policy), -1)
    kind = pl.Float64 if np.issubdtype(action.dtype, np.floating) else pl.Int64
    return pl.DataFrame(
        {
            "episode": pl.Series(columns["episode"], dtype=pl.Int64),
            "step": pl.Series(columns["step"], dtype=pl.Int32),
            "policy": policy.tolist(),
            **{
                f"observation_{i}": pl.Series(values, dtype=pl.Float32)
                for i, values in enumerate(columns["observation"].T)
            },
            **{f"action_{i}": pl.Series(values, dtype=kind) for i, values in enumerate(action.T)},
            "reward": pl.Series(columns["reward"], dtype=pl.Float64),
            "terminated": columns["terminated"],
            "truncated": columns["truncated"],
        }
    )


def write(table: pl.DataFrame, directory: Path, *, symbols: Sequence[str] = ()) -> None:
    """Writes the data set as a whole; the same table gives the same bytes. `symbols` says what was traded."""
    scratch = directory.with_name(directory.name + ".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    table.write_parquet(scratch / TABLE, compression="zstd", statistics=True)
    about = {
        "version": VERSION,
        "transitions": len(table),
        "episodes": table["episode"].n_unique(),
        "policies": table["policy"].unique().sort().to_list() if "policy" in table.columns else [],
        "symbols": list(symbols),
        "sha256": hashlib.sha256((scratch / TABLE).read_bytes()).hexdigest(),
    }
    (scratch / ABOUT).write_text(json.dumps(about, sort_keys=True, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(scratch, directory)


def read(directory: Path) -> pl.DataFrame:
    """The table of a data set; one that is not what it says it is, is the user's mistake."""
    about_file, table_file = directory / ABOUT, directory / TABLE
    try:
        about = json.loads(about_file.read_text("utf-8"))
        blob = table_file.read_bytes()
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{directory}: is no behaviour data set: {error}") from error
    if not isinstance(about, dict) or about.get("version") != VERSION:
        said = about.get("version") if isinstance(about, dict) else about
        raise UserError(f"{about_file}: version = {said!r}: this release reads version {VERSION}")
    if hashlib.sha256(blob).hexdigest() != about.get("sha256"):
        raise UserError(f"{table_file}: is not the table that {ABOUT} was written with")
    try:
        table = pl.read_parquet(blob)
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{table_file}: cannot be read: {' '.join(str(error).split())}") from error
    missing = {"episode", "step", "reward", "terminated", "observation_0", "action_0"} - set(table.columns)
    if missing:
        raise UserError(f"{table_file}: lacks the columns {', '.join(sorted(missing))}")
    return table.sort("episode", "step")


def symbols(directory: Path) -> list[str]:
    """What a data set that `read` accepts was traded on."""
    found: list[str] = json.loads((directory / ABOUT).read_text("utf-8")).get("symbols", [])
    return found


def within(table: pl.DataFrame, first: np.datetime64, last: np.datetime64) -> pl.DataFrame:
    """The episodes that lie in the bars `first` to `last`, their last reward included; all if untimed."""
    if "open_time" not in table.columns:
        return table
    stamps = pl.col("open_time").dt.replace_time_zone(None).cast(pl.Datetime("ms"))
    low, high = (
        pl.lit(each.astype("datetime64[ms]").item()).cast(pl.Datetime("ms")) for each in (first, last)
    )
    inside = stamps.is_between(low, high, closed="left")  # a decision is rewarded one bar later
    return table.filter(inside.all().over("episode"))


def to_record(table: pl.DataFrame, env: Any) -> Record:
    """The table as arrays in the shapes of the environment's spaces."""

    def columns(prefix: str) -> NDArray[Any]:
        names = sorted(
            (n for n in table.columns if n.startswith(prefix)), key=lambda n: int(n[len(prefix) :])
        )
        return table.select(names).to_numpy()

    space = env.single_action_space
    action = columns("action_").reshape(len(table), *(space.shape or ()))
    return Record(
        observation=columns("observation_").astype(np.float32),
        action=action.astype(space.dtype),
        reward=table["reward"].to_numpy(),
        terminated=table["terminated"].to_numpy(),
        episode=table["episode"].to_numpy(),
    )


def attach(env: Env, table: pl.DataFrame) -> Env:
    """Lets an environment bring the recorded data along, for families that learn offline; returns it."""
    env.recorded = to_record(table, env)  # type: ignore[attr-defined]
    return env


def returns(tables: Sequence[pl.DataFrame]) -> dict[str, dict[str, float]]:
    """How every policy's episodes fared: what the report shows, and what a learner has to beat.

    For each policy, and for `all`: the number of episodes and steps, mean and quantiles of the episodes' log
    returns, and the mean of a step. A table without the names of policies has `all` alone.
    """
    named = [
        table.select(
            pl.col("policy") if "policy" in table.columns else pl.lit("all").alias("policy"),
            "reward",
            episode=pl.col("episode") + pl.lit(number * 2**40),  # episodes of several tables stay apart
        )
        for number, table in enumerate(tables)
    ]
    episodes = (
        pl.concat(named)
        .group_by("policy", "episode")
        .agg(log_return=pl.col("reward").sum(), steps=pl.len())
        .sort("policy", "episode")  # sums in one order give the same digits every time
    )
    found = {str(name): _fared(part) for (name,), part in episodes.group_by("policy", maintain_order=True)}
    return {"all": _fared(episodes)} | found


def _fared(episodes: pl.DataFrame) -> dict[str, float]:
    gained, steps = episodes["log_return"].to_numpy(), int(episodes["steps"].sum())
    low, first, middle, third, high = np.quantile(gained, (0.05, 0.25, 0.5, 0.75, 0.95))
    return {
        "episodes": len(gained), "steps": steps, "mean": float(gained.mean()), "q05": float(low),
        "q25": float(first), "median": float(middle), "q75": float(third), "q95": float(high),
        "a_step": float(gained.sum() / steps),
    }  # fmt: skip
