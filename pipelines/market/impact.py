"""What an order does to the price: permanent, temporary and decaying impact, as pure functions.

Every function takes floats or arrays and broadcasts. Rates of trading are shares a unit of time;
results are in the unit that the docstring names. The sign of the result follows the sign of the
trade: a purchase lifts the price, a sale lowers it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def permanent(rate: ArrayLike, gamma: float) -> Floats:
    """Linear: g(v) = gamma v, money a share and unit of time (Almgren and Chriss 2001, section 1.5)."""
    return gamma * np.asarray(rate, np.float64)


def temporary(rate: ArrayLike, epsilon: float, eta: float) -> Floats:
    """Linear: h(v) = epsilon sgn(v) + eta v, money a share (Almgren and Chriss 2001, section 1.5)."""
    rate = np.asarray(rate, np.float64)
    return np.asarray(epsilon * np.sign(rate) + eta * rate)


def square_root(quantity: ArrayLike, volume: ArrayLike, volatility: ArrayLike, coefficient: float) -> Floats:
    """The square-root law dP/P = Y sigma sqrt(Q/V), as a fraction of the price.

    `volume` V and `volatility` sigma belong to one and the same period. The law is the same whatever that
    period is, because sigma grows with its square root: a bar's figures do as well as a day's.
    """
    quantity = np.asarray(quantity, np.float64)
    share = np.abs(quantity) / np.asarray(volume, np.float64)
    return np.asarray(np.sign(quantity) * coefficient * np.asarray(volatility, np.float64) * np.sqrt(share))


def decay(displacement: ArrayLike, rate: float, elapsed: ArrayLike) -> Floats:
    """What is left of a transient displacement: D exp(-rate elapsed) (Obizhaeva and Wang 2013)."""
    left = np.exp(-rate * np.asarray(elapsed, np.float64))
    return np.asarray(np.asarray(displacement, np.float64) * left)


def almgren_permanent(
    shares: ArrayLike, volume: ArrayLike, outstanding: ArrayLike, volatility: ArrayLike, gamma: float = 0.314
) -> Floats:
    """I = gamma sigma (X/V) (Theta/V)^(1/4), fraction of the price (Almgren et al. 2005).

    `volume` V is a day's, `outstanding` Theta the shares in issue, `volatility` sigma a day's.
    """
    shares, volume = np.asarray(shares, np.float64), np.asarray(volume, np.float64)
    inverse_turnover = np.asarray(outstanding, np.float64) / volume
    return np.asarray(gamma * np.asarray(volatility) * shares / volume * inverse_turnover**0.25)


def almgren_temporary(
    shares: ArrayLike, volume: ArrayLike, days: ArrayLike, volatility: ArrayLike, eta: float = 0.142
) -> Floats:
    """K = eta sigma sgn(X) |X / (V T)|^(3/5), fraction of the price (Almgren et al. 2005).

    `days` T is the time the order takes. The cost of the order is J = I/2 + K.
    """
    shares = np.asarray(shares, np.float64)
    participation = np.abs(shares) / (np.asarray(volume, np.float64) * np.asarray(days, np.float64))
    return np.asarray(eta * np.asarray(volatility) * np.sign(shares) * participation**0.6)
