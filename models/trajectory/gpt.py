"""A causal transformer over transitions, as pure functions of one flat vector of weights.

A transition is K input tokens: target return [, target drawdown], observation, action, reward. Each slot has
an embedding and a head of its own. The token at slot j predicts the one at slot j + 1, and the reward
predicts the *value*, the return from there on. The value is never an input: nothing later can see it, not
even through the residual stream, which is more than masking its attention gives (Janner et al. 2021 hide
it by mask). It also saves a position in each transition.

One flat vector makes clipping, AdamW and its decay groups single operations, and lets every training of
the same sizes share a compiled program.

Acting never recomputes: keys and values of the prefix are computed once a search and shared by all its
beams; those of planned tokens lie in a cache of fixed length, one row a beam, written in place.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models import rng

_FLOOR = -1e9  # finite: minus infinity would make NaN where a row is masked whole


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


def decays(shape: Shape) -> np.ndarray:
    """1 where a weight decays: float32 `[P]`."""
    return np.concatenate(
        [np.full(math.prod(part.shape), float(part.decay), np.float32) for part in parts(shape)]
    )


def unflatten(flat: Any, shape: Shape) -> dict[str, tf.Tensor]:
    """The arrays of `flat [P]` by name. One split, since its gradient is one concatenation."""
    pieces = tf.split(flat, [math.prod(part.shape) for part in parts(shape)])
    return {
        part.name: tf.reshape(piece, part.shape) for part, piece in zip(parts(shape), pieces, strict=True)
    }


def _normalise(x: tf.Tensor, gains: tf.Tensor) -> tf.Tensor:
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


def _feed_forward(weights: Mapping[str, tf.Tensor], layer: int, x: tf.Tensor) -> tf.Tensor:
    h = _normalise(x, weights[f"{layer}.norm2"])
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
    keys: tuple[tf.Tensor, ...]  # a layer: [B, S, D]
    values: tuple[tf.Tensor, ...]
    attention: tuple[tf.Tensor, ...]  # a layer: [B, H, S, S]


def trunk(
    weights: Mapping[str, tf.Tensor], x: tf.Tensor, shape: Shape, *, dropout: float = 0.0, seed: Any = None
) -> Trunk:
    """The blocks over embedded `x [B, S, D]`; consumes `seed` if it is given (training)."""
    batch, steps, width = x.shape
    causal = np.tril(np.ones((steps, steps), bool))
    seeds = rng.split(seed, 2 * shape.layers + 1) if seed is not None else [None] * (2 * shape.layers + 1)
    x = _drop(x, dropout, seeds[-1])
    keys, values, attention = [], [], []
    for layer in range(shape.layers):
        h = _normalise(x, weights[f"{layer}.norm1"])
        joint = tf.matmul(h, weights[f"{layer}.inputs"]) + weights[f"{layer}.inputs_bias"]
        q, k, v = tf.split(joint, 3, axis=-1)  # [B, S, D]
        keys.append(k)
        values.append(v)
        q, k, v = (_heads(part, shape) for part in (q, k, v))  # [B, H, S, D / H]
        scores = tf.matmul(q, k, transpose_b=True) * (width // shape.heads) ** -0.5
        shares = tf.nn.softmax(tf.where(causal, scores, _FLOOR), axis=-1)  # [B, H, S, S]
        attention.append(shares)
        mixed = tf.reshape(tf.transpose(tf.matmul(shares, v), (0, 2, 1, 3)), (batch, steps, width))
        mixed = tf.matmul(mixed, weights[f"{layer}.out"]) + weights[f"{layer}.out_bias"]
        x = x + _drop(mixed, dropout, seeds[2 * layer])
        x = x + _drop(_feed_forward(weights, layer, x), dropout, seeds[2 * layer + 1])
    return Trunk(_normalise(x, weights["norm"]), tuple(keys), tuple(values), tuple(attention))


def _heads(x: tf.Tensor, shape: Shape) -> tf.Tensor:
    split = tf.reshape(x, (x.shape[0], x.shape[1], shape.heads, shape.width // shape.heads))
    return tf.transpose(split, (0, 2, 1, 3))


def all_logits(weights: Mapping[str, tf.Tensor], hidden: tf.Tensor, valid: Any, shape: Shape) -> tf.Tensor:
    """Every slot's head: `hidden [B, T * K, D]` to `[K, B * T, C]`; tokens outside `valid [K, C]` sink."""
    by_slot = tf.transpose(tf.reshape(hidden, (-1, shape.slots, shape.width)), (1, 0, 2))  # [K, B * T, D]
    return tf.where(tf.convert_to_tensor(valid)[:, None], tf.matmul(by_slot, weights["head"]), _FLOOR)


def slot_logits(weights: Mapping[str, tf.Tensor], hidden: tf.Tensor, slot: Any, valid: Any) -> tf.Tensor:
    """The head of one slot: `hidden [N, D]` to `[N, C]`."""
    logits = tf.matmul(hidden, tf.gather(weights["head"], slot))
    return tf.where(tf.gather(tf.convert_to_tensor(valid), slot), logits, _FLOOR)


def forward(flat: Any, tokens: Any, valid: Any, shape: Shape) -> tf.Tensor:
    """Logits `[B, T, K, C]` of a whole sequence `tokens [B, T, K]`."""
    weights = unflatten(flat, shape)
    tokens = tf.convert_to_tensor(tokens)
    hidden = trunk(weights, embed(weights, tokens, shape), shape).hidden
    logits = tf.transpose(all_logits(weights, hidden, valid, shape), (1, 0, 2))  # [B * T, K, C]
    return tf.reshape(logits, (*tokens.shape, shape.classes))


class Prefix(NamedTuple):
    """B prefixes of whole and begun transitions, computed once."""

    keys: tuple[tf.Tensor, ...]  # a layer: [B, S, D]
    values: tuple[tf.Tensor, ...]
    length: tf.Tensor  # [B] tokens that count; the rest is padding
    logits: tf.Tensor  # [B, C] of the next token


def read_prefix(
    weights: Mapping[str, tf.Tensor], tokens: tf.Tensor, length: tf.Tensor, valid: Any, shape: Shape
) -> Prefix:
    """Reads `tokens [B, T', K]`, of which the first `length [B]` count.

    Padding lies to the right, so that causality alone keeps it from what counts.
    """
    seen = trunk(weights, embed(weights, tokens, shape), shape)
    last = tf.gather(seen.hidden, length - 1, batch_dims=1)  # [B, D]
    slot = (length - 1) % shape.slots  # [B]
    logits = tf.einsum("bd,bdc->bc", last, tf.gather(weights["head"], slot))
    logits = tf.where(tf.gather(tf.convert_to_tensor(valid), slot), logits, _FLOOR)
    return Prefix(seen.keys, seen.values, length, logits)


class Cache(NamedTuple):
    """Keys and values of the planned tokens, time first, so that a step is written in place."""

    keys: tuple[tf.Tensor, ...]  # a layer: [S, N, D]
    values: tuple[tf.Tensor, ...]


def empty_cache(rows: int, steps: int, shape: Shape) -> Cache:
    """Room for `steps` planned tokens of `rows` beams."""
    zeros = tuple(tf.zeros((steps, rows, shape.width)) for _ in range(shape.layers))
    return Cache(zeros, zeros)


def reorder(cache: Cache, rows: tf.Tensor) -> Cache:
    """The rows `[N']` of the cache."""
    picked: Cache = tf.nest.map_structure(lambda x: tf.gather(x, rows, axis=1), cache)
    return picked


def step(
    weights: Mapping[str, tf.Tensor],
    prefix: Prefix,
    cache: Cache,
    tokens: tf.Tensor,
    place: tf.Tensor,
    slot: tf.Tensor,
    valid: Any,
    shape: Shape,
) -> tuple[tf.Tensor, Cache]:
    """Feeds planned token number `place`, of `slot`, to all N = B * R beams: logits `[N, C]` of the next."""
    batch = prefix.logits.shape[0]
    rows = tokens.shape[0] // batch  # R
    head = shape.width // shape.heads
    steps, ahead = cache.keys[0].shape[0], prefix.keys[0].shape[1]
    at = tf.gather(weights["places"], tf.minimum(prefix.length + place, shape.length - 1))  # [B, D]
    x = tf.gather(tf.gather(weights["tokens"], slot), tokens) + tf.repeat(at, rows, axis=0)  # [N, D]
    before = (tf.range(ahead) < prefix.length[:, None])[:, None, None]  # [B, 1, 1, S']
    planned = (tf.range(steps) <= place)[:, None, None]  # [S, 1, 1]
    keys, values = [], []
    for layer in range(shape.layers):
        h = _normalise(x, weights[f"{layer}.norm1"])
        joint = tf.matmul(h, weights[f"{layer}.inputs"]) + weights[f"{layer}.inputs_bias"]
        q, k, v = tf.split(joint, 3, axis=-1)  # [N, D]
        q = q * head**-0.5
        keys.append(tf.tensor_scatter_nd_update(cache.keys[layer], [[place]], k[None]))  # [S, N, D]
        values.append(tf.tensor_scatter_nd_update(cache.values[layer], [[place]], v[None]))
        # The prefix: one matmul a search and head, for all its beams.
        asked = tf.reshape(q, (batch, rows, shape.heads, head))
        read = tf.reshape(prefix.keys[layer], (batch, ahead, shape.heads, head))
        old = tf.einsum("brhd,bshd->brhs", asked, read)  # [B, R, H, S']
        old = tf.reshape(tf.where(before, old, _FLOOR), (-1, shape.heads, ahead))  # [N, H, S']
        by_head = tf.reshape(keys[-1], (steps, -1, shape.heads, head))
        own = tf.reduce_sum(by_head * tf.reshape(q, (-1, shape.heads, head)), axis=-1)  # [S, N, H]
        own = tf.where(planned, own, _FLOOR)
        top = tf.maximum(tf.reduce_max(old, axis=-1), tf.reduce_max(own, axis=0))  # [N, H]
        old, own = tf.exp(old - top[..., None]), tf.exp(own - top)
        total = tf.reduce_sum(old, axis=-1) + tf.reduce_sum(own, axis=0)  # [N, H]
        stored = tf.reshape(prefix.values[layer], (batch, ahead, shape.heads, head))
        mixed = tf.einsum("brhs,bshd->brhd", tf.reshape(old, (batch, rows, shape.heads, ahead)), stored)
        mixed = tf.reshape(mixed, (-1, shape.heads, head))
        by_head = tf.reshape(values[-1], (steps, -1, shape.heads, head))
        mixed += tf.reduce_sum(own[..., None] * by_head, axis=0)  # [N, H, D / H]
        mixed = tf.reshape(mixed / total[..., None], (-1, shape.width))
        x = x + tf.matmul(mixed, weights[f"{layer}.out"]) + weights[f"{layer}.out_bias"]
        x = x + _feed_forward(weights, layer, x)
    hidden = _normalise(x, weights["norm"])
    return slot_logits(weights, hidden, slot, valid), Cache(tuple(keys), tuple(values))


def full_step(
    weights: Mapping[str, tf.Tensor],
    written: tf.Tensor,
    length: tf.Tensor,
    tokens: tf.Tensor,
    place: tf.Tensor,
    slot: tf.Tensor,
    valid: Any,
    shape: Shape,
) -> tuple[tf.Tensor, tf.Tensor]:
    """What `step` gives, without a cache: `written [N, L]` holds every token and is read anew each time.

    The yardstick that the cache is checked and timed against.
    """
    rows = tokens.shape[0]
    position = tf.repeat(length + place, rows // length.shape[0])  # [N]
    written = tf.where(tf.range(shape.length) == position[:, None], tokens[:, None], written)
    sequence = tf.reshape(written, (rows, shape.transitions, shape.slots))
    hidden = trunk(weights, embed(weights, sequence, shape), shape).hidden
    here = tf.gather(hidden, position, batch_dims=1)  # [N, D]
    return slot_logits(weights, here, slot, valid), written


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
    flat: Any, tokens: Any, labels: Any, valid: Any, shape: Shape, *, dropout: float = 0.0, seed: Any = None
) -> tf.Tensor:
    """Cross-entropy in nats of each `labels [B, T, K]`, given what stands before it: `[K, B * T]`."""
    weights = unflatten(flat, shape)
    hidden = trunk(weights, embed(weights, tokens, shape), shape, dropout=dropout, seed=seed).hidden
    logits = all_logits(weights, hidden, valid, shape)  # [K, B * T, C]
    wanted = tf.transpose(tf.reshape(labels, (-1, shape.slots)))  # [K, B * T]
    picked = tf.reduce_sum(tf.one_hot(wanted, shape.classes) * logits, axis=-1)
    return tf.reduce_logsumexp(logits, axis=-1) - picked


@functools.lru_cache(maxsize=16)
def updates(shape: Shape, schedule: Schedule, dropout: float, *, compiled: bool) -> Any:
    """`(learner, tokens [U, B, T, K], labels, weight [U, B, T, K], valid, seed) -> learner, metrics`.

    The metrics are `[U, K + 2]`: the mean cross-entropy of every slot, the weighted loss, the gradient's
    norm. Compiled once for a shape in a process.
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

    return tf.function(run, jit_compile=compiled, autograph=False)


@functools.lru_cache(maxsize=8)
def evaluator(shape: Shape, *, compiled: bool) -> Any:
    """`(weights, tokens [B, T, K], labels, valid) -> [K, B * T]`, the losses without dropout."""

    def run(flat: Any, tokens: Any, labels: Any, valid: Any) -> tf.Tensor:
        return losses(flat, tokens, labels, valid, shape)

    return tf.function(run, jit_compile=compiled, autograph=False)
