"""The leak gate: no feature may know what comes after the bar it stands at.

A feature is recomputed on histories that end earlier, and on histories whose future is replaced by
nonsense. Up to the cut nothing may change, not in the warm-up either. Any use of later bars shows: a centred
window, a backward fill, a mean over the whole sample, tomorrow's return.

A leak that shows on few bars (a fill of rare nulls) is caught only by a cut beside such a bar, so besides
cuts spread over the history there are cuts in the warm-up and at the bars that are odd: flat, without
volume, bridged, first of a segment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines.features.registry import Feature, compute, warm_up
from pipelines.features.scaling import Scaler
from pipelines.splits import Fold

_PRICES = ("open", "high", "low", "close")


class Leak(NamedTuple):
    """A feature that changed when only its future did.

    Attributes:
      feature, symbol: which.
      time: open time of the first bar whose value changed.
      difference: the largest change seen; infinite where a value came or went.
    """

    feature: str
    symbol: str
    time: datetime
    difference: float


class LeakError(ValueError):
    """Features know the future; names every one of them."""

    def __init__(self, leaks: Sequence[Leak]) -> None:
        self.leaks = tuple(leaks)
        worst = "; ".join(
            f"{leak.feature} ({leak.symbol} at {leak.time}, off by {leak.difference:.3g})" for leak in leaks
        )
        super().__init__(f"features that know the future: {worst}")


def find_leaks(
    candles: pl.DataFrame,
    features: Sequence[Feature],
    *,
    cuts: int = 8,
    bars: int = 200_000,
    seed: int = 0,
    tolerance: float = 1e-12,
) -> list[Leak]:
    """One `Leak` for each feature and symbol that changes with its future; an empty list is what one wants.

    Args:
      candles: what the features are computed from, sorted by symbol and time.
      features: as resolved by the registry.
      cuts: histories ended evenly over each symbol; as many again at odd bars, and some in the warm-up.
      bars: a longer history is judged by its first so many bars of a symbol, which keeps years of minutes
        in seconds; a feature is the same expression on all of them.
      seed: of the nonsense; consumed.
      tolerance: change allowed, absolute below 1 and relative above.
    """
    if candles.is_empty():
        raise ValueError("no candles to look for leaks in")
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, str], Leak] = {}
    for symbol in candles.partition_by("symbol", maintain_order=True):
        history = symbol.head(bars)
        whole = _values(history, features)
        for cut in _cuts(history, features, cuts):
            past, future = history.head(cut), history.slice(cut)
            for retold in (past, pl.concat([past, _nonsense(future, rng)])):
                for leak in _changes(history, whole, _values(retold, features), cut, features, tolerance):
                    known = found.get((leak.feature, leak.symbol))
                    if known is None or leak.difference > known.difference:
                        found[leak.feature, leak.symbol] = leak
    order = {feature.name: index for index, feature in enumerate(features)}
    return sorted(found.values(), key=lambda leak: (order[leak.feature], leak.symbol))


def require_no_leaks(
    candles: pl.DataFrame, features: Sequence[Feature], *, cuts: int = 8, seed: int = 0
) -> None:
    """Raises `LeakError` if `find_leaks` finds any."""
    leaks = find_leaks(candles, features, cuts=cuts, seed=seed)
    if leaks:
        raise LeakError(leaks)


def find_scaler_leaks(features: npt.NDArray[np.floating], fold: Fold, scaler: Scaler) -> list[str]:
    """Names of the features whose scale owes something to rows outside the fold's training window.

    `features` is [T, F] or [T, S, F]. The training rows alone must give the same scaler, to the bit: then
    no change of any other row can have a say in how the training rows, or the test rows, are scaled.
    """
    training = features[fold.train.rows]
    honest = Scaler.fit(training, scaler.names, method=scaler.method, clip=scaler.clip)
    same = (honest.centre == scaler.centre) & (honest.scale == scaler.scale)  # [F] or [S, F]
    by_feature = same.reshape(-1, len(scaler.names)).all(axis=0)  # [F]
    return [name for name, holds in zip(scaler.names, by_feature, strict=True) if not holds]


def _values(history: pl.DataFrame, features: Sequence[Feature]) -> pl.DataFrame:
    table = compute(history.lazy(), features, keep_warm_up=True).collect()
    return table.select(feature.name for feature in features)


def _cuts(history: pl.DataFrame, features: Sequence[Feature], count: int) -> list[int]:
    """Row counts at which the history of one symbol is ended, ascending, each in 1..height-1."""
    rows = history.height
    spread = np.linspace(0, rows, count + 2)[1:-1]
    longest = max(warm_up(features), 1)
    early = np.geomspace(1, longest + 1, 6)
    strange = history.select(
        strange=(pl.col("high") <= pl.col("low"))
        | (pl.col("volume") <= 0)
        | (pl.col("filled") if "filled" in history.columns else False)
        | (pl.col("segment").diff() != 0 if "segment" in history.columns else False)
    )["strange"]
    odd = strange.arg_true().to_numpy() + 1
    if len(odd) > count:
        odd = odd[np.linspace(0, len(odd) - 1, count).astype(np.int64)]
    wanted = np.concatenate([spread, early, odd]).astype(np.int64)
    return [int(cut) for cut in np.unique(wanted) if 1 <= cut < rows]


def _nonsense(future: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """The future as it was not: bars shuffled and rescaled, their times kept."""
    order = rng.permutation(future.height)
    # One factor a bar for all four prices keeps a candle a candle.
    factor = pl.Series(np.exp(rng.normal(0.0, 1.0, future.height)))
    moved = [name for name in (*_PRICES, "volume", "turnover") if name in future.columns]
    return future.with_columns((future[name].gather(order) * factor).alias(name) for name in moved)


def _changes(
    history: pl.DataFrame,
    whole: pl.DataFrame,
    retold: pl.DataFrame,
    cut: int,
    features: Sequence[Feature],
    tolerance: float,
) -> list[Leak]:
    leaks = []
    for feature in features:
        before, after = whole[feature.name].head(cut), retold[feature.name].head(cut)
        if before.equals(after, null_equal=True):
            continue
        was, now = _numbers(before), _numbers(after)
        both = np.isfinite(was) & np.isfinite(now)
        # A value that is finite on one side alone has come or gone with the future.
        change = np.where(both, 0.0, np.where(np.isfinite(was) | np.isfinite(now), math.inf, 0.0))
        change[both] = np.abs(was[both] - now[both])
        changed = change > tolerance * np.maximum(1.0, np.where(both, np.abs(was), 1.0))
        if changed.any():
            first = int(np.argmax(changed))
            symbol, time = history["symbol"][first], history["open_time"][first]
            leaks.append(Leak(feature.name, symbol, time, float(change[changed].max())))
    return leaks


def _numbers(column: pl.Series) -> npt.NDArray[np.float64]:
    return column.fill_null(math.nan).to_numpy()
