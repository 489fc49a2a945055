"""Simple policies that record data where nobody has any: good and bad ones, and none that sees ahead.

Each sub-environment draws one of four at the start of every episode: uniform actions; one action held
throughout; a uniform action held for a while; and a random linear policy of the observation with noise.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from models import rng
from models.agent import State
from models.collect import Choice, Collector, Policy, buffer_for
from models.replay import Replay
from models.trajectory.data import Record

KINDS = ("uniform", "constant", "sticky", "linear")
_SWITCH = 0.1  # of a sticky action, a step
_NOISE = 0.2  # share of uniform actions of a linear policy


def _uniform(space: gymnasium.Space[Any], count: int, draw: np.random.Generator) -> np.ndarray:
    """Actions `[count, M]` as numbers."""
    if isinstance(space, gymnasium.spaces.Box):
        low, high = _bounds(space)
        return draw.uniform(low, high, (count, low.size))
    if isinstance(space, gymnasium.spaces.Discrete):
        return draw.integers(space.start, space.start + space.n, (count, 1)).astype(np.float64)
    assert isinstance(space, gymnasium.spaces.MultiDiscrete)
    actions: np.ndarray = space.start + draw.integers(0, space.nvec, (count, space.nvec.size))
    return actions.astype(np.float64)


def _bounds(space: gymnasium.spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """The box `[M]`; an open side is taken as one unit, since something has to be."""
    low = np.where(np.isfinite(space.low), space.low, -1.0).ravel()
    high = np.where(np.isfinite(space.high), space.high, 1.0).ravel()
    return low.astype(np.float64), high.astype(np.float64)


def _linear(space: gymnasium.Space[Any], score: np.ndarray) -> np.ndarray:
    """Actions `[N, M]` for scores `[N, M]` of about unit size: the range of the space, cut evenly."""
    share = 0.5 * (1.0 + np.tanh(score))
    if isinstance(space, gymnasium.spaces.Box):
        low, high = _bounds(space)
        return np.asarray(low + share * (high - low))
    number = np.asarray(space.n if isinstance(space, gymnasium.spaces.Discrete) else space.nvec)
    chosen: np.ndarray = space.start + np.minimum((share * number).astype(int), number - 1)
    return chosen.astype(np.float64)


def mixture(env: Any, seed: int) -> tuple[Policy, State]:
    """The policy and its first state; every choice is a function of `seed` and the step."""
    space, streams = env.single_action_space, env.num_envs
    features = env.single_observation_space.shape[0]
    size = _uniform(space, 1, rng.generator(seed)).shape[1]
    begin: State = {
        "kind": np.zeros(streams, np.int64),
        "held": np.zeros((streams, size)),
        "kernel": np.zeros((streams, features + 1, size)),
        "scale": np.ones((streams, features)),
    }

    def policy(observation: np.ndarray, state: State, first: np.ndarray, step: int) -> Choice:
        assert isinstance(state, dict)
        now: dict[str, np.ndarray] = {name: np.array(values) for name, values in state.items()}
        draw = rng.generator(seed, "behaviour", step)
        # Drawn for all, used where needed: the number of draws must not depend on the data.
        kinds = draw.integers(0, len(KINDS), streams)
        kernels = draw.normal(0.0, 1.0, now["kernel"].shape) / np.sqrt(features)
        fresh = _uniform(space, streams, draw)
        switch, noisy = draw.random(streams) < _SWITCH, draw.random(streams) < _NOISE
        now["kind"] = np.where(first, kinds, now["kind"])
        now["kernel"] = np.where(first[:, None, None], kernels, now["kernel"])
        # A running size of each feature, so that no unit drowns the others.
        now["scale"] = np.maximum(0.99 * now["scale"], np.abs(observation))
        kind = now["kind"][:, None]
        renew = first[:, None] | (kind == 0) | ((kind == 2) & switch[:, None])
        now["held"] = np.where(renew, fresh, now["held"])
        scaled = np.concatenate([observation / now["scale"], np.ones((streams, 1))], axis=1)
        linear = _linear(space, np.einsum("nf,nfm->nm", scaled, 3.0 * now["kernel"]))
        follows = (kind == 3) & ~noisy[:, None]
        action = np.where(follows, linear, np.where(kind == 3, fresh, now["held"]))
        shaped = action.reshape(streams, *(space.shape or ())).astype(space.dtype)
        return Choice(shaped, dict(now))

    return policy, begin


def record(env: Any, steps: int, *, seed: int) -> Record:
    """At least `steps` transitions of the mixture, every stream's episodes one after the other."""
    policy, begin = mixture(env, rng.derive(seed, "mixture"))
    # Each episode keeps one row more than it has transitions, and some streams run ahead of others.
    replay = buffer_for(env, 2 * steps + 4 * env.num_envs)
    collector = Collector(env, replay, seed=seed, state=begin)
    while collector.env_steps < steps:
        collector.collect(policy, 1)
    return from_replay(replay)


def from_replay(replay: Replay) -> Record:
    """All transitions of a buffer in which nothing was overwritten."""
    rows = replay.complete_rows()
    following = rows + 1
    first = replay.read("is_first", rows)
    return Record(
        observation=replay.read("observation", rows),
        action=replay.read("action", rows),
        reward=replay.read("reward", following),
        terminated=replay.read("terminated", following),
        episode=np.cumsum(first),
    )
