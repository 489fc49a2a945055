"""Real numbers as tokens: bins per dimension, with a token of its own for every repeated value.

A column's line is cut into cells, each with a start and a centre. Encoding finds the cell a value lies in,
decoding gives its centre. Quantile cells are the Trajectory Transformer's (Janner et al. 2021, section 3.1):
cut at order statistics, centre half way. Where a value fills a bin or more by itself (a zero reward, a
clipped feature) those cuts coincide and the reference decodes it wrongly; such an *atom* gets a cell that
holds exactly this value. A column with no more distinct values than bins consists of atoms alone, so that
discrete actions come back exactly.

Expected values use the *mean* of what was fitted into each cell. Half way between the ends of an outermost
cell lies a number that fat tails push far beyond what usually falls there.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

Method = Literal["quantile", "uniform"]


class Cells(NamedTuple):
    """The V' <= V cells of one column, ascending."""

    starts: np.ndarray  # [V'] float64; a cell reaches to the next start
    centres: np.ndarray  # [V'] float64
    means: np.ndarray  # [V'] float64, of the values that were fitted


class Encoded(NamedTuple):
    """Tokens, and how many values of each column lay outside of what was fitted."""

    tokens: np.ndarray  # [..., K] int32
    clipped: np.ndarray  # [K] int64


def fit_column(values: np.ndarray, bins: int, method: Method = "quantile") -> Cells:
    """At most `bins` cells for `values [N]`; NaN and infinity are refused."""
    values = np.asarray(values, np.float64).ravel()
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"a column of {values.size} values must be finite and not empty to be cut into bins")
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= bins:
        return Cells(distinct, distinct, distinct)
    frequent = np.flatnonzero(counts * bins >= len(values))
    # An atom may cut a bin in two, so each takes two cells of the budget; the most frequent go first.
    frequent = frequent[np.argsort(-counts[frequent], kind="stable")][: (bins - 1) // 2]
    atoms = np.sort(distinct[frequent])
    rest = np.sort(values[~np.isin(values, atoms)])
    number = bins - 2 * len(atoms)
    if method == "uniform":
        cuts = np.linspace(rest[0], rest[-1], number + 1)
    else:
        cuts = np.append(rest[np.arange(number) * len(rest) // number], rest[-1])
    return _with_means(*_cells(atoms, np.unique(cuts), rest), values)


def _cells(atoms: np.ndarray, cuts: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and centres of bins between `cuts`, interrupted by `atoms`.

    A piece beside an atom that holds no data is dropped.
    """
    cells = [(atom, atom) for atom in atoms]
    edges = list(itertools.pairwise(cuts)) or [(cut, cut) for cut in cuts]
    for low, high in edges:
        inside = atoms[(atoms > low) & (atoms < high)]
        for left, right in zip((low, *inside), (*inside, high), strict=True):
            start = np.nextafter(left, np.inf) if left in atoms else left
            stop = np.searchsorted(rest, right, side="right" if right == cuts[-1] else "left")
            if len(inside) == 0 or stop > np.searchsorted(rest, start):
                cells.append((start, 0.5 * (left + right)))
    starts, centres = np.array(sorted(cells)).T
    # In floating point the middle of two neighbours may be either of them.
    below_next = np.append(np.nextafter(starts[1:], -np.inf), np.inf)
    return starts, np.clip(centres, starts, below_next)


def _with_means(starts: np.ndarray, centres: np.ndarray, values: np.ndarray) -> Cells:
    """The cells; one that holds none of `values [N]` has its centre for a mean."""
    found = np.maximum(np.searchsorted(starts, values, side="right") - 1, 0)
    counts = np.bincount(found, minlength=len(starts))
    sums = np.bincount(found, weights=values, minlength=len(starts))
    # An atom is no average of itself: a sum of many rounds.
    means = np.where((counts > 0) & (starts != centres), sums / np.maximum(counts, 1), centres)
    return Cells(starts, centres, means)


class Tokeniser:
    """K columns, each with its own cells; the last cell of every column is closed by its largest value."""

    def __init__(self, columns: Sequence[Cells], low: np.ndarray, high: np.ndarray) -> None:
        self.columns = tuple(columns)
        self.low, self.high = low, high  # [K] what was seen
        self.counts = np.array([len(column.starts) for column in columns])  # [K] tokens in use

    @classmethod
    def fit(
        cls,
        values: np.ndarray,
        bins: int,
        *,
        method: Method = "quantile",
        exact: Mapping[int, Sequence[float]] | None = None,
    ) -> Tokeniser:
        """Cells for `values [N, K]`; columns of `exact` have these values as their tokens, seen or not."""
        values = np.asarray(values, np.float64)
        columns, low, high = [], values.min(axis=0), values.max(axis=0)
        for place in range(values.shape[1]):
            known = (exact or {}).get(place)
            if known is None:
                columns.append(fit_column(values[:, place], bins, method))
                continue
            if len(known) > bins:
                raise ValueError(f"column {place} has {len(known)} exact values, more than {bins} bins")
            numbers = np.array(sorted(known), np.float64)
            columns.append(Cells(numbers, numbers, numbers))
            low[place], high[place] = numbers[0], numbers[-1]
        return cls(columns, low, high)

    def encode(self, values: np.ndarray, columns: Sequence[int] | None = None) -> Encoded:
        """Tokens of `values [..., K]`, or of some `columns` of them; what lies outside is clipped."""
        values = np.asarray(values, np.float64)
        chosen = range(len(self.columns)) if columns is None else columns
        tokens = np.empty(values.shape, np.int32)
        for place, column in enumerate(chosen):
            found = np.searchsorted(self.columns[column].starts, values[..., place], side="right") - 1
            tokens[..., place] = np.maximum(found, 0)
        picked = np.array(chosen)
        outside = (values < self.low[picked]) | (values > self.high[picked])
        return Encoded(tokens, outside.reshape(-1, len(picked)).sum(axis=0))

    def decode(self, tokens: np.ndarray, columns: Sequence[int] | None = None) -> np.ndarray:
        """The centres `[..., K]` of tokens; a token that the column does not have is its last one."""
        chosen = range(len(self.columns)) if columns is None else columns
        values = np.empty(np.shape(tokens), np.float64)
        for place, column in enumerate(chosen):
            centres = self.columns[column].centres
            values[..., place] = centres[np.minimum(tokens[..., place], len(centres) - 1)]
        return values

    def means(self, column: int, width: int) -> np.ndarray:
        """The means of a column's cells, zero beyond them: float32 `[width]`."""
        found = np.zeros(width, np.float32)
        found[: self.counts[column]] = self.columns[column].means
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, as named arrays."""
        return {
            "counts": self.counts.astype(np.int64),
            "starts": np.concatenate([column.starts for column in self.columns]),
            "centres": np.concatenate([column.centres for column in self.columns]),
            "means": np.concatenate([column.means for column in self.columns]),
            "low": self.low,
            "high": self.high,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Tokeniser:
        """The tokeniser that `arrays` describes."""
        cuts = np.cumsum(arrays["counts"])[:-1]
        parts = (np.split(arrays[name], cuts) for name in Cells._fields)
        return cls([Cells(*part) for part in zip(*parts, strict=True)], arrays["low"], arrays["high"])


def expectation(probabilities: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The mean `[...]` of `probabilities [..., V]` on `centres [V]`; not renormalised."""
    mean: np.ndarray = probabilities[..., : len(centres)] @ centres
    return mean
