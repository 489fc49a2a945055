"""Which bars train and which test: walk-forward folds and combinatorial purged cross-validation.

A label of bar `t` looks at bars after `t`, so the last training bars before a test window already know
some of it: they are purged. What follows a test window remembers it: in cross-validation, where training
bars may lie after a test window, an embargo drops some more of those (Lopez de Prado 2018, chapter 7).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Window(NamedTuple):
    """Bars `start <= t < stop`."""

    start: int
    stop: int

    @property
    def bars(self) -> int:
        """How many bars the window covers."""
        return self.stop - self.start

    @property
    def rows(self) -> slice:
        """The window as an index: `array[window.rows]`."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Fold:
    """Train on `train`, test on `test`: in walk-forward, on the past and on what follows.

    In cross-validation `train` reaches from the first to the last training bar, and `kept` says which
    stretches of it are trained on.
    """

    index: int
    train: Window
    test: Window
    kept: tuple[Window, ...] = ()

    @property
    def windows(self) -> tuple[Window, ...]:
        """The stretches that are trained on."""
        return self.kept or (self.train,)


@dataclass(frozen=True)
class CombinatorialFold:
    """A split of combinatorial purged cross-validation; windows ascending, not touching each other's bars."""

    index: int
    train: tuple[Window, ...]
    test: tuple[Window, ...]


def walk_forward(
    bars: int,
    *,
    folds: int,
    train_bars: int,
    test_bars: int,
    purge_bars: int = 0,
    embargo_bars: int = 0,
    anchored: bool = False,
) -> list[Fold]:
    """Test windows of `test_bars`, one after the other up to the last bar, each after its training window.

    Training ends `purge_bars + embargo_bars` before its test window. The purge is for labels that look
    ahead, the embargo for features that remember: here, where training is always first, both are bars
    left out between the two. `anchored` training starts at the first bar and grows; otherwise it is the
    `train_bars` before the gap.
    """
    _require(folds=folds, train_bars=train_bars, test_bars=test_bars, least=1)
    _require(purge_bars=purge_bars, embargo_bars=embargo_bars, least=0)
    gap = purge_bars + embargo_bars
    needed = train_bars + gap + folds * test_bars
    if bars < needed:
        raise ValueError(
            f"{bars} bars are too few for the split: {needed} are needed "
            f"(train {train_bars} + purge {purge_bars} + embargo {embargo_bars} + {folds} x test {test_bars})"
        )
    result = []
    for index in range(folds):
        start = bars - (folds - index) * test_bars
        stop = start - gap
        train = Window(0 if anchored else stop - train_bars, stop)
        result.append(Fold(index, train, Window(start, start + test_bars)))
    return result


def combinatorial_purged(
    bars: int, *, folds: int, test_folds: int, purge_bars: int = 0, embargo_bars: int = 0
) -> list[CombinatorialFold]:
    """All ways to test on `test_folds` of `folds` blocks and train on the rest (chapter 12 there).

    Before a test block `purge_bars` are dropped from training, after it `purge_bars + embargo_bars`.
    Splits come in lexicographic order of their test blocks, C(folds, test_folds) of them.
    """
    _require(test_folds=test_folds, least=1)
    _require(purge_bars=purge_bars, embargo_bars=embargo_bars, least=0)
    if test_folds >= folds:
        raise ValueError(f"test_folds is {test_folds}; it must be below folds, which is {folds}")
    if bars < folds:
        raise ValueError(f"{bars} bars are too few for the split: {folds} are needed, one a fold")
    # As even as can be, the longer blocks first.
    edges = [block * (bars // folds) + min(block, bars % folds) for block in range(folds + 1)]
    result = []
    for index, blocks in enumerate(itertools.combinations(range(folds), test_folds)):
        allowed = np.ones(bars, dtype=np.bool_)
        for block in blocks:
            start, stop = edges[block], edges[block + 1]
            allowed[max(start - purge_bars, 0) : stop + purge_bars + embargo_bars] = False
        train = _windows(allowed)
        if not train:
            raise ValueError(
                f"{bars} bars are too few for the split: purge {purge_bars} and embargo {embargo_bars} "
                f"leave none to train on when the blocks {blocks} are tested"
            )
        # Neighbouring test blocks stay apart: a path through the splits is put together block by block.
        tests = tuple(Window(edges[block], edges[block + 1]) for block in blocks)
        result.append(CombinatorialFold(index, train, tests))
    return result


def backtest_paths(folds: int, test_folds: int) -> npt.NDArray[np.int64]:
    """Which split tests which block on which path: [paths, folds], paths = test_folds/folds x splits.

    Every (split, tested block) pair is used exactly once, so each path is one whole out-of-sample history.
    """
    splits = list(itertools.combinations(range(folds), test_folds))
    paths = math.comb(folds, test_folds) * test_folds // folds
    table = np.empty((paths, folds), dtype=np.int64)
    for block in range(folds):
        table[:, block] = [index for index, blocks in enumerate(splits) if block in blocks]
    return table


def _windows(mask: npt.NDArray[np.bool_]) -> tuple[Window, ...]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return tuple(Window(int(start), int(stop)) for start, stop in edges.reshape(-1, 2))


def _require(*, least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
