"""Awake: the finished controller in the real environment, and how far its dreams were from that."""

from __future__ import annotations

import numpy as np

from models import rng
from models.agent import State
from models.collect import Choice, Policy
from models.world_model.agent import WorldModelAgent

_BLOCK = 32  # steps whose rewards are taken as one observation of the realised mean


def follower(agent: WorldModelAgent, *, seed: int) -> Policy:
    """A policy for the collector that does as `agent` does, from an empty memory in every episode."""
    began = False

    def follow(observation: np.ndarray, state: State, first: np.ndarray, step: int) -> Choice:
        nonlocal began
        begin = agent.initial_state(len(observation))
        if not began:  # what the collector carried until now was another policy's
            state, began = begin, True
        assert isinstance(state, dict)
        assert isinstance(begin, dict)
        fresh: dict[str, State] = {}
        for name, old in state.items():
            was, new = np.asarray(old), np.asarray(begin[name])
            fresh[name] = np.where(first.reshape(-1, *[1] * (was.ndim - 1)), new, was)
        decision = agent.act(observation, fresh, seed=rng.derive(seed, step))
        return Choice(decision.action, decision.state)

    return follow


def dreamed(agent: WorldModelAgent, *, seed: int) -> np.ndarray:
    """The mean reward a step of each of the agent's dreams `[N]`, costs paid and returns sampled."""
    config = agent.config
    found = agent.imagination().dream(
        agent.learned.controller[None],
        dreams=config.reevaluation_dreams,
        steps=config.dream_steps,
        seed=seed,
        expected=False,
    )
    return np.asarray(found.total[0], np.float64) / config.dream_steps


def gap(dreamed: np.ndarray, realised: np.ndarray) -> dict[str, float]:
    """Mean reward a step of dreams `dreamed [N]` and of real steps `realised [T]`, their difference, and the
    standard error of each."""
    blocks = realised[: len(realised) // _BLOCK * _BLOCK].reshape(-1, _BLOCK).mean(axis=1)
    ours, theirs = _standard_error(dreamed), _standard_error(blocks)
    difference = float(dreamed.mean() - realised.mean())
    return {
        "dreamed_reward": float(dreamed.mean()),
        "dreamed_reward_error": ours,
        "realised_reward": float(realised.mean()),
        "realised_reward_error": theirs,
        "dream_gap": difference,
        "dream_gap_error": float(np.hypot(ours, theirs)),
    }


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
