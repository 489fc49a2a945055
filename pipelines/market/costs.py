"""What trading costs and what the account may do: one frozen, checked set of terms."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

BASIS_POINT = 1e-4


@dataclass(frozen=True)
class Costs:
    """The terms of an account. Rates named `_bps` are basis points (1 bp = 0.0001) of traded notional.

    The defaults are a taker on a liquid perpetual, without borrowing. A spot account is
    `Costs(leverage=1.0, allow_short=False, funding=False)`.
    """

    fee_bps: float = 5.5
    """Fee on the notional at the fill price."""
    half_spread_bps: float = 0.5
    """Half of the quoted spread: an order fills this much worse than the open."""
    slippage_bps: float = 0.5
    """A further worsening of the fill that does not depend on size."""
    impact: float = 0.0
    """Y of the square-root law dP/P = Y sigma sqrt(Q/V) (`impact.square_root`); 0 switches it off."""
    impact_window: int = 24
    """Bars over which sigma and V of the law are measured, up to the deciding bar and never past it."""
    leverage: float = 1.0
    """Cap on the sum of |target exposure|; a larger sum is scaled down in proportion."""
    maintenance_margin: float = 0.005
    """Share of the gross notional that equity must exceed, or everything is closed on the spot."""
    liquidation_fee_bps: float = 25.0
    """Fee on the notional closed by a liquidation."""
    min_order: float = 0.0
    """Orders below this much money are not sent (a close to exactly zero always is)."""
    no_trade_band: float = 0.0
    """Differences of at most this fraction of equity are left untraded (a close to exactly zero is not)."""
    funding: bool = True
    """Whether funding rates that come with the bars are exchanged."""
    allow_short: bool = True
    """Whether targets below zero are allowed; otherwise they count as zero."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "bool":
                if not isinstance(value, bool):
                    raise ValueError(f"costs.{field.name} must be true or false, got {value!r}")
            elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"costs.{field.name} must be a finite number, got {value!r}")
            elif value < 0:
                raise ValueError(f"costs.{field.name} must not be negative, got {value!r}")
        if not isinstance(self.impact_window, int) or self.impact_window < 1:
            raise ValueError(f"costs.impact_window must be a whole number from 1, got {self.impact_window!r}")
        if self.leverage == 0:
            raise ValueError("costs.leverage must be above 0, got 0")
        if self.leverage * self.maintenance_margin >= 1:
            raise ValueError(
                f"costs.maintenance_margin must be below 1 / leverage = {1 / self.leverage:g}, "
                f"got {self.maintenance_margin!r}"
            )
        for name in ("fee_bps", "liquidation_fee_bps"):
            if getattr(self, name) * BASIS_POINT >= 1:
                raise ValueError(f"costs.{name} must be below 10000, got {getattr(self, name)!r}")
        if (self.half_spread_bps + self.slippage_bps) * BASIS_POINT >= 1:
            raise ValueError(
                "costs.half_spread_bps + costs.slippage_bps must be below 10000, "
                f"got {self.half_spread_bps + self.slippage_bps!r}"
            )
