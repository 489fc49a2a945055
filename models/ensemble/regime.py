"""How long the edge lasts and how loud the noise is: what sets the horizon and the size of a plan.

Two numbers are read for every decision, *persistence* and *noise*, either from two given inputs of the
observation or from the model itself. Where they part into regimes is measured on held-out data at every fit:

    trend            persistence above the upper limit     the whole horizon
    neither          between the two                       two thirds of it
    mean reversion   below the lower one                   a third
    turbulence       noise above its limit                 half of that, and smaller positions
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from models import rng
from models.ensemble import dream
from models.ensemble.dream import Known, Limits, Model, Settings
from models.ensemble.networks import Shape
from models.planning import plan
from models.planning.plan import Continuous

REVERSION, NEITHER, TREND, TURBULENCE = 0.0, 1.0, 2.0, 3.0
"""Labels, as they are told in `Decision.info`."""


class Reading(NamedTuple):
    """What a regime is told by."""

    persistence: tf.Tensor  # [B]
    noise: tf.Tensor  # [B]


class Rule(NamedTuple):
    """What follows from it."""

    label: tf.Tensor  # [B]
    steps: tf.Tensor  # [B] of the horizon that count
    span: tf.Tensor  # [B, H] 1 for those steps, then 0
    size: tf.Tensor  # [B] of an action, in parts of its distance from doing nothing


def read(model: Model, observation: tf.Tensor, *, shape: Shape, settings: Settings, known: Known) -> Reading:
    """Persistence and noise at `observation [B, D]`.

    By the model itself, both come from keeping to either end of the action space throughout. What the two
    ends earn apart, step by step, is the edge: with E its sum over the nearer and L over the farther half of
    the horizon, the persistence is 2 E L / (E^2 + L^2): 1 for an edge that stays, 0 for one that is gone,
    negative for one that turns. The first step is left out, because it pays for getting there. The noise is
    the expected deviation of the first reward, the larger of the two.
    """
    if settings.regime_rule == "given":
        first, second = settings.regime_columns
        return Reading(observation[:, first], observation[:, second])
    batch, horizon = observation.shape[0], settings.horizon
    ends = tf.constant(_ends(shape))  # [2, A]
    actions = tf.broadcast_to(ends[:, None], (batch, 2, horizon, ends.shape[-1]))
    alone = settings._replace(propagation="mean", particles=1, disagreement_penalty=0.0)
    seed = tf.constant(rng.key(0))  # nothing is drawn
    dreamt = dream.dream(model, observation, actions, seed, shape=shape, settings=alone, known=known)
    earned = tf.reduce_mean(dreamt.rewards[:, :, 0], axis=1)  # [H, B, 2]
    edge = earned[1:, :, 1] - earned[1:, :, 0]  # [H - 1, B]
    middle = (horizon - 1) // 2
    near = tf.reduce_sum(edge[:middle], axis=0)
    far = tf.reduce_sum(edge[-middle:], axis=0)
    persistence = 2.0 * near * far / (tf.square(near) + tf.square(far) + 1e-30)
    pair = [dream.doubt(model, observation, actions[:, end, 0], shape).reward_aleatoric for end in (0, 1)]
    return Reading(persistence, tf.sqrt(tf.maximum(*pair)))


def rule(reading: Reading, limits: Limits, settings: Settings) -> Rule:
    """The regime of each problem, and what it does to the plan."""
    horizon = settings.horizon
    trend = tf.cast(reading.persistence > limits.trending, tf.float32)
    reverting = tf.cast(reading.persistence < limits.reverting, tf.float32)
    turbulent = tf.cast(reading.noise > limits.noise, tf.float32)
    share = (2.0 + trend - reverting) / 3.0 * (1.0 - 0.5 * turbulent)
    # Rounded up, less what float32 makes of thirds.
    steps = tf.maximum(1.0, tf.math.ceil(horizon * share - 1e-3))
    span = tf.cast(tf.range(horizon, dtype=tf.float32) < steps[:, None], tf.float32)
    label = tf.where(turbulent > 0.0, TURBULENCE, NEITHER + trend - reverting)
    return Rule(label, steps, span, 1.0 - (1.0 - settings.turbulent_size) * turbulent)


def shrink(actions: tf.Tensor, neutral: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """`actions [B, H, A]` moved toward doing nothing, to `size [B]` of the distance.

    Choices are taken to be ordered, as exposures are, and are rounded toward doing nothing.
    """
    away = tf.cast(actions - neutral, tf.float32) * size[:, None, None]
    moved: tf.Tensor = neutral + tf.cast(away, actions.dtype)  # a cast to integers cuts toward zero
    return moved


def _ends(shape: Shape) -> np.ndarray:
    """The lowest and the highest action `[2, A]`."""
    space = shape.space
    if isinstance(space, Continuous):
        return np.stack(plan.bounds(space))
    highest = np.array(space.counts, np.int32) - 1
    return np.stack([np.zeros_like(highest), highest])
