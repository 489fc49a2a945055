"""One loop that steps a vector environment with a policy and fills the buffer.

**Resuming to the same bytes.** A gymnasium environment cannot in general be copied or saved. But it is a
function of its seed and of the actions it was given, so the collector keeps those: after a kill it
resets the environment with the same seed and gives it the same actions again, then checks that it stands
where it stood. This holds for every environment and reset mode, changes nothing in an unbroken run, and
costs the environment's own time only (no learning, no acting): 60 000 steps of CartPole take 0.2 s. An
environment that is not such a function is refused with a clear message instead of silently parting ways.

**Reset modes.** `NEXT_STEP`: the step after an end only resets, its action is ignored and it is no
transition. `SAME_STEP`: the last observation is in `info["final_obs"]`. `DISABLED`: we reset the finished
sub-environments with `reset_mask`. Real steps counted are transitions: dummy steps are not among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from models import rng
from models.agent import State
from models.replay import Replay


class Choice(NamedTuple):
    """What a policy does with N observations while data are gathered."""

    action: np.ndarray  # [N, *action]
    state: State = ()
    extras: Mapping[str, np.ndarray] | None = None  # kept in the buffer beside the observation


Policy = Callable[[np.ndarray, State, np.ndarray, int], Choice]
"""`policy(observation [N, D], state, first [N], step)`: `first` marks the start of an episode (the state
must be set back there), `step` counts calls, for `rng.generator(seed, "explore", step)`."""


class Episode(NamedTuple):
    """One finished episode."""

    env_step: int  # real steps of all streams when it ended
    reward: float  # undiscounted sum
    length: int


class Collector:
    """Steps `env` and fills `replay`. The environment is reset with a seed derived from `seed`."""

    def __init__(self, env: Any, replay: Replay, *, seed: int, state: State = ()) -> None:
        self.env, self.replay = env, replay
        self._seed = rng.derive(seed, "environment")
        self._mode = _reset_mode(env)
        self._actions: list[np.ndarray] = []
        self._begin(state)
        replay.start(np.arange(env.num_envs), self.observation)

    def _begin(self, state: State) -> None:
        count = self.env.num_envs
        observation, _ = self.env.reset(seed=self._seed)
        self.observation = np.array(observation, self.env.single_observation_space.dtype)  # [N, D]
        self.state = state
        self.first = np.ones(count, bool)  # the observation begins an episode
        self._over = np.zeros(count, bool)  # the next step only resets (NEXT_STEP)
        self._reward, self._length = np.zeros(count), np.zeros(count, np.int64)
        self.env_steps = 0

    @property
    def calls(self) -> int:
        """Times the vector environment was stepped."""
        return len(self._actions)

    def collect(self, policy: Policy, calls: int) -> list[Episode]:
        """Steps the environment `calls` times; returns the episodes that ended."""
        episodes: list[Episode] = []
        for _ in range(calls):
            choice = policy(self.observation, self.state, self.first, self.calls)
            action = np.array(choice.action, self.env.action_space.dtype)
            self._actions.append(action)
            self.state = choice.state
            episodes += self._advance(action, choice.extras, self.replay)
        return episodes

    def _advance(
        self, action: np.ndarray, extras: Mapping[str, np.ndarray] | None, replay: Replay | None
    ) -> list[Episode]:
        shown, reward, terminated, truncated, info = self.env.step(action)
        shown = np.array(shown, self.observation.dtype)
        done = (terminated | truncated) & ~self._over
        real = np.flatnonzero(~self._over)
        arrived = shown
        if self._mode == AutoresetMode.SAME_STEP and done.any():
            arrived = shown.copy()
            arrived[done] = np.stack([info["final_obs"][place] for place in np.flatnonzero(done)])
        if replay is not None:
            replay.step(
                real,
                action[real],
                reward[real],
                arrived[real],
                terminated[real],
                truncated[real],
                None if extras is None else {name: values[real] for name, values in extras.items()},
            )
        self._reward[real] += reward[real]
        self._length[real] += 1
        self.env_steps += len(real)
        ended = np.flatnonzero(done)
        episodes = [Episode(self.env_steps, float(self._reward[i]), int(self._length[i])) for i in ended]
        self._reward[ended], self._length[ended] = 0.0, 0

        if self._mode == AutoresetMode.NEXT_STEP:
            begins, self._over = self._over, done
        else:
            begins = done
            if self._mode == AutoresetMode.DISABLED and done.any():
                shown, _ = self.env.reset(options={"reset_mask": done})
                shown = np.array(shown, self.observation.dtype)
        if replay is not None and begins.any():
            replay.start(np.flatnonzero(begins), shown[begins])
        self.observation, self.first = shown, begins
        return episodes

    def arrays(self) -> dict[str, np.ndarray]:
        """What `restore` needs: the actions so far, where they led, and the policy's state."""
        shape = (0, *self.env.action_space.shape)
        arrays = {
            "actions": np.stack(self._actions) if self._actions else np.zeros(shape),
            "observation": self.observation,
        }
        for place, leaf in enumerate(_leaves(self.state)):
            arrays[f"state.{place:03d}"] = leaf
        return arrays

    def restore(self, arrays: Mapping[str, np.ndarray], state: State = ()) -> None:
        """Brings the environment back to where `arrays` was taken. The buffer is restored by its owner.

        `state` is any policy state of the right structure; its values are replaced.
        """
        self._begin(_fill(state, iter(arrays[name] for name in sorted(arrays) if name.startswith("state."))))
        self._actions = [action.astype(self.env.action_space.dtype) for action in arrays["actions"]]
        for action in self._actions:
            self._advance(action, None, None)
        if not np.array_equal(self.observation, arrays["observation"], equal_nan=True):
            raise ValueError(
                "the environment cannot be resumed: reset with the same seed and given the same actions, "
                "it shows another observation than before"
            )


def _reset_mode(env: Any) -> AutoresetMode:
    mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    return mode if isinstance(mode, AutoresetMode) else AutoresetMode(mode)


def _leaves(state: State) -> list[np.ndarray]:
    if isinstance(state, dict):
        return [leaf for name in sorted(state) for leaf in _leaves(state[name])]
    if isinstance(state, tuple):
        return [leaf for part in state for leaf in _leaves(part)]
    return [np.asarray(state)]


def _fill(state: State, leaves: Any) -> State:
    if isinstance(state, dict):
        filled: State = {name: _fill(state[name], leaves) for name in sorted(state)}
        return filled
    if isinstance(state, tuple):
        return tuple(_fill(part, leaves) for part in state)
    leaf: np.ndarray = next(leaves)
    return leaf


def buffer_for(env: gymnasium.vector.VectorEnv[Any, Any, Any], capacity: int, **options: Any) -> Replay:
    """A buffer with the shapes of `env`; `options` go to `Replay`."""
    observation, action = env.single_observation_space, env.single_action_space
    return Replay(
        capacity,
        env.num_envs,
        (observation.shape, observation.dtype),
        (action.shape, action.dtype),
        **options,
    )
