"""Acting never recomputes: the prefix of a search is read once, and each planned token costs one token.

Keys and values of the prefix are shared by all beams of a search; those of the planned tokens lie in a
cache of fixed length, one row a beam, written in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from models.trajectory import gpt


class Prefix(NamedTuple):
    """B prefixes of whole and begun transitions, computed once."""

    keys: tuple[tf.Tensor, ...]  # a layer: [B, H, S, D / H]
    values: tuple[tf.Tensor, ...]
    length: tf.Tensor  # [B] tokens that count; the rest is padding
    logits: tf.Tensor  # [B, C] of the next token


def read_prefix(
    weights: Mapping[str, tf.Tensor], tokens: tf.Tensor, length: tf.Tensor, valid: Any, shape: gpt.Shape
) -> Prefix:
    """Reads `tokens [B, T', K]`, of which the first `length [B]` count.

    Padding lies to the right, so that causality alone keeps it from what counts.
    """
    seen = gpt.trunk(weights, gpt.embed(weights, tokens, shape), shape)
    last = tf.gather(seen.hidden, length - 1, batch_dims=1)  # [B, D]
    slot = (length - 1) % shape.slots  # [B]
    logits = tf.einsum("bd,bdc->bc", last, tf.gather(weights["head"], slot))
    logits = tf.where(tf.gather(tf.convert_to_tensor(valid), slot), logits, gpt.FLOOR)
    return Prefix(seen.keys, seen.values, length, logits)


class Cache(NamedTuple):
    """Keys and values of the planned tokens, time first, so that a step is written in place."""

    keys: tuple[tf.Tensor, ...]  # a layer: [S, N, D]
    values: tuple[tf.Tensor, ...]


def empty_cache(rows: int, steps: int, shape: gpt.Shape) -> Cache:
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
    shape: gpt.Shape,
) -> tuple[tf.Tensor, Cache]:
    """Feeds planned token number `place`, of `slot`, to all N = B * R beams: logits `[N, C]` of the next."""
    batch = prefix.logits.shape[0]
    rows = tokens.shape[0] // batch  # R
    heads, head = shape.heads, shape.width // shape.heads
    steps, ahead = cache.keys[0].shape[0], prefix.keys[0].shape[2]
    at = tf.gather(weights["places"], tf.minimum(prefix.length + place, shape.length - 1))  # [B, D]
    x = tf.gather(tf.gather(weights["tokens"], slot), tokens) + tf.repeat(at, rows, axis=0)  # [N, D]
    before = tf.range(ahead) < prefix.length[:, None]  # [B, S']
    planned = tf.tile((tf.range(steps) <= place)[None], (batch, 1))  # [B, S]
    mask = tf.where(tf.concat([before, planned], axis=1), 0.0, gpt.FLOOR)[:, None, None]  # [B, 1, 1, S' + S]
    keys, values = [], []
    for layer in range(shape.layers):
        h = gpt.normalise(x, weights[f"{layer}.norm1"])
        joint = tf.matmul(h, weights[f"{layer}.inputs"]) + weights[f"{layer}.inputs_bias"]
        q, k, v = tf.split(joint, 3, axis=-1)  # [N, D]
        q = tf.reshape(q * head**-0.5, (-1, heads, head))
        keys.append(tf.tensor_scatter_nd_update(cache.keys[layer], [[place]], k[None]))  # [S, N, D]
        values.append(tf.tensor_scatter_nd_update(cache.values[layer], [[place]], v[None]))
        # The prefix: one matmul a search and head, for all its beams. What is planned: each beam its own.
        asked = tf.transpose(tf.reshape(q, (batch, rows, heads, head)), (0, 2, 1, 3))  # [B, H, R, D / H]
        old = tf.matmul(asked, prefix.keys[layer], transpose_b=True)  # [B, H, R, S']
        own = tf.reduce_sum(tf.reshape(keys[-1], (steps, -1, heads, head)) * q, axis=-1)  # [S, N, H]
        own = tf.transpose(tf.reshape(own, (steps, batch, rows, heads)), (1, 3, 2, 0))  # [B, H, R, S]
        shares = tf.nn.softmax(tf.concat([old, own], axis=-1) + mask)
        old = tf.matmul(shares[..., :ahead], prefix.values[layer])  # [B, H, R, D / H]
        own = tf.reshape(
            tf.transpose(shares[..., ahead:], (3, 0, 2, 1)), (steps, -1, heads, 1)
        )  # [S, N, H, 1]
        mixed = tf.reduce_sum(own * tf.reshape(values[-1], (steps, -1, heads, head)), axis=0)  # [N, H, D / H]
        mixed += tf.reshape(tf.transpose(old, (0, 2, 1, 3)), (-1, heads, head))
        mixed = tf.reshape(mixed, (-1, shape.width))
        x = x + tf.matmul(mixed, weights[f"{layer}.out"]) + weights[f"{layer}.out_bias"]
        x = x + gpt.feed_forward(weights, layer, x)
    hidden = gpt.normalise(x, weights["norm"])
    return gpt.slot_logits(weights, hidden, slot, valid), Cache(tuple(keys), tuple(values))


def full_step(
    weights: Mapping[str, tf.Tensor],
    written: tf.Tensor,
    length: tf.Tensor,
    tokens: tf.Tensor,
    place: tf.Tensor,
    slot: tf.Tensor,
    valid: Any,
    shape: gpt.Shape,
) -> tuple[tf.Tensor, tf.Tensor]:
    """What `step` gives, without a cache: `written [N, L]` holds every token and is read anew each time.

    The yardstick that the cache is checked and timed against.
    """
    rows = tokens.shape[0]
    position = tf.repeat(length + place, rows // length.shape[0])  # [N]
    written = tf.where(tf.range(shape.length) == position[:, None], tokens[:, None], written)
    sequence = tf.reshape(written, (rows, shape.transitions, shape.slots))
    hidden = gpt.trunk(weights, gpt.embed(weights, sequence, shape), shape).hidden
    here = tf.gather(hidden, position, batch_dims=1)  # [N, D]
    return gpt.slot_logits(weights, here, slot, valid), written
