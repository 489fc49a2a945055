"""What the model expects to be paid: rewards along given actions, or along those it would take itself."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from models import rng, scalars
from models.muzero import actions as arms
from models.muzero import networks
from models.muzero.networks import Shape


def rewards(
    shape: Shape,
    flat: tf.Tensor,
    window: np.ndarray,
    codes: np.ndarray,
    *,
    horizon: int,
    samples: int,
    seed: int,
) -> np.ndarray:
    """Scaled rewards `[B, M, T]` from `window [B, H, D]` on.

    `codes [B, K, W]` are the first K actions; after them come the policy's likeliest ones. The reward of a
    step is drawn from the head's own distribution, evenly over its quantiles, so that the mean of the samples
    is close to that of the distribution. A model without chance outcomes has one path, and of one sample it
    gives the expected rewards. Consumes `seed`.
    """
    paths = samples if shape.outcomes else 1
    run = _unroller(shape, paths, codes.shape[1], horizon)
    for_model = rng.key(rng.derive(seed, "outcomes"))
    logits = run(flat, tf.constant(window), tf.constant(codes), tf.constant(for_model))  # [B, P, T, R]
    if samples == 1 and not shape.outcomes:
        expected: np.ndarray = networks.to_scalar(logits, shape.reward_support).numpy()
        return expected
    draw = rng.generator(seed, "rewards")
    batch = len(window)
    order = draw.random((batch, samples, horizon)).argsort(axis=1)
    share = (order + draw.random((batch, samples, horizon))) / samples  # one in each M-th of the quantiles
    drawn = quantile(tf.nn.softmax(logits, axis=-1).numpy(), shape.reward_support, share)
    found: np.ndarray = scalars.expand(drawn.astype(np.float32)).numpy()
    return found


@functools.lru_cache(maxsize=16)
def _unroller(shape: Shape, paths: int, given: int, horizon: int) -> Any:
    """The function `(flat [P], window [B, H, D], codes [B, given, W], seed) -> logits [B, P, T, R]`."""

    def run(flat: tf.Tensor, window: tf.Tensor, codes: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        weights = networks.unflatten(flat, shape)
        latent = tf.repeat(networks.represent(weights, window, shape), paths, axis=0)  # [B P, L]
        seeds = rng.split(seed, horizon)
        steps = []
        for step in range(horizon):
            if step < given:
                code = tf.repeat(codes[:, step], paths, axis=0)  # [B P, W]
            else:
                code = arms.likeliest(shape.actions, networks.predict(weights, latent)[0])
            if shape.outcomes:
                latent = networks.follow(weights, latent, code, shape)
                _, likely = networks.foresee(weights, latent)
                code = tf.one_hot(rng.categorical(seeds[step], likely), shape.outcomes)
            latent, logits = networks.advance(weights, latent, code, shape)
            steps.append(logits)
        return tf.reshape(tf.stack(steps, axis=1), (-1, paths, horizon, shape.reward_bins))

    signature = [
        tf.TensorSpec((shape.size,)),
        tf.TensorSpec((None, shape.history, shape.observation)),
        tf.TensorSpec((None, given, shape.actions.width)),
        tf.TensorSpec((2,), tf.int32),
    ]
    return tf.function(run, input_signature=signature, autograph=False)


def quantile(probability: np.ndarray, bins: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The quantiles `share [...]` of distributions `probability [..., K]` on ascending `bins [K]`.

    Two-hot learning spreads a value over two neighbours, so the mass that neighbours share is taken to lie
    evenly between them, and the rest on the bins: certain values stay certain, wide distributions are
    smooth, and the mean is kept.
    """
    probability = probability / probability.sum(axis=-1, keepdims=True)
    between = np.minimum(probability[..., :-1], probability[..., 1:])  # [..., K - 1]
    mass = np.zeros((*probability.shape[:-1], 2 * len(bins) - 1))
    mass[..., 1::2] = between
    mass[..., ::2] = probability
    mass[..., :-1:2] -= 0.5 * between
    mass[..., 2::2] -= 0.5 * between
    reached = mass.cumsum(axis=-1)  # [..., 2 K - 1]
    place = np.minimum((share[..., None] >= reached).sum(axis=-1), 2 * len(bins) - 2)  # [...]
    own, end = _at(mass, place), _at(reached, place)
    part = np.clip((share - (end - own)) / np.maximum(own, 1e-12), 0.0, 1.0)
    left, right = bins[place // 2], bins[(place + 1) // 2]
    found: np.ndarray = left + part * (right - left)
    return found


def _at(rows: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Of `rows [..., K]`, which broadcast against `place [...]`, the element at each place."""
    wide = np.broadcast_to(rows, (*place.shape, rows.shape[-1]))
    found: np.ndarray = np.take_along_axis(wide, place[..., None], axis=-1)[..., 0]
    return found
