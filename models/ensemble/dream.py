"""Rolling the model forward under candidate plans.

Particles start at the true observation and move through the members: each keeps to one (TS-infinity) or
all change places at every step (TS1, Chua et al. 2018, section 5.1). Departures from PETS: the members
are permuted among the particles instead of drawn for each, so that every member moves the same number of
them; and all candidates, and all problems of a batch, meet the same noise. Common noise makes the
comparison of candidates sharper, a decision independent of its batch, and random numbers almost free.
Forecasts, which are not compared but held against what came, draw for every path (`sampled`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models import rng
from models.ensemble import networks
from models.ensemble.networks import Scaling, Shape, Weights


class Known(NamedTuple):
    """What of the world is known and need not be learned; TensorFlow functions of `[..., D]`, `[..., A]`."""

    reward: Callable[[Any, Any, Any], Any] | None = None
    """`(observation, action, next_observation) -> [...]`"""
    terminated: Callable[[Any], Any] | None = None
    """`next_observation -> bool [...]`"""
    step: Callable[[Any, Any], Any] | None = None
    """`(observation, action) -> next_observation`, without noise: the true model in place of the learned."""
    value: Callable[[Any], Any] | None = None
    """`observation -> [...]`: what the future after the last planned step is worth"""


class Settings(NamedTuple):
    """All that is static about a decision; hashable."""

    planner: str
    horizon: int
    samples: int
    iterations: int
    elite_samples: int
    momentum: float
    particles: int
    propagation: str
    discount: float
    warm_start: bool
    disagreement_penalty: float
    confidence_to_stay: float
    regime_rule: str
    regime_columns: tuple[int, ...]
    turbulent_size: float
    neutral: tuple[float, ...]


class Model(NamedTuple):
    """The members that plan, and their scaling."""

    weights: Weights
    scaling: Scaling


class Limits(NamedTuple):
    """When not to follow a plan, and where one regime ends and another begins; float32 scalars."""

    disagreement: Any  # largest epistemic variance
    confidence: Any  # standard deviations of opinion by which the plan must beat doing nothing
    noise: Any  # above it is turbulence
    reverting: Any  # below this persistence is mean reversion
    trending: Any  # above this one is a trend


class Dream(NamedTuple):
    """What came of candidates: K members, P particles of each."""

    returns: tf.Tensor  # [K, P, B, N] the planner's objective
    rewards: tf.Tensor  # [H, K, P, B, N] in the environment's units, nothing after an end
    last: tf.Tensor  # [K, P, B, N, D] the observation after the last action


class Doubt(NamedTuple):
    """The two parts of predictive variance, in scaled units, mean over outputs; and of the reward alone."""

    epistemic: tf.Tensor  # [M] variance of the members' means
    aleatoric: tf.Tensor  # [M] mean of the members' variances
    reward_epistemic: tf.Tensor  # [M]
    reward_aleatoric: tf.Tensor  # [M]


def fold(model: Model) -> Weights:
    """Weights that take inputs as they are: the scaling goes into the first layer."""
    first = model.weights.kernels[0] / model.scaling.size[:, None]  # [K, I, W]
    offset = tf.einsum("i,kiw->kw", model.scaling.mean, first)[:, None]
    return model.weights._replace(
        kernels=(first, *model.weights.kernels[1:]),
        biases=(model.weights.biases[0] - offset, *model.weights.biases[1:]),
    )


def doubt(model: Model, observation: tf.Tensor, action: tf.Tensor, shape: Shape) -> Doubt:
    """How sure the members are of `action [M, A]` at `observation [M, D]`."""
    inputs = networks.join(observation, action, shape)
    predicted = networks.predict(fold(model), inputs, shape)
    between = tf.math.reduce_variance(predicted.mean, axis=0)  # [M, O]
    within = tf.reduce_mean(tf.exp(predicted.log_variance), axis=0)
    average = functools.partial(tf.reduce_mean, axis=-1)
    return Doubt(average(between), average(within), between[:, -1], within[:, -1])


class Moved(NamedTuple):
    """One step of K members; what stands between K and the last axis is any batch."""

    observation: tf.Tensor  # [K, .., D]
    reward: tf.Tensor  # [K, ..] in the environment's units
    deviation: tf.Tensor  # [K, .., O] of the scaled targets
    goes_on: tf.Tensor  # [K, ..] probability that the episode does


def advance(
    weights: Weights,
    scaling: Scaling,
    x: tf.Tensor,
    action: tf.Tensor,
    noise: Any,
    *,
    shape: Shape,
    known: Known,
    sampled: bool = False,
) -> Moved:
    """Takes `action [K, .., A]` at `x [K, .., D]`, with standard normals `noise`, which broadcast to targets.

    `weights` are those of `fold`. The reward is the expected one, or with `sampled` a drawn one.
    """
    grid, inputs = x.shape[:-1], shape.inputs
    entered = networks.join(x, action, shape)
    flat = tf.reshape(entered, (grid[0], -1, entered.shape[-1]))
    predicted = networks.predict(weights, flat, shape)
    mean = tf.reshape(predicted.mean, (*grid, shape.targets))
    deviation = tf.exp(0.5 * tf.reshape(predicted.log_variance, (*grid, shape.targets)))
    drawn = mean + deviation * noise
    target = drawn * scaling.target_size + scaling.target_mean
    arrived = x + target[..., :inputs] if known.step is None else known.step(x, action)
    # The noise of a reward is no part of any decision, only of a forecast.
    paid = (drawn if sampled else mean)[..., -1]
    reward = paid * scaling.target_size[-1] + scaling.target_mean[-1]
    if known.reward is not None:
        reward = known.reward(x, action, arrived)
    if known.terminated is None:
        goes_on = 1.0 - scaling.ends * tf.sigmoid(-tf.reshape(predicted.continuation, grid))
    else:
        goes_on = 1.0 - tf.cast(known.terminated(arrived), tf.float32)
    return Moved(arrived, reward, deviation, goes_on)


def dream(
    model: Model,
    observation: tf.Tensor,
    actions: tf.Tensor,
    seed: Any,
    *,
    shape: Shape,
    settings: Settings,
    known: Known = Known(),  # noqa: B008, immutable
    span: tf.Tensor | None = None,
    sampled: bool = False,
) -> Dream:
    """Follows `actions [B, N, H, A]` from `observation [B, D]` through every member; consumes the seed.

    `span [B, H]` weighs the steps (all 1 if not given). With `sampled` every path has noise of its own, and
    rewards and ends are drawn; otherwise candidates and problems share it, and both are expected ones.
    """
    batch, number, horizon, width = actions.shape
    members, particles = model.weights.highest.shape[0], settings.particles
    grid = (members, particles, batch, number)
    weights, scaling = fold(model), model.scaling
    noise_seed, order_seed = rng.split(seed)
    shared = (members, particles, 1, 1)
    noise = rng.normal(noise_seed, (horizon, *(grid if sampled else shared), shape.targets))
    order = rng.permutation(order_seed, members, (horizon,))  # [H, K]
    luck = rng.uniform(rng.fold_in(seed, "ends"), (horizon, *grid)) if sampled else None
    factor = tf.constant(settings.discount ** np.arange(horizon), tf.float32)  # [H]
    span = factor * (tf.ones((batch, horizon)) if span is None else span)  # [B, H]
    sequence = tf.transpose(actions, (2, 0, 1, 3))  # [H, B, N, A]

    def body(h: tf.Tensor, x: tf.Tensor, alive: tf.Tensor, total: tf.Tensor, rewards: Any) -> Any:
        if settings.propagation == "ts1":
            x, alive, total = (tf.gather(part, order[h]) for part in (x, alive, total))
        action = tf.broadcast_to(sequence[h], (*grid, width))
        draws = 0.0 if settings.propagation == "mean" else noise[h]
        moved = advance(weights, scaling, x, action, draws, shape=shape, known=known, sampled=sampled)
        paid = worth = alive * moved.reward  # [K, P, B, N]
        if settings.disagreement_penalty:  # MOPO: the largest deviation among members (Yu et al. 2020, 4.2)
            largest = tf.reduce_max(tf.sqrt(tf.reduce_mean(tf.square(moved.deviation), axis=-1)), axis=0)
            worth -= alive * settings.disagreement_penalty * largest * scaling.target_size[-1]
        total += span[:, h][:, None] * worth
        goes_on = moved.goes_on if luck is None else tf.cast(luck[h] < moved.goes_on, tf.float32)
        return h + 1, moved.observation, alive * goes_on, total, rewards.write(h, paid)

    x = tf.broadcast_to(observation[:, None], (*grid, shape.inputs))
    rewards = tf.TensorArray(tf.float32, size=horizon, element_shape=grid)
    start = (tf.constant(0), x, tf.ones(grid), tf.zeros(grid), rewards)
    _, x, alive, total, rewards = tf.while_loop(
        lambda h, *_: h < horizon, body, start, maximum_iterations=horizon
    )
    if known.value is not None:
        total += settings.discount**horizon * alive * known.value(x)
    return Dream(total, rewards.stack(), x)
