"""A feature is added in one place, asked for by name, and computed within its segment only."""

from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.features import (
    DEFAULT_FEATURES,
    REGISTRY,
    FeatureError,
    Registry,
    compute,
    resolve,
    to_grid,
    warm_up,
)
from tests.pipelines.features.candles import START, from_closes, walk


def test_a_feature_is_added_in_one_place() -> None:
    registry = Registry()

    @registry.feature("lagged", window=2)
    def lagged(window: int) -> pl.Expr:
        """Share of an earlier close."""
        return pl.col("close").shift(window) / pl.col("close")

    features = registry.resolve(["lagged", "lagged(3)", "lagged(window=4)"])
    assert [(feature.name, feature.warm_up) for feature in features] == [
        ("lagged", 2),
        ("lagged_3", 3),
        ("lagged_4", 4),
    ]
    table = compute(from_closes([1, 2, 4, 8, 16, 32]).lazy(), features).collect()
    assert table["lagged"].to_list() == [0.25, 0.25]
    assert table["lagged_4"].to_list() == [1 / 16, 1 / 16]
    assert registry.describe() == {"lagged": "Share of an earlier close."}


def test_parameters_by_place_and_by_name_are_the_same_feature() -> None:
    names = [
        feature.name
        for feature in resolve(["macd", "macd(6)", "macd(slow=30)", "bollinger_position(20, 1.5)"])
    ]
    assert names == ["macd", "macd_6_26", "macd_12_30", "bollinger_position_20_1.5"]
    assert resolve(["macd(12, 26)"])[0].name == "macd"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["rsi", "mood"], "feature 'mood' is unknown; known: log_return, range, body"),
        (["rsi", "rsi(14)"], "asked for twice: rsi"),
        (["rsi(0)"], "window must be a whole number above zero"),
        (["rsi(2.5)"], "window must be a whole number above zero"),
        (["rsi(-3)"], "window must be a whole number above zero"),
        (["rsi(14, 3)"], "rsi takes window"),
        (["rsi(span=3)"], "rsi takes window"),
        (["rsi(14, window=14)"], "rsi takes window"),
        (["body(3)"], "body takes no parameters"),
        (["rsi(True)"], "is not understood"),
        (["rsi(**{'window': 3})"], "is not understood"),
        (["rsi("], "is not understood"),
        (["__import__('os').system('true')"], "is not understood"),
        (["rsi(print())"], "is not understood"),
        ([""], "is not understood"),
        ([], "no features asked for"),
    ],
)
def test_a_wrong_request_says_what_is_allowed(names: list[str], message: str) -> None:
    with pytest.raises(FeatureError) as caught:
        resolve(names)
    assert message in str(caught.value)


def test_names_that_cannot_be_columns_are_refused() -> None:
    registry = Registry()
    for name in ("close", "segment", "two words"):
        with pytest.raises(FeatureError, match="cannot name a feature"):
            registry.feature(name)
    registry.feature("once")(lambda: pl.col("close"))
    with pytest.raises(FeatureError, match="registered twice"):
        registry.feature("once")


def test_the_warm_up_is_dropped_and_never_filled() -> None:
    features = resolve(DEFAULT_FEATURES)
    longest = warm_up(features)
    candles = walk(longest + 10)
    table = compute(candles.lazy(), features).collect()
    assert table["open_time"].to_list() == candles["open_time"].to_list()[longest:]
    assert longest == max(feature.warm_up for feature in features) == 168


@pytest.mark.parametrize("name", DEFAULT_FEATURES)
def test_each_warm_up_covers_the_rows_that_have_no_value(name: str) -> None:
    (feature,) = resolve([name])
    values = compute(walk(400).lazy(), [feature], keep_warm_up=True).collect()[feature.name]
    empty = values.is_null().arg_true()
    assert len(empty) == 0 or empty[-1] + 1 <= feature.warm_up
    assert values.slice(feature.warm_up).is_finite().all()


@pytest.mark.parametrize("name", DEFAULT_FEATURES)
def test_a_history_that_starts_later_gives_the_same_feature_after_the_warm_up(name: str) -> None:
    (feature,) = resolve([name])
    candles = walk(700, seed=3)
    whole = compute(candles.lazy(), [feature]).collect()
    late = compute(candles.slice(200).lazy(), [feature]).collect()
    same = whole.join(late, on="open_time", suffix="_late")
    assert same.height == 700 - 200 - feature.warm_up
    difference = (same[feature.name] - same[f"{feature.name}_late"]).abs().max()
    # Exponential averages have let go of all but a thousandth of their start, plain windows of all of it.
    assert difference <= 5e-3 * whole[feature.name].std()


@pytest.mark.parametrize("name", DEFAULT_FEATURES)
def test_no_feature_depends_on_the_unit_of_price_or_volume(name: str) -> None:
    features = resolve([name])
    candles = walk(400)
    prices = [pl.col(column) * 4096.0 for column in ("open", "high", "low", "close")]
    scaled = candles.with_columns(*prices, volume=pl.col("volume") / 1024)
    before, after = (
        compute(frame.lazy(), features).collect()[features[0].name] for frame in (candles, scaled)
    )
    np.testing.assert_allclose(after.to_numpy(), before.to_numpy(), rtol=1e-9, atol=1e-12)


def test_no_window_runs_across_a_hole() -> None:
    features = resolve(DEFAULT_FEATURES)
    candles = walk(500)
    gap = START + timedelta(hours=250)
    holed = to_grid(
        candles.filter(~pl.col("open_time").is_between(gap, gap + timedelta(hours=9))), "1h", max_gap_bars=3
    )
    table = compute(holed.lazy(), features).collect()
    second = table.filter(pl.col("segment") == 1)
    alone = compute(holed.filter(pl.col("segment") == 1).lazy(), features).collect()
    assert second.equals(alone)
    assert table.height == 500 - 10 - 2 * warm_up(features)


def test_symbols_are_computed_apart_and_short_ones_vanish() -> None:
    features = resolve(["momentum", "rsi"])
    one, two, short = walk(300), walk(300, symbol="BBB", seed=1), walk(20, symbol="CCC")
    table = compute(pl.concat([one, two, short]).lazy(), features).collect()
    alone = pl.concat([compute(frame.lazy(), features).collect() for frame in (one, two)])
    assert table.equals(alone)
    assert compute(short.lazy(), features).collect().height == 0


def test_a_filter_on_the_result_does_not_change_the_windows() -> None:
    features = resolve(["momentum", "rsi"])
    lazy = compute(walk(300).lazy(), features)
    since = START + timedelta(hours=200)
    late = lazy.filter(pl.col("open_time") >= since).select("open_time", "rsi").collect(engine="streaming")
    assert late.equals(lazy.collect().filter(pl.col("open_time") >= since).select("open_time", "rsi"))


def test_a_value_that_is_not_finite_is_an_error_with_its_place() -> None:
    registry = Registry()
    registry.feature("inverse", window=1)(lambda window: 1 / pl.col("volume"))
    candles = from_closes([1, 2, 3, 4], volume=[1, 1, 0, 1])
    with pytest.raises(FeatureError, match="feature inverse is inf for AAA at 2024-01-01 02:00:00"):
        compute(candles.lazy(), registry.resolve(["inverse"])).collect()
    registry.feature("hasty", window=3, warm_up=lambda window: 1)(
        lambda window: pl.col("close").rolling_mean(window)
    )
    with pytest.raises(FeatureError, match=r"feature hasty is None for AAA .* after its warm-up of 1 bars"):
        compute(candles.lazy(), registry.resolve(["hasty"])).collect()


@pytest.mark.parametrize(
    "spoil",
    [lambda f: f.reverse(), lambda f: pl.concat([f, f]), lambda f: f.sort("close")],
    ids=["back", "twice", "mixed"],
)
def test_candles_out_of_order_are_refused(spoil) -> None:
    with pytest.raises(FeatureError, match="order"):
        compute(spoil(walk(50)).lazy(), resolve(["body"])).collect()


def test_symbols_out_of_order_are_refused() -> None:
    mixed = pl.concat(
        [walk(5), walk(5, symbol="BBB"), walk(5).with_columns(pl.col("open_time") + timedelta(days=1))]
    )
    with pytest.raises(FeatureError, match="not sorted"):
        compute(mixed.lazy(), resolve(["body"])).collect()


QUIET = st.lists(st.sampled_from([-2, -1, 0, 0, 0, 0, 0, 0, 1, 2]), min_size=230, max_size=260)


@settings(max_examples=40, deadline=None)
@given(
    ticks=QUIET,
    volume=st.lists(st.sampled_from([0.0, 0.0, 1e-8, 1.0, 1e12]), min_size=260, max_size=260),
    still=st.integers(0, 260),
    price=st.sampled_from([1e-6, 1.0, 1e5]),
)
def test_dead_and_quiet_markets_give_finite_bounded_features(
    ticks: list[int], volume: list[float], still: int, price: float
) -> None:
    moves = [0 if bar >= still else tick for bar, tick in enumerate(ticks)]
    closes = price * (1 + 1e-4 * (np.cumsum(moves) % 100))
    traded = [0.0 if bar >= still else amount for bar, amount in enumerate(volume[: len(closes)])]
    features = resolve(DEFAULT_FEATURES)
    table = compute(from_closes(list(closes), volume=traded).lazy(), features).collect()
    bound = {
        "momentum": math.sqrt(24),
        "momentum_168": math.sqrt(168),
        "bollinger_position": math.sqrt(19) / 2,
    }
    bounded = ("body", "rsi", "volatility_regime", "trend_strength")
    for name in bounded + tuple(bound):
        assert table[name].abs().max() <= bound.get(name, 1.0) + 1e-9, name


def test_a_market_that_stands_still_has_the_neutral_values() -> None:
    rng = np.random.default_rng(5)
    busy = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, 300)))
    closes = [*busy, *([busy[-1]] * 400)]
    volume = [*rng.exponential(1e6, 300), *([0.0] * 400)]
    names = [name for name in DEFAULT_FEATURES if name not in ("rsi", "macd", "macd_histogram", "atr")]
    last = compute(from_closes(closes, volume=volume).lazy(), resolve(names)).collect().tail(200)
    for feature in resolve(names):
        values = last[feature.name].abs().max()
        assert values <= (1e-12 if feature.name.startswith("moving_average") else 0.0), feature.name
    # Averages that never forget keep the last word they heard, and let the size of it fade.
    fading = compute(from_closes(closes, volume=volume).lazy(), resolve(["macd", "atr"])).collect()
    assert fading["macd"].abs()[-1] < 1e-9
    assert fading["atr"][-1] < 1e-9


@pytest.mark.parametrize("name", DEFAULT_FEATURES)
def test_a_market_that_never_moved_has_neutral_values_from_the_first_row(name: str) -> None:
    (feature,) = resolve([name])
    candles = from_closes([0.1] * (feature.warm_up + 3), volume=[0.0] * (feature.warm_up + 3))
    values = compute(candles.lazy(), [feature]).collect()[feature.name]
    assert values.len() == 3
    assert values.abs().max() <= 1e-12


def test_moves_too_small_for_a_deviation_are_neutral() -> None:
    closes = [1e-3, float(np.nextafter(1e-3, 1))] * 30
    values = compute(from_closes(closes).lazy(), resolve(["bollinger_position"])).collect()[
        "bollinger_position"
    ]
    assert values.abs().max() <= math.sqrt(19) / 2


def test_the_default_features_are_all_there_are() -> None:
    assert {name.partition("(")[0] for name in DEFAULT_FEATURES} == set(REGISTRY.describe())
    assert all(REGISTRY.describe().values())
