"""Representation h, dynamics g and prediction f as functions of one flat vector of weights.

With chance outcomes (Antonoglou et al. 2022) a step of the model has two halves: state and action give an
*afterstate*, which has a value and a distribution over outcomes; afterstate and outcome give the next state
and the reward. What happened is read from the observations that came, by an encoder that is learned with the
rest.

One vector makes clipping, Adam and the target's copy single operations, and lets a compiled search or
update be a pure function that every training of the same sizes shares. Latents are scaled to [0, 1];
values and rewards are distributions over bins of a squeezed scale (Schrittwieser et al. 2020, appendix F).
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from models import networks, rng, scalars
from models.muzero.actions import Actions

Weights = dict[str, tf.Tensor]


class Shape(NamedTuple):
    """All that is static about the networks; hashable."""

    observation: int
    history: int
    encoder: str
    latent: int
    hidden: int
    blocks: int
    gate: bool
    value_limit: float
    value_bins: int
    reward_limit: float
    reward_bins: int
    outcomes: int  # chance codes; 0 is a model whose next state follows from the action
    actions: Actions

    @property
    def value_support(self) -> np.ndarray:
        return scalars.linear_bins(-self.value_limit, self.value_limit, self.value_bins)

    @property
    def reward_support(self) -> np.ndarray:
        return scalars.linear_bins(-self.reward_limit, self.reward_limit, self.reward_bins)

    @property
    def layout(self) -> dict[str, tuple[int, ...]]:
        """The weights in their order."""
        sizes: dict[str, tuple[int, ...]] = {}

        def dense(name: str, inputs: int, outputs: int) -> None:
            sizes[f"{name}.kernel"], sizes[f"{name}.bias"] = (inputs, outputs), (outputs,)

        def trunk(name: str, inputs: int) -> None:
            dense(f"{name}.in", inputs, self.hidden)
            sizes[f"{name}.in.gain"] = (self.hidden,)
            for block in range(self.blocks):
                sizes[f"{name}.{block}.gain"] = (self.hidden,)
                dense(f"{name}.{block}.a", self.hidden, self.hidden)
                dense(f"{name}.{block}.b", self.hidden, self.hidden)

        shown = self.observation
        if self.encoder == "gru":
            dense("encoder", self.hidden + shown, 3 * self.hidden)
        trunk("representation", self.hidden if self.encoder == "gru" else self.history * shown)
        dense("representation.latent", self.hidden, self.latent)
        trunk("dynamics", self.latent + (self.outcomes or self.actions.width))
        if self.gate:
            sizes["dynamics.gate"] = (self.outcomes or self.actions.width, self.hidden)
        dense("dynamics.latent", self.hidden, self.latent)
        dense("dynamics.reward", self.hidden, self.reward_bins)
        dense("prediction.in", self.latent, self.hidden)
        sizes["prediction.in.gain"] = (self.hidden,)
        dense("prediction.value", self.hidden, self.value_bins)
        dense("prediction.policy", self.hidden, self.actions.outputs)
        dense("consistency.in", self.latent, self.hidden)
        dense("consistency.out", self.hidden, self.latent)
        if self.outcomes:
            trunk("afterstate", self.latent + self.actions.width)
            if self.gate:
                sizes["afterstate.gate"] = (self.actions.width, self.hidden)
            dense("afterstate.latent", self.hidden, self.latent)
            dense("chance.in", self.latent, self.hidden)
            sizes["chance.in.gain"] = (self.hidden,)
            dense("chance.value", self.hidden, self.value_bins)
            dense("chance.outcome", self.hidden, self.outcomes)
            trunk("happened", self.history * shown)
            dense("happened.outcome", self.hidden, self.outcomes)
        return sizes

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(int(np.prod(shape)) for shape in self.layout.values())


ZERO = ("dynamics.reward", "prediction.value", "prediction.policy", "chance.value", "chance.outcome")
"""Heads that start at zero, so that an untrained model expects nothing and prefers nothing."""


def initial(shape: Shape, seed: int) -> np.ndarray:
    """Fresh weights `[P]`, a function of the seed."""
    parts = []
    for name, size in shape.layout.items():
        if name.endswith("gain"):
            parts.append(np.ones(size, np.float32))
        elif name.endswith("bias") or name.removesuffix(".kernel") in ZERO:
            parts.append(np.zeros(size, np.float32))
        else:
            initializer = networks.kernel_initializer(rng.derive(seed, name), 1.0)
            parts.append(np.asarray(initializer(size)))
    return np.concatenate([part.ravel() for part in parts])


def matrices(shape: Shape) -> np.ndarray:
    """1 where a weight belongs to a matrix, else 0: float32 `[P]`. Only those decay."""
    return np.concatenate(
        [np.full(int(np.prod(size)), len(size) == 2, np.float32) for size in shape.layout.values()]
    )


def unflatten(flat: tf.Tensor, shape: Shape) -> Weights:
    """The named weights as slices of `flat [P]`."""
    named, at = {}, 0
    for name, size in shape.layout.items():
        length = int(np.prod(size))
        named[name] = tf.reshape(flat[at : at + length], size)
        at += length
    return named


def _dense(weights: Weights, name: str, x: tf.Tensor) -> tf.Tensor:
    return x @ weights[f"{name}.kernel"] + weights[f"{name}.bias"]


def _norm(weights: Weights, name: str, x: tf.Tensor) -> tf.Tensor:
    mean_square = tf.reduce_mean(tf.square(x), axis=-1, keepdims=True)
    return x * tf.math.rsqrt(mean_square + 1e-4) * weights[f"{name}.gain"]


def _first(weights: Weights, name: str, x: tf.Tensor) -> tf.Tensor:
    return keras.activations.silu(_norm(weights, f"{name}.in", _dense(weights, f"{name}.in", x)))


def _trunk(
    weights: Weights, name: str, x: tf.Tensor, blocks: int, code: tf.Tensor | None = None
) -> tf.Tensor:
    """`[..., I]` to `[..., hidden]`: a layer, then residual blocks that are normalised on their way in.

    A `code` joins the input, and may gate the first layer's units: what an action does is often a product (an
    exposure times a return), which a sum of the two hardly holds.
    """
    x = _first(weights, name, x if code is None else tf.concat([x, code], axis=-1))
    if code is not None and f"{name}.gate" in weights:
        x *= 1.0 + code @ weights[f"{name}.gate"]
    for block in range(blocks):
        inner = _dense(weights, f"{name}.{block}.a", _norm(weights, f"{name}.{block}", x))
        x += _dense(weights, f"{name}.{block}.b", keras.activations.silu(inner))
    return x


def scale_latent(x: tf.Tensor) -> tf.Tensor:
    """Each row to [0, 1] between its smallest and its largest unit (MuZero, appendix G)."""
    low = tf.reduce_min(x, axis=-1, keepdims=True)
    return (x - low) / (tf.reduce_max(x, axis=-1, keepdims=True) - low + 1e-5)


def scale_gradient(x: tf.Tensor, share: float) -> tf.Tensor:
    """`x`, whose gradient is `share` of itself."""
    return share * x + (1.0 - share) * tf.stop_gradient(x)


def represent(weights: Weights, window: tf.Tensor, shape: Shape) -> tf.Tensor:
    """h: observations `[B, H, D]`, the newest last, to latents `[B, L]`."""
    if shape.encoder == "gru":
        state = tf.zeros((window.shape[0] or tf.shape(window)[0], shape.hidden))
        for step in range(shape.history):
            gates = _dense(weights, "encoder", tf.concat([state, window[:, step]], axis=-1))
            reset, candidate, update = tf.split(gates, 3, axis=-1)
            candidate, update = tf.tanh(tf.sigmoid(reset) * candidate), tf.sigmoid(update - 1.0)
            state = update * candidate + (1.0 - update) * state
        seen = state
    else:
        seen = tf.reshape(window, (-1, shape.history * shape.observation))
    x = _trunk(weights, "representation", seen, shape.blocks)
    return scale_latent(_dense(weights, "representation.latent", x))


def advance(
    weights: Weights, latent: tf.Tensor, code: tf.Tensor, shape: Shape
) -> tuple[tf.Tensor, tf.Tensor]:
    """g: the next latent `[B, L]` and the reward's logits `[B, R]` for `latent [B, L]` and `code [B, W]`.

    With chance outcomes the latent is an afterstate and the code that of an outcome, `[B, C]`.
    """
    x = _trunk(weights, "dynamics", latent, shape.blocks, code)
    following = scale_latent(latent + _dense(weights, "dynamics.latent", x))
    return following, _dense(weights, "dynamics.reward", x)


def follow(weights: Weights, latent: tf.Tensor, code: tf.Tensor, shape: Shape) -> tf.Tensor:
    """The afterstate `[B, L]` of `latent [B, L]` and an action `code [B, W]`, before chance has spoken."""
    x = _trunk(weights, "afterstate", latent, shape.blocks, code)
    return scale_latent(latent + _dense(weights, "afterstate.latent", x))


def foresee(weights: Weights, after: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of afterstates `[..., L]` the value's logits `[..., V]` and those of the outcomes `[..., C]`."""
    x = _first(weights, "chance", after)
    return _dense(weights, "chance.value", x), _dense(weights, "chance.outcome", x)


def read_outcome(weights: Weights, window: tf.Tensor, shape: Shape) -> tuple[tf.Tensor, tf.Tensor]:
    """Which outcome brought the observations `window [B, H, D]`: its code and the encoder's probabilities.

    The code `[B, C]` is the one-hot of the likeliest outcome, the nearest of a fixed codebook of one-hots;
    its gradient is that of the probabilities `[B, C]` (straight-through).
    """
    seen = tf.reshape(window, (-1, shape.history * shape.observation))
    logits = _dense(weights, "happened.outcome", _trunk(weights, "happened", seen, shape.blocks))
    probability = tf.nn.softmax(logits, axis=-1)
    code = tf.one_hot(tf.argmax(logits, axis=-1), shape.outcomes)
    return probability + tf.stop_gradient(code - probability), probability


def predict(weights: Weights, latent: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """f: the policy head `[..., P]` and the value's logits `[..., V]` of `latent [..., L]`."""
    x = _first(weights, "prediction", latent)
    return _dense(weights, "prediction.policy", x), _dense(weights, "prediction.value", x)


def project(weights: Weights, latent: tf.Tensor) -> tf.Tensor:
    """The consistency loss's guess of a later latent: `[..., L]` to `[..., L]`."""
    x = keras.activations.silu(_dense(weights, "consistency.in", latent))
    return _dense(weights, "consistency.out", x)


def to_scalar(logits: tf.Tensor, support: np.ndarray) -> tf.Tensor:
    """The scalar `[...]` that logits `[..., K]` over a transformed support stand for."""
    return scalars.expand(scalars.mean_of_logits(logits, support))


def scalar_loss(logits: tf.Tensor, x: tf.Tensor, support: np.ndarray) -> tf.Tensor:
    """Cross-entropy `[...]` of logits `[..., K]` with the two-hot of h(x), `x [...]`."""
    return scalars.two_hot_loss(logits, scalars.compress(x), support)
