"""What planners share: the space they search, the plan they return, and how candidates are scored.

A planner searches over `evaluate(actions [B, N, H, A]) -> returns [B, N]`: N candidate sequences of H
actions for each of B independent problems. Continuous actions are float32; discrete ones are int32, one
index from 0 for each of A branches.

The random draws of a planner have no batch axis: all B problems see the same ones. A problem's plan is
therefore the same alone and in any batch, and drawing costs no more for many problems than for one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import gymnasium
import numpy as np
import tensorflow as tf

from models import rng

Evaluate = Callable[[tf.Tensor], tf.Tensor]


class Continuous(NamedTuple):
    """Actions in a box; hashable."""

    low: tuple[float, ...]  # [A]
    high: tuple[float, ...]  # [A]


class Choices(NamedTuple):
    """A branches with a finite number of choices each; hashable."""

    counts: tuple[int, ...]  # [A]


ActionSpace: TypeAlias = Continuous | Choices


class Plan(NamedTuple):
    """What a planner found for each of B problems."""

    actions: tf.Tensor  # [B, H, A]
    value: tf.Tensor  # [B] what `evaluate` says of it; minus infinity where no candidate had a finite return
    info: dict[str, tf.Tensor]  # for people and metrics, batch first


def space_of(space: gymnasium.Space[Any]) -> ActionSpace:
    """The planner's view of a gymnasium action space: Discrete, MultiDiscrete, or a bounded flat Box."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return Choices((int(space.n),))
    if isinstance(space, gymnasium.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return Choices(tuple(int(n) for n in space.nvec))
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1 and space.is_bounded():
        return Continuous(tuple(map(float, space.low)), tuple(map(float, space.high)))
    raise ValueError(
        f"the action space {space} cannot be planned in; allowed: Discrete, MultiDiscrete, bounded flat Box"
    )


def bounds(space: Continuous) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest action, float32 `[A]` each."""
    return np.array(space.low, np.float32), np.array(space.high, np.float32)


def kind(space: ActionSpace) -> type[np.generic]:
    """The type of an action's numbers."""
    return np.float32 if isinstance(space, Continuous) else np.int32


def width(space: ActionSpace) -> int:
    """A."""
    return len(space.low if isinstance(space, Continuous) else space.counts)


def uniform(space: ActionSpace, shape: tuple[int, ...], seed: Any) -> tf.Tensor:
    """Uniform actions `[*shape, A]`; consumes the seed."""
    if isinstance(space, Continuous):
        return rng.uniform(seed, (*shape, len(space.low)), *bounds(space))
    counts = np.array(space.counts, np.int64)
    return rng.integers(seed, (*shape, len(counts)), np.zeros_like(counts), counts)


def middle(space: ActionSpace) -> np.ndarray:
    """The centre of the space `[A]`: of a box its middle, of choices the one half way."""
    if isinstance(space, Continuous):
        low, high = bounds(space)
        return np.asarray(0.5 * (low + high))
    return np.array(space.counts, np.int32) // 2


def shift(actions: Any) -> tf.Tensor:
    """Last step's plan as a start for this step's `[B, H, A]`: one step on, its last action repeated."""
    return tf.concat([actions[:, 1:], actions[:, -1:]], axis=1)


def score(evaluate: Evaluate, actions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns `[B, N]` with minus infinity for every one that is not finite, and how many `[B]` those are.

    A candidate that leaves the model's range is one that nothing is known of. Replacing its return by a
    number, as zero, would make it the best candidate wherever rewards are negative.
    """
    returns = evaluate(actions)
    assert returns.shape == actions.shape[:2], f"evaluate gave {returns.shape} for actions {actions.shape}"
    finite = tf.math.is_finite(returns)
    lost = tf.reduce_sum(tf.cast(~finite, tf.float32), axis=-1)  # [B]
    return tf.where(finite, returns, -np.inf), lost


def best(actions: tf.Tensor, returns: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The candidate `[B, H, A]` of the highest return `[B]`; the first one on a tie."""
    place = tf.argmax(returns, axis=-1, output_type=tf.int32)  # [B]
    return tf.gather(actions, place, batch_dims=1), tf.reduce_max(returns, axis=-1)
