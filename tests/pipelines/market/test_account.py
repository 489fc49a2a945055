"""The account against numbers worked by hand, and against reference runs on real candles."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.market import impact
from pipelines.market.account import Bars, Ledger, open_account, prepare, simulate, step
from pipelines.market.costs import Costs
from tests.pipelines.market.worlds import FREE, candles, change, line

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data"))
PERPETUAL = replace(FREE, leverage=10.0, maintenance_margin=0.005, liquidation_fee_bps=25.0)


def run(bars: Bars, *weights: float, costs: Costs = FREE, equity: float = 1e6) -> Ledger:
    """One symbol; the last weight is held to the end."""
    targets = np.full((len(bars.open), 1), weights[-1])
    targets[: len(weights), 0] = weights
    ledger = simulate(bars, targets, costs, initial_equity=equity)
    np.testing.assert_allclose(np.diff(ledger.equity), change(ledger)[1:], rtol=0, atol=1e-9 * equity)
    return ledger


class TestReference:
    """SMA 24/96 cross, long or flat, decided at the close, filled at the next open, from 1e6."""

    @pytest.mark.parametrize(
        ("file", "fee_bps", "slippage_bps", "final"),
        [
            ("binance_usdm/BTCUSDT_1h.csv", 0.0, 0.0, 6449594.04146872),
            ("binance_usdm/BTCUSDT_1h.csv", 5.5, 0.0, 4856010.23231189),
            ("binance_usdm/BTCUSDT_1h.csv", 5.5, 2.0, 4379861.748090262),
            ("bybit/BTCUSDT_5m.csv", 0.0, 0.0, 1172620.3319438205),
            ("bybit/BTCUSDT_5m.csv", 5.5, 0.0, 966756.1145919809),
            ("bybit/BTCUSDT_5m.csv", 5.5, 2.0, 901217.1823240899),
        ],
    )
    def test_final_equity(self, file: str, fee_bps: float, slippage_bps: float, final: float) -> None:
        path = DATA / file
        if not path.exists():
            pytest.skip(f"needs the shared data: {path.name} is not there")
        frame = pl.read_csv(path).rename(str.lower)
        close = pl.col("close")
        cross = frame.select(
            (close.rolling_mean(24) > close.rolling_mean(96)).fill_null(False).cast(pl.Float64)
        )
        bars = Bars(*(frame[name].to_numpy()[:, np.newaxis] for name in ("open", "high", "low", "close")))
        costs = replace(FREE, fee_bps=fee_bps, slippage_bps=slippage_bps)
        ledger = simulate(bars, cross.to_numpy(), costs)
        assert ledger.equity[-1] == pytest.approx(final, rel=1e-9)


class TestByHand:
    def test_long_pays_the_fee_out_of_the_same_cash(self) -> None:
        ledger = run(line(100, 100, 110), 1.0, costs=replace(FREE, fee_bps=10))
        units = 1e6 / (100 * 1.001)
        assert ledger.equity[1] == pytest.approx(units * 100, rel=1e-14)
        assert ledger.equity[2] == pytest.approx(units * 110, rel=1e-14)
        assert ledger.fees[1] == pytest.approx(-units * 100 * 0.001, rel=1e-12)
        assert ledger.exposure[1:, 0] == pytest.approx([1.0, 1.0], rel=1e-14)
        assert ledger.turnover[2] == 0.0

    def test_fill_is_worse_by_spread_and_slippage_and_the_fee_is_on_the_fill(self) -> None:
        costs = Costs(fee_bps=10, half_spread_bps=5, slippage_bps=15)
        ledger = run(line(100, 100, 100), 1.0, 0.0, costs=costs)
        units = 1e6 / (100 * 1.002 * 1.001)
        assert ledger.equity[1] == pytest.approx(units * 100, rel=1e-14)
        assert ledger.spread[1] == pytest.approx(-units * 0.05)
        assert ledger.slippage[1] == pytest.approx(-units * 0.15)
        assert ledger.fees[1] == pytest.approx(-units * 100.2 * 0.001)
        assert ledger.equity[2] == pytest.approx(units * 100 * 0.998 * 0.999, rel=1e-14)

    def test_short_earns_when_the_price_falls(self) -> None:
        ledger = run(line(100, 100, 90), -1.0)
        assert ledger.equity.tolist() == pytest.approx([1e6, 1e6, 1.1e6], rel=1e-14)
        # Sold 10 000 units; equity 1.1e6 at 90 wants 12 222.2 short: a held target is refilled.
        assert ledger.turnover[2] == pytest.approx((1.1e6 - 900_000) / 1.1e6)

    def test_short_with_costs(self) -> None:
        ledger = run(line(100, 100), -1.0, costs=replace(FREE, fee_bps=10))
        # x = 1e6 - 0.001 x: the short is one times what is left after its own fee.
        assert ledger.equity[1] == pytest.approx(1e6 / 1.001, rel=1e-14)
        assert ledger.exposure[1, 0] == pytest.approx(-1.0, rel=1e-14)

    @pytest.mark.parametrize("weight", [1.0, -1.0, 0.37, -2.5])
    def test_opening_without_costs_leaves_equity_unchanged(self, weight: float) -> None:
        assert run(line(70, 70, 70), weight, costs=PERPETUAL).equity.tolist() == pytest.approx(
            [1e6] * 3, rel=1e-15
        )

    def test_decision_fills_at_the_next_open_and_not_before(self) -> None:
        bars = Bars(
            *(np.array(c, float)[:, None] for c in ([9, 10, 12], [11, 12, 13], [9, 10, 12], [10, 12, 12.5]))
        )
        ledger = run(bars, 1.0)
        assert ledger.equity.tolist() == pytest.approx([1e6, 1.2e6, 1.25e6])

    def test_longs_pay_positive_funding_on_the_position_held_into_the_stamp(self) -> None:
        rates = np.array([[0.0], [0.01], [0.001]])
        for weight in (0.5, -0.5):
            ledger = run(line(100, 100, 120)._replace(funding=rates), weight)
            # Bar 1: nothing was held into its stamp. Bar 2: 5 000 units at the open of 120.
            assert ledger.funding.tolist() == pytest.approx([0, 0, -0.001 * weight / 0.5 * 5_000 * 120])
        off = run(line(100, 100, 120)._replace(funding=rates), 0.5, costs=replace(FREE, funding=False))
        assert not off.funding.any()

    def test_liquidation_happens_where_the_margin_breaks(self) -> None:
        bars = Bars(
            *(
                np.array(c, float)[:, None]
                for c in ([100, 100, 101], [100] * 2 + [101], [100, 90, 101], [100, 100, 101])
            )
        )
        ledger = run(bars, 10.0, 0.0, costs=PERPETUAL)
        # 100 000 units: 1e6 + 1e5 (p - 100) = 0.005 * 1e5 p at p = 9e6 / 99 500.
        price = 9e6 / 99_500
        notional = 1e5 * price
        assert ledger.price[1] == pytest.approx(1e5 * (price - 100))
        assert ledger.liquidation[1] == pytest.approx(-0.0025 * notional)
        assert ledger.equity[1] == pytest.approx(0.0025 * notional)
        assert ledger.exposure[1, 0] == 0.0
        assert not ledger.ruined
        safe = run(bars._replace(low=np.array([[100], [price + 1e-6], [101]])), 10.0, 0.0, costs=PERPETUAL)
        assert safe.equity[1] == pytest.approx(1e6)

    def test_short_is_liquidated_at_its_high(self) -> None:
        flat = np.full((2, 1), 100.0)
        ledger = run(Bars(flat, np.array([[100.0], [250.0]]), flat, flat), -1.0, costs=PERPETUAL)
        price = 2e6 / (1e4 * 1.005)  # 1e6 + 1e4 (100 - p) = 0.005 * 1e4 p
        assert ledger.equity[1] == pytest.approx(0.0025 * 1e4 * price)

    def test_liquidation_shares_the_margin_of_all_symbols(self) -> None:
        flat = np.full((2, 2), 100.0)
        low = np.array([[100.0, 100.0], [80.0, 95.0]])
        ledger = simulate(Bars(flat, flat, low, flat), np.full((2, 2), 5.0), PERPETUAL)
        # 50 000 units each; they walk together to (80, 95): 1e6 - 1.25e6 way = 0.005 (1e7 - 1.25e6 way).
        way = (1e6 - 0.005 * 1e7) / (1.25e6 * 0.995)
        assert ledger.price[1] == pytest.approx(-1.25e6 * way)
        assert ledger.equity[1] == pytest.approx(0.0025 * (1e7 - 1.25e6 * way))

    def test_gap_through_the_margin_voids_the_order(self) -> None:
        # 20 000 are left at 90.2, and the fee takes 22 550.
        ledger = run(line(100, 100, 90.2, 95), 10.0, costs=PERPETUAL)
        assert ledger.liquidation[2] == pytest.approx(-20_000)
        assert ledger.ruined
        ledger = run(line(100, 100, 90.4, 95), 10.0, costs=PERPETUAL)
        left = 1e6 - 9.6e5 - 0.0025 * 1e5 * 90.4
        assert ledger.equity[2] == pytest.approx(left)
        assert ledger.turnover[2] == 0.0
        assert ledger.equity[3] == pytest.approx(left)  # bought again at 95, where the bar stands still

    def test_ruin_ends_the_path_and_the_venue_bears_the_rest(self) -> None:
        ledger = run(line(100, 100, 85, 200, 300), 10.0, costs=PERPETUAL)
        assert ledger.equity.tolist() == pytest.approx([1e6, 1e6, 0, 0, 0])
        assert ledger.returns.tolist() == pytest.approx([0, 0, -1, 0, 0])
        assert ledger.price[2] == pytest.approx(-1.5e6)
        assert ledger.liquidation[2] == pytest.approx(5e5)
        assert ledger.ruined
        assert not ledger.turnover[3:].any()

    def test_costs_beyond_all_equity_are_ruin(self) -> None:
        # 20 times long, and the close costs 6 % of the notional: more than there is.
        costs = replace(FREE, leverage=20.0, maintenance_margin=0.0)
        bars = line(100, 100, 100)
        market = prepare(bars, costs)
        state = open_account(1, 1)
        step(state, market, np.array([1]), [[20.0]])
        dear = prepare(bars, replace(costs, slippage_bps=600))
        ledger = step(state, dear, np.array([2]), [[0.0]])
        assert ledger.ruined[0]
        assert ledger.equity[0] == 0.0
        assert change(ledger)[0] == pytest.approx(-1e6)

    def test_spot_clips_shorts_and_leverage(self) -> None:
        spot = replace(FREE, allow_short=False, funding=False)
        ledger = run(line(100, 100, 100, 100), -1.0, 3.0, 0.4, costs=spot)
        assert ledger.exposure[:, 0].tolist() == pytest.approx([0, 0, 1, 0.4])

    def test_leverage_scales_all_symbols_alike(self) -> None:
        flat = np.full((2, 2), 100.0)
        ledger = simulate(
            Bars(flat, flat, flat, flat), np.full((2, 2), [3.0, -1.0]), replace(FREE, leverage=2.0)
        )
        assert ledger.exposure[1].tolist() == pytest.approx([1.5, -0.5])
        clipped = simulate(
            Bars(flat, flat, flat, flat),
            np.full((2, 2), [3.0, -1.0]),
            replace(FREE, leverage=2.0, allow_short=False),
        )
        assert clipped.exposure[1].tolist() == pytest.approx([2.0, 0.0])

    def test_min_order_and_band_leave_small_differences_but_let_a_close_through(self) -> None:
        for costs in (replace(FREE, min_order=100_000.0), replace(FREE, no_trade_band=0.09999)):
            ledger = run(line(100, 100, 100, 100, 100), 0.5, 0.55, 0.6, 0.0, costs=costs)
            assert ledger.exposure[:, 0].tolist() == pytest.approx([0, 0.5, 0.5, 0.6, 0.0])
            tiny = run(line(100, 100, 5, 5), 0.5, 0.5, 0.0, costs=replace(costs, min_order=1e6 * 0.3))
            assert tiny.exposure[3, 0] == 0.0

    def test_impact_is_the_square_root_law_of_the_bars_before(self) -> None:
        bars = candles(100 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.01, (6, 1)), 0)), 1)
        assert bars.volume is not None
        costs = replace(FREE, impact=0.7, impact_window=3)
        weights = np.array([[0], [0], [0], [0], [0.8], [0.8]], float)
        ledger = simulate(bars, weights, costs)
        steps = np.diff(np.log(bars.close[:5, 0]))[-3:]
        sigma, volume = np.sqrt((steps**2).mean()), bars.volume[2:5, 0].mean()
        units = ledger.turnover[5] * 1e6 / bars.open[5, 0]
        expected = impact.square_root(units, volume, sigma, 0.7)
        assert ledger.impact[5] == pytest.approx(-float(expected) * ledger.turnover[5] * 1e6, rel=1e-12)
        after = bars._replace(volume=np.concatenate([bars.volume[:5], bars.volume[5:] * 100]))
        assert simulate(after, weights, costs).impact[5] == ledger.impact[5]


class TestFaults:
    def test_prices_that_are_none(self) -> None:
        for field in ("open", "high", "low", "close"):
            for value in (np.nan, np.inf, 0.0, -1.0):
                bad = np.full((5, 2), 100.0)
                bad[3, 1] = value
                bars = Bars(*([np.full((5, 2), 100.0)] * 4))._replace(**{field: bad})
                with pytest.raises(ValueError, match=r"batch 0, bar 3, symbol 1: 0 < low"):
                    simulate(bars, np.zeros((5, 2)), FREE)

    def test_candles_out_of_order(self) -> None:
        bars = line(100, 100, 100)
        with pytest.raises(ValueError, match="bar 1, symbol 0"):
            simulate(bars._replace(high=np.array([[100.0], [99.0], [100.0]])), np.zeros((3, 1)), FREE)

    def test_weights_that_are_none(self) -> None:
        weights = np.zeros((2, 3, 1))
        weights[1, 2] = np.nan
        with pytest.raises(ValueError, match="weights is not a number at batch 1, bar 2, symbol 0"):
            simulate(line(1, 1, 1), weights, FREE)
        with pytest.raises(ValueError, match="weights is not a number at batch 0, symbol 0"):
            step(open_account(1, 1), prepare(line(1, 1), FREE), np.array([1]), [[np.inf]])

    def test_funding_and_volume_that_are_none(self) -> None:
        nothing = np.array([[0.0], [np.nan], [0.0]])
        with pytest.raises(ValueError, match="funding is not a number at batch 0, bar 1"):
            simulate(line(1, 1, 1)._replace(funding=nothing), np.zeros((3, 1)), FREE)
        dear = replace(FREE, impact=1.0, impact_window=2)
        with pytest.raises(ValueError, match=r"costs\.impact needs bars\.volume"):
            simulate(line(1, 1, 1), np.zeros((3, 1)), dear)
        with pytest.raises(ValueError, match="volume is negative or not a number at batch 0, bar 1"):
            simulate(line(1, 1, 1)._replace(volume=nothing), np.zeros((3, 1)), dear)
        dry = np.array([[1.0], [0.0], [0.0]])
        with pytest.raises(ValueError, match="nothing was traded in 2 bars at batch 0, bar 2"):
            simulate(line(1, 1, 1)._replace(volume=dry), np.zeros((3, 1)), dear)

    def test_impact_of_the_whole_price(self) -> None:
        bars = line(100, 110, 110)._replace(volume=np.full((3, 1), 1e-4))
        with pytest.raises(ValueError, match="bar 2, symbol 0: the order's impact is the whole price"):
            simulate(bars, np.array([[0.0], [1.0], [1.0]]), replace(FREE, impact=1.0))

    def test_shapes(self) -> None:
        with pytest.raises(ValueError, match="weights has shape"):
            simulate(line(1, 1, 1), np.zeros((2, 1)), FREE)
        with pytest.raises(ValueError, match=r"bars\.low has shape"):
            simulate(line(1, 1, 1)._replace(low=np.ones((2, 1))), np.zeros((3, 1)), FREE)
        with pytest.raises(ValueError, match="rows must lie"):
            step(open_account(1, 1), prepare(line(1, 1), FREE), np.array([2]), [[0.0]])
        with pytest.raises(ValueError, match="initial_equity"):
            open_account(1, 1, 0.0)
