"""The bars a market is made of, as arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Bars(NamedTuple):
    """Candles of S symbols over T bars, aligned in time; every field float64 [T, S] or [B, T, S].

    Attributes:
      open, high, low, close: prices.
      volume: in units of the base; None where it is not known.
      funding: rate exchanged at the open of the bar on the position held into it, 0 where there is none;
        None for a market without funding.
    """

    open: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    close: npt.NDArray[np.float64]
    volume: npt.NDArray[np.float64] | None = None
    funding: npt.NDArray[np.float64] | None = None
