"""A causal transformer over transitions, as pure functions of one flat vector of weights.

A transition is K input tokens: target return [, target drawdown], observation, action, reward. Each slot has
an embedding and a head of its own. The token at slot j predicts the one at slot j + 1, and the reward
predicts the *value*, the return from there on. The value is never an input: nothing later can see it, not
even through the residual stream, which is more than masking its attention gives (Janner et al. 2021 hide
it by mask). It also saves a position in each transition.

One flat vector makes clipping, AdamW and its decay groups single operations, and lets every training of
the same sizes share a compiled program.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models import rng

FLOOR = -1e9  # finite: minus infinity would make NaN where a row is masked whole


class Shape(NamedTuple):
    """All that is static about a network; hashable."""

    slots: int  # K input tokens a transition
    transitions: int  # T, longest window
    bins: int  # V; token V is "stop", input V + 1 is "unknown"
    width: int  # D
    heads: int  # H
    layers: int

    @property
    def classes(self) -> int:
        """Tokens a head tells apart: V and the stop."""
        return self.bins + 1

    @property
    def length(self) -> int:
        """L, tokens of the longest window."""
        return self.slots * self.transitions

    @property
    def unknown(self) -> int:
        """The input token that says nothing."""
        return self.bins + 1


class Part(NamedTuple):
    """One array inside the flat vector."""

    name: str
    shape: tuple[int, ...]
    decay: bool


@functools.lru_cache(maxsize=64)
def parts(shape: Shape) -> tuple[Part, ...]:
    """The arrays of the network in their order. Kernels decay; biases, gains and embeddings do not."""
    d = shape.width
    listed = [
        Part("tokens", (shape.slots, shape.bins + 2, d), False),
        Part("places", (shape.length, d), False),
    ]
    for layer in range(shape.layers):
        listed += [
            Part(f"{layer}.norm1", (2, d), False),
            Part(f"{layer}.inputs", (d, 3 * d), True),
            Part(f"{layer}.inputs_bias", (3 * d,), False),
            Part(f"{layer}.out", (d, d), True),
            Part(f"{layer}.out_bias", (d,), False),
            Part(f"{layer}.norm2", (2, d), False),
            Part(f"{layer}.up", (d, 4 * d), True),
            Part(f"{layer}.up_bias", (4 * d,), False),
            Part(f"{layer}.down", (4 * d, d), True),
            Part(f"{layer}.down_bias", (d,), False),
        ]
    listed += [Part("norm", (2, d), False), Part("head", (shape.slots, d, shape.classes), True)]
    return tuple(listed)


def size(shape: Shape) -> int:
    """Number of weights."""
    return sum(math.prod(part.shape) for part in parts(shape))


def initial(shape: Shape, seed: int) -> np.ndarray:
    """Starting weights `[P]`.

    Kernels have a deviation of 1 / sqrt(inputs), less by sqrt(2 layers) where they write into the residual
    stream, embeddings 0.1, the heads 0.02. GPT-2's 0.02 throughout is meant for widths near 1000: with
    16 units the same loss took three times the updates.
    """
    flat = []
    for part in parts(shape):
        kind = part.name.split(".")[-1]
        if kind.startswith("norm"):
            values = np.stack([np.ones(shape.width), np.zeros(shape.width)])
        elif kind.endswith("bias"):
            values = np.zeros(part.shape)
        else:
            deviation = {"tokens": 0.1, "places": 0.1, "head": 0.02}.get(kind, part.shape[-2] ** -0.5)
            if kind in ("out", "down"):
                deviation /= math.sqrt(2 * shape.layers)
            values = rng.generator(seed, part.name).normal(0.0, deviation, part.shape)
        flat.append(values.ravel())
    return np.concatenate(flat).astype(np.float32)


def unflatten(flat: Any, shape: Shape) -> dict[str, tf.Tensor]:
    """The arrays of `flat [P]` by name. One split, since its gradient is one concatenation."""
    pieces = tf.split(flat, [math.prod(part.shape) for part in parts(shape)])
    return {
        part.name: tf.reshape(piece, part.shape) for part, piece in zip(parts(shape), pieces, strict=True)
    }


def normalise(x: tf.Tensor, gains: tf.Tensor) -> tf.Tensor:
    mean = tf.reduce_mean(x, axis=-1, keepdims=True)
    centred = x - mean
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    return centred * tf.math.rsqrt(variance + 1e-5) * gains[0] + gains[1]


def _gelu(x: tf.Tensor) -> tf.Tensor:
    return 0.5 * x * (1.0 + tf.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


def _drop(x: tf.Tensor, rate: float, seed: Any) -> tf.Tensor:
    """Inverted dropout; eight random bits a number are enough and cost a quarter of the draws."""
    if rate == 0.0 or seed is None:
        return x
    count = math.prod(x.shape)
    words = rng.bits(seed, (-(-count // 4),))
    shifted = [tf.bitwise.right_shift(words, tf.constant(by, tf.uint32)) for by in (0, 8, 16, 24)]
    level = tf.cast(tf.reshape(tf.stack(shifted), (-1,))[:count], tf.int32) & 255
    threshold = round(rate * 256)
    kept = tf.cast(level >= threshold, tf.float32) * (256.0 / (256.0 - threshold))
    return x * tf.reshape(kept, x.shape)


def feed_forward(weights: Mapping[str, tf.Tensor], layer: int, x: tf.Tensor) -> tf.Tensor:
    h = normalise(x, weights[f"{layer}.norm2"])
    h = _gelu(tf.matmul(h, weights[f"{layer}.up"]) + weights[f"{layer}.up_bias"])
    return tf.matmul(h, weights[f"{layer}.down"]) + weights[f"{layer}.down_bias"]


def embed(weights: Mapping[str, tf.Tensor], tokens: tf.Tensor, shape: Shape) -> tf.Tensor:
    """`tokens [B, T, K]` as `[B, T * K, D]`, positions added.

    A one-hot matmul a slot, since the gradient of a gather is a slow scatter under XLA.
    """
    batch, transitions, slots = tokens.shape
    flat = tf.transpose(tf.reshape(tokens, (-1, slots)))  # [K, B * T]
    chosen = tf.matmul(tf.one_hot(flat, shape.bins + 2), weights["tokens"])  # [K, B * T, D]
    x = tf.reshape(tf.transpose(chosen, (1, 0, 2)), (batch, transitions * slots, shape.width))
    return x + weights["places"][: transitions * slots]


class Trunk(NamedTuple):
    """What the blocks make of a sequence."""

    hidden: tf.Tensor  # [B, S, D], normalised, ready for the heads
    keys: tuple[tf.Tensor, ...]  # a layer: [B, H, S, D / H]
    values: tuple[tf.Tensor, ...]
    attention: tuple[tf.Tensor, ...]  # a layer: [B, H, S, S]


def trunk(
    weights: Mapping[str, tf.Tensor], x: tf.Tensor, shape: Shape, *, dropout: float = 0.0, seed: Any = None
) -> Trunk:
    """The blocks over embedded `x [B, S, D]`; consumes `seed` if it is given (training)."""
    batch, steps, width = x.shape
    mask = np.where(np.tril(np.ones((steps, steps), bool)), 0.0, FLOOR).astype(np.float32)
    seeds = rng.split(seed, 2 * shape.layers + 1) if seed is not None else [None] * (2 * shape.layers + 1)
    x = _drop(x, dropout, seeds[-1])
    keys, values, attention = [], [], []
    for layer in range(shape.layers):
        h = normalise(x, weights[f"{layer}.norm1"])
        joint = tf.matmul(h, weights[f"{layer}.inputs"]) + weights[f"{layer}.inputs_bias"]
        q, k, v = (_heads(part, shape) for part in tf.split(joint, 3, axis=-1))  # [B, H, S, D / H]
        keys.append(k)
        values.append(v)
        # Both on the small side: a mask that is added has no gradient, and q is shorter than the scores.
        scores = tf.matmul(q * (width // shape.heads) ** -0.5, k, transpose_b=True)
        shares = tf.nn.softmax(scores + mask, axis=-1)  # [B, H, S, S]
        attention.append(shares)
        mixed = tf.reshape(tf.transpose(tf.matmul(shares, v), (0, 2, 1, 3)), (batch, steps, width))
        mixed = tf.matmul(mixed, weights[f"{layer}.out"]) + weights[f"{layer}.out_bias"]
        x = x + _drop(mixed, dropout, seeds[2 * layer])
        x = x + _drop(feed_forward(weights, layer, x), dropout, seeds[2 * layer + 1])
    return Trunk(normalise(x, weights["norm"]), tuple(keys), tuple(values), tuple(attention))


def _heads(x: tf.Tensor, shape: Shape) -> tf.Tensor:
    split = tf.reshape(x, (x.shape[0], x.shape[1], shape.heads, shape.width // shape.heads))
    return tf.transpose(split, (0, 2, 1, 3))


def all_logits(weights: Mapping[str, tf.Tensor], hidden: tf.Tensor, valid: Any, shape: Shape) -> tf.Tensor:
    """Every slot's head: `hidden [B, T * K, D]` to `[K, B * T, C]`; tokens outside `valid [K, C]` sink."""
    by_slot = tf.transpose(tf.reshape(hidden, (-1, shape.slots, shape.width)), (1, 0, 2))  # [K, B * T, D]
    return tf.where(tf.convert_to_tensor(valid)[:, None], tf.matmul(by_slot, weights["head"]), FLOOR)


def slot_logits(weights: Mapping[str, tf.Tensor], hidden: tf.Tensor, slot: Any, valid: Any) -> tf.Tensor:
    """The head of one slot: `hidden [N, D]` to `[N, C]`."""
    logits = tf.matmul(hidden, tf.gather(weights["head"], slot))
    return tf.where(tf.gather(tf.convert_to_tensor(valid), slot), logits, FLOOR)


def forward(flat: Any, tokens: Any, valid: Any, shape: Shape) -> tf.Tensor:
    """Logits `[B, T, K, C]` of a whole sequence `tokens [B, T, K]`."""
    weights = unflatten(flat, shape)
    tokens = tf.convert_to_tensor(tokens)
    hidden = trunk(weights, embed(weights, tokens, shape), shape).hidden
    logits = tf.transpose(all_logits(weights, hidden, valid, shape), (1, 0, 2))  # [B * T, K, C]
    return tf.reshape(logits, (*tokens.shape, shape.classes))
