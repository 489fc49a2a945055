"""M: an LSTM whose output is a mixture density over what comes next (Bishop 1994; Ha and Schmidhuber 2018).

    p(y_{t+1} | x_t, h_{t-1}) = sum_k pi_k N(y_{t+1}; mu_k, diag sigma_k^2)    (World Models, section 2.2)

`x_t` is the latent, and the action where it moves the world; `y_{t+1}` is the next latent followed by what
the step pays, so that a dream's payoff and the state it leads to belong together: a bar that falls is a bar
whose latent shows the fall. The `joint` mixture has components over the whole of y, as the chapter's
formula says; the reference implementation's is one mixture a dimension (`per_dimension`), which cannot hold
any dependence between dimensions. The head sees `[h_t, x_t]`: with the skip a linear dynamic is linear.

`step` runs in NumPy as in TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from models import networks, rng

_SMALLEST_SCALE = 1e-3  # of targets of order one: a component that sits on one point must not win it all


class Shape(NamedTuple):
    """All that is static about an MDN-RNN."""

    latents: int  # Z
    payoffs: int  # R
    actions: int  # A, 0 where the action does not move the world
    units: int  # H
    components: int  # K
    joint: bool = True
    layer_norm: bool = False

    @property
    def inputs(self) -> int:
        return self.latents + self.actions

    @property
    def targets(self) -> int:
        """Y."""
        return self.latents + self.payoffs


class Memory(NamedTuple):
    """What the LSTM carries."""

    h: Any  # [..., H]
    c: Any  # [..., H]


class Mixture(NamedTuple):
    """A mixture of normals over y: joint components, or one mixture for each dimension."""

    logits: Any  # [..., K] or [..., Y, K]
    mean: Any  # [..., K, Y] or [..., Y, K]
    scale: Any  # of the shape of mean


def initial(shape: Shape, seed: int) -> dict[str, np.ndarray]:
    """Fresh weights, a function of `seed`; the forget gate starts open (bias 1)."""
    draw = rng.generator(seed, "spread")

    def kernel(name: str, i: int, o: int, scale: float = 1.0) -> np.ndarray:
        return np.asarray(networks.kernel_initializer(rng.derive(seed, name), scale)((i, o)))

    units, count, width = shape.units, shape.components, shape.targets
    bias = np.zeros(4 * units, np.float32)
    bias[units : 2 * units] = 1.0
    weights = {
        "lstm.input": kernel("input", shape.inputs, 4 * units),
        "lstm.recurrent": kernel("recurrent", units, 4 * units),
        "lstm.bias": bias,
    }
    if shape.layer_norm:
        weights["lstm.input_gain"] = np.ones(4 * units, np.float32)
        weights["lstm.recurrent_gain"] = np.ones(4 * units, np.float32)
    logits = count if shape.joint else count * width
    out = logits + 2 * count * width + 1
    weights["head.kernel"] = kernel("head", units + shape.inputs, out, 0.1)
    weights["head.bias"] = np.zeros(out, np.float32)
    # Components that start alike stay alike: their means start apart.
    weights["head.bias"][logits : logits + count * width] = draw.normal(0.0, 0.7, count * width)
    return weights


def _normalise(gates: Any, gain: Any) -> Any:
    mean: Any = np.mean if isinstance(gates, np.ndarray) else tf.reduce_mean
    axis = {"axis": -1, "keepdims": True}
    centred = gates - mean(gates, **axis)
    return gain * centred / (mean(centred**2, **axis) + 1e-5) ** 0.5


def _matmul(x: Any, kernel: Any) -> Any:
    """`x [..., I] @ kernel [I, O]` as one flat product: a batched one would repeat the kernel."""
    if isinstance(x, np.ndarray) or len(x.shape) == 2:
        return x @ kernel
    flat = tf.reshape(x, (-1, x.shape[-1])) @ kernel
    return tf.reshape(flat, (*x.shape[:-1], kernel.shape[-1]))


def _project(weights: Mapping[str, Any], x: Any) -> Any:
    """The inputs' part of the gates `[..., 4H]`: all times at once, outside the loop."""
    gates = _matmul(x, weights["lstm.input"])
    if "lstm.input_gain" in weights:
        gates = _normalise(gates, weights["lstm.input_gain"])
    return gates + weights["lstm.bias"]


def _gate(weights: Mapping[str, Any], memory: Memory, projected: Any) -> Memory:
    recurrent = _matmul(memory.h, weights["lstm.recurrent"])
    if "lstm.recurrent_gain" in weights:
        recurrent = _normalise(recurrent, weights["lstm.recurrent_gain"])
    return _open(memory, projected + recurrent)


def _open(memory: Memory, gates: Any) -> Memory:
    """The memory after `gates [..., 4H]`."""
    tanh = np.tanh if isinstance(gates, np.ndarray) else tf.tanh
    units = gates.shape[-1] // 4
    # One activation over three gates: sigmoid(x) = (1 + tanh(x / 2)) / 2.
    soft = 0.5 + 0.5 * tanh(0.5 * gates[..., : 3 * units])
    enter, keep, show = soft[..., :units], soft[..., units : 2 * units], soft[..., 2 * units :]
    c = keep * memory.c + enter * tanh(gates[..., 3 * units :])
    return Memory(show * tanh(c), c)


def step(weights: Mapping[str, Any], memory: Memory, x: Any) -> Memory:
    """One step of the LSTM on `x [..., I]`."""
    return _gate(weights, memory, _project(weights, x))


def trace(weights: Mapping[str, np.ndarray], x: np.ndarray, first: np.ndarray) -> tuple[Memory, Memory]:
    """The memory before and after each row of the path `x [M, I]`, `[M, H]` each; it is empty before rows
    that are `first [M]`."""
    units = weights["lstm.recurrent"].shape[0]
    kept = np.zeros((4, len(x), units), np.float32)
    empty = Memory(np.zeros(units, np.float32), np.zeros(units, np.float32))
    memory = empty
    for row in range(len(x)):
        before = empty if first[row] else memory
        memory = step(weights, before, x[row])
        kept[:, row] = *before, *memory
    return Memory(kept[0], kept[1]), Memory(kept[2], kept[3])


def unroll(weights: Mapping[str, Any], x: tf.Tensor, reset: tf.Tensor, shape: Shape) -> tf.Tensor:
    """h at every step of `x [B, T, I]`: `[B, T, H]`. Where `reset [B, T]` is 1 the memory begins anew."""
    batch, steps = x.shape[0], x.shape[1]
    projected = tf.transpose(_project(weights, x), (1, 0, 2))  # [T, B, 4H]
    keep = tf.transpose(1.0 - reset)[..., None]  # [T, B, 1]
    zeros = tf.zeros((batch, shape.units))
    outputs = tf.TensorArray(tf.float32, size=steps, element_shape=(batch, shape.units))

    def body(t: tf.Tensor, h: tf.Tensor, c: tf.Tensor, outputs: Any) -> Any:
        memory = _gate(weights, Memory(h * keep[t], c * keep[t]), projected[t])
        return t + 1, memory.h, memory.c, outputs.write(t, memory.h)

    *_, outputs = tf.while_loop(
        lambda t, *_: t < steps, body, (tf.constant(0), zeros, zeros, outputs), maximum_iterations=steps
    )
    return tf.transpose(outputs.stack(), (1, 0, 2))


class Outlook(NamedTuple):
    """What the head says of the next step."""

    mixture: Mixture
    going_on: tf.Tensor  # [...] logit of continuation, as trained (see `terminal_weight`)
    wide: Any  # what the mixture's scale is made of by `positive`


def outlook(weights: Mapping[str, Any], h: tf.Tensor, x: tf.Tensor, shape: Shape) -> Outlook:
    """The mixture over y given `h [..., H]` (after the step) and its input `x [..., I]`.

    NumPy in, NumPy out.
    """
    numpy = isinstance(h, np.ndarray)
    reshape = np.reshape if numpy else tf.reshape
    # Two products rather than one of the concatenation, which would be copied at every step of a dream.
    kernel = weights["head.kernel"]
    out = _matmul(h, kernel[: shape.units]) + _matmul(x, kernel[shape.units :])  # [..., O]
    out += weights["head.bias"]
    count, width = shape.components, shape.targets
    logits = count if shape.joint else count * width
    lead = out.shape[:-1]
    matrix = (count, width) if shape.joint else (width, count)
    size = count * width
    mean = reshape(out[..., logits : logits + size], (*lead, *matrix))
    wide = reshape(out[..., logits + size : -1], (*lead, *matrix))
    weigh = out[..., :logits] if shape.joint else reshape(out[..., :logits], (*lead, width, count))
    return Outlook(Mixture(weigh, mean, positive(wide)), out[..., -1], wide)


def positive(wide: Any) -> Any:
    """The scale of a component: softplus, and never too small."""
    soft = np.logaddexp(np.float32(0), wide) if isinstance(wide, np.ndarray) else tf.math.softplus(wide)
    return soft + _SMALLEST_SCALE


def _shares(logits: np.ndarray) -> np.ndarray:
    share = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(share / share.sum(axis=-1, keepdims=True))


def mean_payoff(mixture: Mixture, shape: Shape) -> np.ndarray:
    """The mean of the payoffs of NumPy mixtures: `[..., R]`."""
    share = _shares(mixture.logits)
    if shape.joint:
        found = (share[..., None] * mixture.mean[..., shape.latents :]).sum(axis=-2)
    else:
        found = (share * mixture.mean)[..., shape.latents :, :].sum(axis=-1)
    return np.asarray(found)


def distribution(mixture: Mixture, shape: Shape) -> Any:
    """The mixture as a TFP distribution over `[Y]`."""
    tfd = tfp.distributions
    weigh = tfd.Categorical(logits=mixture.logits)
    each = tfd.Normal(mixture.mean, mixture.scale)
    if shape.joint:
        return tfd.MixtureSameFamily(weigh, tfd.Independent(each, 1))
    return tfd.Independent(tfd.MixtureSameFamily(weigh, each), 1)


def marginal_payoff(mixture: Mixture, shape: Shape) -> Any:
    """The law of the payoffs alone, as a TFP distribution over `[R]`."""
    first = shape.latents
    if shape.joint:
        part = Mixture(mixture.logits, mixture.mean[..., first:], mixture.scale[..., first:])
    else:
        part = Mixture(*(tensor[..., first:, :] for tensor in mixture))
    return distribution(part, shape)


def tempered(mixture: Mixture, temperature: Any) -> Mixture:
    """Logits divided by the temperature, variances multiplied by it (Ha and Schmidhuber 2018, appendix)."""
    return Mixture(mixture.logits / temperature, mixture.mean, mixture.scale * temperature**0.5)


def draw(ahead: Outlook, temperature: Any, pick: tf.Tensor, noise: tf.Tensor, shape: Shape) -> tf.Tensor:
    """One y `[..., Y]` of the tempered mixture. `pick` is uniform, `[...]` if joint, else `[..., Y]`;
    `noise` is normal `[..., Y]`.

    Both may broadcast against the mixture: dreams that share them differ only in what was decided. The
    scale is made of the one component that was picked: most of a dream's time went into the others.
    """
    logits = ahead.mixture.logits / temperature
    share = tf.exp(logits - tf.reduce_max(logits, axis=-1, keepdims=True))  # [..., K]
    reached = tf.cumsum(share, axis=-1)
    # The last component takes what rounding leaves.
    below = reached[..., :-1] <= pick[..., None] * reached[..., -1:]
    chosen = tf.reduce_sum(tf.cast(below, tf.int32), axis=-1)
    hot = tf.one_hot(chosen, shape.components)  # [..., K] or [..., Y, K]
    axis = -2 if shape.joint else -1
    hot = hot[..., None] if shape.joint else hot
    mean = tf.reduce_sum(hot * ahead.mixture.mean, axis=axis)
    wide = tf.reduce_sum(hot * ahead.wide, axis=axis)
    return mean + positive(wide) * temperature**0.5 * noise


class Moments(NamedTuple):
    """Mean and mean square of a weighted sum of payoffs."""

    first: Any
    second: Any


def payoff_moments(mixture: Mixture, weight: Any, shape: Shape) -> Moments:
    """Of `weight . payoff` for `weight [..., R]`, exactly, without sampling. NumPy in, NumPy out."""
    numpy = isinstance(mixture.logits, np.ndarray)
    total: Any = np.sum if numpy else tf.reduce_sum
    share = _shares(mixture.logits) if numpy else tf.nn.softmax(mixture.logits)
    if shape.joint:
        spread = weight[..., None, :]
        mean = total(mixture.mean[..., shape.latents :] * spread, axis=-1)  # [..., K]
        variance = total((mixture.scale[..., shape.latents :] * spread) ** 2, axis=-1)
        return Moments(total(share * mean, axis=-1), total(share * (mean**2 + variance), axis=-1))
    share, mean, scale = (part[..., shape.latents :, :] for part in (share, *mixture[1:]))  # [..., R, K]
    each = total(share * mean, axis=-1)  # [..., R]
    variance = total(share * (mean**2 + scale**2), axis=-1) - each**2
    first = total(each * weight, axis=-1)
    return Moments(first, first**2 + total(variance * weight**2, axis=-1))


class Batch(NamedTuple):
    """B stretches of T steps."""

    x: Any  # [B, T, I] latent, and action where it moves the world
    reset: Any  # [B, T] 1 where an episode begins: what was before is forgotten
    y: Any  # [B, T, Y] next latent and payoffs
    ended: Any  # [B, T] the step ended the world (termination, not time)
    mask: Any  # [B, T] 1 where the step is to be learned from


class Parts(NamedTuple):
    """Losses of each step, in nats."""

    nll: tf.Tensor  # [B, T] of y
    payoff: tf.Tensor  # [B, T] of the payoffs alone
    ending: tf.Tensor  # [B, T] weighted cross-entropy of the continuation head


def losses(weights: Mapping[str, Any], batch: Batch, shape: Shape, terminal_weight: float) -> Parts:
    """The losses of every step of `batch`, unmasked."""
    h = unroll(weights, batch.x, batch.reset, shape)  # [B, T, H]
    seen = outlook(weights, h, batch.x, shape)
    going = tf.nn.weighted_cross_entropy_with_logits(
        labels=batch.ended, logits=-seen.going_on, pos_weight=terminal_weight
    )
    nll = -distribution(seen.mixture, shape).log_prob(batch.y)
    return Parts(nll, -marginal_payoff(seen.mixture, shape).log_prob(batch.y[..., shape.latents :]), going)


def survival(going_on: tf.Tensor, terminal_weight: float) -> tf.Tensor:
    """The probability of going on. An ending that weighs w in the loss moved its log odds by ln w."""
    return tf.sigmoid(going_on + float(np.log(terminal_weight)))


def mean_losses(
    weights: Mapping[str, Any], batch: Batch, shape: Shape, terminal_weight: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """What is minimised, and the means of the parts `[3]`, over the steps of the mask."""
    parts = losses(weights, batch, shape, terminal_weight)
    count = tf.maximum(tf.reduce_sum(batch.mask), 1.0)
    means = tf.stack([tf.reduce_sum(part * batch.mask) / count for part in parts])  # [3]
    return means[0] + means[2], means
