"""The gate catches every planted leak by name, and lets the real features pass."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.checks.leaks import LeakError, find_leaks, find_scaler_leaks, require_no_leaks
from pipelines.features import DEFAULT_FEATURES, Registry, Scaler, compute, resolve, to_grid
from pipelines.features.registry import Feature
from pipelines.splits import walk_forward
from tests.pipelines.features.candles import START, from_closes, walk

CLOSE = pl.col("close")
RETURN = (CLOSE / CLOSE.shift(1)).log()

PLANTED: dict[str, Callable[[], pl.Expr]] = {
    "centred_window": lambda: CLOSE / CLOSE.rolling_mean(24, center=True),
    "backward_fill": lambda: (CLOSE / CLOSE.rolling_mean(24)).fill_null(strategy="backward"),
    "whole_sample_z_score": lambda: (RETURN - RETURN.mean()) / RETURN.std(),
    "tomorrows_return": lambda: RETURN.shift(-1),
    "tomorrows_return_filled": lambda: RETURN.shift(-1).fill_null(0.0),
    "distant_future": lambda: CLOSE / CLOSE.shift(-500),
    "whole_sample_rank": lambda: CLOSE.rank() / pl.len(),
    "last_close": lambda: CLOSE / CLOSE.last(),
    "length": lambda: pl.len() / 1000 + 0 * CLOSE,
    "highest_ever": lambda: CLOSE / CLOSE.max(),
    "tiny_hint": lambda: RETURN + 1e-6 * RETURN.shift(-1),
}


def planted(*names: str) -> list[Feature]:
    registry = Registry()
    for name in names:
        registry.feature(name, warm_up=lambda: 24)(PLANTED[name])
    return registry.resolve(names)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_leak_is_named_and_nothing_else(name: str) -> None:
    honest = resolve(["log_return", "rsi", "atr"])
    leaks = find_leaks(walk(2000), [*honest, *planted(name)])
    assert [(leak.feature, leak.symbol) for leak in leaks] == [(name, "AAA")]
    assert leaks[0].difference > 1e-12


def test_every_leaking_feature_is_in_the_message() -> None:
    features = [*resolve(["rsi"]), *planted("centred_window", "backward_fill", "whole_sample_z_score")]
    candles = pl.concat([walk(1000), walk(1000, symbol="BBB", seed=1)])
    with pytest.raises(LeakError) as caught:
        require_no_leaks(candles, features)
    message = str(caught.value)
    for name in ("centred_window", "backward_fill", "whole_sample_z_score"):
        assert f"{name} (AAA at " in message
        assert f"{name} (BBB at " in message
    assert "rsi" not in message
    assert len(caught.value.leaks) == 6


def test_a_leak_on_rare_bars_is_found_beside_them() -> None:
    volume = np.ones(3000)
    volume[[700, 1500, 2222]] = 0.0
    candles = from_closes(list(walk(3000)["close"]), volume=list(volume))
    registry = Registry()
    registry.feature("filled_back", warm_up=lambda: 1)(
        lambda: pl.when(pl.col("volume") > 0).then(RETURN.fill_null(0.0)).fill_null(strategy="backward")
    )
    leaks = find_leaks(candles, registry.resolve(["filled_back"]))
    assert [leak.feature for leak in leaks] == ["filled_back"]


def test_a_leak_that_history_happened_not_to_show_is_found_in_the_nonsense() -> None:
    registry = Registry()
    registry.feature("crash_ahead", warm_up=lambda: 0)(
        lambda: (CLOSE.shift(-1) < 0.5 * CLOSE).fill_null(False).cast(pl.Float64)
    )
    leaks = find_leaks(walk(2000), registry.resolve(["crash_ahead"]))
    assert [leak.feature for leak in leaks] == ["crash_ahead"]


def test_the_first_bar_that_knew_is_given() -> None:
    (leak,) = find_leaks(walk(100), planted("tomorrows_return"), cuts=1)
    assert START <= leak.time < START + timedelta(hours=100)
    assert leak.difference == float("inf")


def test_the_real_features_pass_on_markets_of_every_sort() -> None:
    features = resolve(DEFAULT_FEATURES)
    holed = walk(1500, symbol="BBB", seed=2).filter(
        ~(pl.col("open_time") - START).dt.total_hours().is_in([300, 301, *range(700, 730), 900])
    )
    quiet = from_closes([100 + (bar // 40) % 3 for bar in range(900)], symbol="CCC", volume=[0, 1, 0] * 300)
    candles = to_grid(pl.concat([walk(1500), holed, quiet]), "1h", max_gap_bars=3)
    assert candles["filled"].sum() == 3
    assert find_leaks(candles, features) == []
    require_no_leaks(candles, features)


def test_a_long_history_is_judged_by_its_beginning() -> None:
    late = Registry()
    late.feature("late", warm_up=lambda: 1)(
        lambda: pl.when(pl.int_range(pl.len()) >= 500).then(CLOSE.shift(-1)).otherwise(CLOSE)
    )
    features = late.resolve(["late"])
    assert find_leaks(walk(1000), features, bars=400) == []
    assert [leak.feature for leak in find_leaks(walk(1000), features, bars=1000)] == ["late"]


def test_a_history_as_short_as_one_bar_passes() -> None:
    assert find_leaks(walk(1), resolve(DEFAULT_FEATURES)) == []
    with pytest.raises(ValueError, match="no candles"):
        find_leaks(walk(1).clear(), resolve(DEFAULT_FEATURES))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), cut=st.integers(1, 399))
def test_features_up_to_a_bar_are_the_same_whatever_follows(seed: int, cut: int) -> None:
    features = resolve(DEFAULT_FEATURES)
    told, retold = walk(400, seed=seed), walk(400, seed=seed + 1)
    spliced = pl.concat([told.head(cut), retold.slice(cut)])
    before, after, ended = (
        compute(frame.lazy(), features, keep_warm_up=True).collect().head(cut)
        for frame in (told, spliced, told.head(cut))
    )
    assert before.equals(after)
    assert before.equals(ended)


def test_a_scaler_that_saw_more_than_its_training_rows_is_found() -> None:
    features = np.random.default_rng(0).normal(size=(400, 2, 3))
    features[:, :, 2] = 0.5
    names = ("a", "b", "flat")
    for fold in walk_forward(400, folds=2, train_bars=100, test_bars=50, purge_bars=10):
        honest = Scaler.fit(features[fold.train.rows], names)
        assert find_scaler_leaks(features, fold, honest) == []
        # A column that never varies is scaled alike whatever one looks at.
        assert find_scaler_leaks(features, fold, Scaler.fit(features, names)) == ["a", "b"]
        retold = features.copy()
        retold[fold.test.rows] *= 7.0
        assert find_scaler_leaks(retold, fold, honest) == []
