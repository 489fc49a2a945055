"""Rule baselines: what an agent must beat before anybody speaks of skill.

Every rule maps closes `[T, S]` to target weights `[T, S]`; row `t` uses closes `<= t` only and is filled at
the next open. Each symbol gets an equal share of the equity.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rule = Callable[[Array], Array]


class Settings(Protocol):
    """The part of the parameters that the rules read (`evaluation.baselines`)."""

    @property
    def sma_fast(self) -> int: ...
    @property
    def sma_slow(self) -> int: ...
    @property
    def reversion_window(self) -> int: ...
    @property
    def reversion_sigmas(self) -> float: ...
    @property
    def random_hold(self) -> int: ...


def rules(settings: Settings, *, grid: tuple[float, ...], seed: int) -> dict[str, Rule]:
    """All rules by name; `seed` is consumed by the random one."""
    return {
        "flat": flat,
        "buy_and_hold": buy_and_hold,
        "sma_cross": partial(sma_cross, fast=settings.sma_fast, slow=settings.sma_slow),
        "mean_reversion": partial(
            mean_reversion, window=settings.reversion_window, sigmas=settings.reversion_sigmas
        ),
        "random": partial(random_positions, hold=settings.random_hold, grid=grid, seed=seed),
    }


def flat(closes: Array) -> Array:
    """Never trades: what doing nothing earns."""
    return np.zeros_like(closes)  # [T, S]


def buy_and_hold(closes: Array) -> Array:
    """Fully invested from the first bar on."""
    return np.full(closes.shape, 1.0 / closes.shape[1])  # [T, S]


def sma_cross(closes: Array, *, fast: int, slow: int) -> Array:
    """Long while the fast simple moving average is above the slow one, else flat."""
    # False while either average is undefined.
    above = (rolling_mean(closes, fast) > rolling_mean(closes, slow)).astype(np.float64)  # [T, S]
    weights: Array = above / closes.shape[1]
    return weights


def mean_reversion(closes: Array, *, window: int, sigmas: float) -> Array:
    """Bets on the return to the moving average, fully invested `sigmas` standard deviations away from it.

    The weight moves in steps of one half, so that the rule is not eaten by its own turnover.
    """
    logs = np.log(closes)  # [T, S]
    mean = rolling_mean(logs, window)
    variance = rolling_mean((logs - logs[0]) ** 2, window) - rolling_mean(logs - logs[0], window) ** 2
    deviation = np.sqrt(np.maximum(variance, 0.0))
    defined = np.isfinite(deviation) & (deviation > 0)
    distance = np.divide(logs - mean, deviation, out=np.zeros_like(logs), where=defined)
    steps: Array = np.clip(np.round(-2.0 * distance / sigmas) / 2.0, -1.0, 1.0)
    weights: Array = steps / closes.shape[1]
    return weights


def random_positions(closes: Array, *, hold: int, grid: tuple[float, ...], seed: int) -> Array:
    """A position drawn from the grid every `hold` bars: what trading without knowledge costs."""
    bars, symbols = closes.shape
    draws = np.random.default_rng(seed).choice(np.asarray(grid), size=(-(-bars // hold), symbols))
    weights: Array = np.repeat(draws, hold, axis=0)[:bars] / symbols
    return weights


def rolling_mean(values: Array, window: int) -> Array:
    """Mean over the last `window` rows, NaN before there are that many. `values` is [T, S]."""
    means = np.full(values.shape, np.nan)
    if len(values) >= window:
        means[window - 1 :] = sliding_window_view(values, window, axis=0).mean(axis=-1)
    return means
