"""What must hold for the account in any market, under any terms and any weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.market import account
from pipelines.market.account import Bars, Floats, Ledger, open_account, prepare, simulate, step
from tests.pipelines.market.worlds import World, candles, change, terms, worlds

FEW = settings(max_examples=150, deadline=None)


@given(worlds(batch=True))
@FEW
def test_the_ledger_adds_up(world: World) -> None:
    ledger = simulate(*world)
    before = ledger.equity[..., :-1]
    np.testing.assert_array_less(
        np.abs(np.diff(ledger.equity) - change(ledger)[..., 1:]), 1e-9 * before + 1e-12
    )
    assert (ledger.equity >= 0).all()
    assert ((ledger.equity[..., -1] == 0) == ledger.ruined).all()
    assert all(np.isfinite(field).all() for field in ledger)
    for cost in (ledger.fees, ledger.spread, ledger.slippage, ledger.impact):
        assert (cost <= 0).all()
    np.testing.assert_allclose(
        ledger.returns[..., 1:],
        np.divide(ledger.equity[..., 1:], before, out=np.ones_like(before), where=before > 0) - 1,
    )


@given(worlds(batch=True))
@FEW
def test_stepping_bar_by_bar_is_simulating(world: World) -> None:
    whole = simulate(*world)
    market = prepare(world.bars, world.costs)
    batch, length, symbols = whole.exposure.shape
    weights = np.broadcast_to(world.weights, whole.exposure.shape)
    state = open_account(batch, symbols)
    for t in range(1, length):
        ledger = step(state, market, np.full(batch, t), weights[:, t - 1])
        for name in Ledger._fields[:-1]:
            np.testing.assert_allclose(
                getattr(ledger, name), getattr(whole, name)[:, t], rtol=1e-12, atol=1e-12
            )
    assert (state.ruined == whole.ruined).all()


@given(worlds(), st.data())
@FEW
def test_the_future_does_not_reach_back(world: World, data: st.DataObject) -> None:
    length = len(world.weights)
    now = data.draw(st.integers(0, length - 1))
    order = np.arange(length)
    order[now + 1 :] = np.random.default_rng(now).permutation(order[now + 1 :])
    other = Bars(*(None if column is None else column[order] for column in world.bars))
    weights = world.weights.copy()
    weights[now:] = 0.25  # decided at the close of `now`, filled after it
    first, second = simulate(*world), simulate(other, weights, world.costs)
    for name in Ledger._fields[:-1]:
        np.testing.assert_array_equal(getattr(first, name)[: now + 1], getattr(second, name)[: now + 1])


@given(worlds(batch=True), st.data())
@FEW
def test_accounts_in_a_batch_do_not_know_each_other(world: World, data: st.DataObject) -> None:
    together = simulate(*world)
    index = data.draw(st.integers(0, together.equity.shape[0] - 1))
    bars = Bars(*(None if c is None else c[index] if c.ndim == 3 else c for c in world.bars))
    alone = simulate(bars, world.weights[index], world.costs)
    for name in Ledger._fields:
        np.testing.assert_array_equal(getattr(together, name)[index], getattr(alone, name))


@given(terms(), st.integers(0, 2**32 - 1))
@FEW
def test_targets_hold_after_the_costs(costs: account.Costs, seed: int) -> None:
    """In bars that stand still the exposure at the close is the target, whatever was paid to reach it."""
    rng = np.random.default_rng(seed)
    prices = 10 ** rng.uniform(-1, 4, 3) * np.ones((8, 3))
    prices[4:] *= np.exp(rng.normal(0, 0.01, 3))
    bars = Bars(prices, prices, prices, prices, np.full((8, 3), 1e9))
    costs = replace(costs, min_order=0.0, no_trade_band=0.0, maintenance_margin=0.0)
    wanted = rng.normal(0, costs.leverage / 3, (8, 3))
    ledger = simulate(bars, wanted, costs)
    if not costs.allow_short:
        wanted = np.maximum(wanted, 0.0)
    wanted *= np.minimum(1.0, costs.leverage / np.abs(wanted).sum(1, keepdims=True).clip(1e-300))
    alive = ledger.equity[1:] > 0
    np.testing.assert_allclose(ledger.exposure[1:][alive], wanted[:-1][alive], rtol=1e-9, atol=1e-9)


@given(worlds())
@FEW
def test_opening_anything_for_nothing_changes_nothing(world: World) -> None:
    free = replace(world.costs, fee_bps=0.0, half_spread_bps=0.0, slippage_bps=0.0, impact=0.0, funding=False)
    still = np.broadcast_to(world.bars.open[:1], world.bars.open.shape)
    ledger = simulate(Bars(still, still, still, still), world.weights, free)
    np.testing.assert_allclose(ledger.equity, 1e6, rtol=1e-12)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    bars = candles(100 * np.exp(np.cumsum(rng.normal(0, 0.01, (300, 2)), 0)), 3, gap=0.002)
    weights: Floats = rng.normal(0, 1, (7, 300, 2))
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    one = simulate(bars, weights, account.Costs())
    monkeypatch.setattr(account, "BARS_A_THREAD", 10)
    three = simulate(bars, weights, account.Costs())
    for mine, other in zip(one, three, strict=True):
        np.testing.assert_array_equal(mine, other)
