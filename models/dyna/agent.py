"""A table of action values over cells of the observation, that acts greedily."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from scipy import sparse

from models import agent as storage
from models import configuration
from models.agent import Decision, Spaces, State
from models.dyna.cells import Cells
from models.dyna.config import Config

FAMILY = "dyna"
MOST_ACTIONS = 1024


def branches(space: gymnasium.Space[Any]) -> tuple[int, ...]:
    """Choices of each branch; a table has a column for every combination, so there must not be too many."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, gymnasium.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        counts = tuple(int(n) for n in space.nvec)
        if np.prod(counts, dtype=np.float64) <= MOST_ACTIONS:
            return counts
    raise configuration.Misfit(
        f"dyna: the action space {space} is no list of at most {MOST_ACTIONS} choices; allowed: Discrete, "
        "MultiDiscrete (for a Box give the environment a grid of actions, or take another family)"
    )


def to_action(choice: np.ndarray, spaces: Spaces) -> np.ndarray:
    """Columns of the table `[B]` as actions of the space."""
    parts = np.stack(np.unravel_index(choice, branches(spaces.action)), axis=-1)  # [B, D]
    shifted: np.ndarray = parts.reshape(len(choice), *spaces.action.shape) + spaces.action.start
    return shifted.astype(spaces.action.dtype)


def to_choice(action: np.ndarray, spaces: Spaces) -> np.ndarray:
    """The inverse of `to_action`."""
    parts = (action - spaces.action.start).reshape(len(action), -1)  # [B, D]
    columns: np.ndarray = np.ravel_multi_index(tuple(parts.T), branches(spaces.action))
    return columns


class TableAgent:
    """Takes the best action that was tried in the cell; in a cell never visited, the middle one."""

    def __init__(
        self,
        config: Config,
        spaces: Spaces,
        cells: Cells,
        values: np.ndarray,
        count: np.ndarray,
        *,
        model: np.ndarray,
        reward_scale: float,
        counters: dict[str, Any],
    ) -> None:
        self.config, self.spaces, self.cells, self.counters = config, spaces, cells, counters
        self.values, self.count = values, count  # [cells, actions]
        self.model = model  # [K, 4], see `Table.model`
        self.reward_scale = reward_scale
        """Rewards were multiplied by this for learning."""
        counts = branches(spaces.action)
        self.middle = int(np.ravel_multi_index(tuple(n // 2 for n in counts), counts))
        # An action that was never tried has the value it started with, which says nothing.
        self._known = np.where(count > 0, values, -np.inf)

    def initial_state(self, batch_size: int) -> State:
        """Nothing: the agent has no memory."""
        return ()

    def act(self, observation: np.ndarray, state: State, *, seed: int = 0) -> Decision:
        """Greedy actions for `observation [B, D]`; no randomness, so `seed` has no effect.

        `info`: `value [B]` in the environment's own reward units, `q_values [B, actions]` (minus infinity
        where never tried), `unseen [B]`, 1 where training never came to the cell, and the `cell [B]`.
        """
        cell = self.cells.find(np.asarray(observation))
        known = self._known[cell]  # [B, A]
        unseen = np.isneginf(known).all(axis=1)
        choice = self.choices(cell)
        value = np.where(unseen, 0.0, known.max(axis=1)) / self.reward_scale
        return Decision(
            action=to_action(choice, self.spaces),
            state=state,
            info={
                "value": value.astype(np.float32),
                "q_values": (known / self.reward_scale).astype(np.float32),
                "unseen": unseen.astype(np.float32),
                "cell": cell,
            },
        )

    def forecast(
        self,
        observation: np.ndarray,
        state: State,
        actions: np.ndarray | None,
        *,
        horizon: int,
        samples: int = 1,
        seed: int = 0,
    ) -> np.ndarray:
        """Mean rewards `[B, 1, H]` by the table's model; see `models.agent.Forecaster`. Nothing is drawn.

        The chances of being in each cell move by the outcomes seen there. A pair that was never tried is
        supposed to earn nothing and to lead nowhere.
        """
        number, actions_number = self.values.shape
        pair, following = self.model[:, 0].astype(np.int64), self.model[:, 1].astype(np.int64)
        moves = sparse.csr_array((self.model[:, 2], (pair, following)), shape=(self.values.size, number))
        known = np.zeros(self.values.size, bool)
        known[pair] = True
        moves = moves + sparse.csr_array(
            (np.ones((~known).sum()), (np.flatnonzero(~known), np.flatnonzero(~known) // actions_number)),
            shape=moves.shape,
        )
        reward = np.zeros(self.values.size)
        reward[pair] = self.model[:, 3] / self.reward_scale
        rows = len(observation)
        chance = np.zeros((rows, number))  # [B, cells]
        chance[np.arange(rows), self.cells.find(np.asarray(observation))] = 1.0
        if actions is None:
            chosen = np.broadcast_to(self.choices(np.arange(number)), (horizon, rows, number))
        else:
            flat = to_choice(np.asarray(actions).reshape(-1, *self.spaces.action.shape), self.spaces)
            chosen = np.broadcast_to(flat.reshape(rows, horizon).T[:, :, None], (horizon, rows, number))
        paid = np.zeros((rows, 1, horizon))
        for h in range(horizon):
            following_chance = np.zeros_like(chance)
            for action in np.unique(chosen[h]):
                part = np.where(chosen[h] == action, chance, 0.0)
                places = np.arange(number) * actions_number + action
                paid[:, 0, h] += part @ reward[places]
                following_chance += part @ moves[places]
            chance = following_chance
        return paid

    def choices(self, cell: np.ndarray) -> np.ndarray:
        """The column of the table that is taken in each `cell [N]`."""
        known = self._known[cell]  # [N, A]
        columns: np.ndarray = np.where(np.isneginf(known).all(axis=1), self.middle, known.argmax(axis=1))
        return columns

    def digest(self) -> str:
        """A name for exactly this table."""
        return hashlib.sha256(self.values.tobytes() + self.count.tobytes()).hexdigest()

    def save(self, directory: Path) -> None:
        """Writes the agent's directory."""
        storage.save(
            directory,
            family=FAMILY,
            config=self.config,
            spaces=self.spaces,
            counters=self.counters,
            weights={
                "values": self.values,
                "count": self.count,
                "model": self.model,
                "reward_scale": np.array(self.reward_scale, np.float64),
                **pack(self.cells),
            },
        )


def pack(cells: Cells) -> dict[str, np.ndarray]:
    """The grid as two arrays."""
    lengths = np.array([len(cut) for cut in cells.cuts], np.int64)
    return {"cuts": np.concatenate([np.zeros(0), *cells.cuts]), "cut_lengths": lengths}


def unpack(arrays: dict[str, np.ndarray]) -> Cells:
    """The inverse of `pack`."""
    ends = np.cumsum(arrays["cut_lengths"])
    return Cells(tuple(np.split(arrays["cuts"], ends[:-1])))


def load(directory: Path) -> TableAgent:
    """The agent saved in `directory`."""
    saved = storage.read(directory)
    if saved.family != FAMILY:
        raise ValueError(f"{directory} holds an agent of the family {saved.family!r}, not {FAMILY!r}")
    return TableAgent(
        configuration.parse(Config, saved.config, where=f"{directory}/{storage.DESCRIPTION}"),
        saved.spaces,
        unpack(saved.weights),
        saved.weights["values"],
        saved.weights["count"],
        model=saved.weights["model"],
        reward_scale=float(saved.weights["reward_scale"]),
        counters=saved.counters,
    )
