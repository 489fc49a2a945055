"""The indicators agree with published worksheets, the features with their formulas."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.features import compute, definitions, resolve
from tests.pipelines.features.candles import from_closes, walk

ROOT = Path(__file__).resolve().parents[3]
REFERENCES = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data")) / "indicator_refs"


def reference(name: str) -> pl.DataFrame:
    path = REFERENCES / f"{name}.csv"
    if not path.is_file():
        pytest.skip(f"needs the indicator worksheet {path.name} (SHARED_DATA)")
    numbers = pl.exclude("Date").str.strip_chars().cast(pl.Float64, strict=False)
    frame = pl.read_csv(path, infer_schema=False).with_columns(numbers)
    return frame.rename(
        {column: column.lower() for column in ("High", "Low", "Close") if column in frame.columns}
    )


def largest_difference(frame: pl.DataFrame, ours: pl.Expr, theirs: str, skip: int = 0) -> float:
    both = frame.select(ours=ours, theirs=pl.col(theirs)).slice(skip).drop_nulls("theirs")
    assert len(both) > 10
    assert both["ours"].null_count() == 0
    return float((both["ours"] - both["theirs"]).abs().max())


def test_rsi() -> None:
    assert largest_difference(reference("cs-rsi"), definitions.relative_strength_index(14), "RSI") <= 5e-7


def test_macd() -> None:
    frame = reference("cs-macd")
    macd = definitions.moving_average_convergence(12, 26, 9)
    assert largest_difference(frame, macd.line, "MACD_line") <= 5e-10
    assert (
        largest_difference(frame, definitions.exponential_average(pl.col("close"), 2 / 13), "short_ema")
        <= 5e-9
    )


def test_bollinger() -> None:
    frame = reference("cs-bbands")
    bands = definitions.bollinger_bands(20)
    assert largest_difference(frame, bands.middle, "MiddleBand") <= 5e-7
    assert largest_difference(frame, bands.deviation, "20-day Standard Deviation") <= 5e-7
    assert largest_difference(frame, bands.middle + 2 * bands.deviation, "HighBand") <= 5e-7
    share = (pl.col("close") - bands.middle) / (4 * bands.deviation) + 0.5
    assert largest_difference(frame, share, "PercentageBand") <= 5e-7


def test_atr() -> None:
    frame = reference("cs-atr")
    assert largest_difference(frame, definitions.true_range(), "TR") <= 4e-15
    assert largest_difference(frame, definitions.average_true_range(14), "ATR", skip=13) <= 4e-10
    assert frame.select(definitions.average_true_range(14)).to_series().null_count() == 13


def test_atr_with_another_window_follows_wilder() -> None:
    frame = walk(60)
    high, low, close = (frame[name].to_numpy() for name in ("high", "low", "close"))
    before = np.concatenate((close[:1], close[:-1]))
    ranges = np.maximum(high, before) - np.minimum(low, before)
    ranges[0] = high[0] - low[0]
    expected = [ranges[:10].mean()]
    for value in ranges[10:]:
        expected.append((9 * expected[-1] + value) / 10)
    ours = frame.select(definitions.average_true_range(10)).to_series().drop_nulls().to_numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-13)


@pytest.mark.parametrize(("alpha", "bars"), [(1 / 14, 94), (2 / 27, 90), (1.0, 1), (0.5, 10)])
def test_memory_is_when_the_start_weighs_a_thousandth(alpha: float, bars: int) -> None:
    assert definitions.memory(alpha) == bars
    assert (1 - alpha) ** bars <= 1e-3 < ((1 - alpha) ** (bars - 1) if alpha < 1 else 1)


def test_features_of_a_handful_of_bars() -> None:
    candles = pl.DataFrame(
        {
            "open": [10.0, 10.0, 12.0, 11.0],
            "high": [11.0, 12.5, 12.0, 11.0],
            "low": [9.0, 10.0, 10.0, 11.0],
            "close": [10.0, 12.0, 11.0, 11.0],
            "volume": [2.0, 4.0, 0.0, 6.0],
        }
    )
    wanted = [
        "log_return",
        "range",
        "body",
        "relative_volume(2)",
        "realised_volatility(2)",
        "moving_average_ratio(2)",
        "momentum(2)",
        "bollinger_position(2)",
        "volatility_regime(1, 2)",
        "trend_strength(2)",
    ]
    features = resolve(wanted)
    # Four bars as 2024-01-01 00:00..03:00 of one symbol.
    frame = from_closes([1.0] * 4).with_columns(candles)
    last = compute(frame.lazy(), features, keep_warm_up=True).collect().row(2, named=True)
    up, down = math.log(1.2), math.log(11 / 12)
    volatility = math.sqrt((up * up + down * down) / 2)
    expected = {
        "log_return": down,
        "range": math.log(1.2),
        "body": -0.5,
        "relative_volume_2": math.log(1 + 0 / 2) - math.log(2),
        "realised_volatility_2": volatility,
        "moving_average_ratio_2": math.log(11 / 11.5),
        "momentum_2": math.log(1.1) / (volatility * math.sqrt(2)),
        "bollinger_position_2_2.0": -0.5,
        "volatility_regime_1_2": (abs(down) - volatility) / (abs(down) + volatility),
        "trend_strength_2": 1 / 3,
    }
    for name, value in expected.items():
        assert last[name] == pytest.approx(value, abs=1e-12), name


def test_normalised_indicators_are_the_indicators_in_shares() -> None:
    frame = walk(300)
    macd = definitions.moving_average_convergence(12, 26, 9)
    raw = frame.select(
        rsi=definitions.relative_strength_index(14) / 50 - 1,
        macd=macd.line / pl.col("close"),
        macd_histogram=(macd.line - macd.signal) / pl.col("close"),
        atr=definitions.average_true_range(14) / pl.col("close"),
    )
    table = compute(frame.lazy(), resolve(raw.columns)).collect()
    for name in raw.columns:
        np.testing.assert_allclose(
            table[name].to_numpy(), raw[name].tail(table.height).to_numpy(), rtol=1e-12
        )
