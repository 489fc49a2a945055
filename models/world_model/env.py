"""The dream as a gymnasium vector environment, so that any other family can be trained inside it.

An observation is what the controller sees: latent, memory, and the exposures held where there is an
account. Actions are those of the real environment. Rewards are sampled, in its units, and the account's
costs are paid. An episode terminates where the dream ends by itself, and is truncated by time.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from models import rng
from models.world_model import actions, dream
from models.world_model.dream import Imagination, Noise, State
from models.world_model.mdn_rnn import Memory


class DreamVectorEnv(VectorEnv):  # type: ignore[misc]
    """N dreams of at most `steps` steps; resets in the step after an end.

    A pure function of its seed and of the actions given. Elements share one random stream: another
    `num_envs` is another set of dreams.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}
    render_mode = None

    def __init__(
        self,
        imagination: Imagination,
        action_space: gymnasium.Space[Any],
        *,
        num_envs: int = 1,
        steps: int = 256,
    ) -> None:
        if num_envs < 1 or steps < 1:
            raise ValueError(f"num_envs and steps must be at least 1, got {num_envs!r} and {steps!r}")
        self.num_envs, self.steps, self.imagination = num_envs, steps, imagination
        world = imagination.world
        width = world.control.inputs + world.control.held
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.single_action_space = action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self._move = tf.function(self._advance, jit_compile=True, autograph=False)
        self._seed: int | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins all dreams anew. Without a seed the stream runs on from where it is."""
        if self._seed is None or seed is not None:
            self._seed = int(np.random.default_rng(seed).integers(2**31))
            self._count = 0
        self._over = np.zeros(self.num_envs, bool)
        self._age = np.zeros(self.num_envs, np.int64)
        self._state = self._fresh()
        return self._show(), {}

    def step(
        self, actions_taken: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every dream; those that ended in the last step begin a new one instead."""
        if self._seed is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        taken = np.asarray(actions_taken, self.action_space.dtype)
        if not self.action_space.contains(taken):
            raise ValueError(f"the actions {actions_taken!r} are not of {self.action_space}")
        world, fresh = self.imagination.world, self._over
        shared = dream.noise(world.memory, 1, self.num_envs, seed=rng.derive(self._seed, "step", self._count))
        luck = rng.generator(self._seed, "survive", self._count).random(self.num_envs)
        value = actions.value_of(taken.reshape(self.num_envs, -1), world.acts)[None]  # [1, N, A]
        state, reward, survive = self._move(self._state, tf.constant(value), Noise(*map(tf.constant, shared)))
        terminated = (luck >= survive.numpy()) & ~fresh
        self._age = np.where(fresh, 0, self._age + 1)
        truncated = (self._age >= self.steps) & ~terminated
        self._state = state
        if fresh.any():
            self._count += 1
            mask = tf.constant(fresh[:, None])
            self._state = tf.nest.map_structure(
                lambda new, old: tf.where(mask, new, old), self._fresh(), self._state
            )
        self._over = terminated | truncated
        self._count += 1
        paid = np.where(fresh, 0.0, reward.numpy().astype(np.float64))
        return self._show(), paid, terminated, truncated, {}

    def _fresh(self) -> State:
        assert self._seed is not None
        start = self.imagination.begin(self.num_envs, seed=rng.derive(self._seed, "begin", self._count))
        return start._replace(held=start.held[None])

    def _advance(self, state: State, value: tf.Tensor, shared: Noise) -> tuple[State, tf.Tensor, tf.Tensor]:
        world, weights, setting, _ = self.imagination
        state = State(state.z, Memory(*state.memory), state.held)
        pick, normal = shared.pick[0], shared.normal[0]
        moved = dream.advance(world, weights, setting, state, value, pick, normal, expected=False)
        return moved.state, moved.reward[0], moved.survive

    def _show(self) -> np.ndarray:
        parts = [self._state.z, self._state.memory.h, self._state.held[0]]
        return np.concatenate([part.numpy() for part in parts], axis=1)
