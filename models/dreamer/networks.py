"""The networks of Dreamer: the world model around the RSSM, the actor and the critic."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from models import networks, rng, scalars
from models.agent import Spaces
from models.dreamer import losses
from models.dreamer.config import Config
from models.dreamer.policy import Actions, actions_of
from models.dreamer.rssm import RSSM, draw


def _stack(config: Config, inputs: int, outputs: int | None, seed: int, output_scale: float) -> Any:
    sizes = config.sizes
    layer = networks.MLP(
        [sizes.units] * sizes.layers,
        outputs,
        seed=seed,
        norm="rms",
        scale=1.0,
        output_scale=output_scale,
    )
    layer.build((None, inputs))
    return layer


class ScalarHead(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped here
    """A number for every feature, as a distribution over symexp bins or plainly.

    The output layer starts at zero, so that a new head says exactly 0 everywhere and learning does not
    begin by taking back invented rewards.
    """

    def __init__(self, config: Config, kind: str, *, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        sizes = config.sizes
        self.bins = scalars.symexp_bins(sizes.bins, sizes.reach) if kind == "two_hot" else None
        self.stack = _stack(config, sizes.feature, sizes.bins if kind == "two_hot" else 1, seed, 0.0)
        self.built = True

    def call(self, feature: tf.Tensor) -> tf.Tensor:
        return self.stack(feature)  # [..., K]

    def mean(self, outputs: tf.Tensor) -> tf.Tensor:
        """`outputs [..., K]` as numbers `[...]`."""
        return losses.scalar_mean(outputs, self.bins)

    def sample(self, outputs: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Numbers `[...]` drawn from a distribution over bins with `uniform [..., 1]` in [0, 1)."""
        return tf.linalg.matvec(draw(tf.nn.softmax(outputs, axis=-1), uniform), self.bins)

    def loss(self, outputs: tf.Tensor, targets: list[tuple[float, tf.Tensor]]) -> tf.Tensor:
        """See `losses.scalar_loss`."""
        return losses.scalar_loss(outputs, targets, self.bins)


class World(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped here
    """Encoder, RSSM, and what is read off its state: observation, reward and whether it goes on."""

    def __init__(self, config: Config, inputs: int, actions: int, *, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        sizes = config.sizes
        self.encoder = _stack(config, inputs, None, rng.derive(seed, "encoder"), 1.0)
        self.rssm = RSSM(
            sizes,
            tokens=sizes.units,
            actions=actions,
            unimix=config.unimix,
            seed=rng.derive(seed, "rssm"),
        )
        self.decoder = _stack(config, sizes.feature, inputs, rng.derive(seed, "decoder"), 1.0)
        self.reward = ScalarHead(config, "two_hot", seed=rng.derive(seed, "reward"))
        self.proceed = _stack(config, sizes.feature, 1, rng.derive(seed, "continue"), 1.0)
        self.built = True

    def encode(self, observation: tf.Tensor) -> tf.Tensor:
        """`[..., I]` to tokens `[..., E]`; symlog keeps a wild input from shaking the rest   (eq. 9)."""
        return self.encoder(scalars.symlog(observation))

    def continue_logit(self, feature: tf.Tensor) -> tf.Tensor:
        """`[..., F]` to `[...]`."""
        return self.proceed(feature)[..., 0]


class Networks(NamedTuple):
    """All that is learned."""

    world: World
    actor: Any  # features to the policy's outputs
    critic: ScalarHead
    slow: ScalarHead  # follows the critic
    actions: Actions

    def behaviour(self) -> list[Any]:
        """Variables of actor and critic that the optimiser moves, in a fixed order."""
        return [*self.actor.trainable_variables, *self.critic.trainable_variables]

    def parts(self) -> dict[str, Any]:
        """The layers that an agent is saved as."""
        return {"world": self.world, "actor": self.actor, "critic": self.critic}

    def follow(self, rate: float) -> None:
        """Moves the slow critic a share `rate` of the way to the critic."""
        for slow, fast in zip(self.slow.variables, self.critic.variables, strict=True):
            slow.assign_add(rate * (fast.value - slow.value))


def build(config: Config, spaces: Spaces, seed: int) -> Networks:
    """Fresh networks for an environment; consumes `seed`."""
    actions = actions_of(spaces.action)
    feature = config.sizes.feature
    made = Networks(
        World(config, spaces.observation.shape[0], actions.width, seed=rng.derive(seed, "world")),
        # Nearly uniform at first: the variance is that of the paper's "outscale" 0.01, squared.
        _stack(config, feature, actions.outputs, rng.derive(seed, "actor"), 1e-4),
        ScalarHead(config, config.critic, seed=rng.derive(seed, "critic")),
        ScalarHead(config, config.critic, seed=rng.derive(seed, "critic")),
        actions,
    )
    made.follow(1.0)
    return made


def parameters(layer: Any) -> int:
    """Number of trained numbers."""
    return sum(int(tf.size(variable)) for variable in layer.trainable_variables)
