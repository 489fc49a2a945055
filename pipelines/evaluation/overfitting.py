"""The probability of backtest overfitting: does the best in one half stay good in the other?

Combinatorially symmetric cross-validation of Bailey, Borwein, López de Prado and Zhu (2017). The
Sharpe ratio of any union of blocks follows from block sums of r and r², so all C(S, S/2) splits are
two matrix products.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class Overfitting(NamedTuple):
    """Outcome of CSCV over all splits.

    Read `slope` only beside `probability`: with every split used, a winner of constant mean has slope
    −1 by construction, however real its edge is.
    """

    probability: float  # share of splits whose winner falls to the median or below out of sample
    loss: float  # share of splits whose winner loses money out of sample
    slope: float  # of the winner's Sharpe ratio out of sample on that in sample
    mean_logit: float
    logits: Floats  # [splits]
    splits: int


def probability_of_backtest_overfitting(returns: ArrayLike, partitions: int = 16) -> Overfitting:
    """CSCV over `returns` [T, N] of N configurations, cut into `partitions` (even) blocks of rows.

    The oldest T mod `partitions` rows are left out, so that all blocks are of one length. A column
    that does not move within a half has Sharpe 0 there; equal ones share their mean rank. A logit of
    exactly 0, possible with odd N, counts as overfitted, as in the paper.
    """
    table = np.asarray(returns, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] < 2:
        raise ValueError(f"needs bars x at least 2 configurations, got shape {table.shape}")
    if partitions < 2 or partitions % 2:
        raise ValueError(f"partitions is an even number of at least 2, got {partitions}")
    if not np.isfinite(table).all():
        raise ValueError("returns must be finite numbers")
    rows = len(table) // partitions
    half = rows * partitions // 2
    if half < 2:
        raise ValueError(f"{len(table)} bars are too few for {partitions} partitions")
    table = table[len(table) - rows * partitions :]
    shift = table.mean(axis=0)  # [N]  keeps r² free of cancellation
    blocks = (table - shift).reshape(partitions, rows, -1)  # [S, rows, N]
    sums, squares = blocks.sum(axis=1), (blocks**2).sum(axis=1)  # [S, N]

    chosen = np.array(list(combinations(range(partitions), partitions // 2)))
    inside = np.zeros((len(chosen), partitions))
    inside[np.arange(len(chosen))[:, None], chosen] = 1.0
    trained = _sharpe(inside @ sums, inside @ squares, half, shift)  # [splits, N]
    tested = _sharpe((1.0 - inside) @ sums, (1.0 - inside) @ squares, half, shift)

    best = trained.argmax(axis=1)  # [splits]
    every = np.arange(len(chosen))
    in_sample, out_of_sample = trained[every, best], tested[every, best]
    below = (tested < out_of_sample[:, None]).sum(axis=1)
    equal = (tested == out_of_sample[:, None]).sum(axis=1)
    share = (below + (equal + 1) / 2.0) / (table.shape[1] + 1)  # relative rank ω
    logits = np.log(share / (1.0 - share))
    centred = in_sample - in_sample.mean()
    spread = float(centred @ centred)
    return Overfitting(
        probability=float(np.mean(logits <= 0.0)),
        loss=float(np.mean(out_of_sample < 0.0)),
        slope=float(centred @ out_of_sample) / spread if spread > 0.0 else 0.0,
        mean_logit=float(logits.mean()),
        logits=logits,
        splits=len(chosen),
    )


def _sharpe(sums: Floats, squares: Floats, count: int, shift: Floats) -> Floats:
    """Sharpe ratio (ddof = 1) from sums of shifted returns and of their squares, both [splits, N]."""
    variance = (squares - sums**2 / count) / (count - 1)
    scale = np.maximum(squares / count, shift**2)
    moves = variance > 1e-20 * scale
    deviation = np.sqrt(np.where(moves, variance, 1.0))
    return np.where(moves, (sums / count + shift) / deviation, 0.0)
