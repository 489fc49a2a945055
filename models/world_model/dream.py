"""The dream: many controllers, from many starts, stepped at once through what the memory expects.

One step takes P controllers through N dreams each. Randomness comes in as arrays that are shared by the
controllers (common random numbers): what differs between two candidates is what they decided. Where actions
do not move the world (`exposure`), there is one world for all of them: M = 1 rather than P of it, and
the accounts alone are P times N.

Shapes: worlds are flat, `B = M x N` rows; accounts and rewards are `[P, N]`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models import rng
from models.world_model import account, actions, controller, mdn_rnn
from models.world_model.actions import Acts
from models.world_model.mdn_rnn import Memory


class World(NamedTuple):
    """All that is static about a dream; hashable."""

    memory: mdn_rnn.Shape
    control: controller.Shape
    acts: Acts
    exposure: bool
    terminal_weight: float = 1.0


class Setting(NamedTuple):
    """What can change without compiling anew: float32 scalars, and `payoff_scale [R]`."""

    temperature: Any
    payoff_scale: Any
    cost: Any = 0.0
    risk_aversion: Any = 0.0


class State(NamedTuple):
    """Where the dreams stand. The memory is the one a controller sees beside z: in an `exposure` world it
    has taken z in already (nothing else goes in), elsewhere it still waits for the action."""

    z: Any  # [B, Z]
    memory: Memory  # [B, H] each
    held: Any  # [P, N, S]


class Noise(NamedTuple):
    """The randomness of T steps, shared by all controllers."""

    pick: Any  # uniform [T, N], or [T, N, Y] for a mixture per dimension
    normal: Any  # [T, N, Y]


class Moved(NamedTuple):
    """One step."""

    state: State
    reward: tf.Tensor  # [P, N]
    payoff: tf.Tensor  # [B, R] in the environment's units
    survive: tf.Tensor  # [B] probability that the world goes on


class Dream(NamedTuple):
    """T steps."""

    total: tf.Tensor  # [P, N] sum of the rewards, each weighed by the chance to be alive
    square: tf.Tensor  # [P, N] sum of their squares
    latents: tf.Tensor  # [T, B, Z] and
    payoffs: tf.Tensor  # [T, B, R], both with T = 0 where they were not recorded


def noise(shape: mdn_rnn.Shape, steps: int, dreams: int, *, seed: int) -> Noise:
    """Fresh randomness; consumes `seed`."""
    stream = rng.generator(seed, "noise")
    lead = (steps, dreams) if shape.joint else (steps, dreams, shape.targets)
    pick = stream.random(lead, dtype=np.float32)
    return Noise(pick, stream.standard_normal((steps, dreams, shape.targets), dtype=np.float32))


def seen(state: State) -> tf.Tensor:
    """What a controller sees of the world: `[z, h]`, `[B, Z + H]`."""
    return tf.concat([state.z, state.memory.h], axis=-1)


def decide(world: World, params: tf.Tensor, state: State) -> actions.Decided:
    """The decisions `[P, N, ...]` of the controllers `params [P, D]`."""
    dreams = state.held.shape[1]
    shown = tf.reshape(seen(state), (-1, dreams, world.control.inputs))  # [M, N, I]
    return actions.decide(controller.scores(params, shown, state.held, world.control), world.acts)


def advance(
    world: World,
    weights: Mapping[str, Any],
    setting: Setting,
    state: State,
    value: tf.Tensor,
    pick: tf.Tensor,
    normal: tf.Tensor,
    *,
    expected: bool,
) -> Moved:
    """One step with the decisions `value [P, N, A]`.

    `expected` pays the mean of what may happen instead of what does: the same on average, with none of the
    noise, while the states go on as sampled.
    """
    shape, (population, dreams) = world.memory, value.shape[:2]
    latents = shape.latents
    if world.exposure:
        x, memory = state.z, state.memory
    else:
        x = tf.concat([state.z, tf.reshape(value, (population * dreams, -1))], axis=-1)
        memory = mdn_rnn.step(weights, state.memory, x)
    ahead = mdn_rnn.outlook(weights, memory.h, x, shape)
    mixture = mdn_rnn.tempered(ahead.mixture, setting.temperature)

    def over_worlds(shared: tf.Tensor) -> tf.Tensor:  # [N, ...] to [B, ...]
        repeated = tf.broadcast_to(shared, (x.shape[0] // dreams, *shared.shape))
        return tf.reshape(repeated, (x.shape[0], *shared.shape[1:]))

    y = mdn_rnn.draw(ahead, setting.temperature, over_worlds(pick), over_worlds(normal), shape)  # [B, Y]
    z, payoff = y[:, :latents], y[:, latents:] * setting.payoff_scale
    survive = mdn_rnn.survival(ahead.going_on, world.terminal_weight)
    if not world.exposure:
        paid = payoff[:, 0]
        if expected:
            scale = tf.broadcast_to(setting.payoff_scale, payoff.shape)
            paid = mdn_rnn.payoff_moments(mixture, scale, shape).first
        reward = tf.reshape(paid, (population, dreams))
        return Moved(State(z, memory, state.held), reward, payoff, survive)

    turnover = tf.reduce_sum(tf.abs(value - state.held), axis=-1)  # [P, N]
    if expected:
        moments = mdn_rnn.payoff_moments(mixture, value * setting.payoff_scale, shape)
        reward = account.expected_reward(moments, turnover, setting.cost, setting.risk_aversion)
    else:
        gained = tf.reduce_sum(value * payoff, axis=-1)
        reward = account.reward(gained, turnover, setting.cost)
    held = account.drift(value, payoff)
    return Moved(State(z, mdn_rnn.step(weights, memory, z), held), reward, payoff, survive)


Rollout = Callable[[Mapping[str, Any], tf.Tensor, State, Noise, Setting], Dream]


@functools.lru_cache(maxsize=32)
def rollout(world: World, *, expected: bool = True, record: bool = False, compiled: bool = True) -> Rollout:
    """The compiled function `(weights, params [P, D], start, noise, setting) -> Dream`.

    `start` holds N starts: z `[N, Z]`, memory `[N, H]`, held `[N, S]`; each controller begins from all.
    One program is compiled for each set of sizes; made once a process for each `world`.
    """

    def run(
        weights: Mapping[str, Any], params: tf.Tensor, start: State, noise: Noise, setting: Setting
    ) -> Dream:
        population, (steps, dreams) = params.shape[0], noise.normal.shape[:2]
        worlds = dreams if world.exposure else population * dreams
        rows = tf.tile(tf.range(dreams), [worlds // dreams])
        held = tf.broadcast_to(start.held, (population, dreams, start.held.shape[-1]))
        memory = Memory(tf.gather(start.memory.h, rows), tf.gather(start.memory.c, rows))
        state = State(tf.gather(start.z, rows), memory, held)
        kept = steps if record else 0
        shape = world.memory
        latents = tf.TensorArray(tf.float32, size=kept, element_shape=(worlds, shape.latents))
        payoffs = tf.TensorArray(tf.float32, size=kept, element_shape=(worlds, shape.payoffs))
        nothing = tf.zeros((population, dreams))

        def body(
            t: tf.Tensor, state: State, alive: tf.Tensor, total: tf.Tensor, square: tf.Tensor, *kept: Any
        ) -> Any:
            value = decide(world, params, state).value
            moved = advance(
                world, weights, setting, state, value, noise.pick[t], noise.normal[t], expected=expected
            )
            weight = tf.reshape(alive, (-1, dreams))  # [M, N]
            reward = weight * moved.reward
            if record:
                kept = (kept[0].write(t, moved.state.z), kept[1].write(t, moved.payoff))
            return (
                t + 1, moved.state, alive * moved.survive, total + reward, square + reward**2, *kept,
            )  # fmt: skip

        _, _, _, total, square, *kept_arrays = tf.while_loop(
            lambda t, *_: t < steps,
            body,
            (tf.constant(0), state, tf.ones(worlds), nothing, nothing, latents, payoffs),
            maximum_iterations=steps,
        )
        if not record:
            return Dream(
                total, square, tf.zeros((0, worlds, shape.latents)), tf.zeros((0, worlds, shape.payoffs))
            )
        return Dream(total, square, kept_arrays[0].stack(), kept_arrays[1].stack())

    function: Rollout = tf.function(run, jit_compile=compiled, autograph=False)
    return function


class Imagination(NamedTuple):
    """A model ready to dream: what is static, its weights as tensors, the setting, and where to begin."""

    world: World
    weights: Mapping[str, tf.Tensor]
    setting: Setting
    starts: State  # NumPy: z [M, Z], memory [M, H], held [M, S]

    def begin(self, dreams: int, *, seed: int) -> State:
        """`dreams` starts drawn from the data, as tensors; consumes `seed`."""
        rows = rng.generator(seed, "starts").integers(0, len(self.starts.z), dreams)
        z, (h, c), held = self.starts
        memory = Memory(tf.constant(h[rows]), tf.constant(c[rows]))
        return State(tf.constant(z[rows]), memory, tf.constant(held[rows]))

    def dream(
        self,
        params: np.ndarray,
        *,
        dreams: int,
        steps: int,
        seed: int,
        expected: bool = True,
        record: bool = False,
    ) -> Dream:
        """Takes controllers `params [P, D]` through `dreams` dreams of `steps`; consumes `seed`."""
        shared = noise(self.world.memory, steps, dreams, seed=rng.derive(seed, "noise"))
        return rollout(self.world, expected=expected, record=record)(
            self.weights,
            tf.constant(params.astype(np.float32)),
            self.begin(dreams, seed=rng.derive(seed, "begin")),
            Noise(*(tf.constant(part) for part in shared)),
            self.setting,
        )


def imagination(
    world: World, weights: Mapping[str, np.ndarray], starts: State, **setting: Any
) -> Imagination:
    """An `Imagination` of plain arrays; `setting` are the fields of `Setting`."""
    return Imagination(
        world,
        {name: tf.constant(value) for name, value in weights.items()},
        Setting(*(tf.constant(value, tf.float32) for value in Setting(**setting))),
        starts,
    )


def fitness(dream: Dream, steps: int, kind: str, tail: float = 1.0) -> np.ndarray:
    """The fitness `[P]`: mean reward a step, or its ratio to the deviation (`sharpe`), over all dreams or
    over the worst `tail` of each candidate's."""
    total, square = np.asarray(dream.total, np.float64), np.asarray(dream.square, np.float64)
    count = max(1, int(np.ceil(tail * total.shape[1])))
    worst = np.argsort(total, axis=1, kind="stable")[:, :count]  # [P, count]
    mean: np.ndarray = np.take_along_axis(total, worst, axis=1).mean(axis=1) / steps
    if kind == "return":
        return mean
    spread = np.take_along_axis(square, worst, axis=1).mean(axis=1) / steps - mean**2
    return np.asarray(mean / np.sqrt(np.maximum(spread, 1e-16)))
