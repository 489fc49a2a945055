"""Layers that the families share: dense stacks, ensembles, a recurrent cell, causal attention.

All are Keras 3 layers (a `tf.Module` does not see Keras variables). Weights come from explicit seeds,
derived with `rng.derive`; nothing reads a global generator. Build a layer once, eagerly, with
`layer.build((None, width))`, before it is used inside a `tf.function`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from models import rng

Norm = Literal["none", "rms", "layer"]


def kernel_initializer(seed: int, scale: float = 1.0, *, mode: str = "fan_in") -> Any:
    """Truncated normal of variance `scale / fan`; exactly zero for scale 0."""
    if scale == 0.0:
        return keras.initializers.Zeros()
    return keras.initializers.VarianceScaling(scale, mode, "truncated_normal", seed=seed)


class RMSNorm(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped here
    """x / rms(x) times a learned gain, over the last axis (Zhang and Sennrich 2019, eq. 4)."""

    def __init__(self, epsilon: float = 1e-4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape: Sequence[int | None]) -> None:
        self.gain = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="gain")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        mean_square = tf.reduce_mean(tf.square(x), axis=-1, keepdims=True)
        return x * tf.math.rsqrt(mean_square + self.epsilon) * self.gain


def normalisation(norm: Norm) -> Any:
    """The normalising layer of that name, or None."""
    if norm == "none":
        return None
    return RMSNorm() if norm == "rms" else keras.layers.LayerNormalization(epsilon=1e-3)


class MLP(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped here
    """Dense layers of `units`, each followed by `norm` and `activation`, then `outputs` linear units.

    With `outputs=None` the last hidden layer is the output. `output_scale=0` starts at exactly zero.
    """

    def __init__(
        self,
        units: Sequence[int],
        outputs: int | None = None,
        *,
        seed: int,
        activation: str = "silu",
        norm: Norm = "none",
        scale: float = 2.0,
        output_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)
        self.hidden = [
            keras.layers.Dense(width, kernel_initializer=kernel_initializer(rng.derive(seed, layer), scale))
            for layer, width in enumerate(units)
        ]
        self.norms = [normalisation(norm) for _ in units] if norm != "none" else []
        self.out = None
        if outputs is not None:
            last = kernel_initializer(rng.derive(seed, "out"), output_scale)
            self.out = keras.layers.Dense(outputs, kernel_initializer=last)

    def build(self, input_shape: Sequence[int | None]) -> None:
        width = input_shape[-1]
        for place, dense in enumerate(self.hidden):
            dense.build((None, width))
            width = dense.units
            if self.norms:
                self.norms[place].build((None, width))
        if self.out is not None:
            self.out.build((None, width))
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        for place, dense in enumerate(self.hidden):
            x = dense(x)
            if self.norms:
                x = self.norms[place](x)
            x = self.activation(x)
        return x if self.out is None else self.out(x)


class EnsembleDense(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped here
    """E independent dense layers as one matmul: `[E, B, I]` (or `[B, I]`, shared) to `[E, B, O]`."""

    def __init__(
        self,
        members: int,
        units: int,
        *,
        seed: int,
        scale: float = 2.0,
        activation: str = "linear",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.members, self.units, self.seed, self.scale = members, units, seed, scale
        self.activation = keras.activations.get(activation)

    def build(self, input_shape: Sequence[int | None]) -> None:
        width = input_shape[-1]
        assert width is not None
        kernel = np.zeros((self.members, width, self.units), np.float32)
        for member in range(self.members):  # a seed each: members must start apart
            initializer = kernel_initializer(rng.derive(self.seed, member), self.scale)
            kernel[member] = initializer((width, self.units))
        self.kernel = self.add_weight(
            shape=kernel.shape, initializer=keras.initializers.Constant(kernel), name="kernel"
        )
        self.bias = self.add_weight(shape=(self.members, 1, self.units), initializer="zeros", name="bias")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.activation(tf.matmul(x, self.kernel) + self.bias)  # [E, B, O]


class GRUCell(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped here
    """One step of a gated recurrent unit with one normalised matmul (DreamerV3's form).

    `call(h [B, U], x [B, I])` gives the next h; build with both shapes. The update gate starts nearly
    closed (bias -1), so that a new cell remembers.
    """

    def __init__(self, units: int, *, seed: int, norm: Norm = "rms", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.gates = keras.layers.Dense(3 * units, kernel_initializer=kernel_initializer(seed))
        self.norm = normalisation(norm)

    def build(self, h_shape: Sequence[int | None], x_shape: Sequence[int | None]) -> None:
        width = x_shape[-1]
        assert width is not None
        self.gates.build((None, self.units + width))
        if self.norm is not None:
            self.norm.build((None, 3 * self.units))
        self.built = True

    def call(self, h: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        gates = self.gates(tf.concat([h, x], axis=-1))  # [B, 3U]
        if self.norm is not None:
            gates = self.norm(gates)
        reset, candidate, update = tf.split(gates, 3, axis=-1)
        candidate = tf.tanh(tf.sigmoid(reset) * candidate)
        update = tf.sigmoid(update - 1.0)
        return update * candidate + (1.0 - update) * h


class CausalAttention(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped here
    """Multi-head self-attention in which a step sees itself and what came before.

    Without a cache, `call(x [B, T, W])` is the whole sequence. With one, `x` holds the next S steps, the
    first of them at `position`; keys and values of earlier steps come from the cache, whose length is
    fixed, so that the compiled program does not change as the sequence grows.
    """

    def __init__(self, width: int, heads: int, *, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.width, self.heads = width, heads
        self.inputs = keras.layers.Dense(
            3 * width, kernel_initializer=kernel_initializer(rng.derive(seed, "inputs"))
        )
        self.out = keras.layers.Dense(width, kernel_initializer=kernel_initializer(rng.derive(seed, "out")))

    def build(self, x_shape: Sequence[int | None]) -> None:
        self.inputs.build((None, x_shape[-1]))
        self.out.build((None, self.width))
        self.built = True

    def empty_cache(self, batch: Any, length: int) -> tf.Tensor:
        """Room for `length` steps of keys and values: `[2, B, H, L, W / H]`."""
        return tf.zeros((2, batch, self.heads, length, self.width // self.heads))

    def call(
        self, x: tf.Tensor, hidden: tf.Tensor | None = None, cache: tf.Tensor | None = None, position: Any = 0
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The output `[B, S, W]` and the cache with the new steps in it.

        `hidden` (bool, `[L]` or `[B, L]`, L the length of cache or sequence) marks steps that only they
        themselves may see.
        """
        steps = x.shape[1]
        query, new = self._project(x)  # [B, H, S, D], [2, B, H, S, D]
        cache = new if cache is None else _write(cache, new, tf.cast(position, tf.int32))
        keys, values = cache[0], cache[1]  # [B, H, L, D]
        places = tf.range(tf.shape(keys)[2])  # [L]
        now = tf.cast(position, tf.int32) + tf.range(steps)  # [S]
        allowed = (places <= now[:, None])[None, None]  # [1, 1, S, L]
        if hidden is not None:
            masked = tf.reshape(hidden, (-1, 1, 1, tf.shape(keys)[2])) & (places != now[:, None])
            allowed = allowed & ~masked
        scores = tf.matmul(query, keys, transpose_b=True) * (self.width // self.heads) ** -0.5
        # A finite floor: minus infinity would make NaN gradients where a row is masked whole.
        weights = tf.nn.softmax(tf.where(allowed, scores, -1e9), axis=-1)  # [B, H, S, L]
        mixed = tf.transpose(tf.matmul(weights, values), (0, 2, 1, 3))  # [B, S, H, D]
        return self.out(tf.reshape(mixed, (-1, steps, self.width))), cache

    def _project(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        steps = x.shape[1]
        heads = tf.reshape(self.inputs(x), (-1, steps, 3, self.heads, self.width // self.heads))
        heads = tf.transpose(heads, (2, 0, 3, 1, 4))  # [3, B, H, S, D]
        return heads[0], heads[1:]


def _write(cache: tf.Tensor, new: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """`cache [2, B, H, L, D]` with `new [2, B, H, S, D]` at `position` on the time axis."""
    length, steps = cache.shape[3], new.shape[3]
    if steps == length:
        return new
    # A one-hot matmul would cost L S; a rolled where costs L and compiles once for every position.
    padded = tf.pad(new, ((0, 0), (0, 0), (0, 0), (0, length - steps), (0, 0)))
    shifted = tf.roll(padded, position, axis=3)
    places = tf.range(length)
    written = (places >= position) & (places < position + steps)  # [L]
    return tf.where(written[:, None], shifted, cache)
