"""Trading as a gymnasium environment, one account or many at once, over `pipelines.market.account`.

The observation at t is the features of bar t, the exposure of every symbol at that close and the drawdown;
the action is the target exposure; the reward is the log return of equity over bar t + 1, which fills it.

**Autoreset.** The vector environments reset in the step after an episode ends (`AutoresetMode.NEXT_STEP`,
as gymnasium's own do): the last observation of an episode arrives like any other, a learner needs no
second path for it, and a loop written for `CartPole` works unchanged. The price is one idle step an episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from models.exposures import Exposures
from pipelines.market import account
from pipelines.market.account import Bars, Floats
from pipelines.market.costs import Costs

Mask = NDArray[np.bool_]
Info = dict[str, Any]

RUIN_REWARD = -10.0
"""The reward of ruin, and the floor of every log return: to keep less than 1 / 22000 of the equity over one
bar is as bad. The logarithm of nothing is no number that a learner could use."""


class Batch(VectorEnv):  # type: ignore[misc]
    """What the vector environments share: seeds, spaces and the reset in the step after an end.

    A subclass gives `_begin(fresh)`, `_observe()` and `_move(actions, moving)`. Every element draws from its
    own generator (`seed + index`), so that it does not matter how many others there are.
    """

    metadata: ClassVar[Info] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}
    render_mode = None

    def __init__(
        self, num_envs: int, observation_space: gymnasium.spaces.Box, action_space: gymnasium.Space
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs!r}")
        self.num_envs = num_envs
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self.generators: list[np.random.Generator] = []
        self.over: Mask = np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Info | None = None
    ) -> tuple[NDArray[np.float32], Info]:
        """Begins all episodes anew. Without a seed the generators run on from where they are."""
        seeds = [seed] * self.num_envs if seed is None else seed
        if isinstance(seeds, int | np.integer):
            seeds = [int(seeds) + index for index in range(self.num_envs)]
        if len(seeds) != self.num_envs:
            raise ValueError(f"{self.num_envs} environments got {len(seeds)} seeds")
        if not self.generators:
            self.generators = [np_random(each)[0] for each in seeds]
        else:
            for index, each in enumerate(seeds):
                if each is not None:
                    self.generators[index] = np_random(each)[0]
        self._np_random = self.generators[0]
        self.over = np.zeros(self.num_envs, np.bool_)
        self._begin(~self.over)
        return self._observe(), {}

    def step(self, actions: ArrayLike) -> tuple[NDArray[np.float32], Floats, Mask, Mask, Info]:
        """One step of every element; those whose episode ended in the last step begin a new one instead."""
        if not self.generators:
            raise gymnasium.error.ResetNeeded("call reset before step")
        fresh = self.over
        reward, terminated, truncated, info = self._move(np.asarray(actions), ~fresh)
        if fresh.any():
            self._begin(fresh)
        self.over = terminated | truncated
        # Gymnasium's convention: "_name" tells for which elements the entry "name" holds.
        masks = {f"_{name}": ~fresh for name in info}
        return self._observe(), reward, terminated, truncated, info | masks

    def _begin(self, fresh: Mask) -> None:
        """Starts new episodes where `fresh` [N]."""
        raise NotImplementedError

    def _observe(self) -> NDArray[np.float32]:
        """The observations [N, F], an array of its own."""
        raise NotImplementedError

    def _move(self, actions: NDArray[Any], moving: Mask) -> tuple[Floats, Mask, Mask, Info]:
        """Rewards, terminated, truncated [N] and info of one step where `moving` [N]; nothing elsewhere."""
        raise NotImplementedError


class Single(gymnasium.Env):  # type: ignore[misc]
    """A `Batch` of one as a plain environment, so that there is nothing that the two could disagree on."""

    metadata: ClassVar[Info] = {"render_modes": []}

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.observation_space = batch.single_observation_space
        self.action_space = batch.single_action_space

    def reset(
        self, *, seed: int | None = None, options: Info | None = None
    ) -> tuple[NDArray[np.float32], Info]:
        super().reset(seed=seed)
        observation, info = self.batch.reset(seed=seed, options=options)
        self._np_random = self.batch.generators[0]
        return observation[0], info

    def step(self, action: ArrayLike) -> tuple[NDArray[np.float32], float, bool, bool, Info]:
        if self.batch.over[0]:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset before step")
        observation, reward, terminated, truncated, info = self.batch.step(np.asarray(action)[np.newaxis])
        first = {name: value[0] for name, value in info.items() if not name.startswith("_")}
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), first


def random_walk(bars: int = 2_000, symbols: int = 1, *, volatility: float = 0.005, seed: int = 0) -> Bars:
    """A small market without any edge: what the environments trade by default. Consumes the seed."""
    generator = np.random.default_rng(seed)
    steps = generator.normal(0.0, volatility, (bars, symbols))
    close = 100.0 * np.exp(np.cumsum(steps, axis=0))  # [T, S]
    opened = np.concatenate([np.full((1, symbols), 100.0), close[:-1]])
    reach = np.exp(np.abs(generator.normal(0.0, volatility / 2, (2, bars, symbols))))
    volume = 1e4 * np.exp(generator.normal(0.0, 0.3, (bars, symbols)))
    high, low = np.maximum(opened, close) * reach[0], np.minimum(opened, close) / reach[1]
    return Bars(opened, high, low, close, volume)


class TradingVectorEnv(Batch):
    """N accounts, each in its own episode over one and the same bars.

    Args:
        bars: [T, S]; a small random walk by default.
        features: [T, F] what is known at the close of each bar; by default, on the random walk, its last
            return in percent. With bars of your own, pass them (or the account is all there is to see).
        costs: the terms of the account.
        num_envs: N.
        episode_bars: length of an episode; None lasts to the end of its segment.
        actions: "grid" chooses from `grid` for every symbol (`Discrete`, or `MultiDiscrete` for several);
            "box" is `Box(-1, 1, (S,))` times the leverage cap.
        grid: the exposures of "grid".
        segments: [T] labels; an episode never crosses from one to the next. One segment by default.
        start: "random" draws the first bar, "first" begins at bar 0, for a pass over the whole window.
        drawdown_penalty: the reward is less by this times any increase of the drawdown.
        initial_equity: money at the start of every episode.
        return_columns: the features that show the last return of each symbol, in any unit; with them the
            environment tells families that can use it how its observations and actions are made
            (`exposures_shown`).

    Ruin terminates an episode, its length truncates it. The reward is the log return of equity, never
    below `RUIN_REWARD`. `info` is the `account.Ledger` of the step by name, and `row`, the bar that it
    ended on.
    """

    def __init__(
        self,
        bars: Bars | None = None,
        features: ArrayLike | None = None,
        costs: Costs | None = None,
        *,
        num_envs: int = 1,
        episode_bars: int | None = 256,
        actions: str = "grid",
        grid: Sequence[float] = (-1.0, -0.5, 0.0, 0.5, 1.0),
        segments: ArrayLike | None = None,
        start: str = "random",
        drawdown_penalty: float = 0.0,
        initial_equity: float = 1_000_000.0,
        return_columns: Sequence[int] = (),
    ) -> None:
        if bars is None:
            bars = random_walk()
            if features is None:
                features = 100.0 * np.log(bars.close / bars.open)
                return_columns = range(features.shape[1])
        if np.ndim(bars.open) != 2:
            raise ValueError(f"bars.open must be [T, S], got shape {np.shape(bars.open)}")
        self.costs = costs or Costs()
        self.market = account.prepare(bars, self.costs)
        length, symbols = np.shape(bars.open)
        self.features = (
            np.zeros((length, 0), np.float32) if features is None else np.asarray(features, np.float32)
        )
        if self.features.ndim != 2 or self.features.shape[0] != length:
            raise ValueError(f"features must be [{length}, F], got shape {self.features.shape}")
        if not np.isfinite(self.features).all():
            row, column = np.argwhere(~np.isfinite(self.features))[0]
            raise ValueError(f"features is not a number at bar {row}, feature {column}")
        if not drawdown_penalty >= 0:
            raise ValueError(f"drawdown_penalty must be at least 0, got {drawdown_penalty!r}")
        self.drawdown_penalty = drawdown_penalty
        self.initial_equity = initial_equity
        self.starts, self.stops = _episodes(length, segments, episode_bars, start)
        self.rows = np.zeros(num_envs, np.int64)
        self.ends = np.zeros(num_envs, np.int64)
        self.state = account.open_account(num_envs, symbols, initial_equity)
        self.exposure = np.zeros((num_envs, symbols))

        action_space: gymnasium.Space
        if actions == "grid":
            self.grid: Floats | None = np.asarray(grid, np.float64)
            if self.grid.ndim != 1 or self.grid.size < 1 or not np.isfinite(self.grid).all():
                raise ValueError(f"grid must be a list of finite exposures, got {grid!r}")
            choices = self.grid.size
            several = gymnasium.spaces.MultiDiscrete([choices] * symbols)
            action_space = gymnasium.spaces.Discrete(choices) if symbols == 1 else several
        elif actions == "box":
            self.grid = None
            action_space = gymnasium.spaces.Box(-1.0, 1.0, (symbols,), np.float32)
        else:
            raise ValueError(f'actions must be "grid" or "box", got {actions!r}')
        if len(return_columns) not in (0, symbols):
            raise ValueError(f"return_columns must name {symbols} features, got {list(return_columns)}")
        self.exposures_shown = self._shown(tuple(return_columns))
        width = self.features.shape[1] + symbols + 1
        super().__init__(num_envs, gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32), action_space)

    def _shown(self, return_columns: tuple[int, ...]) -> Exposures | None:
        """What a family may know of observations and actions; None where exposures and returns do not make
        the reward."""
        short = self.costs.allow_short
        if not return_columns or self.drawdown_penalty > 0 or (self.grid is None and not short):
            return None
        levels = () if self.grid is None else tuple(self.grid if short else np.maximum(self.grid, 0.0))
        return Exposures(
            account=len(return_columns) + 1,
            returns=return_columns,
            levels=tuple(map(float, levels)),
            unit=float(self.costs.leverage),
            gross=float(self.costs.leverage),
        )

    def exposures(self, actions: ArrayLike) -> Floats:
        """The target exposures [N, S] that actions [N] or [N, S] of the action space ask for."""
        chosen = np.asarray(actions)
        shape = (chosen.shape[0], self.market.symbols)
        if self.grid is None:
            if chosen.shape != shape or not np.isfinite(chosen).all():
                raise ValueError(f"actions must be finite and of shape {shape}, got {actions!r}")
            return np.clip(chosen.astype(np.float64), -1.0, 1.0) * self.costs.leverage
        chosen = chosen.reshape(shape)
        if not np.issubdtype(chosen.dtype, np.integer) or ((chosen < 0) | (chosen >= self.grid.size)).any():
            raise ValueError(f"actions must be whole numbers in [0, {self.grid.size}), got {actions!r}")
        return np.asarray(self.grid[chosen])

    def highest(self) -> Floats:
        """The highest exposure [S] that an action can ask for."""
        top = self.costs.leverage if self.grid is None else self.grid.max()
        return np.full(self.market.symbols, float(top))

    def actions_for(self, exposures: ArrayLike) -> NDArray[Any]:
        """The actions, [N] or [N, S], that ask for target exposures [N, S]: the inverse of `exposures`.

        On a grid it is the nearest exposure there is; a box ends at the leverage cap.
        """
        wanted = np.asarray(exposures, np.float64)
        if wanted.ndim != 2 or wanted.shape[1] != self.market.symbols or not np.isfinite(wanted).all():
            raise ValueError(f"exposures must be finite and [N, {self.market.symbols}], got {exposures!r}")
        if self.grid is None:
            return np.clip(wanted / self.costs.leverage, -1.0, 1.0).astype(np.float32)
        chosen: NDArray[Any] = np.abs(wanted[:, :, np.newaxis] - self.grid).argmin(axis=2)  # [N, S]
        return chosen[:, 0] if self.market.symbols == 1 else chosen

    def _begin(self, fresh: Mask) -> None:
        for index in np.flatnonzero(fresh):
            self.rows[index] = self.starts[self.generators[index].integers(self.starts.size)]
        opened = account.open_account(int(fresh.sum()), self.market.symbols, self.initial_equity)
        for mine, new in zip(self.state, opened, strict=True):
            mine[fresh] = new
        self.exposure[fresh] = 0.0
        self.ends[fresh] = self.stops[self.rows[fresh]]

    def _observe(self) -> NDArray[np.float32]:
        drawdown = self.state.drawdown[:, np.newaxis]
        return np.concatenate(
            [self.features[self.rows], self.exposure, drawdown], axis=1, dtype=np.float32
        )  # [N, F + S + 1]

    def _move(self, actions: NDArray[Any], moving: Mask) -> tuple[Floats, Mask, Mask, Info]:
        weights = self.exposures(actions)  # refuses before anything has moved
        equity, drawdown = self.state.equity.copy(), self.state.drawdown
        self.rows[moving] += 1
        ledger = account.step(self.state, self.market, self.rows, weights, moving=moving)
        self.exposure = ledger.exposure.copy()
        kept = np.divide(ledger.equity, equity, out=np.ones_like(equity), where=moving)
        reward = np.full(self.num_envs, RUIN_REWARD)
        np.log(kept, out=reward, where=kept > 0)
        np.maximum(reward, RUIN_REWARD, out=reward)
        reward -= self.drawdown_penalty * np.maximum(self.state.drawdown - drawdown, 0.0)
        terminated = ledger.ruined & moving
        truncated = (self.rows >= self.ends) & moving & ~terminated
        return reward, terminated, truncated, ledger._asdict() | {"row": self.rows.copy()}


class TradingEnv(Single):
    """One account: `TradingVectorEnv` for a single episode at a time, with the same arguments."""

    def __init__(
        self,
        bars: Bars | None = None,
        features: ArrayLike | None = None,
        costs: Costs | None = None,
        **options: Any,
    ) -> None:
        super().__init__(TradingVectorEnv(bars, features, costs, num_envs=1, **options))


def _episodes(
    length: int, segments: ArrayLike | None, episode_bars: int | None, start: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows an episode may start from, and for every row [T] the row where an episode from there ends."""
    labels = np.zeros(length, np.int64) if segments is None else np.asarray(segments)
    if labels.shape != (length,):
        raise ValueError(f"segments must be [{length}], got shape {labels.shape}")
    if episode_bars is not None and episode_bars < 1:
        raise ValueError(f"episode_bars must be at least 1 or None, got {episode_bars!r}")
    rows = np.arange(length)
    lasts = np.append(np.flatnonzero(labels[1:] != labels[:-1]), length - 1)
    ends = lasts[np.searchsorted(lasts, rows)]  # [T] last row of the segment
    wanted = 1 if episode_bars is None else episode_bars
    stops = ends if episode_bars is None else np.minimum(rows + episode_bars, ends)
    if start == "first":
        starts = rows[:1][stops[:1] > 0]
    elif start == "random":
        starts = np.flatnonzero(ends - rows >= wanted)
    else:
        raise ValueError(f'start must be "random" or "first", got {start!r}')
    if starts.size == 0:
        raise ValueError(
            f"episode_bars is {episode_bars}, but no segment of the {length} bars has room for it"
        )
    return starts, stops
