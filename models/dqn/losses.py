"""The double Q-learning loss and one compiled call of many updates."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from models.dqn.networks import Shape, q_values

_LOW = -1e9  # below every value; minus infinity would spread as NaN


class Learner(NamedTuple):
    """What learning changes; all flat vectors `[P]` but the count."""

    online: tf.Tensor
    target: tf.Tensor
    mean: tf.Tensor  # Adam's first moment
    square: tf.Tensor  # Adam's second moment
    updates: tf.Tensor  # int32


class Batch(NamedTuple):
    """U minibatches of B transitions, rewards already scaled."""

    observation: tf.Tensor  # [U, B, I]
    action: tf.Tensor  # [U, B, D] int32, from 0
    reward: tf.Tensor  # [U, B]
    discount: tf.Tensor  # [U, B] of the value at next_observation
    next_observation: tf.Tensor  # [U, B, I]
    weight: tf.Tensor  # [U, B] importance


class Rates(NamedTuple):
    """Numbers that may change from call to call without compiling anew: float32 scalars."""

    learning_rate: Any
    gradient_clip: Any
    huber: Any
    target_rate: Any
    target_period: Any  # int32


def target_values(
    reward: tf.Tensor, discount: tf.Tensor, online: tf.Tensor, target: tf.Tensor, valid: Any
) -> tf.Tensor:
    """r + d Q'(s', argmax_a Q(s', a))   (van Hasselt et al. 2016, eq. 4): `[B]`.

    `online, target [B, D, K]` are both networks' values at s'. With several branches each picks its own
    choice, and the mean of their values is the value of the state (Tavakoli et al. 2018, eq. 5).
    """
    best = tf.argmax(tf.where(valid, online, _LOW), axis=-1, output_type=tf.int32)  # [B, D]
    value = tf.reduce_mean(tf.gather(target, best, batch_dims=2), axis=-1)  # [B]
    return tf.stop_gradient(reward + discount * value)


def huber(error: tf.Tensor, limit: Any) -> tf.Tensor:
    """Half the square of the error up to `limit`, then a straight line."""
    size = tf.abs(error)
    inside = tf.minimum(size, limit)
    return inside * (size - 0.5 * inside)


def adam(
    weights: tf.Tensor, gradient: tf.Tensor, mean: tf.Tensor, square: tf.Tensor, count: tf.Tensor, rate: Any
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """One step of Adam (Kingma and Ba 2015, algorithm 1) on flat vectors; `count` is this step's number."""
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * tf.square(gradient)
    number = tf.cast(count, tf.float32)
    step = rate * tf.sqrt(1.0 - tf.pow(0.999, number)) / (1.0 - tf.pow(0.9, number))
    return weights - step * mean / (tf.sqrt(square) + 1e-5), mean, square


class Updated(NamedTuple):
    """What one or more updates give."""

    learner: Learner
    errors: tf.Tensor  # [B], or [U, B] of U updates: the absolute error of each transition
    metrics: tf.Tensor  # [3]: loss, gradient norm before clipping, mean value of the actions taken


def update(learner: Learner, batch: Batch, rates: Rates, shape: Shape) -> Updated:
    """One gradient step on one minibatch (no U axis): the learner, |error| `[B]` and metrics `[3]`."""
    valid = tf.constant(shape.valid)
    wanted = target_values(
        batch.reward,
        batch.discount,
        q_values(learner.online, batch.next_observation, shape),
        q_values(learner.target, batch.next_observation, shape),
        valid,
    )  # [B]
    with tf.GradientTape() as tape:
        tape.watch(learner.online)
        values = q_values(learner.online, batch.observation, shape)  # [B, D, K]
        taken = tf.gather(values, batch.action, batch_dims=2)  # [B, D]
        error = wanted[:, None] - taken  # [B, D]
        each = tf.reduce_mean(huber(error, rates.huber), axis=-1)  # [B]
        loss = tf.reduce_mean(batch.weight * each)
    gradient = tape.gradient(loss, learner.online)
    norm = tf.norm(gradient)
    gradient *= tf.minimum(1.0, rates.gradient_clip / tf.maximum(norm, 1e-12))
    count = learner.updates + 1
    online, mean, square = adam(
        learner.online, gradient, learner.mean, learner.square, count, rates.learning_rate
    )
    rate = tf.where(count % rates.target_period == 0, rates.target_rate, 0.0)
    target = learner.target + rate * (online - learner.target)
    metrics = tf.stack([loss, norm, tf.reduce_mean(taken)])
    learner = Learner(online, target, mean, square, count)
    return Updated(learner, tf.reduce_mean(tf.abs(error), axis=-1), metrics)


@functools.lru_cache(maxsize=16)
def updates(shape: Shape, *, compiled: bool) -> Any:
    """The function `(learner, batch, rates) -> Updated` of U updates in turn.

    Compiled once for a shape in a process, however many trainings there are.
    """

    def run(learner: Learner, batch: Batch, rates: Rates) -> Updated:
        number, size = batch.reward.shape
        errors = tf.TensorArray(tf.float32, size=number, element_shape=(size,))

        def body(i: tf.Tensor, learner: Learner, errors: Any, total: tf.Tensor) -> Any:
            one = Batch(*(part[i] for part in batch))
            learner, error, metrics = update(learner, one, rates, shape)
            return i + 1, learner, errors.write(i, error), total + metrics

        _, learner, errors, total = tf.while_loop(
            lambda i, *_: i < number,
            body,
            (tf.constant(0), learner, errors, tf.zeros(3)),
            maximum_iterations=number,
        )
        return Updated(learner, errors.stack(), total / float(number))

    return tf.function(run, jit_compile=compiled, autograph=False)
