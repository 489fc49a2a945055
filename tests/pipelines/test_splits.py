"""Folds keep their distance: literal splits, and the properties for any sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import experiment
from pipelines.dataset import Dataset
from pipelines.market.account import Bars
from pipelines.market.env import random_walk
from pipelines.settings import Params
from pipelines.splits import Window, backtest_paths, combinatorial_purged, walk_forward


def rows(windows: tuple[Window, ...]) -> list[int]:
    return [bar for window in windows for bar in range(window.start, window.stop)]


def test_walk_forward_rolling() -> None:
    folds = walk_forward(100, folds=3, train_bars=40, test_bars=10, purge_bars=2, embargo_bars=3)
    assert [(fold.index, fold.train, fold.test) for fold in folds] == [
        (0, (25, 65), (70, 80)),
        (1, (35, 75), (80, 90)),
        (2, (45, 85), (90, 100)),
    ]
    assert folds[0].train.bars == 40
    assert folds[0].test.rows == slice(70, 80)


def test_walk_forward_anchored() -> None:
    folds = walk_forward(100, folds=2, train_bars=40, test_bars=20, purge_bars=1, anchored=True)
    assert [(fold.train, fold.test) for fold in folds] == [((0, 59), (60, 80)), ((0, 79), (80, 100))]


def test_walk_forward_says_how_many_bars_it_needs() -> None:
    sizes = {"folds": 3, "train_bars": 40, "test_bars": 10, "purge_bars": 2, "embargo_bars": 3}
    with pytest.raises(ValueError, match="74 bars are too few for the split: 75 are needed"):
        walk_forward(74, **sizes)
    assert walk_forward(75, **sizes)[0].train == (0, 40)


@pytest.mark.parametrize("wrong", ["folds", "train_bars", "test_bars"])
def test_walk_forward_refuses_empty_windows(wrong: str) -> None:
    sizes = {"folds": 3, "train_bars": 4, "test_bars": 2, wrong: 0}
    with pytest.raises(ValueError, match=f"{wrong} is 0; it must be at least 1"):
        walk_forward(100, **sizes)
    with pytest.raises(ValueError, match="purge_bars is -1"):
        walk_forward(100, **{**sizes, wrong: 1}, purge_bars=-1)


@settings(deadline=None)
@given(
    folds=st.integers(1, 8),
    train=st.integers(1, 50),
    test=st.integers(1, 30),
    purge=st.integers(0, 9),
    embargo=st.integers(0, 9),
    spare=st.integers(0, 20),
    anchored=st.booleans(),
)
def test_walk_forward_properties(
    folds: int, train: int, test: int, purge: int, embargo: int, spare: int, anchored: bool
) -> None:
    bars = train + purge + embargo + folds * test + spare
    split = walk_forward(
        bars,
        folds=folds,
        train_bars=train,
        test_bars=test,
        purge_bars=purge,
        embargo_bars=embargo,
        anchored=anchored,
    )
    assert rows(tuple(fold.test for fold in split)) == list(range(bars - folds * test, bars))
    for fold in split:
        assert fold.test.bars == test
        assert fold.train.start >= 0
        assert fold.train.bars >= train if anchored else fold.train.bars == train
        assert fold.train.start == 0 or not anchored
        assert fold.test.start - fold.train.stop == purge + embargo


@pytest.mark.parametrize(
    ("folds", "test_folds", "splits", "paths"),
    [(6, 2, 15, 5), (10, 2, 45, 9), (10, 8, 45, 36), (8, 4, 70, 35)],
)
def test_combinatorial_counts(folds: int, test_folds: int, splits: int, paths: int) -> None:
    assert len(combinatorial_purged(200, folds=folds, test_folds=test_folds)) == splits
    table = backtest_paths(folds, test_folds)
    assert table.shape == (paths, folds)
    pairs = {(int(split), block) for row in table for block, split in enumerate(row)}
    assert len(pairs) == paths * folds == splits * test_folds


@pytest.mark.parametrize(
    ("index", "train", "tests"),
    [
        (0, [*range(10, 24)], [(0, 4), (4, 8)]),
        (1, [6, *range(14, 24)], [(0, 4), (8, 12)]),
        (4, [*range(6, 19)], [(0, 4), (20, 24)]),
        (14, [*range(15)], [(16, 20), (20, 24)]),
    ],
)
def test_combinatorial_literal_splits(index: int, train: list[int], tests: list[tuple[int, int]]) -> None:
    split = combinatorial_purged(24, folds=6, test_folds=2, purge_bars=1, embargo_bars=1)[index]
    assert split.index == index
    assert rows(split.train) == train
    assert list(split.test) == tests


@settings(deadline=None)
@given(
    bars=st.integers(60, 200),
    folds=st.integers(2, 7),
    purge=st.integers(0, 4),
    embargo=st.integers(0, 4),
    data=st.data(),
)
def test_combinatorial_properties(
    bars: int, folds: int, purge: int, embargo: int, data: st.DataObject
) -> None:
    test_folds = data.draw(st.integers(1, folds - 1))
    try:
        splits = combinatorial_purged(
            bars, folds=folds, test_folds=test_folds, purge_bars=purge, embargo_bars=embargo
        )
    except ValueError:
        assert purge + purge + embargo >= bars // folds
        return
    assert len(splits) == math.comb(folds, test_folds)
    tested = np.zeros(bars, dtype=int)
    for split in splits:
        train, test = rows(split.train), rows(split.test)
        tested[test] += 1
        for bar in range(bars):
            near = any(bar - before in test for before in range(purge + embargo + 1))
            near = near or any(bar + after in test for after in range(purge + 1))
            assert (bar in train) is not near
    assert (tested == math.comb(folds - 1, test_folds - 1)).all()


def test_combinatorial_refuses_what_leaves_nothing() -> None:
    with pytest.raises(ValueError, match="test_folds is 3; it must be below folds, which is 3"):
        combinatorial_purged(30, folds=3, test_folds=3)
    with pytest.raises(ValueError, match="2 bars are too few"):
        combinatorial_purged(2, folds=3, test_folds=1)
    with pytest.raises(ValueError, match="leave none to train on"):
        combinatorial_purged(30, folds=3, test_folds=2, purge_bars=10)


def crossed(**changes: int) -> Params:
    split = {
        "method": "combinatorial",
        "blocks": 6,
        "test_blocks": 2,
        "purge_bars": 3,
        "embargo_bars": 2,
        "seeds": 2,
    }
    return Params.model_validate({"split": split | changes})


def test_every_path_of_a_cross_validation_is_one_whole_history() -> None:
    """What the stages label `fold` and `seed`: each block once a path and seed, by one that never saw it."""
    params = crossed()
    jobs = experiment.jobs("dqn", params)
    assert len(jobs) == 15 * 2
    seen: dict[tuple[int, int], int] = {}
    for job in jobs:
        assert len(experiment.tested(job, 600)) == 2
        for fold, path in experiment.tested(job, 600):
            key = fold.index, experiment.path_seed(job, path)
            assert key not in seen
            seen[key] = job.fold
            for window in fold.windows:
                assert window.stop <= fold.test.start - 3 or window.start >= fold.test.stop + 5
    assert set(seen) == {(block, seed) for block in range(6) for seed in range(10)}
    tests = [fold.test for fold in experiment.folds(params, 600)]
    assert [*tests[0]] == [1, 100]  # the first bar has no decision before it
    assert [window.stop for window in tests[:-1]] == [window.start for window in tests[1:]]
    assert tests[-1].stop == 600


def test_a_cross_validated_agent_learns_from_all_its_stretches_and_from_no_other() -> None:
    bars = 600
    market = random_walk(bars)
    data = Dataset(
        symbols=("SIM",),
        names=("row",),
        interval="1h",
        times=np.datetime64("2024-01-01", "ms") + np.arange(bars) * np.timedelta64(1, "h"),
        bars=Bars(*market),
        features=np.arange(bars, dtype=float)[:, None, None],
        segment=(np.arange(bars) >= 450).astype(np.int32),
        filled=np.zeros((bars, 1), bool),
    )
    params = crossed(seeds=1)
    fold = experiment.tested(experiment.jobs("dqn", params)[6], bars)[0].fold  # blocks 1 and 3
    assert fold.windows == (Window(0, 97), Window(205, 297), Window(405, 600))
    whole = experiment.joined([data.window(*window) for window in fold.windows])
    rows = whole.features[:, 0, 0].astype(int)
    assert rows.tolist() == [*range(97), *range(205, 297), *range(405, 600)]
    np.testing.assert_array_equal(whole.bars.close[:, 0], market.close[rows, 0])
    starts = np.flatnonzero(np.diff(whole.segment)) + 1
    assert rows[starts].tolist() == [205, 405, 450]  # no episode crosses a gap, nor a hole of the data
    scaler = experiment.fit_scaler(data, fold, params)
    assert scaler.centre.ravel()[0] == pytest.approx(np.median(rows))


def test_the_blocks_must_leave_some_to_train_on() -> None:
    with pytest.raises(ValueError, match=r"split.test_blocks \(6\) must be below split.blocks \(6\)"):
        crossed(test_blocks=6)
