"""Rolling the model forward under candidate plans, and one compiled decision from it.

Particles start at the true observation and move through the members: each keeps to one (TS-infinity) or
all change places at every step (TS1, Chua et al. 2018, section 5.1). Departures from PETS: the members
are permuted among the particles instead of drawn for each, so that every member moves the same number of
them; and all candidates, and all problems of a batch, meet the same noise. Common noise makes the
comparison of candidates sharper, a decision independent of its batch, and random numbers almost free.
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
from models.planning import plan
from models.planning.cem import cem
from models.planning.plan import Choices, Plan
from models.planning.shooting import random_shooting


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
    turbulence_penalty: float
    neutral: tuple[float, ...]


class Model(NamedTuple):
    """The members that plan, and their scaling."""

    weights: Weights
    scaling: Scaling


class Limits(NamedTuple):
    """When not to follow a plan; float32 scalars."""

    disagreement: Any  # largest epistemic variance
    confidence: Any  # standard deviations of opinion by which the plan must beat doing nothing
    noise: Any  # largest aleatoric variance that is calm


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
    inputs = tf.concat([observation, networks.encode(action, shape.space)], axis=-1)
    predicted = networks.predict(fold(model), inputs, shape)
    between = tf.math.reduce_variance(predicted.mean, axis=0)  # [M, O]
    within = tf.reduce_mean(tf.exp(predicted.log_variance), axis=0)
    average = functools.partial(tf.reduce_mean, axis=-1)
    return Doubt(average(between), average(within), between[:, -1], within[:, -1])


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
    turbulence: tf.Tensor | None = None,
) -> Dream:
    """Follows `actions [B, N, H, A]` from `observation [B, D]` through every member; consumes the seed.

    `span [B, H]` weighs the steps (all 1 if not given); in `turbulence [B]` (0 or 1) risk is charged.
    """
    batch, number, horizon, width = actions.shape
    members, particles = model.weights.highest.shape[0], settings.particles
    grid = (members, particles, batch, number)
    inputs = shape.inputs
    weights, scaling = fold(model), model.scaling
    noise_seed, order_seed = rng.split(seed)
    noise = rng.normal(noise_seed, (horizon, members, particles, 1, 1, shape.targets))
    order = rng.permutation(order_seed, members, (horizon,))  # [H, K]
    turbulent = tf.zeros(batch) if turbulence is None else turbulence
    factor = tf.constant(settings.discount ** np.arange(horizon), tf.float32)  # [H]
    span = factor * (tf.ones((batch, horizon)) if span is None else span)  # [B, H]
    sequence = tf.transpose(actions, (2, 0, 1, 3))  # [H, B, N, A]

    def body(h: tf.Tensor, x: tf.Tensor, alive: tf.Tensor, total: tf.Tensor, rewards: Any) -> Any:
        if settings.propagation == "ts1":
            x, alive, total = (tf.gather(part, order[h]) for part in (x, alive, total))
        action = tf.broadcast_to(sequence[h], (*grid, width))
        entered = tf.concat([x, networks.encode(action, shape.space)], axis=-1)
        flat = tf.reshape(entered, (members, particles * batch * number, -1))
        predicted = networks.predict(weights, flat, shape)
        mean = tf.reshape(predicted.mean, (*grid, shape.targets))
        deviation = tf.exp(0.5 * tf.reshape(predicted.log_variance, (*grid, shape.targets)))
        drawn = mean if settings.propagation == "mean" else mean + deviation * noise[h]
        target = drawn * scaling.target_size + scaling.target_mean
        arrived = x + target[..., :inputs] if known.step is None else known.step(x, action)
        # The expected reward, not a drawn one: what its own noise adds is no part of any decision.
        reward = mean[..., -1] * scaling.target_size[-1] + scaling.target_mean[-1]
        if known.reward is not None:
            reward = known.reward(x, action, arrived)
        paid = alive * reward  # [K, P, B, N]
        charge = tf.zeros(grid)
        if settings.turbulence_penalty:
            charge += settings.turbulence_penalty * deviation[..., -1] * turbulent[:, None]
        if settings.disagreement_penalty:  # MOPO: the largest deviation among members (Yu et al. 2020, 4.2)
            largest = tf.reduce_max(tf.sqrt(tf.reduce_mean(tf.square(deviation), axis=-1)), axis=0)
            charge += settings.disagreement_penalty * largest
        worth = paid - alive * charge * scaling.target_size[-1]
        total += span[:, h][:, None] * worth
        if known.terminated is None:
            goes_on = 1.0 - scaling.ends * tf.sigmoid(-tf.reshape(predicted.continuation, grid))
        else:
            goes_on = 1.0 - tf.cast(known.terminated(arrived), tf.float32)
        return h + 1, arrived, alive * goes_on, total, rewards.write(h, paid)

    x = tf.broadcast_to(observation[:, None], (*grid, inputs))
    rewards = tf.TensorArray(tf.float32, size=horizon, element_shape=grid)
    start = (tf.constant(0), x, tf.ones(grid), tf.zeros(grid), rewards)
    _, x, alive, total, rewards = tf.while_loop(
        lambda h, *_: h < horizon, body, start, maximum_iterations=horizon
    )
    if known.value is not None:
        total += settings.discount**horizon * alive * known.value(x)
    return Dream(total, rewards.stack(), x)


def _constant_plans(space: plan.ActionSpace, batch: int, horizon: int) -> tf.Tensor | None:
    """To keep to one choice throughout, for each choice there is: candidates `[B, C, H, A]`.

    Few random sequences are constant, and where changing costs, the best ones are. None for a box, and where
    there are more than 32 choices.
    """
    if not isinstance(space, Choices) or np.prod(space.counts, dtype=np.float64) > 32:
        return None
    each = np.array(list(np.ndindex(space.counts)), np.int32)  # [C, A]
    return tf.constant(np.tile(each[None, :, None], (batch, 1, horizon, 1)))


@functools.lru_cache(maxsize=32)
def decider(shape: Shape, settings: Settings, known: Known, batch: int, *, compiled: bool) -> Any:
    """The function `(model, observation [B, D], start [B, H, A], limits, seed) -> (action, plan, info)`.

    It plans, asks each member what the plan is worth against doing nothing, and gives the neutral action
    where the limits say so: `action [B, A]`, `plan [B, H, A]` and, batch first,

    - `value`, `planned_rewards [B, H]`: of the plan, in the environment's units, mean over members
    - `epistemic`, `aleatoric`, `reward_epistemic`, `reward_aleatoric`: see `Doubt`, of the first action
    - `advantage`, `advantage_deviation`: of the plan over doing nothing, mean and deviation among members
    - `gated`: 1 where the neutral action was taken; `turbulence`: 1 where the regime rule was in force
    - `lost`, `spread`: of the search.
    """
    horizon, space = settings.horizon, shape.space
    neutral = tf.constant(np.array(settings.neutral, plan.kind(space)))  # [A]
    # Half the horizon where it is turbulent.
    short = tf.constant(np.arange(horizon) < max(1, horizon // 2), tf.float32)

    carried = _constant_plans(space, batch, horizon)

    def search(evaluate: plan.Evaluate, seed: Any, start: tf.Tensor) -> Plan:
        initial = start if settings.warm_start else None
        common: dict[str, Any] = {
            "horizon": horizon,
            "samples": settings.samples,
            "batch": batch,
            "initial": initial,
        }
        if settings.planner == "shooting":
            return random_shooting(evaluate, space, seed=seed, **common)
        improved: dict[str, Any] = {"colour": 2.0, "decay": 1.25, "kept": 0.3, "take_best": True}
        # The likeliest choice of each step need not make a good sequence together: take one that was scored.
        plain: dict[str, Any] = {"take_best": isinstance(space, Choices)}
        return cem(
            evaluate,
            space,
            elites=settings.elite_samples,
            iterations=settings.iterations,
            momentum=settings.momentum,
            seed=seed,
            carried=carried,
            **common,
            **(improved if settings.planner == "icem" else plain),
        )

    def run(model: Model, observation: tf.Tensor, start: tf.Tensor, limits: Limits, seed: Any) -> Any:
        search_seed, noise_seed, check_seed = rng.split(seed, 3)
        idle = tf.broadcast_to(neutral, (batch, horizon, neutral.shape[0]))
        rest = doubt(model, observation, idle[:, 0], shape)
        turbulence = tf.cast(rest.aleatoric > limits.noise, tf.float32)  # [B]
        span = 1.0 - turbulence[:, None] * (1.0 - short)  # [B, H]
        roll = functools.partial(
            dream, model, observation, shape=shape, known=known, span=span, turbulence=turbulence
        )

        def evaluate(actions: tf.Tensor) -> tf.Tensor:
            returns = roll(actions, noise_seed, settings=settings).returns
            return tf.reduce_mean(returns, axis=(0, 1))

        found = search(evaluate, search_seed, start)
        # Fresh noise, so that the plan is not judged by the draws it was fitted to; and particles that
        # stay with their member, so that every member has an opinion of its own.
        stay = settings._replace(propagation="mean" if settings.propagation == "mean" else "tsinf")
        pair = tf.stack([found.actions, idle], axis=1)  # [B, 2, H, A]
        judged = roll(pair, check_seed, settings=stay)
        opinion = tf.reduce_mean(judged.returns[..., 0] - judged.returns[..., 1], axis=1)  # [K, B]
        advantage, deviation = tf.reduce_mean(opinion, axis=0), tf.math.reduce_std(opinion, axis=0)
        sure = doubt(model, observation, found.actions[:, 0], shape)
        finite = tf.math.is_finite(found.value) & tf.math.is_finite(advantage)
        convinced = (advantage > limits.confidence * deviation) | (limits.confidence <= 0.0)
        follow = finite & convinced & (sure.epistemic <= limits.disagreement)  # [B]
        action = tf.where(follow[:, None], found.actions[:, 0], idle[:, 0])
        rewards = tf.reduce_mean(judged.rewards[..., 0], axis=(1, 2))  # [H, B]
        info = {
            "value": tf.reduce_mean(judged.returns[..., 0], axis=(0, 1)),
            "planned_rewards": tf.transpose(rewards),
            **sure._asdict(),
            "advantage": advantage,
            "advantage_deviation": deviation,
            "gated": 1.0 - tf.cast(follow, tf.float32),
            "turbulence": turbulence,
            "lost": found.info["lost"],
            "spread": found.info.get("spread", tf.zeros(batch)),
        }
        return action, found.actions, info

    return tf.function(run, jit_compile=compiled, autograph=False)
