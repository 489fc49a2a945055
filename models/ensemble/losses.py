"""The likelihood of the ensemble, and one compiled round of updates on bootstrapped data."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from models.ensemble import networks
from models.ensemble.networks import Shape, Weights

tfd = tfp.distributions

_BOUND_WEIGHT = 0.01  # pulls the bounds of the log-variance together (PETS)


class Learner(NamedTuple):
    """Weights and Adam's state."""

    weights: Weights
    mean: Weights
    square: Weights
    updates: tf.Tensor  # int32


class Batch(NamedTuple):
    """U minibatches of B scaled transitions for each of E members."""

    inputs: tf.Tensor  # [U, E, B, I]
    targets: tf.Tensor  # [U, E, B, O]
    goes_on: tf.Tensor  # [U, E, B] 0 where the episode ended there


def start(weights: Weights) -> Learner:
    """Before the first update."""
    zeros = networks.unflatten([tf.zeros_like(tensor) for tensor in networks.flatten(weights)])
    return Learner(weights, zeros, zeros, tf.constant(0))


def negative_log_likelihood(
    weights: Weights,
    inputs: tf.Tensor,
    targets: tf.Tensor,
    goes_on: tf.Tensor,
    ends: Any,
    shape: Shape,
    reward_share: float = 0.0,
) -> dict[str, tf.Tensor]:
    """Nats an output of each member and transition, by part: `[E, B]` each.

    `gaussian` is -log N(target; mean, variance) / O (Chua et al. 2018, eq. 1, with the constant), or, with a
    `reward_share`, the mean in which the reward has that weight and the other outputs share the rest;
    `continuation` the cross-entropy of whether the episode goes on, 0 if none was ever seen to end.
    """
    predicted = networks.predict(weights, inputs, shape)
    normal = tfd.Normal(predicted.mean, tf.exp(0.5 * predicted.log_variance))
    share = reward_share or 1.0 / shape.targets
    counts = tf.constant([(1.0 - share) / shape.inputs] * shape.inputs + [share])  # [O]
    gaussian = -tf.reduce_sum(counts * normal.log_prob(targets), axis=-1)
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(goes_on, predicted.continuation)
    return {"gaussian": gaussian, "continuation": ends * entropy}


def loss(
    weights: Weights, batch: Batch, ends: Any, shape: Shape, reward_share: float = 0.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss [] (a sum over members, who share nothing) and the members' likelihoods `[E]`."""
    parts = negative_log_likelihood(
        weights, batch.inputs, batch.targets, batch.goes_on, ends, shape, reward_share
    )
    each = tf.reduce_mean(parts["gaussian"] + parts["continuation"], axis=-1)  # [E]
    bounds = tf.reduce_mean(weights.highest - weights.lowest, axis=(1, 2))  # [E]
    return tf.reduce_sum(each + _BOUND_WEIGHT * bounds), each


def update(
    learner: Learner, batch: Batch, rate: Any, decay: Any, ends: Any, shape: Shape, reward_share: float = 0.0
) -> Any:
    """One step of Adam with decoupled decay of the kernels (Loshchilov and Hutter 2019, algorithm 2)."""
    tensors = networks.flatten(learner.weights)
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        total, each = loss(networks.unflatten(tensors), batch, ends, shape, reward_share)
    gradients = tape.gradient(total, tensors)
    number = tf.cast(learner.updates + 1, tf.float32)
    step = rate * tf.sqrt(1.0 - tf.pow(0.999, number)) / (1.0 - tf.pow(0.9, number))
    kernels = len(learner.weights.kernels)
    moved, means, squares = [], [], []
    for place, (tensor, gradient, mean, square) in enumerate(
        zip(
            tensors,
            gradients,
            networks.flatten(learner.mean),
            networks.flatten(learner.square),
            strict=True,
        )
    ):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * tf.square(gradient)
        shrunk = tensor * (1.0 - rate * decay) if place < kernels else tensor
        moved.append(shrunk - step * mean / (tf.sqrt(square) + 1e-8))
        means.append(mean)
        squares.append(square)
    weights, mean, square = (networks.unflatten(part) for part in (moved, means, squares))
    return Learner(weights, mean, square, learner.updates + 1), each


@functools.lru_cache(maxsize=16)
def round_of_updates(shape: Shape, reward_share: float, *, compiled: bool) -> Any:
    """The function `(learner, batch, rate, decay, ends) -> (learner, mean likelihood [E])`."""

    def run(learner: Learner, batch: Batch, rate: Any, decay: Any, ends: Any) -> tuple[Learner, tf.Tensor]:
        number = batch.inputs.shape[0]

        def body(i: tf.Tensor, learner: Learner, total: tf.Tensor) -> Any:
            one = Batch(*(part[i] for part in batch))
            learner, each = update(learner, one, rate, decay, ends, shape, reward_share)
            return i + 1, learner, total + each

        _, learner, total = tf.while_loop(
            lambda i, *_: i < number,
            body,
            (tf.constant(0), learner, tf.zeros(shape.members)),
            maximum_iterations=number,
        )
        return learner, total / float(number)

    return tf.function(run, jit_compile=compiled, autograph=False)


@functools.lru_cache(maxsize=16)
def scorer(shape: Shape, reward_share: float, *, compiled: bool) -> Any:
    """The function `(weights, inputs [M, I], targets [M, O], goes_on [M], ends) -> likelihood [E]`."""

    def run(weights: Weights, inputs: Any, targets: Any, goes_on: Any, ends: Any) -> tf.Tensor:
        spread = tf.broadcast_to(goes_on, (shape.members, goes_on.shape[0]))
        parts = negative_log_likelihood(weights, inputs, targets, spread, ends, shape, reward_share)
        return tf.reduce_mean(parts["gaussian"] + parts["continuation"], axis=-1)

    return tf.function(run, jit_compile=compiled, autograph=False)
