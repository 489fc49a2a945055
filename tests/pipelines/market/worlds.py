"""Random but lawful markets and terms for the property tests, drawn by hypothesis."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from pipelines.market.account import Bars, Floats, Ledger
from pipelines.market.costs import Costs

FREE = Costs(fee_bps=0, half_spread_bps=0, slippage_bps=0)


class World(NamedTuple):
    bars: Bars
    weights: Floats
    costs: Costs


def candles(close: Floats, seed: int, *, gap: float = 0.0, reach: float = 0.01) -> Bars:
    """Candles around closes [.., T, S]: opens gap away from the close before, wicks reach beyond."""
    rng = np.random.default_rng(seed)
    before = np.concatenate([close[..., :1, :], close[..., :-1, :]], axis=-2)
    opened = before * np.exp(rng.normal(0, gap, close.shape)) if gap else before
    high = np.maximum(opened, close) * np.exp(np.abs(rng.normal(0, reach, close.shape)))
    low = np.minimum(opened, close) * np.exp(-np.abs(rng.normal(0, reach, close.shape)))
    volume = np.exp(rng.normal(19, 1, close.shape)) / close[..., :1, :]
    funding = np.where(rng.random(close.shape) < 0.2, rng.normal(0, 0.002, close.shape), 0.0)
    return Bars(opened, high, low, close, volume, funding)


def line(*prices: float) -> Bars:
    """One symbol whose bars stand still at each price in turn, so that only the opens gap."""
    column = np.array(prices, float)[:, np.newaxis]
    return Bars(column, column, column, column)


def change(ledger: Ledger) -> Floats:
    """What the ledger's items say the equity changed by."""
    return (
        ledger.price
        + ledger.fees
        + ledger.spread
        + ledger.slippage
        + ledger.impact
        + ledger.funding
        + ledger.liquidation
    )


@st.composite
def terms(draw: st.DrawFn) -> Costs:
    leverage = draw(st.sampled_from([0.5, 1.0, 3.0, 20.0]))
    return Costs(
        fee_bps=draw(st.sampled_from([0.0, 5.5, 80.0])),
        half_spread_bps=draw(st.sampled_from([0.0, 0.5, 30.0])),
        slippage_bps=draw(st.sampled_from([0.0, 0.5, 50.0])),
        impact=draw(st.sampled_from([0.0, 0.3, 1.0])),
        impact_window=draw(st.integers(1, 10)),
        leverage=leverage,
        maintenance_margin=draw(st.sampled_from([0.0, 0.005, 0.04])),
        liquidation_fee_bps=draw(st.sampled_from([0.0, 25.0, 100.0])),
        min_order=draw(st.sampled_from([0.0, 100.0, 50_000.0])),
        no_trade_band=draw(st.sampled_from([0.0, 0.01, 0.2])),
        funding=draw(st.booleans()),
        allow_short=draw(st.booleans()),
    )


@st.composite
def worlds(draw: st.DrawFn, batch: bool = False) -> World:
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    shape = (draw(st.integers(2, 40)), draw(st.integers(1, 4)))
    size = (draw(st.integers(1, 4)), *shape) if batch else shape
    volatility = draw(st.sampled_from([0.0, 0.002, 0.02, 0.1]))
    own = size if batch and draw(st.booleans()) else shape
    close = 10 ** rng.uniform(-2, 4) * np.exp(np.cumsum(rng.normal(0, volatility, own), axis=-2))
    bars = candles(close, seed, gap=volatility / 2, reach=volatility / 2)
    costs = draw(terms())
    weights = np.round(rng.normal(0, costs.leverage, size) * 4) / 4
    held = rng.random(size[:-1]) < 0.5  # half of the time the target of the bar before is kept
    for t in range(1, size[-2]):
        weights[..., t, :] = np.where(held[..., t, None], weights[..., t - 1, :], weights[..., t, :])
    return World(bars, weights, costs)
