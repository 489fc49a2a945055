"""E Gaussian networks as one: every layer is a single batched matmul over the members.

The weights are a plain structure of tensors and the functions are pure, so that one compiled program serves
every training and every agent of the same sizes. A network sees the observation and the action, scaled by
the statistics of the training data, and predicts the change of the observation, the reward, and whether
the episode goes on. The statistics are part of the weights.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from models import networks, rng
from models.planning import plan
from models.planning.plan import ActionSpace, Continuous

MAX_LOG_VARIANCE, MIN_LOG_VARIANCE = 0.5, -10.0  # to start with, as in PETS; learned
_GOES_ON = 4.0  # bias of the continuation to start with: a probability of 0.98


class Shape(NamedTuple):
    """All that is static about an ensemble; hashable."""

    inputs: int  # D, of the observation
    space: ActionSpace
    members: int  # E
    hidden: tuple[int, ...]
    activation: str
    interactions: bool = False

    @property
    def action_inputs(self) -> int:
        """Inputs that an action makes; see `join`."""
        plain = len(self.space.low) if isinstance(self.space, Continuous) else sum(self.space.counts)
        return plain + self.interactions * self.inputs * plan.width(self.space)

    @property
    def targets(self) -> int:
        """O: the change of the observation, then the reward."""
        return self.inputs + 1


class Weights(NamedTuple):
    """What learning changes."""

    kernels: tuple[tf.Tensor, ...]  # [E, I, O] each
    biases: tuple[tf.Tensor, ...]  # [E, 1, O]
    highest: tf.Tensor  # [E, 1, O] soft bounds of the log-variance
    lowest: tf.Tensor  # [E, 1, O]


class Scaling(NamedTuple):
    """Of inputs and targets, measured on the training data."""

    mean: tf.Tensor  # [I]
    size: tf.Tensor  # [I] standard deviations, 1 where nothing varies
    target_mean: tf.Tensor  # [O]
    target_size: tf.Tensor  # [O]
    ends: tf.Tensor  # [] 1 if any episode was seen to end, else continuation is certain


class Prediction(NamedTuple):
    """Of scaled targets."""

    mean: tf.Tensor  # [E, M, O]
    log_variance: tf.Tensor  # [E, M, O]
    continuation: tf.Tensor  # [E, M] logit


Arrays: TypeAlias = dict[str, np.ndarray]


def initial(shape: Shape, seed: int) -> Weights:
    """Fresh weights, each member from a seed of its own."""
    widths = (shape.inputs + shape.action_inputs, *shape.hidden, 2 * shape.targets + 1)
    kernels, biases = [], []
    for place, (i, o) in enumerate(itertools.pairwise(widths)):
        scale = 1.0 if place == len(shape.hidden) else 2.0
        layer = networks.EnsembleDense(shape.members, o, seed=rng.derive(seed, place), scale=scale)
        layer.build((None, i))
        kernels.append(layer.kernel.numpy())
        biases.append(layer.bias.numpy())
    biases[-1][..., -1] = _GOES_ON
    bounds = np.ones((shape.members, 1, shape.targets), np.float32)
    return Weights(
        tuple(map(tf.constant, kernels)),
        tuple(map(tf.constant, biases)),
        tf.constant(MAX_LOG_VARIANCE * bounds),
        tf.constant(MIN_LOG_VARIANCE * bounds),
    )


def join(observation: Any, action: Any, shape: Shape) -> tf.Tensor:
    """Observations `[..., D]` and actions `[..., A]` of the planner's view as network inputs `[..., I]`.

    An action gives its numbers, or a one-hot for each branch. With `shape.interactions` every part of it also
    multiplies the whole observation, its choices at even distances from -1 to 1: what an input says about the
    worth of more of an action is then there to be weighed, and need not be found.
    """
    space = shape.space
    if isinstance(space, Continuous):
        parts = levels = [tf.cast(action[..., place, None], tf.float32) for place in range(len(space.low))]
    else:
        parts = [tf.one_hot(action[..., place], count) for place, count in enumerate(space.counts)]
        levels = [
            tf.cast(action[..., place, None], tf.float32) * (2.0 / max(1, count - 1)) - 1.0
            for place, count in enumerate(space.counts)
        ]
    products = [observation * level for level in levels] if shape.interactions else []
    return tf.concat([observation, *parts, *products], axis=-1)


def measure(inputs: np.ndarray, targets: np.ndarray, *, ends: bool) -> Scaling:
    """The scaling of data `inputs [N, I]`, `targets [N, O]`; in float64, kept in float32."""
    parts = []
    for data in (inputs, targets):
        mean, size = data.mean(axis=0, dtype=np.float64), data.std(axis=0, dtype=np.float64)
        # A column that never moved would otherwise turn its rounding error into a signal.
        flat = size <= 1e-6 * np.maximum(np.abs(mean), 1e-6)
        parts += [mean, np.where(flat, 1.0, size)]
    return Scaling(*(tf.constant(part, tf.float32) for part in (*parts, float(ends))))


def predict(weights: Weights, inputs: tf.Tensor, shape: Shape) -> Prediction:
    """Scaled inputs `[E, M, I]`, or `[M, I]` for all members alike, to scaled targets."""
    activation = keras.activations.get(shape.activation)
    x = inputs
    for kernel, bias in zip(weights.kernels[:-1], weights.biases[:-1], strict=True):
        x = activation(tf.matmul(x, kernel) + bias)  # [E, M, W]
    x = tf.matmul(x, weights.kernels[-1]) + weights.biases[-1]  # [E, M, 2 O + 1]
    count = shape.targets
    log_variance = x[..., count : 2 * count]
    # Soft bounds that still pass a gradient (Chua et al. 2018, appendix A.1).
    log_variance = weights.highest - tf.nn.softplus(weights.highest - log_variance)
    log_variance = weights.lowest + tf.nn.softplus(log_variance - weights.lowest)
    return Prediction(x[..., :count], log_variance, x[..., 2 * count])


def members(weights: Weights, chosen: np.ndarray) -> Weights:
    """The weights of the `chosen [K]` members only."""
    return Weights(
        tuple(tf.gather(kernel, chosen) for kernel in weights.kernels),
        tuple(tf.gather(bias, chosen) for bias in weights.biases),
        tf.gather(weights.highest, chosen),
        tf.gather(weights.lowest, chosen),
    )


def flatten(weights: Weights) -> list[tf.Tensor]:
    """All tensors in their order."""
    return [*weights.kernels, *weights.biases, weights.highest, weights.lowest]


def unflatten(tensors: Any) -> Weights:
    """The inverse of `flatten`."""
    *layers, highest, lowest = tensors
    half = len(layers) // 2
    return Weights(tuple(layers[:half]), tuple(layers[half:]), highest, lowest)


def arrays(weights: Weights) -> Arrays:
    """The weights as named arrays."""
    return {f"{place:02d}": tensor.numpy() for place, tensor in enumerate(flatten(weights))}


def from_arrays(named: Arrays) -> Weights:
    """The inverse of `arrays`."""
    return unflatten([tf.constant(named[name]) for name in sorted(named)])
