"""The hidden Markov market: its parameters, its conditional moments and the filter that knows them.

Three regimes follow each other: *trend*, *reversion*, *turbulence*. Everything else that moves the next
return is a quantity a person can compute from past closes, so the regime is the only thing that is hidden:

- ``variance``  an exponential average of squared returns (clustered volatility),
- ``momentum``  an exponential average of volatility-normalised returns over a short half-life,
- ``stretch``   the same over a long half-life. As the exponentially weighted sum of returns *is* the distance
  of the log price from its own exponential moving average, this is "how far from the moving average, in
  volatilities".

Both averages are scaled to unit variance on white noise. The log return of bar ``t + 1`` in regime ``k`` is

    r = m_k - log E[exp(s_k e)] + s_k e,        s_k^2 = (1 - c) level_k^2 + c variance_t
    m_trend = + A s b(momentum_t),   m_reversion = - B s b(stretch_t),   m_turbulence = 0
    b(x) = x |x| / (x^2 + w^2)

with ``e`` a mixture of normals of unit variance (fat tails with every exponential moment, which Student's t
lacks). The middle term makes the expected *simple* return exactly ``exp(m_k) - 1``: zero when there is no
edge.

Time: row ``t`` is known at the close of bar ``t`` and speaks of the return of bar ``t + 1``. The regime of
row ``t`` is the one that governs bar ``t + 1``; the chain moves at each close.

The filter is Hamilton's (1989): predict with the transition matrix, weigh with the likelihood. It sees closes
only, and misses nothing by that: ranges and volume are functions of closes and independent noise. With
several symbols, which share the chain and the tail shocks, it reads them all.

How the default was chosen: by random search and then by hand on 240 000 bars of one seed, for the traits
that the project pins (kurtosis, clustering, shares, R2, Sharpe), never by looking at a model; the strength
of the edge was then raised by 3 % after a look at 100 other seeds. The seed of the search, 7, is also the
default of `params.yaml`; one path in four falls outside the pinned range of R2, that one does not. Three
findings shaped it. A drift that bends upward (``b``) and lives in volatile hours is visible in R2 and still
hard to earn: with one that saturates early the search found Sharpe ratios of 5 to 7 at an R2 of 0.6 to 0.9 %.
Reversion is the calm regime, so that its pull repays the costs only when the price is stretched. A forecast
half-life near ten bars keeps costs a real part of the problem. Over 120 seeds of 24 000 bars the oracle's R2
is 1.06 % in the median (0.70 to 1.42 % from the 10th to the 90th percentile: that much is the luck of a
path) and its net Sharpe ratio 4.5 (3.5 to 5.7); `benchmarks/simulator.py` has the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.linalg import expm

Floats = NDArray[np.float64]

REGIMES = ("trend", "reversion", "turbulence")
TREND, REVERSION, TURBULENCE = range(3)

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    """Numba's compiled form, kept on disk, with the type of the plain function.

    Numba drops the stored form when the function's own file changes, not when a compiled function that it
    calls from another file does. Compiled functions that call each other therefore share a file: this one.
    """
    return cast(_F, njit(cache=True)(function))


@dataclass(frozen=True)
class RegimeParameters:
    """The market in continuous time; hours and one-hour units, whatever the interval of the candles.

    `mean_hours`: mean stay in each regime, in the order of `REGIMES`; the next regime is one of the two
    others with equal chance, so the share of time is proportional to it. `volatility`: standard deviation of
    a one-hour log return at rest. `trend_strength`, `reversion_strength`: largest expected one-hour log
    return, in one-hour volatilities. `trend_half_life`, `reversion_half_life`: of the averages behind
    momentum and stretch, hours. `threshold`: value of momentum or stretch, in standard deviations, at which
    half of the largest drift is reached. `clustering`: share of the variance that follows the recent squared
    returns, below 1. `variance_half_life`: hours. `tail_probabilities`, `tail_variances`: the mixture of
    `e`; the mean variance must be 1.
    """

    mean_hours: tuple[float, float, float] = (105.0, 180.0, 95.0)
    volatility: tuple[float, float, float] = (0.0055, 0.0022, 0.0078)
    trend_strength: float = 1.13
    trend_half_life: float = 6.5
    reversion_strength: float = 1.2
    reversion_half_life: float = 36.0
    threshold: float = 3.8
    clustering: float = 0.22
    variance_half_life: float = 10.0
    tail_probabilities: tuple[float, float, float] = (0.75, 0.22, 0.03)
    tail_variances: tuple[float, float, float] = (0.68, 1.5, 16 / 3)

    def __post_init__(self) -> None:
        half_lives = (self.trend_half_life, self.reversion_half_life, self.variance_half_life)
        triples = (*self.mean_hours, *self.volatility, *self.tail_variances)
        if min(*half_lives, *triples, self.threshold) <= 0:
            raise ValueError("durations, volatilities, half-lives and the threshold must be positive")
        if not 0 <= self.clustering < 1:
            raise ValueError(f"clustering {self.clustering} must be in [0, 1)")
        if min(self.trend_strength, self.reversion_strength) < 0:
            raise ValueError("strengths must not be negative")
        mixture = np.asarray(self.tail_probabilities)
        if mixture.min() < 0 or abs(mixture.sum() - 1) > 1e-9:
            raise ValueError("tail_probabilities must add up to 1")
        if abs(mixture @ np.asarray(self.tail_variances) - 1) > 1e-9:
            raise ValueError("the mean of tail_variances must be 1")

    @property
    def occupancy(self) -> Floats:
        """Long-run share of time in each regime.  # [3]"""
        return np.asarray(self.mean_hours) / sum(self.mean_hours)


class Dynamics(NamedTuple):
    """The same market for bars of one length; what the compiled loops read."""

    transition: Floats  # [3, 3] row: from, column: to
    occupancy: Floats  # [3]
    levels: Floats  # [3] variance of a bar at rest
    drift: Floats  # [3] signed strength, in volatilities of a bar
    rest_variance: float  # unconditional variance of a bar
    decays: Floats  # [3] of variance, momentum, stretch
    threshold: float
    clustering: float
    tail_probabilities: Floats  # [3]
    tail_variances: Floats  # [3]


def dynamics(parameters: RegimeParameters, hours: float, *, edge: bool = True) -> Dynamics:
    """Restates `parameters` for bars of `hours`; without `edge` every expected simple return is zero.

    Variances grow with the length of the bar. The drift of a bar is that of its first hour faded with the
    half-life of its average, so that on bars longer than the half-lives the edge drowns, as it should.
    """
    stays = np.asarray(parameters.mean_hours)
    generator = (np.full((3, 3), 0.5) - 1.5 * np.eye(3)) / stays[:, None]
    half_lives = np.array(
        [parameters.variance_half_life, parameters.trend_half_life, parameters.reversion_half_life]
    )
    rates = np.log(2) / half_lives[1:]
    strengths = np.array([parameters.trend_strength, -parameters.reversion_strength])
    faded = -np.expm1(-rates * hours) / -np.expm1(-rates)  # hours of drift in a bar; 1 for an hour
    drift = np.zeros(3)
    if edge:
        drift[:TURBULENCE] = strengths * faded / np.sqrt(hours)
    levels = np.asarray(parameters.volatility) ** 2 * hours
    return Dynamics(
        transition=expm(generator * hours),
        occupancy=parameters.occupancy,
        levels=levels,
        drift=drift,
        rest_variance=float(parameters.occupancy @ levels),
        decays=0.5 ** (hours / half_lives),
        threshold=parameters.threshold,
        clustering=parameters.clustering,
        tail_probabilities=np.asarray(parameters.tail_probabilities),
        tail_variances=np.asarray(parameters.tail_variances),
    )


@compiled
def _bend(signal: float, threshold: float) -> float:
    """Half of the full drift at the threshold, next to nothing well below it; odd, between -1 and 1."""
    return signal * abs(signal) / (signal * signal + threshold * threshold)


@compiled
def moments(
    dynamics: Dynamics, variance: float, momentum: float, stretch: float, mean: Floats, spread: Floats
) -> None:
    """Writes mean and standard deviation of the next log return in each regime.  # [3], [3]"""
    for k in range(3):
        level = (1.0 - dynamics.clustering) * dynamics.levels[k] + dynamics.clustering * variance
        growth = 0.0
        for j in range(3):
            growth += dynamics.tail_probabilities[j] * np.exp(0.5 * level * dynamics.tail_variances[j])
        spread[k] = np.sqrt(level)
        mean[k] = -np.log(growth)
    mean[0] += dynamics.drift[0] * spread[0] * _bend(momentum, dynamics.threshold)
    mean[1] += dynamics.drift[1] * spread[1] * _bend(stretch, dynamics.threshold)


@compiled
def advance(
    dynamics: Dynamics, variance: float, momentum: float, stretch: float, log_return: float
) -> tuple[float, float, float]:
    """What is known of the past once `log_return` has been seen: (variance, momentum, stretch)."""
    decay = dynamics.decays
    shock = log_return / np.sqrt(variance)
    return (
        decay[0] * variance + (1.0 - decay[0]) * log_return * log_return,
        decay[1] * momentum + np.sqrt(1.0 - decay[1] * decay[1]) * shock,
        decay[2] * stretch + np.sqrt(1.0 - decay[2] * decay[2]) * shock,
    )


class Beliefs(NamedTuple):
    """What follows from past closes alone; row t speaks of bar t + 1."""

    regime_mean: Floats  # [T, S, 3] mean of the next log return, were the regime known
    regime_variance: Floats  # [T, S, 3]
    probability: Floats  # [T, 3] of the regime that governs bar t + 1
    mean: Floats  # [T, S] of the next log return under these probabilities
    variance: Floats  # [T, S]


def oracle_filter(log_returns: Floats, dynamics: Dynamics, correlation: float) -> Beliefs:
    """The Bayesian filter that knows the parameters and sees `log_returns` [T, S] of the closes only.

    `correlation` is that of the shocks between any two symbols. Row t uses rows <= t.
    """
    bars, symbols = log_returns.shape
    beliefs = Beliefs(
        np.empty((bars, symbols, 3)),
        np.empty((bars, symbols, 3)),
        np.empty((bars, 3)),
        np.empty((bars, symbols)),
        np.empty((bars, symbols)),
    )
    _filter(np.ascontiguousarray(log_returns), dynamics, correlation, beliefs)
    return beliefs


@compiled
def _filter(log_returns: Floats, dynamics: Dynamics, correlation: float, out: Beliefs) -> None:
    bars, symbols = log_returns.shape
    memory = np.zeros((symbols, 3))  # variance, momentum, stretch
    memory[:, 0] = dynamics.rest_variance
    mean = np.zeros((symbols, 3))
    spread = np.zeros((symbols, 3))
    for i in range(symbols):
        moments(dynamics, memory[i, 0], memory[i, 1], memory[i, 2], mean[i], spread[i])
    prior = dynamics.occupancy.copy()
    # The inverse of an equicorrelation matrix: (I - pull * 1 1') / (1 - correlation).
    pull = correlation / (1.0 + (symbols - 1) * correlation)
    log_density = np.zeros((3, 3))  # [regime, tail]
    for t in range(bars):
        for k in range(3):
            total = 0.0
            squares = 0.0
            width = 0.0
            for i in range(symbols):
                shock = (log_returns[t, i] - mean[i, k]) / spread[i, k]
                total += shock
                squares += shock * shock
                width += np.log(spread[i, k])
            distance = (squares - pull * total * total) / (1.0 - correlation)
            for j in range(3):
                tail = dynamics.tail_variances[j]
                log_density[k, j] = -0.5 * distance / tail - 0.5 * symbols * np.log(tail) - width
        top = log_density.max()
        posterior = np.zeros(3)
        for k in range(3):
            likelihood = 0.0
            for j in range(3):
                likelihood += dynamics.tail_probabilities[j] * np.exp(log_density[k, j] - top)
            posterior[k] = prior[k] * likelihood
        posterior /= posterior.sum()
        for k in range(3):
            prior[k] = (
                posterior[0] * dynamics.transition[0, k]
                + posterior[1] * dynamics.transition[1, k]
                + posterior[2] * dynamics.transition[2, k]
            )
        out.probability[t] = prior
        for i in range(symbols):
            variance, momentum, stretch = advance(
                dynamics, memory[i, 0], memory[i, 1], memory[i, 2], log_returns[t, i]
            )
            memory[i, 0] = variance
            memory[i, 1] = momentum
            memory[i, 2] = stretch
            moments(dynamics, variance, momentum, stretch, mean[i], spread[i])
            first = 0.0
            second = 0.0
            for k in range(3):
                square = spread[i, k] * spread[i, k]
                out.regime_mean[t, i, k] = mean[i, k]
                out.regime_variance[t, i, k] = square
                first += prior[k] * mean[i, k]
                second += prior[k] * (square + mean[i, k] * mean[i, k])
            out.mean[t, i] = first
            out.variance[t, i] = second - first * first


_GAP_CHANCE = 0.1
_VOLUME_PER_HOUR = 500.0
_VOLUME_ELASTICITY = 1.2  # of volume to activity as a standard deviation
_VOLUME_NOISE = 0.35  # standard deviation of log volume
_VOLUME_HALF_LIFE = 3.0  # hours, of that noise
_LOT = 1000.0  # volume is counted in thousandths


class Noise(NamedTuple):
    """All the randomness of one symbol, each [T]."""

    shock: Floats  # unit variance, fat tails, correlated between symbols
    rounding: Floats  # uniform
    gap: Floats  # uniform
    high: Floats  # log of a uniform
    low: Floats  # log of a uniform
    volume: Floats  # normal


@compiled
def regime_path(uniform: Floats, laws: Dynamics) -> NDArray[np.int8]:
    """Regimes [T] from uniforms [T]: the first from the long-run shares, then from the matrix."""
    states = np.empty(uniform.size, dtype=np.int8)
    row = laws.occupancy
    for t in range(uniform.size):
        if uniform[t] < row[0]:
            states[t] = 0
        elif uniform[t] < row[0] + row[1]:
            states[t] = 1
        else:
            states[t] = 2
        row = laws.transition[states[t]]
    return states


@compiled
def _price(ticks: int, decimals: int) -> float:
    """The float nearest to `ticks` x 10^-`decimals`."""
    if decimals >= 0:
        return ticks / 10.0**decimals
    return ticks * 10.0**-decimals


@compiled
def walk(noise: Noise, regime: NDArray[np.int8], laws: Dynamics, initial: float, hours: float) -> Floats:
    """Open, high, low, close, volume of one symbol, bar by bar.  # [5, T]"""
    bars = noise.shock.size
    out = np.empty((5, bars))
    decimals = 5 - int(np.floor(np.log10(initial)))
    last = int(np.rint(initial * 10.0**decimals))  # in ticks of 10^-decimals, six digits
    last_price = _price(last, decimals)
    variance, momentum, stretch = laws.rest_variance, 0.0, 0.0
    mean = np.empty(3)
    spread = np.empty(3)
    persistence = 0.5 ** (hours / _VOLUME_HALF_LIFE)
    noisiness = 0.0
    for t in range(bars):
        uniform = noise.gap[t]
        if last >= 1_000_000:  # the price has gained a digit: a coarser tick, rounded without bias
            last, remainder = last // 10, last % 10
            decimals -= 1
            if uniform * 10.0 < remainder:
                last += 1
            uniform = 0.5
        elif last < 100_000:
            last *= 10
            decimals += 1
        first = last
        if t > 0 and uniform < 0.5 * _GAP_CHANCE:
            first -= 1
        elif t > 0 and uniform >= 1.0 - 0.5 * _GAP_CHANCE:
            first += 1
        moments(laws, variance, momentum, stretch, mean, spread)
        step = mean[regime[t]] + spread[regime[t]] * noise.shock[t]
        last = max(int(np.floor(first * np.exp(step) + noise.rounding[t])), 1)
        price = _price(last, decimals)
        log_return = np.log(price / last_price)
        activity = 0.5 * (log_return * log_return + variance)
        # Extremes of a Brownian bridge: P(max > m) = exp(-2 m (m - r) / activity).
        up = 0.5 * (log_return + np.sqrt(log_return * log_return - 2.0 * activity * noise.high[t]))
        down = 0.5 * (log_return - np.sqrt(log_return * log_return - 2.0 * activity * noise.low[t]))
        high = max(int(np.floor(first * np.exp(up))), first, last)
        low = max(min(int(np.ceil(first * np.exp(down))), first, last), 1)
        noisiness = persistence * noisiness + np.sqrt(1.0 - persistence * persistence) * noise.volume[t]
        volume = _VOLUME_PER_HOUR * hours * np.exp(_VOLUME_NOISE * noisiness)
        volume *= (activity / laws.rest_variance) ** (0.5 * _VOLUME_ELASTICITY)
        out[0, t] = _price(first, decimals)
        out[1, t] = _price(high, decimals)
        out[2, t] = _price(low, decimals)
        out[3, t] = price
        out[4, t] = max(np.rint(volume * _LOT), 1.0) / _LOT
        variance, momentum, stretch = advance(laws, variance, momentum, stretch, log_return)
        last_price = price
    return out
