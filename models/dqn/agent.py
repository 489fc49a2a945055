"""A trained Q-network that acts greedily."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from models import agent as storage
from models import configuration
from models.agent import Decision, Spaces, State
from models.dqn.config import Config
from models.dqn.networks import Shape, choices_of, q_values_numpy

FAMILY = "dqn"


def shape_of(config: Config, spaces: Spaces) -> Shape:
    """The network that `config` makes for `spaces`."""
    return Shape(spaces.observation.shape[0], config.hidden, config.activation, choices_of(spaces.action))


class QAgent:
    """Takes the action of the highest value; the first one on a tie. Remembers nothing between steps."""

    def __init__(
        self,
        config: Config,
        spaces: Spaces,
        weights: np.ndarray,
        *,
        reward_scale: float,
        counters: dict[str, Any],
    ) -> None:
        self.config, self.spaces, self.counters = config, spaces, counters
        self.shape = shape_of(config, spaces)
        if weights.shape != (self.shape.size,):
            raise configuration.Misfit(
                f"dqn: {weights.size} weights for a network of {self.shape.size}; "
                "observation, action space or hidden layers differ"
            )
        self.weights = weights  # [P]
        self.reward_scale = reward_scale
        """Rewards were multiplied by this for learning."""

    def initial_state(self, batch_size: int) -> State:
        """Nothing: the agent has no memory."""
        return ()

    def act(self, observation: np.ndarray, state: State, *, seed: int = 0) -> Decision:
        """Greedy actions for `observation [B, I]`; no randomness, so `seed` has no effect.

        `info`: `value [B]` in the environment's own reward units, and `q_values`, `[B, A]` for a Discrete
        space, `[B, D, K]` for D branches (minus infinity where a branch has fewer than K choices).
        """
        values = q_values_numpy(self.weights, np.asarray(observation), self.shape)  # [B, D, K]
        choice = values.argmax(axis=-1)  # [B, D]
        best = values.max(axis=-1).mean(axis=-1) / self.reward_scale
        scaled = values / np.float32(self.reward_scale)
        discrete = self.spaces.action.shape == ()
        return Decision(
            action=to_action(choice, self.spaces),
            state=state,
            info={"value": best.astype(np.float32), "q_values": scaled[:, 0] if discrete else scaled},
        )

    def digest(self) -> str:
        """A name for exactly these weights."""
        return hashlib.sha256(self.weights.tobytes()).hexdigest()

    def save(self, directory: Path) -> None:
        """Writes the agent's directory."""
        storage.save(
            directory,
            family=FAMILY,
            config=self.config,
            spaces=self.spaces,
            counters=self.counters,
            weights={"weights": self.weights, "reward_scale": np.array(self.reward_scale, np.float64)},
        )


def to_action(choice: np.ndarray, spaces: Spaces) -> np.ndarray:
    """Branch choices `[B, D]`, from 0, as actions of the space: `[B]` or `[B, D]`."""
    shifted = choice.reshape(len(choice), *spaces.action.shape) + spaces.action.start
    action: np.ndarray = shifted.astype(spaces.action.dtype)
    return action


def to_choice(action: np.ndarray, spaces: Spaces) -> np.ndarray:
    """The inverse of `to_action`."""
    choice: np.ndarray = (action - spaces.action.start).reshape(len(action), -1).astype(np.int32)
    return choice


def load(directory: Path) -> QAgent:
    """The agent saved in `directory`."""
    saved = storage.read(directory)
    if saved.family != FAMILY:
        raise ValueError(f"{directory} holds an agent of the family {saved.family!r}, not {FAMILY!r}")
    return QAgent(
        configuration.parse(Config, saved.config, where=f"{directory}/{storage.DESCRIPTION}"),
        saved.spaces,
        saved.weights["weights"],
        reward_scale=float(saved.weights["reward_scale"]),
        counters=saved.counters,
    )
