"""How actions enter the model and the search: every space as a list of arms, enumerated or drawn.

A Discrete space, and a MultiDiscrete one of few combinations, is a list of all its actions. Of a Box or a
large MultiDiscrete space each node of the search considers K actions drawn from its policy (Hubert et al.
2021). The model sees an action as a vector of `width` numbers, its *code*: one-hot, one-hots side by side,
or a point of [-1, 1]^D.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
import tensorflow as tf

from models import configuration, rng

_EDGE = 0.999  # of the squashed interval: beyond it the inverse of tanh grows without end
_NARROWEST, _WIDEST = 0.1, 1.5  # standard deviations before squashing


class Actions(NamedTuple):
    """All that is static about the actions; hashable."""

    kind: str  # "listed", "box" or "branches"
    arms: int  # actions of a node of the search
    outputs: int  # of the policy head
    width: int  # of a code
    choices: tuple[int, ...]  # of each branch (listed and branches)
    temperature: float  # of the draw

    @property
    def drawn(self) -> bool:
        """Each node has actions of its own."""
        return self.kind != "listed"


def actions_of(
    space: gymnasium.Space[Any], *, joint_actions: int, sampled_actions: int, temperature: float
) -> Actions:
    """The actions of a space."""
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise configuration.Misfit(f"muzero: the action space {space} has no bounds")
        size = space.shape[0]
        return Actions("box", sampled_actions, 2 * size, size, (), temperature)
    if isinstance(space, gymnasium.spaces.Discrete):
        choices: tuple[int, ...] = (int(space.n),)
    elif isinstance(space, gymnasium.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        choices = tuple(int(n) for n in space.nvec)
    else:
        raise configuration.Misfit(f"muzero: the action space {space} is not supported; allowed: Discrete, "
                         "MultiDiscrete and Box of one axis")  # fmt: skip
    combinations = int(np.prod([float(n) for n in choices]))
    if combinations <= joint_actions or len(choices) == 1:
        return Actions("listed", combinations, combinations, combinations, choices, 1.0)
    return Actions("branches", sampled_actions, sum(choices), sum(choices), choices, temperature)


def encode(actions: Actions, space: Any, action: np.ndarray) -> np.ndarray:
    """Actions of the space `[..., *action]` as codes, float32 `[..., W]`."""
    if actions.kind == "box":
        share = (action - space.low) / (space.high - space.low)
        code: np.ndarray = np.clip(2.0 * share - 1.0, -1.0, 1.0).astype(np.float32)
        return code
    places = np.asarray(action, np.int64) - space.start
    if space.shape == ():
        places = places[..., None]  # [..., branches]
    if actions.kind == "listed":
        flat = np.ravel_multi_index(tuple(np.moveaxis(places, -1, 0)), actions.choices)
        listed: np.ndarray = np.eye(actions.width, dtype=np.float32)[flat]
        return listed
    parts = [np.eye(n, dtype=np.float32)[places[..., branch]] for branch, n in enumerate(actions.choices)]
    return np.concatenate(parts, axis=-1)


def decode(actions: Actions, space: Any, code: np.ndarray) -> np.ndarray:
    """The inverse of `encode`."""
    if actions.kind == "box":
        action = space.low + 0.5 * (np.clip(code, -1.0, 1.0) + 1.0) * (space.high - space.low)
        return np.asarray(action, space.dtype)
    if actions.kind == "listed":
        places = np.stack(np.unravel_index(code.argmax(axis=-1), actions.choices), axis=-1)
    else:
        parts = np.split(code, np.cumsum(actions.choices)[:-1], axis=-1)
        places = np.stack([part.argmax(axis=-1) for part in parts], axis=-1)
    shaped = places[..., 0] if space.shape == () else places
    return np.asarray(shaped + space.start, space.dtype)


def _normal(head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and standard deviation before squashing, of `head [..., 2 D]`: `[..., D]` each."""
    raw, width = tf.split(head, 2, axis=-1)
    mean = 2.0 * tf.tanh(0.5 * raw)
    return mean, _NARROWEST + (_WIDEST - _NARROWEST) * tf.sigmoid(width)


def _log_normal(x: tf.Tensor, mean: tf.Tensor, deviation: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(-0.5 * tf.square((x - mean) / deviation) - tf.math.log(deviation), axis=-1)


def draw(actions: Actions, head: tf.Tensor, seed: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """The arms of a node with policy `head [B, P]`: codes `[B, A, W]` and prior logits `[B, A]`.

    Actions are drawn from beta = policy^(1 / temperature). Each has the prior policy / beta, normalised over
    the draw: the corrected prior of Hubert et al. 2021, eq. 7, with the empirical share 1 / K of each. An
    action that is drawn twice has two arms, whose priors add up. Consumes `seed`.
    """
    batch = head.shape[0]
    if actions.kind == "listed":
        codes = tf.broadcast_to(tf.eye(actions.width), (batch, actions.arms, actions.width))
        return codes, tf.nn.log_softmax(head, axis=-1)
    if actions.kind == "box":
        mean, deviation = (part[:, None, :] for part in _normal(head))  # [B, 1, D]
        wide = deviation * actions.temperature**0.5
        points = rng.normal(seed, (batch, actions.arms, actions.width), mean, wide)  # [B, K, D]
        points = tf.clip_by_value(points, -np.arctanh(_EDGE), np.arctanh(_EDGE))
        return tf.tanh(points), _log_normal(points, mean, deviation) - _log_normal(points, mean, wide)
    codes, prior = [], tf.zeros((batch, actions.arms))
    seeds = rng.split(seed, len(actions.choices))
    for branch, logits in enumerate(tf.split(head, actions.choices, axis=-1)):
        wide = tf.nn.log_softmax(logits / actions.temperature, axis=-1)
        spread = tf.repeat(wide[:, None], actions.arms, axis=1)  # [B, K, n]
        code = tf.one_hot(rng.categorical(seeds[branch], spread), logits.shape[-1])
        prior += tf.reduce_sum(code * (tf.nn.log_softmax(logits, axis=-1) - wide)[:, None], axis=-1)
        codes.append(code)
    return tf.concat(codes, axis=-1), prior


def log_policy(actions: Actions, head: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
    """Log-probability of the arms `codes [..., A, W]` under `head [..., P]`, up to a constant: `[..., A]`."""
    if actions.kind == "listed":
        return tf.nn.log_softmax(head, axis=-1)
    if actions.kind == "box":
        mean, deviation = (part[..., None, :] for part in _normal(head))
        return _log_normal(tf.atanh(tf.clip_by_value(codes, -_EDGE, _EDGE)), mean, deviation)
    each = [tf.nn.log_softmax(logits, axis=-1) for logits in tf.split(head, actions.choices, axis=-1)]
    return tf.reduce_sum(codes * tf.concat(each, axis=-1)[..., None, :], axis=-1)


def entropy(actions: Actions, head: tf.Tensor) -> tf.Tensor:
    """The policy's entropy `[...]` (of a Box before squashing, up to a constant)."""
    if actions.kind == "box":
        return tf.reduce_sum(tf.math.log(_normal(head)[1]), axis=-1)
    parts = tf.split(head, actions.choices, axis=-1) if actions.drawn else [head]
    total = tf.zeros(head.shape[:-1])
    for logits in parts:
        total -= tf.reduce_sum(tf.nn.softmax(logits, axis=-1) * tf.nn.log_softmax(logits, axis=-1), axis=-1)
    return total


def likeliest(actions: Actions, head: tf.Tensor) -> tf.Tensor:
    """The code `[B, W]` of the best single action of the policy `head [B, P]`, to act without a search."""
    if actions.kind == "box":
        return tf.tanh(_normal(head)[0])
    parts = tf.split(head, actions.choices, axis=-1) if actions.drawn else [head]
    return tf.concat([tf.one_hot(tf.argmax(part, axis=-1), part.shape[-1]) for part in parts], axis=-1)
