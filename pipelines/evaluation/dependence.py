"""How far a series remembers: autocovariances, and the block length that keeps them in a bootstrap."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class BlockLength(NamedTuple):
    """Expected block length of the stationary and block length of the circular bootstrap, in bars."""

    stationary: float
    circular: float


def automatic_block_length(values: ArrayLike) -> BlockLength:
    """Politis and White (2004, corrected 2009) for the series `values` [T].

    Equals `arch.bootstrap.optimal_block_length`, with the autocovariances from one Fourier transform
    in place of a product a lag. A series without dispersion, or of fewer than 10 bars, has no
    dependence to keep: block 1.
    """
    series = np.asarray(values, dtype=np.float64)
    length = series.size
    if length < 10 or np.ptp(series) <= 1e-12 * np.max(np.abs(series)):
        return BlockLength(1.0, 1.0)
    centred = series - series.mean()
    quiet = max(5, int(math.log10(length)))  # lags that must be insignificant in a row
    last = math.ceil(math.sqrt(length)) + quiet
    covariance = autocovariance(centred)[: last + 1]
    # Each autocorrelation is normed by the squares of the bars that take part in it, without the one
    # at the edge (as in Patton's program).
    squares = np.concatenate([[0.0], np.cumsum(centred**2)])
    lags = np.arange(last + 1)
    norm = np.sqrt((squares[-1] - squares[lags + 1]) * squares[length - 1 - lags])
    significant = np.abs(covariance) * length >= 2.0 * math.sqrt(math.log10(length) / length) * norm
    runs = np.convolve(significant, np.ones(quiet), mode="valid")[:-1]  # of `quiet` lags from each on
    silent = np.flatnonzero(runs == 0.0)
    cut = min(2 * max(int(silent[0]), 1) if silent.size else last, last)
    taper = np.minimum(1.0, 2.0 * (1.0 - lags[1 : cut + 1] / cut))  # flat-top lag window
    weighted = 2.0 * taper * covariance[1 : cut + 1]
    slope = float(weighted @ lags[1 : cut + 1])
    density = float(covariance[0] + weighted.sum())
    longest = math.ceil(min(3.0 * math.sqrt(length), length / 3.0))
    if density == 0.0:
        return BlockLength(float(longest), float(longest))
    base = (slope / density) ** 2 * length
    stationary, circular = (base ** (1.0 / 3.0), (1.5 * base) ** (1.0 / 3.0))
    return BlockLength(*(min(max(1.0, block), float(longest)) for block in (stationary, circular)))


def autocovariance(centred: Floats) -> Floats:
    """Sample autocovariances (over T) of a centred series [T] at all lags, [T]."""
    size = 1 << (2 * centred.size - 1).bit_length()
    spectrum = np.fft.rfft(centred, size)
    products: Floats = np.fft.irfft(spectrum * spectrum.conj(), size)[: centred.size]
    return products / centred.size


def common_block_length(values: Floats) -> float:
    """One block for all columns of `values` [T, N]: the median of their automatic lengths.

    The median, because each length is itself a noisy estimate and the largest of many would mostly
    show that noise; calibrated in `benchmarks/calibration.py`.
    """
    lengths = [automatic_block_length(column).stationary for column in values.T if np.ptp(column) > 0.0]
    return float(np.median(lengths)) if lengths else 1.0
