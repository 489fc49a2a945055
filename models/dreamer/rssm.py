"""The recurrent state-space model: what was, what is, and what may come, as one latent state.

The state has a deterministic part h (a gated recurrent unit) and a stochastic part z (categorical
variables). After each action h moves on; the *prior* guesses z from h alone, the *posterior* also sees
the observation (DreamerV3, arXiv 2301.04104v2, eq. 1):

    h_t = f(h_{t-1}, z_{t-1}, a_{t-1})     z_t ~ q(z_t | h_t, x_t)     z^_t ~ p(z^_t | h_t)

`observe` runs the posterior over recorded sequences, `imagine` the prior under a policy. Both are one
`tf.while_loop`: it compiles in a second, where unrolling takes a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from models import networks, rng
from models.dreamer.config import Sizes


class Latent(NamedTuple):
    """The state; zeros before the first observation of an episode."""

    deterministic: tf.Tensor  # [..., D]
    stochastic: tf.Tensor  # [..., G * K], G one-hot vectors of K classes


class Observed(NamedTuple):
    """What `observe` gives for `[B, T]` steps."""

    latent: Latent  # [B, T, ...] after each observation
    posterior: tf.Tensor  # [B, T, G, K] logits
    prior: tf.Tensor  # [B, T, G, K] logits


class Imagined(NamedTuple):
    """What `imagine` gives: time first, since that is how it is made."""

    latent: Latent  # [H + 1, N, ...], the start included
    actions: tf.Tensor  # [H, N, A], taken in all states but the last


def feature(latent: Latent) -> tf.Tensor:
    """Both parts side by side: `[..., D + G * K]`."""
    return tf.concat([latent.deterministic, latent.stochastic], axis=-1)


def mixed(logits: tf.Tensor, unimix: float) -> tf.Tensor:
    """Probabilities `[..., K]` of `logits`, with a share `unimix` of the uniform distribution.

    No class is ever given up for good, and the divergence stays finite (DreamerV3, section "Robust
    predictions").
    """
    return (1.0 - unimix) * tf.nn.softmax(logits, axis=-1) + unimix / logits.shape[-1]


def draw(probabilities: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """One-hot samples `[..., K]` by inversion; `uniform [..., 1]` lies in [0, 1).

    A product with a triangle of ones is the cumulative sum: ten times cheaper on a processor than Gumbel
    noise for every class, and free of `argmax`, which TensorFlow does not vectorise.
    """
    triangle = np.triu(np.ones((probabilities.shape[-1],) * 2, np.float32))
    cumulative = tf.matmul(probabilities, triangle)  # [..., K]
    # Scaling by the last entry (one, up to rounding) makes sure that some class is reached.
    reached = tf.cast(cumulative > uniform * cumulative[..., -1:], tf.float32)
    return reached - tf.concat([tf.zeros_like(reached[..., :1]), reached[..., :-1]], axis=-1)


def straight_through(probabilities: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """`draw` whose gradient is that of the probabilities (Bengio et al. 2013; DreamerV2, algorithm 1)."""
    sample = tf.stop_gradient(draw(probabilities, uniform))
    return sample + (probabilities - tf.stop_gradient(probabilities))


def one_hot_of(classes: tf.Tensor, number: int) -> tf.Tensor:
    """Class indices `[..., G]` as the flat stochastic state `[..., G * number]`."""
    flat = classes.shape[-1] * number
    return tf.reshape(tf.one_hot(classes, number), tf.concat([tf.shape(classes)[:-1], [flat]], 0))


class BlockDense(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped here
    """One dense layer for each of G blocks of the input: `[B, G, I]` to `[B, G, O]`."""

    def __init__(self, blocks: int, units: int, *, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = networks.EnsembleDense(blocks, units, seed=seed, scale=1.0)

    def build(self, x_shape: Sequence[int | None]) -> None:
        self.inner.build((None, x_shape[-1]))
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.transpose(self.inner(tf.transpose(x, (1, 0, 2))), (1, 0, 2))


class DenseCell(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped here
    """h' from h, z and a by one dense layer and a normalised GRU: the cell of the 2023 paper."""

    def __init__(self, sizes: Sizes, actions: int, *, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inputs = networks.MLP([sizes.units], seed=rng.derive(seed, "inputs"), norm="rms", scale=1.0)
        self.inputs.build((None, sizes.stochastic + actions))
        self.gru = networks.GRUCell(sizes.deterministic, seed=rng.derive(seed, "gru"))
        self.gru.build((None, sizes.deterministic), (None, sizes.units))
        self.built = True

    def call(self, h: tf.Tensor, z: tf.Tensor, a: tf.Tensor) -> tf.Tensor:
        return self.gru(h, self.inputs(tf.concat([z, a], axis=-1)))


class BlockCell(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped here
    """h' from h, z and a with block-diagonal recurrent matrices: the cell of the 2024 version.

    Each block sees its own share of h, and all of what the three inputs say through a layer each.
    """

    def __init__(self, sizes: Sizes, actions: int, *, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.blocks, self.share = sizes.blocks, sizes.deterministic // sizes.blocks
        self.inputs = []
        for place, width in enumerate((sizes.deterministic, sizes.stochastic, actions)):
            layer = networks.MLP([sizes.units], seed=rng.derive(seed, place), norm="rms", scale=1.0)
            layer.build((None, width))
            self.inputs.append(layer)
        self.hidden = BlockDense(self.blocks, self.share, seed=rng.derive(seed, "hidden"))
        self.hidden.build((None, self.blocks, self.share + 3 * sizes.units))
        self.norm = networks.RMSNorm()
        self.norm.build((None, sizes.deterministic))
        self.gates = BlockDense(self.blocks, 3 * self.share, seed=rng.derive(seed, "gates"))
        self.gates.build((None, self.blocks, self.share))
        self.built = True

    def call(self, h: tf.Tensor, z: tf.Tensor, a: tf.Tensor) -> tf.Tensor:
        shared = tf.concat([layer(x) for layer, x in zip(self.inputs, (h, z, a), strict=True)], axis=-1)
        shared = tf.repeat(shared[:, None], self.blocks, axis=1)  # [B, G, 3 U]
        own = tf.reshape(h, (-1, self.blocks, self.share))
        x = self.hidden(tf.concat([own, shared], axis=-1))
        x = tf.nn.silu(self.norm(tf.reshape(x, (-1, self.blocks * self.share))))
        gates = self.gates(tf.reshape(x, (-1, self.blocks, self.share)))  # [B, G, 3 D / G]
        reset, candidate, update = tf.split(gates, 3, axis=-1)
        candidate = tf.tanh(tf.sigmoid(reset) * candidate)
        update = tf.sigmoid(update - 1.0)  # nearly closed at first: a new cell remembers
        return tf.reshape(update * candidate + (1.0 - update) * own, (-1, self.blocks * self.share))


class RSSM(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped here
    """The model's recurrent core. `tokens` is the width of an encoded observation, `actions` of an action."""

    def __init__(
        self, sizes: Sizes, *, tokens: int, actions: int, unimix: float, seed: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.sizes, self.unimix, self.actions = sizes, unimix, actions
        cell = BlockCell if sizes.blocks > 1 else DenseCell
        self.cell = cell(sizes, actions, seed=rng.derive(seed, "cell"))
        self.posterior = networks.MLP(
            [sizes.units], sizes.stochastic, seed=rng.derive(seed, "posterior"), norm="rms", scale=1.0
        )
        self.posterior.build((None, sizes.deterministic + tokens))
        self.prior = networks.MLP(
            [sizes.units], sizes.stochastic, seed=rng.derive(seed, "prior"), norm="rms", scale=1.0
        )
        self.prior.build((None, sizes.deterministic))
        self.built = True

    def initial(self, batch: Any) -> Latent:
        """The state before an episode: `[batch, ...]` of zeros."""
        return Latent(tf.zeros((batch, self.sizes.deterministic)), tf.zeros((batch, self.sizes.stochastic)))

    def grouped(self, flat: tf.Tensor) -> tf.Tensor:
        """`[..., G * K]` as `[..., G, K]`."""
        shape = tf.concat([tf.shape(flat)[:-1], [self.sizes.groups, self.sizes.classes]], 0)
        return tf.ensure_shape(
            tf.reshape(flat, shape), (*flat.shape[:-1], self.sizes.groups, self.sizes.classes)
        )

    def forward(self, latent: Latent, action: tf.Tensor) -> tf.Tensor:
        """h' `[B, D]` after `action [B, A]` in `latent`."""
        # Actions beyond +-1 (the tails of a normal policy) count as +-1; one-hot ones are not touched.
        bounded = action / tf.stop_gradient(tf.maximum(1.0, tf.abs(action)))
        return self.cell(latent.deterministic, latent.stochastic, bounded)

    def guess(self, h: tf.Tensor) -> tf.Tensor:
        """The prior's logits `[..., G, K]` for `h [..., D]`."""
        return self.grouped(self.prior(h))

    def recognise(self, h: tf.Tensor, tokens: tf.Tensor) -> tf.Tensor:
        """The posterior's logits `[..., G, K]` for `h [..., D]` and an encoded observation `[..., E]`."""
        return self.grouped(self.posterior(tf.concat([h, tokens], axis=-1)))

    def sample(self, logits: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """The stochastic state `[..., G * K]` drawn from `logits [..., G, K]`, gradient straight through."""
        flat = tf.concat([tf.shape(logits)[:-2], [self.sizes.stochastic]], 0)
        return tf.reshape(straight_through(mixed(logits, self.unimix), uniform), flat)

    def mode(self, logits: tf.Tensor) -> tf.Tensor:
        """The likeliest stochastic state `[B, G * K]`."""
        best = tf.one_hot(tf.argmax(logits, axis=-1), self.sizes.classes)
        return tf.reshape(best, (-1, self.sizes.stochastic))

    def enter(self, latent: Latent, action: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        """h' as in `forward`; where `first [B]`, of a new episode: nothing of before is left."""
        keep = 1.0 - tf.cast(first, tf.float32)[:, None]
        return self.forward(Latent(*(part * keep for part in latent)), action * keep)

    def noise(self, seed: Any, steps: int, batch: int) -> tf.Tensor:
        """What decides the stochastic states of `steps` steps: `[steps, batch, G, 1]`. Consumes `seed`."""
        return rng.uniform(seed, (steps, batch, self.sizes.groups, 1))

    def observe(
        self, start: Latent, tokens: tf.Tensor, actions: tf.Tensor, first: tf.Tensor, seed: Any
    ) -> Observed:
        """Filters `tokens [B, T, E]`; `actions [B, T, A]` led to them, `first [B, T]` begins an episode.

        `start [B, ...]` is the state before the first step. Consumes `seed`.
        """
        batch, steps = tokens.shape[0], tokens.shape[1]
        # Arrays of tensors, since slicing inside the loop would fill a whole [B, T] gradient a step.
        streams = [tf.TensorArray(tf.float32, steps).unstack(_swap(x)) for x in (tokens, actions)]
        firsts = tf.TensorArray(tf.bool, steps).unstack(_swap(first))
        uniforms = tf.TensorArray(tf.float32, steps).unstack(self.noise(seed, steps, batch))
        written = tuple(tf.TensorArray(tf.float32, steps) for _ in range(3))

        def body(t: tf.Tensor, latent: Latent, written: Any) -> Any:
            h = self.enter(latent, streams[1].read(t), firsts.read(t))
            logits = self.recognise(h, streams[0].read(t))
            z = self.sample(logits, uniforms.read(t))
            z = tf.ensure_shape(z, (batch, self.sizes.stochastic))
            values = (h, z, logits)
            return t + 1, Latent(h, z), tuple(a.write(t, v) for a, v in zip(written, values, strict=True))

        _, _, written = tf.while_loop(
            lambda t, *_: t < steps, body, (tf.constant(0), start, written), maximum_iterations=steps
        )
        h, z, posterior = (_swap(array.stack()) for array in written)
        return Observed(Latent(h, z), posterior, self.guess(h))

    def imagine(
        self,
        start: Latent,
        policy: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        noise: tf.Tensor,
    ) -> Imagined:
        """Dreams H steps from each of `start [N, ...]`, H being the length of `noise` (see `noise`).

        `policy(feature [N, F], step)` gives the actions `[N, A]` of that step.
        """
        horizon, batch = noise.shape[0], noise.shape[1]
        uniforms = tf.TensorArray(tf.float32, horizon, element_shape=noise.shape[1:]).unstack(noise)
        shapes = ((batch, self.sizes.deterministic), (batch, self.sizes.stochastic), (batch, self.actions))
        written = tuple(tf.TensorArray(tf.float32, horizon, element_shape=shape) for shape in shapes)

        def body(t: tf.Tensor, latent: Latent, written: Any) -> Any:
            action = policy(feature(latent), t)
            h = self.forward(latent, action)
            z = tf.ensure_shape(self.sample(self.guess(h), uniforms.read(t)), shapes[1])
            values = (h, z, action)
            return t + 1, Latent(h, z), tuple(a.write(t, v) for a, v in zip(written, values, strict=True))

        _, _, written = tf.while_loop(
            lambda t, *_: t < horizon, body, (tf.constant(0), start, written), maximum_iterations=horizon
        )
        h, z, actions = (array.stack() for array in written)
        path = (tf.concat([first[None], rest], 0) for first, rest in zip(start, (h, z), strict=True))
        return Imagined(Latent(*path), actions)


def _swap(x: tf.Tensor) -> tf.Tensor:
    """Batch and time exchanged."""
    return tf.transpose(x, (1, 0, *range(2, len(x.shape))))
