"""What the model foretells of the next rewards, as sampled paths: the dream from where the agent stands.

Nothing is adjusted here for the controller's good: temperature 1, sampled rewards, and luck decides where the
world ends. Element b of a batch draws numbers of its own that depend on the seed and on b alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models import rng
from models.world_model import dream
from models.world_model.dream import Noise, Setting, State, World


class Luck(NamedTuple):
    """The randomness of `N = B x M` paths."""

    latent: np.ndarray  # [B, M, Z] of the latents that the paths start from
    noise: Noise  # [H, N, ...]
    survive: np.ndarray  # [H, N] uniform


def luck(world: World, batch: int, samples: int, horizon: int, *, seed: int) -> Luck:
    """Fresh randomness; consumes `seed`."""
    shape = world.memory
    picks = 1 if shape.joint else shape.targets
    stream = rng.generator(seed, "forecast")
    normal = stream.standard_normal((batch, samples, shape.latents + horizon * shape.targets), np.float32)
    uniform = rng.generator(seed, "pick").random((batch, samples, horizon * (picks + 1)), np.float32)
    latent, rest = normal[..., : shape.latents], normal[..., shape.latents :]

    def by_step(values: np.ndarray, width: int) -> np.ndarray:
        steps = values.reshape(batch * samples, horizon, width)
        return np.ascontiguousarray(steps.transpose(1, 0, 2))  # [H, N, width]

    chances = by_step(uniform, picks + 1)
    pick = chances[..., 0] if shape.joint else chances[..., :picks]
    return Luck(latent, Noise(pick, by_step(rest, shape.targets)), chances[..., picks])


Paths = Callable[[Mapping[str, Any], tf.Tensor, State, Noise, tf.Tensor, Setting], tf.Tensor]


@functools.lru_cache(maxsize=8)
def paths(world: World, *, given: bool) -> Paths:
    """The function `(weights, deciding, state, noise, survive, setting) -> rewards [H, N]`.

    `deciding` is what is done whatever comes, `[H, N, A]`, if `given`, else the controller `[1, D]`. A plain
    graph, because probes come in many sizes and each would be compiled anew.
    """

    def run(
        weights: Mapping[str, Any],
        deciding: tf.Tensor,
        state: State,
        noise: Noise,
        survive: tf.Tensor,
        setting: Setting,
    ) -> tf.Tensor:
        steps = tf.shape(noise.normal)[0]
        rewards = tf.TensorArray(tf.float32, size=steps)

        def body(t: tf.Tensor, state: State, alive: tf.Tensor, rewards: Any) -> Any:
            value = deciding[None, t] if given else dream.decide(world, deciding, state).value
            moved = dream.advance(
                world, weights, setting, state, value, noise.pick[t], noise.normal[t], expected=False
            )
            rewards = rewards.write(t, alive * moved.reward[0])
            alive *= tf.cast(survive[t] < moved.survive, tf.float32)
            return t + 1, moved.state, alive, rewards

        *_, rewards = tf.while_loop(
            lambda t, *_: t < steps, body, (tf.constant(0), state, tf.ones(state.z.shape[0]), rewards)
        )
        return rewards.stack()

    function: Paths = tf.function(run, autograph=False)
    return function
