"""One random stream: the same seed gives the same draws in eager mode, in a graph and under XLA.

TensorFlow's own float samplers do not promise this. Measured in 2.21, the integer Philox stream is the
same everywhere, but TensorFlow makes a float of its low bits and XLA of its high ones. So we draw
integers only, and make the floats ourselves.

A *seed* of the functions below is an int32 tensor (or array) of shape `[2]`. Every function consumes
the seed it is given: split it first, use each part once. On the host, `generator` and `derive` give
NumPy generators and integers that depend on nothing but their arguments.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import tensorflow as tf

_ALGORITHM = "philox"  # "auto_select" may differ by device


def key(seed: int) -> np.ndarray:
    """The stream seed `int32[2]` of an integer of up to 64 bits. An array, so that no call retraces."""
    return np.array([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], np.uint32).view(np.int32)


def _number(part: int | str) -> int:
    return zlib.crc32(part.encode()) if isinstance(part, str) else int(part)


def _sequence(seed: int, path: tuple[int | str, ...]) -> np.random.SeedSequence:
    # Names and numbers carry a mark, so that the path ("a",) can never meet the path (crc32("a"),).
    words = [word for part in path for word in (isinstance(part, str), _number(part) & (2**64 - 1))]
    return np.random.SeedSequence([seed & (2**64 - 1), *words])


def derive(seed: int, *path: int | str) -> int:
    """A 31-bit integer seed for the part of a program that `path` names, for instance an initialiser."""
    return int(_sequence(seed, path).generate_state(1)[0] >> 1)


def generator(seed: int, *path: int | str) -> np.random.Generator:
    """A NumPy generator that is a pure function of `(seed, path)`: no state to carry or to save."""
    return np.random.Generator(np.random.Philox(_sequence(seed, path)))


def split(seed: Any, number: int = 2) -> list[tf.Tensor]:
    """`number` independent seeds; consumes `seed`."""
    parts: list[tf.Tensor] = tf.unstack(tf.random.split(seed, num=number, alg=_ALGORITHM), num=number)
    return parts


def fold_in(seed: Any, part: Any) -> tf.Tensor:
    """The seed of one named or numbered part (a string, an integer or an integer tensor)."""
    data = np.uint32(_number(part) & 0xFFFFFFFF).view(np.int32) if isinstance(part, int | str) else part
    return tf.random.fold_in(seed, tf.cast(data, tf.int32), alg=_ALGORITHM)


def bits(seed: Any, shape: Any) -> tf.Tensor:
    """Uniform uint32 of the given shape: the integers every other draw is made of."""
    return tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype=tf.uint32, alg=_ALGORITHM)


def _open_uniform(seed: Any, shape: Any) -> tf.Tensor:
    """Uniform on the open interval (0, 1): multiples of 2^-24 that are exact in float32 and never 0 or 1."""
    high = tf.bitwise.right_shift(bits(seed, shape), tf.constant(9, tf.uint32))
    return (tf.cast(high, tf.float32) + 0.5) * 2.0**-23


def uniform(seed: Any, shape: Any, low: Any = 0.0, high: Any = 1.0) -> tf.Tensor:
    """Uniform float32 on `[low, high)`; the bounds broadcast against `shape`."""
    top = tf.bitwise.right_shift(bits(seed, shape), tf.constant(8, tf.uint32))
    unit = tf.cast(top, tf.float32) * 2.0**-24
    return low + (high - low) * unit


def normal(seed: Any, shape: Any, mean: Any = 0.0, deviation: Any = 1.0) -> tf.Tensor:
    """Normal float32 by inversion; equal across modes to the last digits of `ndtri`."""
    return mean + deviation * tf.math.ndtri(_open_uniform(seed, shape))


def truncated_normal(seed: Any, low: Any, high: Any, shape: Any = None) -> tf.Tensor:
    """Standard normal conditioned on `[low, high]` (tensors in standard deviations, broadcast to `shape`).

    Eager and XLA agree to 1e-5 inside +-3, and to 2e-4 beyond, where their float32 `erfc` part.
    """
    low, high = tf.convert_to_tensor(low, tf.float32), tf.convert_to_tensor(high, tf.float32)
    if shape is None:
        shape = tf.broadcast_dynamic_shape(tf.shape(low), tf.shape(high))
    # Float32 resolves the lower tail of the normal only, so an interval right of zero is mirrored.
    mirrored = low + high > 0.0
    left, right = tf.where(mirrored, -high, low), tf.where(mirrored, -low, high)
    below, above = _normal_cdf(left), _normal_cdf(right)
    draw = tf.math.ndtri(below + (above - below) * _open_uniform(seed, shape))
    draw = tf.clip_by_value(draw, left, right)  # rounding, and intervals too far out to resolve
    return tf.where(mirrored, -draw, draw)


def _normal_cdf(x: tf.Tensor) -> tf.Tensor:
    return 0.5 * tf.math.erfc(-x * 0.7071067811865476)


def gumbel(seed: Any, shape: Any) -> tf.Tensor:
    """Standard Gumbel noise."""
    return -tf.math.log(-tf.math.log(_open_uniform(seed, shape)))


def categorical(seed: Any, logits: Any, dtype: Any = tf.int32) -> tf.Tensor:
    """One index a row: `logits [..., K]` (unnormalised) gives `[...]`, by the Gumbel maximum."""
    logits = tf.convert_to_tensor(logits)
    noise = tf.cast(gumbel(seed, tf.shape(logits)), logits.dtype)
    return tf.argmax(logits + noise, axis=-1, output_type=dtype)


def integers(seed: Any, shape: Any, low: Any, high: Any, dtype: Any = tf.int32) -> tf.Tensor:
    """Integers in `[low, high)`; the bias is at most `(high - low) / 2^32`."""
    low, high = tf.cast(low, tf.int64), tf.cast(high, tf.int64)
    return tf.cast(low + tf.cast(bits(seed, shape), tf.int64) % (high - low), dtype)


def permutation(seed: Any, number: int, batch: tuple[int, ...] = ()) -> tf.Tensor:
    """A random order of `0..number-1`, one for each element of `batch`: int32 `[*batch, number]`.

    XLA has no shuffle; an argsort of random integers does the same.
    """
    keys = tf.bitcast(bits(seed, (*batch, number)), tf.int32)
    return tf.argsort(keys, axis=-1, stable=True)
