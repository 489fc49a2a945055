"""How the reward follows from exposures and returns, measured on what was gathered.

The family knows no market. Where the configuration names the components of the observation that show each
asset's last return, in whatever unit and with whatever scaling, one least squares problem

    exp(reward) - 1  =  sum_s w_s (offset_s + slope_s shown_s)  -  cost x sum_s |w_s - e_s|

on the gathered steps (w the exposures asked for, e those held before) finds the unit of the returns and the
rate of the costs. On a market with costs in proportion to turnover the fit is exact but for prices that
move between decision and fill; `r2` says how exact, and is reported with every agent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from models.world_model.mdn_rnn import Moments

_LEAST_LEFT = 0.05
"""Share of the equity that a dreamed step leaves at least: its logarithm must stay a number."""


class Terms(NamedTuple):
    """What connects returns and rewards."""

    slope: np.ndarray  # [S]
    offset: np.ndarray  # [S]
    cost: float  # of the traded share of equity
    r2: float  # share of the reward's variance that the formula explains

    def returns(self, shown: np.ndarray) -> np.ndarray:
        """Simple returns from the components that show them, `[..., S]`."""
        return np.asarray(self.offset + self.slope * shown, np.float32)


def fit(reward: np.ndarray, asked: np.ndarray, held: np.ndarray, shown: np.ndarray) -> Terms:
    """The terms that explain `reward [M]` of steps that asked for `[M, S]` holding `[M, S]`; `shown [M, S]`
    arrived with the reward. Rows that show an extreme teach nothing: it may stand for anything beyond it."""
    inside = ~_extreme(shown).any(axis=1)
    if inside.any():
        reward, asked, held, shown = (part[inside] for part in (reward, asked, held, shown))
    gross = np.expm1(reward.astype(np.float64))
    turnover = np.abs(asked - held).sum(axis=1, dtype=np.float64)
    design = np.concatenate([asked, asked * shown, -turnover[:, None]], axis=1, dtype=np.float64)
    found, *_ = np.linalg.lstsq(design, gross, rcond=None)
    assets = asked.shape[1]
    left = gross - design @ found
    variance = float(gross.var())
    r2 = 1.0 - float(left.var()) / variance if variance > 0 else 0.0
    return Terms(found[assets : 2 * assets], found[:assets], max(0.0, float(found[-1])), r2)


def _extreme(shown: np.ndarray) -> np.ndarray:
    return np.asarray((shown == shown.min(axis=0)) | (shown == shown.max(axis=0)))


def beyond(
    terms: Terms, reward: np.ndarray, asked: np.ndarray, held: np.ndarray, shown: np.ndarray
) -> np.ndarray:
    """What the returns of the steps of `fit` were beyond what is shown of them, `[M, S]`.

    Features are cut at some limit, and a market without its worst bars is not the market. But whoever held
    the asset was paid its return in full: what the reward leaves over where an extreme is shown belongs to
    that asset (to several by the share of their exposures), if it points outward.
    """
    turnover = np.abs(asked - held).sum(axis=1)
    left = np.expm1(reward.astype(np.float64)) - (asked * terms.returns(shown)).sum(axis=1)
    left += terms.cost * turnover
    stake = asked * _extreme(shown)
    size = (stake**2).sum(axis=1)
    found = np.divide(left, size, out=np.zeros_like(left), where=size > 0)[:, None] * stake
    outward = np.where(shown == shown.max(axis=0), 1.0, -1.0) * np.sign(terms.slope)
    return np.asarray(np.where(found * outward > 0, found, 0.0), np.float32)


def reward(gained: tf.Tensor, turnover: tf.Tensor, cost: tf.Tensor) -> tf.Tensor:
    """The log return of equity from the gain `w . return` and the turnover."""
    return tf.math.log(tf.maximum(1.0 + gained - cost * turnover, _LEAST_LEFT))


def expected_reward(
    gained: Moments, turnover: tf.Tensor, cost: tf.Tensor, risk_aversion: tf.Tensor
) -> tf.Tensor:
    """Its expectation to second order, E log(1 + x) = E x - E x^2 / 2; `risk_aversion` weighs the square."""
    return gained.first - 0.5 * risk_aversion * gained.second - cost * turnover


def drift(asked: tf.Tensor, returns: tf.Tensor) -> tf.Tensor:
    """The exposures `[..., S]` at the end of a step, after the prices have moved them."""
    gained = tf.reduce_sum(asked * returns, axis=-1, keepdims=True)
    return asked * (1.0 + returns) / tf.maximum(1.0 + gained, _LEAST_LEFT)
