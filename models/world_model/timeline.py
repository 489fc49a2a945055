"""The gathered steps as one long table, and what of it is held out.

Rows follow each other in time, stream after stream. Row i is an observation; `joined[i]` says that row
i + 1 is where the action on row i led. At the start of an episode, and at every cut, the memory is reset.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.replay import Replay
from models.world_model.mdn_rnn import Batch


class Timeline(NamedTuple):
    """M rows."""

    observation: np.ndarray  # [M, D]
    action: np.ndarray  # [M, *action] taken on the row
    reward: np.ndarray  # [M] arrived with the row
    first: np.ndarray  # [M] the row begins an episode
    ended: np.ndarray  # [M] the world ended on arrival
    joined: np.ndarray  # [M] the next row is this one's successor

    @property
    def steps(self) -> np.ndarray:
        """The rows whose step is known."""
        return np.flatnonzero(self.joined)


def rows_of(replay: Replay, streams: int, *, after: np.ndarray | None = None) -> np.ndarray:
    """The flat rows of a buffer that has not wrapped, oldest first, stream by stream; with `after [N]`
    (heads of an earlier moment) only those from there on."""
    heads = replay.head(np.arange(streams))
    begin = np.arange(streams) * replay.length if after is None else after
    return np.concatenate([np.arange(a, b + 1) for a, b in zip(begin, heads, strict=True)])


def of(replay: Replay, rows: np.ndarray) -> Timeline:
    """The timeline of `rows [M]`."""
    first = replay.read("is_first", rows)
    joined = np.append((np.diff(rows) == 1) & ~first[1:], False)
    return Timeline(
        replay.read("observation", rows).astype(np.float32),
        replay.read("action", rows),
        replay.read("reward", rows),
        first | np.append(True, ~joined[:-1]),
        replay.read("terminated", rows),
        joined,
    )


def hold_out(world: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Masks `[M]` of the rows to fit to and to judge on, by the part of the observation `world [M, I]`.

    The last `share` of the rows is held out. Episodes that start at random bars of one history show the same
    bars again and again: rows fitted to must not be equal to any that is held out, or the judge would have
    been bribed. They are left out of the fit.
    """
    judged = np.arange(len(world)) >= round(len(world) * (1.0 - share))
    keys = names(world)
    return ~np.isin(keys, keys[judged]), judged


def names(world: np.ndarray) -> np.ndarray:
    """The rows of `world [M, I]` as one comparable value each, `[M]`: equal where all bytes are."""
    rows = np.ascontiguousarray(world)
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()


def stretches(rows: int, length: int, offset: int) -> np.ndarray:
    """The first rows of consecutive stretches of `length` that start at `offset`; the rest stays out."""
    return np.arange(offset, max(offset, rows - length) + 1, length)


def batch(
    timeline: Timeline,
    starts: np.ndarray,
    length: int,
    *,
    x: np.ndarray,
    y: np.ndarray,
    learned: np.ndarray,
) -> Batch:
    """The stretches of `length` from `starts [B]`: inputs `x [M, I]`, targets `y [M, Y]` by row of *arrival*.

    A step counts where it exists and its arrival is in `learned [M]`.
    """
    rows = np.minimum(starts[:, None] + np.arange(length), len(x) - 1)  # [B, T]
    beyond = starts[:, None] + np.arange(length) >= len(x)
    after = np.minimum(rows + 1, len(x) - 1)
    reset = timeline.first[rows].astype(np.float32)
    reset[:, 0] = 1.0
    mask = timeline.joined[rows] & learned[after] & ~beyond
    return Batch(x[rows], reset, y[after], timeline.ended[after].astype(np.float32), mask.astype(np.float32))
