"""The stationary bootstrap (Politis and Romano 1994): what the record would look like drawn again.

Blocks of geometric length keep the dependence in time; all columns are drawn with the same rows, so
the dependence between agents is kept as well. A mean needs no resampled rows, only how often each row
was drawn: all replications of all columns are one matrix product, a slice of replications at a time.

`resampled_means` and `resampled_paths` consume a seed in the same way: the same seed gives the same
draws in both, and their replications may be paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from pipelines.evaluation.dependence import autocovariance, automatic_block_length, common_block_length

Floats = NDArray[np.float64]

TAIL = 0.05
SLICE_CELLS = 4_000_000  # row counts held at a time: 32 MB


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class PathStatistics(NamedTuple):
    """Figures of resampled paths that no mean can give; each [R, N]."""

    max_drawdown: Floats
    value_at_risk: Floats
    expected_shortfall: Floats
    upper_tail: Floats


def stationary_variance(values: ArrayLike, block: float) -> Floats:
    """n times the variance of the stationary bootstrap mean, exactly, without drawing (per column).

    R_0 + 2 Σ b_i R_i with b_i = (1 − i/n)(1 − p)^i + (i/n)(1 − p)^(n−i), p = 1/block (Politis and
    Romano 1994, lemma 1); it is the long-run variance ω² of Hansen (2005) too.

    Args:
        values: [T] or [T, N].
        block: expected block length in bars, at least 1.

    Returns:
        [N]
    """
    table = _as_table(values)  # [T, N]
    length = table.shape[0]
    if not block >= 1.0:
        raise ValueError(f"a block has at least one bar, got {block}")
    keep = 1.0 - 1.0 / block
    lags = np.arange(length)
    kernel = (1.0 - lags / length) * keep**lags + lags / length * keep ** (length - lags)
    kernel[0] = 0.5  # the lag 0 counts once
    centred = table - table.mean(axis=0)
    variance = [2.0 * float(kernel @ autocovariance(column)) for column in centred.T]
    return np.asarray(np.maximum(variance, 0.0))


def stationary_indices(length: int, block: float, replications: int, seed: int) -> NDArray[np.int64]:
    """Row numbers of `replications` resampled records, [R, T]; consumes `seed`. For small inputs."""
    rng = np.random.default_rng(seed)
    indices = np.empty((replications, length), dtype=np.int64)
    _fill_indices(_geometric_scale(block), rng, indices)
    return indices


def resampled_means(values: ArrayLike, *, block: float, replications: int, seed: int) -> Floats:
    """Means of `replications` resampled records of `values` [T, K]; [R, K]. Consumes `seed`."""
    table = _as_table(values)
    shift = table.mean(axis=0)  # [K]  centred sums are small, hence exact
    centred = table - shift
    scale, rng = _geometric_scale(block), np.random.default_rng(seed)
    means = np.empty((replications, table.shape[1]))
    slice_size = max(1, SLICE_CELLS // len(table))
    for first in range(0, replications, slice_size):
        counts = np.zeros((min(slice_size, replications - first), len(table)))  # [r, T]
        _count_rows(scale, rng, counts)
        means[first : first + len(counts)] = counts @ centred
    return np.asarray(means / len(table) + shift)


def resampled_variance(means: Floats, squares: Floats, values: Floats) -> Floats:
    """Variances (ddof = 1) of resampled records from their means of r and r², both [R, K].

    `values` [T, K] is the record itself: its size says which variance is only the rounding of a
    constant, and such a one is 0.
    """
    length = len(values)
    variance = squares - means**2
    floor = 1e-14 * np.max(values**2, axis=0)  # [K]
    return np.asarray(np.where(variance > floor, variance, 0.0) * (length / max(1, length - 1)))


def circular_means(values: ArrayLike, *, block: int, replications: int, seed: int) -> Floats:
    """Means under the circular block bootstrap (blocks of one fixed length), [R, K]. Consumes `seed`."""
    table = _as_table(values)
    length = len(table)
    blocks = math.ceil(length / block)
    cumulative = np.zeros((2 * length + 1, table.shape[1]))
    np.cumsum(np.concatenate([table, table]), axis=0, out=cumulative[1:])
    sizes = np.full(blocks, block)
    sizes[-1] = length - block * (blocks - 1)
    starts = np.random.default_rng(seed).integers(0, length, size=(replications, blocks))
    sums = np.zeros((replications, table.shape[1]))
    for number, size in enumerate(sizes):
        sums += cumulative[starts[:, number] + size] - cumulative[starts[:, number]]
    return sums / length


def resampled_paths(
    returns: ArrayLike, *, block: float, replications: int, seed: int, tail: float = TAIL
) -> PathStatistics:
    """Drawdown and tails of resampled records of simple `returns` [T, N]. Consumes `seed`.

    Args:
        returns: simple returns, each above −1.
        tail: share of bars in the lower tail (value at risk, expected shortfall) and the upper one.
    """
    table = _as_table(returns)
    if np.any(table <= -1.0):
        raise ValueError("a return of -100 % or less ends its path: it cannot be resampled")
    order = np.argsort(table, axis=0, kind="stable").T.astype(np.int32)  # [N, T]
    shape = (replications, table.shape[1])
    results = PathStatistics(*(np.zeros(shape) for _ in PathStatistics._fields))
    _walk_paths(
        np.log1p(table), table, np.ascontiguousarray(order), _geometric_scale(block), tail,
        np.random.default_rng(seed), *results,
    )  # fmt: skip
    return results


def resampled_equity(
    returns: ArrayLike, rows: ArrayLike, *, block: float, replications: int, seed: int
) -> Floats:
    """Growth of resampled records of simple `returns` [T] at the end of `rows` [P]; [R, P]. Consumes `seed`.

    For bands around an equity curve: what other records of the same bars would have shown.
    """
    table = _as_table(returns)
    if table.shape[1] != 1 or np.any(table <= -1.0):
        raise ValueError("bands are drawn for one record whose returns are all above -100 %")
    scale, rng = _geometric_scale(block), np.random.default_rng(seed)
    steps, points = np.log1p(table[:, 0]), np.asarray(rows, dtype=np.int64)
    indices = np.empty((1, len(steps)), dtype=np.int64)
    growth = np.empty((replications, points.size))
    for r in range(replications):
        _fill_indices(scale, rng, indices)
        growth[r] = np.exp(np.cumsum(steps[indices[0]])[points])
    return growth


def stationary_bootstrap(
    values: ArrayLike,
    statistic: Callable[[Floats], float | Floats],
    *,
    block: float | None = None,
    replications: int = 1000,
    seed: int,
) -> Floats:
    """`statistic` of each resampled record of `values` ([T] or [T, K]); [R, ...]. Consumes `seed`.

    The general form, for any statistic; rows of the record are drawn together. Without `block` the
    automatic length is used.
    """
    table = np.asarray(values, dtype=np.float64)
    if block is None:
        block = common_block_length(_as_table(table))
    indices = stationary_indices(len(table), block, replications, seed)
    return np.array([statistic(table[rows]) for rows in indices])


def percentile_interval(replicates: ArrayLike, level: float = 0.95) -> Interval:
    """The middle `level` of the `replicates` [R]."""
    low, high = np.quantile(np.asarray(replicates), [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(float(low), float(high))


def bca_interval(
    estimate: float, replicates: ArrayLike, jackknife: ArrayLike, level: float = 0.95
) -> Interval:
    """Bias-corrected and accelerated interval (Efron 1987).

    Args:
        estimate: the statistic of the record itself.
        replicates: [R] the statistic of the resampled records.
        jackknife: [T] the statistic with one bar left out.
    """
    draws = np.sort(np.asarray(replicates, dtype=np.float64))
    # Never exactly 0 or 1, which would send the bias to infinity.
    below = np.clip(np.mean(draws < estimate), 0.5 / draws.size, 1.0 - 0.5 / draws.size)
    bias = ndtri(below)
    left_out = np.asarray(jackknife, dtype=np.float64)  # [T]
    distance = left_out.mean() - left_out  # [T]
    spread = float(np.sum(distance**2))
    acceleration = float(np.sum(distance**3)) / (6.0 * spread**1.5) if spread > 0.0 else 0.0
    shifted = bias + ndtri([(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    shares = ndtr(bias + shifted / (1.0 - acceleration * shifted))
    low, high = np.quantile(draws, shares)
    return Interval(float(low), float(high))


def mean_confidence_interval(
    values: ArrayLike,
    *,
    block: float | None = None,
    replications: int = 2000,
    level: float = 0.95,
    seed: int,
) -> Interval:
    """Percentile interval of the mean of a series [T] under the stationary bootstrap."""
    length = automatic_block_length(values).stationary if block is None else block
    means = resampled_means(values, block=length, replications=replications, seed=seed)
    return percentile_interval(means[:, 0], level)


def _as_table(values: ArrayLike) -> Floats:
    """[T] or [T, N] as contiguous [T, N]; empty or non-finite input is refused."""
    table = np.ascontiguousarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or len(table) == 0:
        raise ValueError(f"expected bars x columns with at least one bar, got shape {table.shape}")
    if not np.isfinite(table).all():
        raise ValueError("values must be finite numbers")
    return table


def _geometric_scale(block: float) -> float:
    """1 / log(1 − p) for p = 1 / block; 0 for blocks of one bar, which makes every size 1."""
    if not block >= 1.0:
        raise ValueError(f"a block has at least one bar, got {block}")
    return 1.0 / math.log1p(-1.0 / block) if block > 1.0 else 0.0


# The kernels below are compiled by numba. Each draws (start, size) block by block in the same order.


def _draw_block_size(scale: float, rng: np.random.Generator) -> int:
    """Geometric on 1, 2, ... by inversion: several times cheaper than the generator's own."""
    return 1 + int(math.log(1.0 - rng.random()) * scale)


_block_size: Callable[..., int] = njit(cache=True)(_draw_block_size)


def _fill_indices_loop(scale: float, rng: np.random.Generator, indices: NDArray[np.int64]) -> None:
    replications, length = indices.shape
    for r in range(replications):
        filled = 0
        while filled < length:
            start = int(rng.random() * length)
            size = min(_block_size(scale, rng), length - filled)
            for step in range(size):
                indices[r, filled + step] = (start + step) % length
            filled += size


def _count_rows_loop(scale: float, rng: np.random.Generator, counts: Floats) -> None:
    replications, length = counts.shape
    for r in range(replications):
        filled = 0
        while filled < length:
            start = int(rng.random() * length)
            size = min(_block_size(scale, rng), length - filled)
            for row in range(start, min(start + size, length)):
                counts[r, row] += 1.0
            for row in range(start + size - length):  # the record is a circle
                counts[r, row] += 1.0
            filled += size


def _walk_paths_loop(
    log_returns: Floats, returns: Floats, order: NDArray[np.int32], scale: float, tail: float,
    rng: np.random.Generator, drawdown: Floats, at_risk: Floats, shortfall: Floats, upper: Floats,
) -> None:  # fmt: skip
    length, agents = returns.shape
    place = (length - 1) * tail
    lower_rank = int(place)
    fraction = place - lower_rank
    for r in range(drawdown.shape[0]):
        counts = np.zeros(length, dtype=np.int32)
        level = np.zeros(agents)
        peak = np.zeros(agents)
        worst = np.zeros(agents)
        filled = 0
        while filled < length:
            start = int(rng.random() * length)
            size = min(_block_size(scale, rng), length - filled)
            for step in range(size):
                row = start + step
                if row >= length:
                    row -= length
                counts[row] += 1
                for n in range(agents):
                    level[n] += log_returns[row, n]
                    peak[n] = max(peak[n], level[n])
                    worst[n] = max(worst[n], peak[n] - level[n])
            filled += size
        for n in range(agents):
            drawdown[r, n] = math.exp(-worst[n]) - 1.0
            # Lower tail: linear interpolation between two order statistics, as in numpy.quantile.
            seen, position = 0, -1
            while seen <= lower_rank:
                position += 1
                seen += counts[order[n, position]]
            low = returns[order[n, position], n]
            high = low
            if fraction > 0.0 and seen <= lower_rank + 1:
                following = position + 1
                while counts[order[n, following]] == 0:
                    following += 1
                high = returns[order[n, following], n]
            quantile = low + fraction * (high - low)
            at_risk[r, n] = quantile
            total, members, position = 0.0, 0, 0
            while position < length and returns[order[n, position], n] <= quantile:
                total += counts[order[n, position]] * returns[order[n, position], n]
                members += counts[order[n, position]]
                position += 1
            shortfall[r, n] = total / members
            # Upper tail, by the same rule from the other end.
            seen, position = 0, length
            while seen <= lower_rank:
                position -= 1
                seen += counts[order[n, position]]
            high = returns[order[n, position], n]
            low = high
            if fraction > 0.0 and seen <= lower_rank + 1:
                following = position - 1
                while counts[order[n, following]] == 0:
                    following -= 1
                low = returns[order[n, following], n]
            upper[r, n] = high + fraction * (low - high)


_fill_indices: Callable[..., None] = njit(cache=True)(_fill_indices_loop)
_count_rows: Callable[..., None] = njit(cache=True)(_count_rows_loop)
_walk_paths: Callable[..., None] = njit(cache=True)(_walk_paths_loop)
