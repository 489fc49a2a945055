"""One compiled decision: search for a plan in the model, and say whether it is to be followed."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from models import rng
from models.ensemble import regime
from models.ensemble.dream import Known, Limits, Model, Settings, doubt, dream
from models.ensemble.networks import Shape
from models.planning import plan
from models.planning.cem import cem
from models.planning.plan import ActionSpace, Choices, Plan
from models.planning.shooting import random_shooting


def _constant_plans(space: ActionSpace, batch: int, horizon: int) -> tf.Tensor | None:
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
    """The function `(model, observation [B, D], state [B, H, A], limits, seed) -> (action, state, info)`.

    It plans, asks each member what the plan is worth against doing nothing, and gives the neutral action
    where the limits say so: `action [B, A]`, the next `state [B, H, A]` (the plan as it was found, or doing
    nothing where it is not followed) and, batch first,

    - `plan [B, H, A]`: as it would be followed
    - `value`, `planned_rewards [B, H]`: of the plan, in the environment's units, mean over members
    - `epistemic`, `aleatoric`, `reward_epistemic`, `reward_aleatoric`: see `Doubt`, of the first action
    - `advantage`, `advantage_deviation`: of the plan over doing nothing, mean and deviation among members
    - `gated`: 1 where the neutral action was taken
    - `regime`, `horizon`: the label and the steps that the regime rule set, if there is one
    - `lost`, `spread`: of the search.

    Where the regime rule makes the plan smaller, all that `info` says of it is said of the smaller one.
    """
    horizon, space = settings.horizon, shape.space
    neutral = tf.constant(np.array(settings.neutral, plan.kind(space)))  # [A]
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

    def run(model: Model, observation: tf.Tensor, state: tf.Tensor, limits: Limits, seed: Any) -> Any:
        search_seed, noise_seed, check_seed = rng.split(seed, 3)
        idle = tf.broadcast_to(neutral, (batch, horizon, neutral.shape[0]))
        span, regime_info = None, {}
        if settings.regime_rule != "off":
            reading = regime.read(model, observation, shape=shape, settings=settings, known=known)
            ruled = regime.rule(reading, limits, settings)
            span, regime_info = ruled.span, {"regime": ruled.label, "horizon": ruled.steps}
        roll = functools.partial(dream, model, observation, shape=shape, known=known, span=span)

        def evaluate(actions: tf.Tensor) -> tf.Tensor:
            returns = roll(actions, noise_seed, settings=settings).returns
            return tf.reduce_mean(returns, axis=(0, 1))

        found = search(evaluate, search_seed, plan.shift(state))
        chosen = found.actions
        if settings.regime_rule != "off":
            chosen = regime.shrink(chosen, neutral, ruled.size)
        # Fresh noise, so that the plan is not judged by the draws it was fitted to; and particles that
        # stay with their member, so that every member has an opinion of its own.
        stay = settings._replace(propagation="mean" if settings.propagation == "mean" else "tsinf")
        pair = tf.stack([chosen, idle], axis=1)  # [B, 2, H, A]
        judged = roll(pair, check_seed, settings=stay)
        opinion = tf.reduce_mean(judged.returns[..., 0] - judged.returns[..., 1], axis=1)  # [K, B]
        advantage, deviation = tf.reduce_mean(opinion, axis=0), tf.math.reduce_std(opinion, axis=0)
        sure = doubt(model, observation, chosen[:, 0], shape)
        finite = tf.math.is_finite(found.value) & tf.math.is_finite(advantage)
        # To go on in one direction less is enough: else it is dropped and taken up again at every doubt.
        away = tf.cast((state[:, 0] - neutral) * (chosen[:, 0] - neutral), tf.float32)  # [B, A]
        going_on = tf.reduce_sum(away, axis=-1) > 0.0
        needed = limits.confidence * tf.where(going_on, settings.confidence_to_stay, 1.0)
        convinced = (advantage > needed * deviation) | (limits.confidence <= 0.0)
        follow = finite & convinced & (sure.epistemic <= limits.disagreement)  # [B]
        action = tf.where(follow[:, None], chosen[:, 0], idle[:, 0])
        rewards = tf.reduce_mean(judged.rewards[..., 0], axis=(1, 2))  # [H, B]
        info = {
            "plan": chosen,
            "value": tf.reduce_mean(judged.returns[..., 0], axis=(0, 1)),
            "planned_rewards": tf.transpose(rewards),
            **sure._asdict(),
            "advantage": advantage,
            "advantage_deviation": deviation,
            "gated": 1.0 - tf.cast(follow, tf.float32),
            **regime_info,
            "lost": found.info["lost"],
            "spread": found.info.get("spread", tf.zeros(batch)),
        }
        return action, tf.where(follow[:, None, None], found.actions, idle), info

    return tf.function(run, jit_compile=compiled, autograph=False)
