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

    keys: tuple[tf.Tensor, ...]  # a layer: [B, S, D]
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
    head = shape.width // shape.heads
    steps, ahead = cache.keys[0].shape[0], prefix.keys[0].shape[1]
    at = tf.gather(weights["places"], tf.minimum(prefix.length + place, shape.length - 1))  # [B, D]
    x = tf.gather(tf.gather(weights["tokens"], slot), tokens) + tf.repeat(at, rows, axis=0)  # [N, D]
    before = (tf.range(ahead) < prefix.length[:, None])[:, None, None]  # [B, 1, 1, S']
    planned = (tf.range(steps) <= place)[:, None, None]  # [S, 1, 1]
    keys, values = [], []
    for layer in range(shape.layers):
        h = gpt.normalise(x, weights[f"{layer}.norm1"])
        joint = tf.matmul(h, weights[f"{layer}.inputs"]) + weights[f"{layer}.inputs_bias"]
        q, k, v = tf.split(joint, 3, axis=-1)  # [N, D]
        q = q * head**-0.5
        keys.append(tf.tensor_scatter_nd_update(cache.keys[layer], [[place]], k[None]))  # [S, N, D]
        values.append(tf.tensor_scatter_nd_update(cache.values[layer], [[place]], v[None]))
        # The prefix: one matmul a search and head, for all its beams.
        asked = tf.reshape(q, (batch, rows, shape.heads, head))
        read = tf.reshape(prefix.keys[layer], (batch, ahead, shape.heads, head))
        old = tf.einsum("brhd,bshd->brhs", asked, read)  # [B, R, H, S']
        old = tf.reshape(tf.where(before, old, gpt.FLOOR), (-1, shape.heads, ahead))  # [N, H, S']
        by_head = tf.reshape(keys[-1], (steps, -1, shape.heads, head))
        own = tf.reduce_sum(by_head * tf.reshape(q, (-1, shape.heads, head)), axis=-1)  # [S, N, H]
        own = tf.where(planned, own, gpt.FLOOR)
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
