"""The loss of K unrolled steps, and one gradient step on it."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from models.muzero import actions as arms
from models.muzero import networks
from models.muzero.networks import Shape, Weights
from models.muzero.targets import Unrolled


class Learner(NamedTuple):
    """What learning changes; all flat vectors `[P]` but the count."""

    online: tf.Tensor
    target: tf.Tensor
    mean: tf.Tensor  # Adam's first moment
    square: tf.Tensor  # Adam's second moment
    updates: tf.Tensor  # int32


class Scales(NamedTuple):
    """Weights of the parts of the loss; static."""

    value: float
    reward: float
    consistency: float
    entropy: float
    chance: float


class Rates(NamedTuple):
    """Numbers that may change from call to call: scalars."""

    learning_rate: Any
    weight_decay: Any
    gradient_clip: Any
    target_period: Any  # int32


def returns(target: Weights, batch: Unrolled, shape: Shape) -> tf.Tensor:
    """The n-step returns `[B, K + 1]`, bootstrapped from the target network."""
    flat = tf.reshape(batch.bootstrap, (-1, shape.history, shape.observation))
    _, logits = networks.predict(target, networks.represent(target, flat, shape))
    value = tf.reshape(networks.to_scalar(logits, shape.value_support), batch.partial_return.shape)
    return tf.stop_gradient(batch.partial_return + batch.bootstrap_discount * value)


def _agreement(guess: tf.Tensor, seen: tf.Tensor) -> tf.Tensor:
    """Cosine of two batches of latents `[..., L]` around the middle of their range: `[...]`."""
    guess, seen = tf.nn.l2_normalize(guess, axis=-1), tf.nn.l2_normalize(seen - 0.5, axis=-1)
    return tf.reduce_sum(guess * seen, axis=-1)


def _surprise(code: tf.Tensor, guessed: tf.Tensor, likely: tf.Tensor) -> tf.Tensor:
    """How little the afterstate's logits `likely [B, C]` expected the outcome `code [B, C]`: `[B]`.

    Plus the encoder's distance from the code it chose (Antonoglou et al. 2022, L^chance with beta 1).
    """
    code = tf.stop_gradient(code)
    return tf.nn.softmax_cross_entropy_with_logits(code, likely) + tf.reduce_sum(
        tf.square(code - guessed), axis=-1
    )


def unrolled_loss(
    online: Weights, wanted: tf.Tensor, batch: Unrolled, shape: Shape, scales: Scales
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Every part of the loss `[B]`, by name, and the value error |v_0 - z_0| `[B]`.

    `wanted [B, K + 1]` are the returns. Later positions weigh 1 / K, and the gradient into each step of the
    dynamics is halved, so that it does not grow with K (Schrittwieser et al. 2020, appendix G). With chance
    outcomes the model is led along those that the encoder reads from what really came.
    """
    steps = batch.code.shape[1]
    nothing = tf.zeros_like(batch.importance)
    parts = dict.fromkeys(("policy", "value", "reward", "consistency", "entropy", "chance"), nothing)
    latent = networks.represent(online, batch.window, shape)  # [B, L]
    error = nothing
    for k in range(steps + 1):
        share = 1.0 if k == 0 else 1.0 / steps
        head, logits = networks.predict(online, latent)
        logp = arms.log_policy(shape.actions, head, batch.codes[:, k])  # [B, A]
        cross = -tf.reduce_sum(batch.policy[:, k] * logp, axis=-1)
        parts["policy"] += share * batch.policy_weight[:, k] * cross
        spread = arms.entropy(shape.actions, head)
        parts["entropy"] -= share * batch.policy_weight[:, k] * spread
        loss = networks.scalar_loss(logits, wanted[:, k], shape.value_support)
        parts["value"] += share * batch.value_weight[:, k] * loss
        if k == 0:
            error = tf.abs(networks.to_scalar(logits, shape.value_support) - wanted[:, 0])
        if k < steps:
            latent, code = networks.scale_gradient(latent, 0.5), batch.code[:, k]
            if shape.outcomes:
                latent = networks.follow(online, latent, code, shape)  # the afterstate
                logits, likely = networks.foresee(online, latent)
                loss = networks.scalar_loss(logits, wanted[:, k], shape.value_support)
                parts["value"] += share * batch.value_weight[:, k] * loss
                code, guessed = networks.read_outcome(online, batch.later[:, k], shape)
                parts["chance"] += batch.later_weight[:, k] * _surprise(code, guessed, likely) / steps
            latent, logits = networks.advance(online, latent, code, shape)
            loss = networks.scalar_loss(logits, batch.reward[:, k], shape.reward_support)
            parts["reward"] += batch.reward_weight[:, k] * loss / steps
            if scales.consistency > 0.0:
                seen = tf.stop_gradient(networks.represent(online, batch.later[:, k], shape))
                agreement = _agreement(networks.project(online, latent), seen)
                parts["consistency"] -= batch.later_weight[:, k] * agreement / steps
    return parts, error


def update(
    learner: Learner, batch: Unrolled, rates: Rates, shape: Shape, scales: Scales
) -> tuple[Learner, tf.Tensor, dict[str, tf.Tensor]]:
    """One gradient step: the learner, the value error `[B]` and metrics."""
    wanted = returns(networks.unflatten(learner.target, shape), batch, shape)
    weights = {"policy": 1.0, **scales._asdict()}
    with tf.GradientTape() as tape:
        tape.watch(learner.online)
        parts, error = unrolled_loss(networks.unflatten(learner.online, shape), wanted, batch, shape, scales)
        assert set(parts) == set(weights)
        each = tf.add_n([weights[name] * part for name, part in parts.items()])  # [B]
        loss = tf.reduce_mean(batch.importance * each)
    gradient = tape.gradient(loss, learner.online)
    norm = tf.norm(gradient)
    gradient *= tf.minimum(1.0, rates.gradient_clip / tf.maximum(norm, 1e-12))
    count = learner.updates + 1
    mean = 0.9 * learner.mean + 0.1 * gradient
    square = 0.999 * learner.square + 0.001 * tf.square(gradient)
    number = tf.cast(count, tf.float32)
    # Adam (Kingma and Ba 2015, algorithm 1); the decay is apart from it (Loshchilov and Hutter 2019).
    rate = rates.learning_rate * tf.sqrt(1.0 - tf.pow(0.999, number)) / (1.0 - tf.pow(0.9, number))
    decay = rates.learning_rate * rates.weight_decay * tf.constant(networks.matrices(shape))
    online = learner.online - rate * mean / (tf.sqrt(square) + 1e-6) - decay * learner.online
    target = tf.where(count % rates.target_period == 0, online, learner.target)
    metrics = {name: tf.reduce_mean(part) for name, part in parts.items()}
    metrics |= {"loss": loss, "gradient_norm": norm, "target": tf.reduce_mean(wanted)}
    if shape.outcomes:
        seen = tf.reshape(batch.later, (-1, shape.history, shape.observation))
        used = tf.reduce_mean(
            networks.read_outcome(networks.unflatten(online, shape), seen, shape)[0], axis=0
        )
        metrics["outcomes_used"] = tf.exp(-tf.reduce_sum(used * tf.math.log(tf.maximum(used, 1e-12))))
    return Learner(online, target, mean, square, count), error, metrics


@functools.lru_cache(maxsize=16)
def updater(shape: Shape, scales: Scales, *, compiled: bool) -> Any:
    """`update` as one graph, made once for a shape in a process, however many trainings there are."""

    def run(learner: Learner, batch: Unrolled, rates: Rates) -> Any:
        return update(learner, batch, rates, shape, scales)

    return tf.function(run, jit_compile=compiled, autograph=False)
