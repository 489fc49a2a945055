"""An agent's regimes beside the market's: what each label looks like from outside, and how well they agree.

A learned label is a number without a meaning. It is named here by what the market did in the bars that
carry it, and where the truth is known it is held against that.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CALM, TURBULENT = 0.75, 1.33  # volatility of the label over that of all bars
DRIFT = 2.0  # standard errors of the mean return at which a label is called rising or falling


class Trait(NamedTuple):
    """What the market did in the bars of one label; mean and deviation are of a bar's log return."""

    label: int
    name: str
    share: float
    mean: float
    deviation: float
    bars_in_a_row: float


def traits(labels: ArrayLike, returns: ArrayLike) -> list[Trait]:
    """One for each label that occurs, by label; two of the same kind are numbered.

    Args:
        labels: [T] whole numbers; returns: [T] log returns of the same bars.
    """
    said = np.asarray(labels).astype(np.int64)
    moved = np.asarray(returns, np.float64)
    if said.shape != moved.shape or said.ndim != 1 or said.size == 0:
        raise ValueError(f"labels {said.shape} and returns {moved.shape} are not of the same bars")
    whole = float(moved.std()) or 1.0
    found = []
    for label in np.unique(said):
        mine = said == label
        own = moved[mine]
        deviation = float(own.std())
        words = [
            "calm"
            if deviation < CALM * whole
            else "turbulent"
            if deviation > TURBULENT * whole
            else "ordinary"
        ]
        t_value = own.mean() / (deviation / np.sqrt(own.size)) if deviation > 0.0 else 0.0
        if abs(t_value) > DRIFT:
            words.append("rising" if t_value > 0.0 else "falling")
        starts = int(mine[0]) + int((mine[1:] & ~mine[:-1]).sum())
        found.append(
            Trait(
                int(label),
                ", ".join(words),
                own.size / said.size,
                float(own.mean()),
                deviation,
                own.size / starts,
            )
        )
    names = [trait.name for trait in found]
    return [
        trait._replace(name=f"{trait.name} ({names[: place + 1].count(trait.name)})")
        if names.count(trait.name) > 1
        else trait
        for place, trait in enumerate(found)
    ]


def adjusted_rand_index(first: ArrayLike, second: ArrayLike) -> float:
    """Agreement of two labellings [T], whatever the labels are called: 1 is the same, 0 is chance.

    Hubert and Arabie (1985), eq. 5. Two labellings of which each has a single label agree by definition.
    """
    _, a = np.unique(np.asarray(first), return_inverse=True)
    _, b = np.unique(np.asarray(second), return_inverse=True)
    if a.shape != b.shape or a.size < 2:
        raise ValueError(f"needs two labellings of the same bars, got {a.shape} and {b.shape}")
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1.0)

    def pairs(counts: Floats) -> float:
        return float((counts * (counts - 1.0) / 2.0).sum())

    together, in_first, in_second = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    expected = in_first * in_second / pairs(np.array([float(a.size)]))
    largest = (in_first + in_second) / 2.0
    return 1.0 if largest == expected else (together - expected) / (largest - expected)
