"""Rewards that the model foretells, as sampled paths: to be held against what came."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from models import rng
from models.agent import Agent
from models.ensemble import dream
from models.ensemble.dream import Known, Model, Settings
from models.ensemble.networks import Shape


@functools.lru_cache(maxsize=16)
def forecaster(
    shape: Shape, settings: Settings, known: Known, batch: int, horizon: int, samples: int, *, compiled: bool
) -> Any:
    """The function `(model, observation [B, D], actions [B, H, A], seed) -> rewards [B, M, H]`.

    Every path has noise of its own; the members share the M paths evenly. An agent that plans without noise
    (`mean`) still forecasts with it: particles then keep to their members.
    """
    propagation = "tsinf" if settings.propagation == "mean" else settings.propagation
    settings = settings._replace(propagation=propagation, particles=-(-samples // shape.members))

    def run(model: Model, observation: tf.Tensor, actions: tf.Tensor, seed: Any) -> tf.Tensor:
        dreamt = dream.dream(
            model, observation, actions[:, None], seed,
            shape=shape, settings=settings, known=known, sampled=True,
        )  # fmt: skip
        paths = tf.transpose(dreamt.rewards[..., 0], (3, 2, 1, 0))  # [B, P, K, H]
        return tf.reshape(paths, (batch, -1, horizon))[:, :samples]

    return tf.function(run, jit_compile=compiled, autograph=False)


@functools.lru_cache(maxsize=16)
def mover(shape: Shape, known: Known, rows: int, *, compiled: bool) -> Any:
    """The function `(model, observation [R, D], action [R, A], seed) -> (observation, reward [R], goes_on)`.

    One drawn step of R states; state i is moved by member i modulo K, so that who keeps his place in the
    batch keeps his member. `goes_on [R]` is the probability that the episode does.
    """
    members = shape.members
    filled = -(-rows // members) * members

    def spread(part: tf.Tensor) -> tf.Tensor:  # [R, ..] to [K, R / K, ..], the gap filled with the first row
        whole = tf.concat([part, tf.repeat(part[:1], filled - rows, axis=0)], axis=0)
        return tf.transpose(tf.reshape(whole, (-1, members, part.shape[-1])), (1, 0, 2))

    def gather(part: tf.Tensor) -> tf.Tensor:  # back again
        order = (1, 0) if len(part.shape) == 2 else (1, 0, 2)
        return tf.reshape(tf.transpose(part, order), (filled, *part.shape[2:]))[:rows]

    def run(model: Model, observation: tf.Tensor, action: tf.Tensor, seed: Any) -> Any:
        noise = spread(rng.normal(seed, (rows, shape.targets)))
        moved = dream.advance(
            dream.fold(model), model.scaling, spread(observation), spread(action), noise,
            shape=shape, known=known, sampled=True,
        )  # fmt: skip
        return gather(moved.observation), gather(moved.reward), gather(moved.goes_on)

    return tf.function(run, jit_compile=compiled, autograph=False)


def follow(
    policy: Agent,
    move: Any,
    model: Model,
    observation: np.ndarray,
    choose: Any,
    *,
    horizon: int,
    samples: int,
    seed: int,
) -> np.ndarray:
    """Rewards `[B, M, H]` of a policy without memory that acts inside the model.

    Args:
        move: `mover` for B * M rows.
        choose: actions of the space `[R, *action]` to those of the planner `[R, A]`.
    """
    rows = len(observation) * samples
    x = np.repeat(observation, samples, axis=0)  # [B * M, D]
    alive, paid = np.ones(rows), np.zeros((horizon, rows))
    for h in range(horizon):
        action = policy.act(x, policy.initial_state(rows), seed=rng.derive(seed, "act", h)).action
        key = rng.key(rng.derive(seed, "move", h))
        following, reward, goes_on = move(model, tf.constant(x), tf.constant(choose(action)), key)
        paid[h] = alive * reward.numpy()
        alive *= rng.generator(seed, "ends", h).random(rows) < goes_on.numpy()
        x = following.numpy()
    return np.moveaxis(paid.reshape(horizon, len(observation), samples), 0, -1)
