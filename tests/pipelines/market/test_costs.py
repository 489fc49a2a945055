"""Terms that make no sense are refused in one line that names the key."""

from __future__ import annotations

import pytest

from pipelines.market.costs import Costs


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fee_bps", -1.0),
        ("fee_bps", float("nan")),
        ("fee_bps", 10_000.0),
        ("half_spread_bps", 9_999.6),
        ("slippage_bps", "1"),
        ("impact", float("inf")),
        ("impact_window", 0),
        ("impact_window", 2.5),
        ("leverage", 0),
        ("leverage", True),
        ("maintenance_margin", 1.0),
        ("liquidation_fee_bps", 20_000),
        ("min_order", -5),
        ("no_trade_band", -0.1),
        ("funding", 1),
        ("allow_short", "no"),
    ],
)
def test_refuses(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"costs\.{key}") as caught:
        Costs(**{key: value})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_margin_must_leave_room_for_the_leverage() -> None:
    Costs(leverage=100, maintenance_margin=0.005)
    with pytest.raises(ValueError, match=r"maintenance_margin must be below 1 / leverage = 0\.005"):
        Costs(leverage=200, maintenance_margin=0.005)
