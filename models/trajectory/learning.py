"""The loss of the network and its optimiser: AdamW on one flat vector, several updates in a call."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models import rng
from models.trajectory import gpt


def decays(shape: gpt.Shape) -> np.ndarray:
    """1 where a weight decays: float32 `[P]`."""
    return np.concatenate(
        [np.full(math.prod(part.shape), float(part.decay), np.float32) for part in gpt.parts(shape)]
    )


class Learner(NamedTuple):
    """What learning changes: flat vectors `[P]` and the count of updates."""

    weights: tf.Tensor
    mean: tf.Tensor  # Adam's first moment
    square: tf.Tensor  # and its second
    updates: tf.Tensor  # int32


class Schedule(NamedTuple):
    """AdamW's numbers; static."""

    learning_rate: float
    final_learning_rate: float
    warmup: int
    total: int
    weight_decay: float
    clip: float


def learning_rate(count: Any, schedule: Schedule) -> tf.Tensor:
    """A straight line up to the rate, then a cosine down to the final one; `count` is from 1."""
    number = tf.cast(count, tf.float32)
    rising = number / max(1, schedule.warmup)
    gone = (number - schedule.warmup) / max(1, schedule.total - schedule.warmup)
    falling = 0.5 * (1.0 + tf.cos(math.pi * tf.clip_by_value(gone, 0.0, 1.0)))
    high, low = schedule.learning_rate, schedule.final_learning_rate
    return tf.where(number < schedule.warmup, high * rising, low + (high - low) * falling)


def losses(
    flat: Any,
    tokens: Any,
    labels: Any,
    valid: Any,
    shape: gpt.Shape,
    *,
    dropout: float = 0.0,
    seed: Any = None,
) -> tf.Tensor:
    """Cross-entropy in nats of each `labels [B, T, K]`, given what stands before it: `[K, B * T]`."""
    weights = gpt.unflatten(flat, shape)
    hidden = gpt.trunk(weights, gpt.embed(weights, tokens, shape), shape, dropout=dropout, seed=seed).hidden
    logits = gpt.all_logits(weights, hidden, valid, shape)  # [K, B * T, C]
    wanted = tf.transpose(tf.reshape(labels, (-1, shape.slots)))  # [K, B * T]
    return tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits)


@functools.lru_cache(maxsize=16)
def updates(shape: gpt.Shape, schedule: Schedule, dropout: float) -> Any:
    """`(learner, tokens [U, B, T, K], labels, weight [U, B, T, K], valid, seed) -> learner, metrics`.

    The metrics are `[U, K + 2]`: the mean cross-entropy of every slot, the weighted loss, the gradient's
    norm. Traced once for a shape in a process, and not compiled: XLA gains nothing here but a wait.
    """
    decay = tf.constant(decays(shape) * schedule.weight_decay)

    def update(learner: Learner, tokens: Any, labels: Any, weight: Any, valid: Any, seed: Any) -> Any:
        by_slot = tf.transpose(tf.reshape(weight, (-1, shape.slots)))  # [K, B * T]
        with tf.GradientTape() as tape:
            tape.watch(learner.weights)
            each = losses(
                learner.weights, tokens, labels, valid, shape, dropout=dropout, seed=seed
            )  # [K, B * T]
            loss = tf.reduce_sum(each * by_slot) / tf.maximum(tf.reduce_sum(by_slot), 1e-6)
        gradient = tape.gradient(loss, learner.weights)
        norm = tf.norm(gradient)
        gradient *= tf.minimum(1.0, schedule.clip / tf.maximum(norm, 1e-12))
        count = learner.updates + 1
        number = tf.cast(count, tf.float32)
        # AdamW (Loshchilov and Hutter 2019, algorithm 2) with GPT's 0.9 and 0.95.
        mean = 0.9 * learner.mean + 0.1 * gradient
        square = 0.95 * learner.square + 0.05 * tf.square(gradient)
        direction = (mean / (1.0 - tf.pow(0.9, number))) / (
            tf.sqrt(square / (1.0 - tf.pow(0.95, number))) + 1e-8
        )
        rate = learning_rate(count, schedule)
        weights = learner.weights - rate * (direction + decay * learner.weights)
        counted = tf.cast(by_slot > 0.0, tf.float32)
        slots = tf.reduce_sum(each * counted, axis=1) / tf.maximum(tf.reduce_sum(counted, axis=1), 1.0)
        return Learner(weights, mean, square, count), tf.concat([slots, [loss, norm]], axis=0)

    def run(learner: Learner, tokens: Any, labels: Any, weight: Any, valid: Any, seed: Any) -> Any:
        number = tokens.shape[0]
        metrics = tf.TensorArray(tf.float32, size=number, element_shape=(shape.slots + 2,))

        def body(i: tf.Tensor, learner: Learner, metrics: Any) -> Any:
            one = rng.fold_in(seed, learner.updates)
            learner, found = update(learner, tokens[i], labels[i], weight[i], valid, one)
            return i + 1, learner, metrics.write(i, found)

        _, learner, metrics = tf.while_loop(
            lambda i, *_: i < number, body, (tf.constant(0), learner, metrics), maximum_iterations=number
        )
        return learner, metrics.stack()

    return tf.function(run, autograph=False)


@functools.lru_cache(maxsize=8)
def evaluator(shape: gpt.Shape) -> Any:
    """`(weights, tokens [B, T, K], labels, valid) -> [K, B * T]`, the losses without dropout."""

    def run(flat: Any, tokens: Any, labels: Any, valid: Any) -> tf.Tensor:
        return losses(flat, tokens, labels, valid, shape)

    return tf.function(run, autograph=False)
