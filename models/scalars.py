"""How a scalar is squeezed, spread over bins and brought back: symlog, two-hot, MuZero's transform.

All of it supposes scalars of order one: near zero symlog and `value_transform` are the identity and
the first symexp bin off zero lies at 0.17 (255 bins). Scale returns of a basis point up first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class Transform(NamedTuple):
    """A function of tensors and its inverse, element by element."""

    apply: Callable[[Any], tf.Tensor]
    invert: Callable[[Any], tf.Tensor]


def unit_scale(rewards: np.ndarray) -> float:
    """What brings `rewards` to order one: one over their root mean square, or 1 where all are zero."""
    size = float(np.sqrt(np.mean(np.square(rewards.astype(np.float64)))))
    return 1.0 / size if size > 0 else 1.0


def symlog(x: Any) -> tf.Tensor:
    """sign(x) ln(1 + |x|)   (DreamerV3, Hafner et al. 2023, eq. 9)."""
    return tf.sign(x) * tf.math.log1p(tf.abs(x))


def symexp(x: Any) -> tf.Tensor:
    """The inverse of `symlog`."""
    return tf.sign(x) * tf.math.expm1(tf.abs(x))


def compress(x: Any, epsilon: float = 1e-3) -> tf.Tensor:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x   (Pohlen et al. 2018, prop. A.2; MuZero, appendix F).

    Written as a quotient, since the difference loses small |x|.
    """
    x = tf.convert_to_tensor(x)
    wide = tf.cast(x, tf.float64)
    return tf.cast(wide / (tf.sqrt(tf.abs(wide) + 1.0) + 1.0) + epsilon * wide, x.dtype)


def expand(h: Any, epsilon: float = 1e-3) -> tf.Tensor:
    """The inverse of `compress`; float32 there and back is exact to 2e-7 for 1e-6 <= |x| <= 1e6.

    The textbook form ((sqrt(1 + 4 eps (|h| + 1 + eps)) - 1) / (2 eps))^2 - 1 subtracts nearly equal numbers
    twice (4.7 % off at 1e-3 in float32). With s the square root, u = (s - 1) / (2 eps) - 1 is
    rationalised and x = (u + 1)^2 - 1 = u (u + 2). Float64 inside takes the last error from 6e-7 to 2e-7.
    """
    h = tf.convert_to_tensor(h)
    size = tf.abs(tf.cast(h, tf.float64))
    s = tf.sqrt(1.0 + 4.0 * epsilon * (size + 1.0 + epsilon))
    u = 2.0 * size * (1.0 - 2.0 * epsilon / (s + 1.0 + 2.0 * epsilon)) / (1.0 + s)
    return tf.sign(h) * tf.cast(u * (u + 2.0), h.dtype)


IDENTITY = Transform(tf.convert_to_tensor, tf.convert_to_tensor)
SYMLOG = Transform(symlog, symexp)
VALUE = Transform(compress, expand)


def linear_bins(low: float, high: float, number: int) -> np.ndarray:
    """`number` evenly spaced bins, float32 `[K]`; one bin lies at `low`."""
    return np.linspace(low, high, number, dtype=np.float32)


def symexp_bins(number: int = 255, limit: float = 20.0) -> np.ndarray:
    """An odd number of bins, evenly spaced in symlog between -limit and limit, exactly symmetric: `[K]`."""
    if number % 2 == 0:
        raise ValueError(f"symexp_bins: number is {number}; an odd number is needed for a bin at zero")
    exponents = np.linspace(limit, 0.0, number // 2 + 1, dtype=np.float32)
    half = np.expm1(exponents)[:-1]
    return np.concatenate([-half, np.zeros(1, np.float32), half[::-1]])


def two_hot(x: Any, bins: Any) -> tf.Tensor:
    """`x [...]` as weights `[..., K]` on its two neighbours among ascending `bins [K]`, with mean `x`.

    The weights sum to one. What lies outside the bins is put wholly on the nearest one.
    """
    x, bins = tf.convert_to_tensor(x, tf.float32), tf.convert_to_tensor(bins, tf.float32)
    number = bins.shape[0]
    if number == 1:
        return tf.ones_like(x)[..., None]
    x = tf.clip_by_value(x, bins[0], bins[-1])
    reached = tf.reduce_sum(tf.cast(bins <= x[..., None], tf.int32), axis=-1)  # [...]
    left = tf.clip_by_value(reached - 1, 0, number - 2)
    start, end = tf.gather(bins, left), tf.gather(bins, left + 1)
    right_weight = ((x - start) / (end - start))[..., None]  # [..., 1]
    return tf.one_hot(left, number) * (1.0 - right_weight) + tf.one_hot(left + 1, number) * right_weight


def mean(probabilities: Any, bins: Any) -> tf.Tensor:
    """The mean `[...]` of `probabilities [..., K]` on `bins [K]`.

    Bins are added in mirrored pairs, b' p' + b p = b (p - p') + (b' + b) p', so that symmetric bins with
    symmetric weights give exactly 0 in every mode: the huge outer bins would otherwise leave a rounding
    error far larger than any reward (XLA fuses multiplication and addition, so adding the two products
    would not do).
    """
    p, bins = tf.convert_to_tensor(probabilities), tf.convert_to_tensor(bins, tf.float32)
    number = bins.shape[0]
    half = number // 2
    lower, upper = p[..., :half], p[..., ::-1][..., :half]  # [..., K // 2], outermost first
    low, high = bins[:half], bins[::-1][:half]
    middle = tf.reduce_sum(p[..., half : number - half] * bins[half : number - half], axis=-1)
    return middle + tf.reduce_sum(high * (upper - lower) + (low + high) * lower, axis=-1)


def mean_of_logits(logits: Any, bins: Any) -> tf.Tensor:
    """The mean `[...]` on `bins [K]` of a distribution's `logits [..., K]`; zero logits give exactly 0."""
    return mean(tf.nn.softmax(logits, axis=-1), bins)


def two_hot_loss(logits: Any, x: Any, bins: Any) -> tf.Tensor:
    """Cross-entropy `[...]` of `logits [..., K]` against the two-hot of `x [...]`, which gets no gradient."""
    target = tf.stop_gradient(two_hot(x, bins))
    return -tf.reduce_sum(target * tf.nn.log_softmax(logits, axis=-1), axis=-1)
