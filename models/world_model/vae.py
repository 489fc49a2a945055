"""V: the variational autoencoder that gives each observation a latent vector (Kingma and Welling 2014).

Weights are named arrays; `encode` runs in NumPy as in TensorFlow, because an agent that acts on one
observation at a time would spend its time in calls. Observations are standardised before they come here.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from models import networks, rng

_LOG_VARIANCE_REACH = 10.0
_SMALLEST_SCALE = 0.01  # of a standardised observation; a constant component would have none


class Shape(NamedTuple):
    """All that is static about a VAE."""

    inputs: int
    hidden: tuple[int, ...]
    latents: int
    likelihood: Literal["gaussian", "student"] = "gaussian"

    @property
    def encoder(self) -> tuple[int, ...]:
        return (self.inputs, *self.hidden, 2 * self.latents)

    @property
    def decoder(self) -> tuple[int, ...]:
        return (self.latents, *reversed(self.hidden), self.inputs)


class Posterior(NamedTuple):
    """q(z | x): a normal with independent components."""

    mean: Any  # [..., Z]
    log_variance: Any  # [..., Z]


class Elbo(NamedTuple):
    """The two sides of the evidence lower bound, in nats."""

    log_likelihood: tf.Tensor  # [B] log p(x | z) of one z ~ q(z | x)
    kl: tf.Tensor  # [B, Z] KL(q(z | x) || p(z)) of each dimension


def initial(shape: Shape, seed: int) -> dict[str, np.ndarray]:
    """Fresh weights, a function of `seed`; the posterior starts near the prior."""
    weights: dict[str, np.ndarray] = {}
    for part, widths in (("encoder", shape.encoder), ("decoder", shape.decoder)):
        for layer, (i, o) in enumerate(pairwise(widths)):
            last = layer == len(widths) - 2
            initializer = networks.kernel_initializer(rng.derive(seed, part, layer), 0.1 if last else 2.0)
            weights[f"{part}.{layer}.kernel"] = np.asarray(initializer((i, o)))
            weights[f"{part}.{layer}.bias"] = np.zeros(o, np.float32)
    weights["likelihood.scale"] = np.full(shape.inputs, 0.5, np.float32)  # softplus: 0.97
    if shape.likelihood == "student":
        weights["likelihood.freedom"] = np.full(shape.inputs, 3.0, np.float32)  # softplus: 3.05, plus 2
    return weights


def _stack(weights: Mapping[str, Any], part: str, layers: int, x: Any, tanh: Any) -> Any:
    for layer in range(layers):
        x = x @ weights[f"{part}.{layer}.kernel"] + weights[f"{part}.{layer}.bias"]
        if layer < layers - 1:
            x = tanh(x)
    return x


def encode(weights: Mapping[str, Any], x: Any, shape: Shape) -> Posterior:
    """The posterior of `x [B, I]`; NumPy in, NumPy out."""
    tanh = np.tanh if isinstance(x, np.ndarray) else tf.tanh
    out = _stack(weights, "encoder", len(shape.encoder) - 1, x, tanh)  # [B, 2Z]
    # Bounded smoothly, so that no gradient vanishes and no variance overflows.
    reach = _LOG_VARIANCE_REACH
    return Posterior(out[..., : shape.latents], reach * tanh(out[..., shape.latents :] / reach))


def decode(weights: Mapping[str, Any], z: Any, shape: Shape) -> Any:
    """The location of an observation given `z [B, Z]`: `[B, I]`; NumPy in, NumPy out."""
    tanh = np.tanh if isinstance(z, np.ndarray) else tf.tanh
    return _stack(weights, "decoder", len(shape.decoder) - 1, z, tanh)


def likelihood(weights: Mapping[str, Any], z: tf.Tensor, shape: Shape) -> Any:
    """p(x | z) as a TFP distribution over `[I]`, batch `[B]`; components have learned scales (and tails)."""
    location = decode(weights, z, shape)  # [B, I]
    scale = tf.math.softplus(weights["likelihood.scale"]) + _SMALLEST_SCALE  # [I]
    if shape.likelihood == "gaussian":
        each = tfp.distributions.Normal(location, scale)
    else:
        freedom = 2.0 + tf.math.softplus(weights["likelihood.freedom"])  # above 2: the variance exists
        each = tfp.distributions.StudentT(freedom, location, scale)
    return tfp.distributions.Independent(each, 1)


def sample(posterior: Posterior, noise: Any) -> Any:
    """z = mean + deviation x noise, `noise` standard normal (Kingma and Welling 2014, section 2.4)."""
    exp = np.exp if isinstance(posterior.mean, np.ndarray) else tf.exp
    return posterior.mean + exp(0.5 * posterior.log_variance) * noise


def kl(posterior: Posterior) -> Any:
    """KL to the standard normal of each dimension (Kingma and Welling 2014, appendix B): `[..., Z]`."""
    exp = np.exp if isinstance(posterior.mean, np.ndarray) else tf.exp
    return 0.5 * (exp(posterior.log_variance) + posterior.mean**2 - 1.0 - posterior.log_variance)


def elbo(weights: Mapping[str, Any], x: tf.Tensor, seed: Any, shape: Shape) -> Elbo:
    """The bound of `x [B, I]` with one latent each; consumes `seed [2]`."""
    posterior = encode(weights, x, shape)
    z = sample(posterior, rng.normal(seed, tf.shape(posterior.mean)))  # [B, Z]
    return Elbo(likelihood(weights, z, shape).log_prob(x), kl(posterior))


def loss(parts: Elbo, floor: float) -> tf.Tensor:
    """What is minimised: -log p(x | z) + sum over dimensions of max(mean KL, floor).

    The floor is held against the mean over the batch (Kingma et al. 2016, appendix C.8), dimension by
    dimension: one that carries much cannot pay for one that collapses.
    """
    each = tf.maximum(tf.reduce_mean(parts.kl, axis=0), floor)  # [Z]
    return tf.reduce_sum(each) - tf.reduce_mean(parts.log_likelihood)


def held_out_elbo(
    weights: Mapping[str, Any], x: np.ndarray, shape: Shape, *, seed: int, draws: int = 4
) -> float:
    """Mean bound in nats a row of `x [B, I]`, without any floor, over `draws` latents each."""
    total = 0.0
    for draw in range(draws):
        parts = elbo(weights, tf.convert_to_tensor(x), rng.key(rng.derive(seed, draw)), shape)
        total += float(tf.reduce_mean(parts.log_likelihood - tf.reduce_sum(parts.kl, axis=1)))
    return total / draws


def active_dimensions(posterior: Posterior, threshold: float = 0.01) -> int:
    """Dimensions whose posterior mean has a variance above `threshold` (Burda et al. 2016, section 5.2)."""
    return int((np.asarray(posterior.mean).var(axis=0) > threshold).sum())
