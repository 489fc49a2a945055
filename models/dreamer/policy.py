"""The policy: from a network's output to actions, their probability and their entropy.

Inside the family an action is a vector `[A]`: one-hot vectors side by side for the D branches of a
Discrete or MultiDiscrete space, numbers in [-1, 1] for the D dimensions of a Box.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import tensorflow as tf

from models import configuration, rng
from models.dreamer.rssm import draw, mixed

_DEVIATIONS = (0.1, 1.0)
"""Least and largest standard deviation of a Box action, in half widths of the box (paper's code)."""


class Actions(NamedTuple):
    """An action space: `choices` of each branch, or for a Box none and the `bounds`."""

    choices: tuple[int, ...]
    start: np.ndarray  # [D] first choice of each branch, as the environment counts
    low: np.ndarray  # [D] of a Box
    high: np.ndarray
    shape: tuple[int, ...]  # of one action of the environment
    dtype: np.dtype[Any]

    @property
    def discrete(self) -> bool:
        return bool(self.choices)

    @property
    def width(self) -> int:
        """A, the width of an action inside the family."""
        return sum(self.choices) if self.discrete else self.low.size

    @property
    def outputs(self) -> int:
        """Outputs of the policy network."""
        return self.width if self.discrete else 2 * self.width

    @property
    def branches(self) -> int:
        """D."""
        return len(self.choices) if self.discrete else self.low.size


def actions_of(space: gymnasium.Space[Any]) -> Actions:
    """Reads an action space; refuses a Box without finite bounds."""
    none = np.zeros(0, np.float32)
    if isinstance(space, gymnasium.spaces.Discrete):
        return Actions((int(space.n),), np.array([space.start]), none, none, (), space.dtype)
    if isinstance(space, gymnasium.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        choices = tuple(int(number) for number in space.nvec)
        return Actions(choices, space.start, none, none, space.shape, space.dtype)
    if isinstance(space, gymnasium.spaces.Box) and np.isfinite([space.low, space.high]).all():
        low, high = (side.astype(np.float32).ravel() for side in (space.low, space.high))
        return Actions((), none, low, high, space.shape, space.dtype)
    raise configuration.Misfit(
        f"dreamer: the action space {space} is not supported; allowed: Discrete, MultiDiscrete with one "
        "axis, Box with finite bounds"
    )


def to_vector(action: np.ndarray, actions: Actions) -> np.ndarray:
    """Actions of the environment `[*B, *shape]` as float32 vectors `[*B, A]`."""
    lead = action.shape[: action.ndim - len(actions.shape)]
    flat = np.asarray(action).reshape(*lead, -1)  # [*B, D]
    if not actions.discrete:
        vector: np.ndarray = (flat - actions.low) / (actions.high - actions.low) * 2.0 - 1.0
        return vector.astype(np.float32)
    choice = flat - actions.start
    parts = [np.eye(number, dtype=np.float32)[choice[..., d]] for d, number in enumerate(actions.choices)]
    joined: np.ndarray = np.concatenate(parts, -1)
    return joined


def to_action(vector: np.ndarray, actions: Actions) -> np.ndarray:
    """The inverse of `to_vector` for `[B, A]`; Box actions are clipped to the bounds."""
    if actions.discrete:
        ends = np.cumsum(actions.choices)[:-1]
        parts = np.split(vector, ends, axis=-1)
        flat = np.stack([part.argmax(-1) for part in parts], -1) + actions.start
    else:
        unit = (np.clip(vector, -1.0, 1.0) + 1.0) / 2.0
        flat = actions.low + unit * (actions.high - actions.low)
    shaped: np.ndarray = flat.reshape(len(vector), *actions.shape).astype(actions.dtype)
    return shaped


def scaled_down(vector: np.ndarray, factor: np.ndarray, actions: Actions, neutral: int) -> np.ndarray:
    """`vector [B, A]` drawn towards the action that risks nothing, to a share `factor [B]` of the way.

    For a Box that is the middle of the box. For a branch of ordered choices it is the choice `neutral`,
    and the steps away from it are rounded towards it.
    """
    if not actions.discrete:
        shrunk: np.ndarray = vector * factor[:, None]
        return shrunk.astype(np.float32)
    parts = []
    for part in np.split(vector, np.cumsum(actions.choices)[:-1], axis=-1):
        away = part.argmax(-1) - neutral
        # The small excess keeps a factor that is exact but for rounding from losing a whole step.
        steps = np.sign(away) * np.floor(np.abs(away) * factor + 1e-6)
        parts.append(np.eye(part.shape[-1], dtype=np.float32)[(neutral + steps).astype(np.int64)])
    return np.concatenate(parts, -1)


def _branches(outputs: tf.Tensor, actions: Actions) -> list[tf.Tensor]:
    return list(tf.split(outputs, list(actions.choices), axis=-1))


def probabilities(outputs: tf.Tensor, actions: Actions, unimix: float) -> tf.Tensor:
    """The branches' probabilities side by side: `[..., A]`."""
    return tf.concat([mixed(branch, unimix) for branch in _branches(outputs, actions)], -1)


def _normal(outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    mean, deviation = tf.split(outputs, 2, axis=-1)
    low, high = _DEVIATIONS
    return tf.tanh(mean), (high - low) * tf.sigmoid(deviation + 2.0) + low


def noise(seed: Any, shape: tuple[Any, ...], actions: Actions) -> tf.Tensor:
    """What `sample` needs for outputs of leading `shape`: `[*shape, D]`. Consumes `seed`."""
    kind = rng.uniform if actions.discrete else rng.normal
    return kind(seed, (*shape, actions.branches))


def sample(outputs: tf.Tensor, noise: tf.Tensor, actions: Actions, unimix: float) -> tf.Tensor:
    """Actions `[..., A]` drawn with `noise [..., D]`; they carry no gradient."""
    if actions.discrete:
        drawn = [
            draw(mixed(branch, unimix), noise[..., d : d + 1])
            for d, branch in enumerate(_branches(outputs, actions))
        ]
        return tf.stop_gradient(tf.concat(drawn, -1))
    mean, deviation = _normal(outputs)
    return tf.stop_gradient(mean + deviation * noise)


def mode(outputs: tf.Tensor, actions: Actions) -> tf.Tensor:
    """The likeliest actions `[..., A]`; the first on a tie."""
    if not actions.discrete:
        return _normal(outputs)[0]
    best = [tf.one_hot(tf.argmax(x, axis=-1), x.shape[-1]) for x in _branches(outputs, actions)]
    return tf.concat(best, -1)


def log_probability(outputs: tf.Tensor, action: tf.Tensor, actions: Actions, unimix: float) -> tf.Tensor:
    """log pi(a) `[...]` of `action [..., A]`, summed over branches or dimensions."""
    if actions.discrete:
        return tf.reduce_sum(action * tf.math.log(probabilities(outputs, actions, unimix)), -1)
    mean, deviation = _normal(outputs)
    distance = tf.square((action - mean) / deviation)
    return -tf.reduce_sum(0.5 * (distance + math.log(2 * math.pi)) + tf.math.log(deviation), -1)


def entropy(outputs: tf.Tensor, actions: Actions, unimix: float) -> tf.Tensor:
    """Entropy `[...]` in nats, summed over branches or dimensions."""
    if actions.discrete:
        p = probabilities(outputs, actions, unimix)
        return -tf.reduce_sum(p * tf.math.log(p), -1)
    return tf.reduce_sum(0.5 * math.log(2 * math.pi * math.e) + tf.math.log(_normal(outputs)[1]), -1)
