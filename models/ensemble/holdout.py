"""Which transitions no member trains on, so that they can judge the members.

Held out are whole blocks of consecutive steps, because a step and its neighbour are nearly the same. And
where several episodes pass over the same stretch of the world (the same bars of a market, say), a step
of one may be the very moment that is held out in another: such steps are not trained on either.
"""

from __future__ import annotations

import numpy as np


def blocks(streams: int, length: int, *, share: float, block: int, draw: np.random.Generator) -> np.ndarray:
    """The rows of a buffer `[streams * length]` that are held out, drawn once and for all.

    Of every 1 / `share` blocks, counted in the order in which the streams fill them side by side, one is held
    out: also a short history has its share.
    """
    turns = -(-length // block)
    group = max(2, round(1.0 / share))
    number = turns * streams
    chosen = np.zeros(-(-number // group) * group, bool)
    chosen[np.arange(0, len(chosen), group) + draw.integers(group, size=len(chosen) // group)] = True
    by_turn = chosen[:number].reshape(turns, streams).T  # [S, turns]
    whole: np.ndarray = np.repeat(by_turn, block, axis=1)[:, :length].reshape(-1)
    return whole


def same_moment(observation: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Which rows of `observation [N, D]` show the moment of a row that is `held` out `[M, D]`.

    A moment is known by its numbers: exactly equal ones in most of those inputs that hardly ever repeat
    themselves. Inputs with few values say nothing about it; without any other, no row is the same.
    """
    # What repeats a lot among the held-out rows themselves cannot tell moments apart.
    distinct = np.array([len(np.unique(column)) for column in held.T])
    telling = np.flatnonzero(2 * distinct > len(held))
    if not len(telling):
        return np.zeros(len(observation), bool)
    equal = np.stack([np.isin(observation[:, place], held[:, place]) for place in telling])  # [T, N]
    same: np.ndarray = equal.mean(axis=0) > 0.5
    return same
