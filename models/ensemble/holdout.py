"""Which transitions no member trains on, so that they can judge the members; and which each one trains on.

Held out are whole blocks of consecutive steps, because a step and its neighbour are nearly the same. And
where several episodes pass over the same stretch of the world (the same bars of a market, say), a step
of one may be the very moment that is held out in another: such steps are not trained on either. Nor are
they independent draws: a resample takes all of a moment's steps or none, or the members, having seen the
same luck, would agree far too well.
"""

from __future__ import annotations

import math

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


def resample(observation: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """How often each row is in a member's resample: Poisson of mean one `[N]`, one draw for every moment.

    A moment is known by the input of `observation [N, D]` with the fewest values among those that have at
    least one for twenty rows: what an account adds to a market differs from visit to visit. Without such an
    input every row of the buffer (`rows [N]`) is a moment of its own. The draw depends on nothing but the
    moment and the `seed`, so that a member keeps its resample while the data grow.
    """
    distinct = np.array([len(np.unique(column)) for column in observation.T])
    telling = np.flatnonzero(20 * distinct >= len(observation))
    if len(telling):
        values = observation[:, telling[distinct[telling].argmin()]].astype(np.float32)
        names = (values + np.float32(0.0)).view(np.uint32).astype(np.uint64)  # -0 is 0
    else:
        names = rows.astype(np.uint64)
    chance = np.cumsum([math.exp(-1.0) / math.factorial(n) for n in range(12)])
    counts: np.ndarray = np.searchsorted(chance, _hashed(names, seed))
    return counts


def _hashed(names: np.ndarray, seed: int) -> np.ndarray:
    """Numbers on [0, 1) that look uniform, a pure function of name and seed (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        mixed = (names + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        mixed ^= mixed >> np.uint64(31)
    uniform: np.ndarray = (mixed >> np.uint64(11)) * 2.0**-53
    return uniform
