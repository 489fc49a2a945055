"""Adaptive discretisation: which inputs are cut, and where, is chosen on training data.

Cutting every input finely gives keys that no test state ever meets again. Here a grid grows one cut at a
time, on the input where it best explains the returns that were seen, as long as cells keep enough visits.
Cuts are quantiles; repeated values (atoms: discrete inputs, zeros while flat) are never split from
themselves and get bins of their own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Cells(NamedTuple):
    """A grid: bin of input d is the number of `cuts[d]` that are at most its value."""

    cuts: tuple[np.ndarray, ...]  # one ascending array for each of D inputs; empty where it is not used

    @property
    def bins(self) -> tuple[int, ...]:
        """Bins of each input."""
        return tuple(len(cut) + 1 for cut in self.cuts)

    @property
    def number(self) -> int:
        """Cells in all."""
        return int(np.prod(self.bins, dtype=np.int64))

    def find(self, observation: np.ndarray) -> np.ndarray:
        """The cell of each row of `observation [N, D]`: `[N]`. Values off the data go to outer bins."""
        cell = np.zeros(len(observation), np.int64)
        for values, cut in zip(observation.T, self.cuts, strict=True):
            if len(cut):
                cell = cell * (len(cut) + 1) + np.searchsorted(cut, values, side="right")
        return cell


def quantile_cuts(values: np.ndarray, bins: int) -> np.ndarray:
    """At most `bins - 1` ascending cuts of `values [N]` into bins of about equal counts.

    With no more distinct values than bins, each value gets its own bin. A cut lies half way between two
    distinct values, so that no atom sits on one and float noise cannot move it across.
    """
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= bins:
        places = np.arange(1, len(distinct))
    else:
        reached = np.cumsum(counts)
        wanted = len(values) * np.arange(1, bins) / bins
        right = np.searchsorted(reached, wanted)  # the cut falls on one side of the value that holds the rank
        gap = np.abs(np.stack([reached[right] - counts[right], reached[right]]) - wanted)
        places = np.unique(right + gap.argmin(axis=0))
        places = places[(places > 0) & (places < len(distinct))]
    middles: np.ndarray = 0.5 * (distinct[places - 1].astype(np.float64) + distinct[places])
    return middles


def choose(
    observation: np.ndarray,
    action: np.ndarray,
    target: np.ndarray,
    *,
    actions: int,
    max_cells: int,
    min_visits: float,
    max_bins: int,
) -> Cells:
    """The grid for data of N steps: `observation [N, D]`, `action [N]`, return that followed `target [N]`.

    Greedy: each turn gives one more bin (or, where the input has few distinct values, all of them) to the
    input that most lowers the squared error of the target's mean a cell and action, minus what that many
    further means would lower it by chance (Mallows 1973). It ends when nothing is gained, or when cells
    would number more than `max_cells` or have fewer than `min_visits` steps on average.
    """
    data, inputs = len(observation), observation.shape[1]
    offered = [
        {bins: cut for bins in range(2, max_bins + 1) if len(cut := quantile_cuts(column, bins)) > 0}
        for column in observation.T
    ]
    codes = [
        {bins: np.searchsorted(cut, column, side="right") for bins, cut in cuts.items()}
        for column, cuts in zip(observation.T, offered, strict=True)
    ]
    chosen = [1] * inputs
    key = action.astype(np.int64)
    best, used = _residual(key, target, actions)
    noise = best / max(1, data - used)

    def keys(bins: list[int]) -> tuple[np.ndarray, int]:
        joined, number = key, 1
        for place, count in enumerate(bins):
            if count > 1:
                size = len(offered[place][count]) + 1
                joined, number = joined * size + codes[place][count], number * size
        return joined, number

    def fits(number: int) -> bool:
        return number <= max_cells and data >= min_visits * number

    while True:
        tried = []
        for place in range(inputs):
            for bins in sorted({chosen[place] + 1, 2 * chosen[place]} & set(offered[place])):
                candidate = [*chosen[:place], bins, *chosen[place + 1 :]]
                joined, number = keys(candidate)
                if fits(number):
                    residual, means = _residual(joined, target, number * actions)
                    gain = best - residual - 2.0 * noise * (means - used)
                    tried.append((gain, residual, means, candidate))
        gain, residual, means, candidate = max(tried, key=lambda one: one[0], default=(0.0, 0.0, 0, chosen))
        if gain <= 0.0:
            break
        best, used, chosen = residual, means, candidate
        noise = min(noise, best / max(1, data - used))
    empty = np.zeros(0)
    return Cells(tuple(offered[d][bins] if bins > 1 else empty for d, bins in enumerate(chosen)))


def _residual(key: np.ndarray, target: np.ndarray, size: int) -> tuple[float, int]:
    """Sum of squared errors of the target's mean for each key, and the number of keys that occur."""
    count = np.bincount(key, minlength=size)
    total = np.bincount(key, target, minlength=size)
    explained = float((total**2 / np.maximum(count, 1)).sum())
    return float(np.square(target).sum()) - explained, int((count > 0).sum())


def unseen_share(cells: Cells, trained: np.ndarray, observation: np.ndarray) -> float:
    """Share of `observation [N, D]` in cells that training never visited; `trained` is bool `[cells]`."""
    return float((~trained[cells.find(observation)]).mean())
