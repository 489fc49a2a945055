"""The learned model as a gymnasium vector environment, so that any other family can be trained inside it.

Observations, actions and rewards are those of the real environment. A dream starts from an observation that
was really made, and is cut short (truncated) before the model's errors have piled up: short branches from
real states, as in MBPO (Janner et al. 2019). It terminates where the model says that an episode ends.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from models import rng
from models.agent import Spaces
from models.ensemble import forecast
from models.ensemble.dream import Known, Model
from models.ensemble.networks import Shape


class DreamVectorEnv(VectorEnv):  # type: ignore[misc]
    """N dreams of at most `steps` steps; resets in the step after an end.

    A pure function of its seed and of the actions given. Dream i moves with member i modulo K, so that
    with N a multiple of K a policy meets every opinion equally often; elements share one random stream.

    Args:
        starts: `[S, D]` observations that a dream may start from.
        choose: actions of the space `[N, *action]` to those of the planner `[N, A]`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}
    render_mode = None

    def __init__(
        self,
        model: Model,
        shape: Shape,
        spaces: Spaces,
        starts: np.ndarray,
        choose: Any,
        *,
        known: Known = Known(),  # noqa: B008, immutable
        num_envs: int = 32,
        steps: int = 16,
        compiled: bool = True,
    ) -> None:
        if num_envs < 1 or steps < 1 or not len(starts):
            raise ValueError(
                f"num_envs, steps and the number of starts must be at least 1, got {num_envs!r}, {steps!r}, "
                f"{len(starts)}"
            )
        self.num_envs, self.steps, self.model, self.choose = num_envs, steps, model, choose
        self.starts = np.asarray(starts, np.float32)
        self.single_observation_space: gymnasium.spaces.Box = spaces.observation
        self.single_action_space = spaces.action
        self.observation_space = batch_space(spaces.observation, num_envs)
        self.action_space = batch_space(spaces.action, num_envs)
        self._move = forecast.mover(shape, known, num_envs, compiled=compiled)
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
        self._shown = self._fresh()
        return self._shown.copy(), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every dream; those that ended in the last step begin a new one instead."""
        if self._seed is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        taken = np.asarray(actions, self.action_space.dtype)
        if not self.action_space.contains(taken):
            raise ValueError(f"the actions {actions!r} are not of {self.action_space}")
        fresh = self._over
        key = rng.key(rng.derive(self._seed, "move", self._count))
        luck = rng.generator(self._seed, "ends", self._count).random(self.num_envs)
        shown, choice = tf.constant(self._shown), tf.constant(self.choose(taken))
        arrived, reward, goes_on = (part.numpy() for part in self._move(self.model, shown, choice, key))
        self._count += 1
        # Off its data a model may leave all bounds: such a dream is over, and brought nothing.
        broken = ~(np.isfinite(arrived).all(axis=1) & np.isfinite(reward))
        terminated = ((luck >= goes_on) | broken) & ~fresh
        self._age = np.where(fresh, 0, self._age + 1)
        truncated = (self._age >= self.steps) & ~terminated & ~fresh
        following = np.where(broken[:, None], self._shown, arrived)
        self._shown = np.where(fresh[:, None], self._fresh(), following) if fresh.any() else following
        self._over = terminated | truncated
        paid = np.where(fresh | broken, 0.0, reward.astype(np.float64))
        return self._shown.copy(), paid, terminated, truncated, {}

    def _fresh(self) -> np.ndarray:
        """Observations to start from, for every dream."""
        assert self._seed is not None
        draw = rng.generator(self._seed, "begin", self._count)
        return self.starts[draw.integers(len(self.starts), size=self.num_envs)]
