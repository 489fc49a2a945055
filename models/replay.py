"""One bounded buffer of episodes for every family.

The buffer keeps a ring of rows for each of N streams (one a sub-environment). A row is a step: the
observation, the reward that *arrived* with it, whether the episode began or ended there, and the action
that was taken on it. So transition i is

    (observation[i], action[i], reward[i + 1], observation[i + 1], terminated[i + 1], truncated[i + 1])

and `rewards` of a sequence are by arrival, as in DreamerV3. The last row of an episode has no action and
no transition; a dummy step of an automatic reset never becomes a row. An episode that is cut short by
`start` simply ends: the transition across the cut does not exist.

Rows are named by a flat index, `stream * length + place in the ring`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from models.priorities import SumTree


class Transitions(NamedTuple):
    """B transitions over up to n steps: `observation`, `action`, and what the n steps brought."""

    observation: np.ndarray  # [B, D]
    action: np.ndarray  # [B, *action]
    reward: np.ndarray  # [B] discounted sum of the rewards on the way
    discount: np.ndarray  # [B] of the value at next_observation: 0 after a termination
    next_observation: np.ndarray  # [B, D]


class Sequences(NamedTuple):
    """B stretches of T consecutive rows of one stream; episodes follow one another inside."""

    rows: np.ndarray  # [B, T] flat
    observation: np.ndarray  # [B, T, D]
    action: np.ndarray  # [B, T, *action] taken on the observation
    reward: np.ndarray  # [B, T] arrived with the observation
    is_first: np.ndarray  # [B, T]
    terminated: np.ndarray  # [B, T] on arrival
    truncated: np.ndarray  # [B, T] on arrival
    extras: dict[str, np.ndarray]  # [B, T, *extra]


class Window(NamedTuple):
    """Rows after or before each of B rows, inside its episode: repeated, with mask False, outside of it."""

    rows: np.ndarray  # [B, T + 1] flat
    mask: np.ndarray  # [B, T + 1] the row exists


class Replay:
    """A ring of `capacity // streams` rows for each stream; see the module for what a row is.

    `extras` names further arrays a row carries, name to (shape, dtype), for instance the latent state a
    model had there. With `prioritised` each transition carries a priority; new ones get the highest so far.
    """

    def __init__(
        self,
        capacity: int,
        streams: int,
        observation: tuple[tuple[int, ...], Any],
        action: tuple[tuple[int, ...], Any],
        *,
        extras: Mapping[str, tuple[tuple[int, ...], Any]] | None = None,
        prioritised: bool = False,
    ) -> None:
        if capacity < 2 * streams:
            raise ValueError(f"capacity {capacity} is under two rows for each of {streams} streams")
        self.streams, self.length = streams, capacity // streams
        rows = self.streams * self.length
        self._rows = {
            "observation": np.zeros((rows, *observation[0]), observation[1]),
            "action": np.zeros((rows, *action[0]), action[1]),
            "reward": np.zeros(rows, np.float32),
            "is_first": np.zeros(rows, bool),
            "terminated": np.zeros(rows, bool),
            "truncated": np.zeros(rows, bool),
            "complete": np.zeros(rows, bool),  # the row's transition exists
        }
        self._extras = tuple(extras or {})
        for name, (shape, dtype) in (extras or {}).items():
            self._rows[f"extra.{name}"] = np.zeros((rows, *shape), dtype)
        self._written = np.zeros(streams, np.int64)  # rows ever written
        self._tree = SumTree(rows) if prioritised else None
        self._top = 1.0
        self.transitions_added = 0

    def __len__(self) -> int:
        """Rows held."""
        return int(self._filled().sum())

    @property
    def transitions(self) -> int:
        """Transitions held."""
        return int(self._rows["complete"].sum())

    def _filled(self) -> np.ndarray:
        return np.minimum(self._written, self.length)

    def _append(self, streams: np.ndarray, **values: Any) -> None:
        rows = streams * self.length + self._written[streams] % self.length
        for name in self._rows:
            self._rows[name][rows] = values.get(name, 0)
        if self._tree is not None:
            self._tree.set(rows, np.zeros(len(rows)))
        self._written[streams] += 1

    def head(self, streams: np.ndarray) -> np.ndarray:
        """The flat index of the newest row of each of `streams [N]`."""
        rows: np.ndarray = streams * self.length + (self._written[streams] - 1) % self.length
        return rows

    def start(self, streams: np.ndarray, observation: np.ndarray) -> None:
        """Begins an episode in each of `streams [N]` with `observation [N, D]`."""
        self._append(streams, observation=observation, is_first=True)

    def step(
        self,
        streams: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        observation: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        extras: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Takes `action [N, ...]` on the newest row of each of `streams [N]` and adds the row it leads to.

        `extras` belong to the row the action was taken on.
        """
        rows = self.head(streams)
        self._rows["action"][rows] = action
        for name, values in (extras or {}).items():
            self._rows[f"extra.{name}"][rows] = values
        self._rows["complete"][rows] = True
        if self._tree is not None:
            self._tree.set(rows, np.full(len(rows), self._top))
        self._append(
            streams, observation=observation, reward=reward, terminated=terminated, truncated=truncated
        )
        self.transitions_added += len(streams)

    def complete_rows(self) -> np.ndarray:
        """The flat rows of all transitions held."""
        return np.flatnonzero(self._rows["complete"])

    def sample(self, batch: int, draw: np.random.Generator) -> np.ndarray:
        """Flat rows `[batch]` of transitions, uniformly and with replacement."""
        filled = self._filled()
        ends = np.cumsum(filled)
        complete = self._rows["complete"]
        if not complete.any():
            raise ValueError("the buffer holds no transition yet")
        chosen = np.empty(0, np.int64)
        while len(chosen) < batch:  # rows without a transition are few: draw again
            ordinal = draw.integers(0, ends[-1], size=batch + batch // 4 + 8)
            stream = np.searchsorted(ends, ordinal, side="right")
            rows = stream * self.length + ordinal - (ends - filled)[stream]
            chosen = np.concatenate([chosen, rows[complete[rows]]])
        return chosen[:batch]

    def sample_prioritised(self, batch: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Rows `[batch]` in proportion to priority, and the probability `[batch]` of each."""
        if self._tree is None:
            raise ValueError("the buffer was made without priorities")
        if self._tree.total <= 0.0:
            raise ValueError("the buffer holds no transition yet")
        targets = (np.arange(batch) + draw.random(batch)) * (self._tree.total / batch)  # stratified
        rows = self._tree.find(targets)
        return rows, self._tree.get(rows) / self._tree.total

    def prioritise(self, rows: np.ndarray, priorities: np.ndarray) -> None:
        """Sets the priorities of transitions; rows that were overwritten meanwhile stay out."""
        if self._tree is None:
            raise ValueError("the buffer was made without priorities")
        alive = self._rows["complete"][rows]
        self._tree.set(rows[alive], priorities[alive])
        self._top = max(self._top, float(priorities.max(initial=0.0)))

    def window(self, rows: np.ndarray, steps: int) -> Window:
        """The `steps + 1` rows from each of `rows [B]` on, inside its episode."""
        reached, mask = [rows], [np.ones(len(rows), bool)]
        for _ in range(steps):
            here = reached[-1]
            going = mask[-1] & self._rows["complete"][here]
            reached.append(np.where(going, self._following(here), here))
            mask.append(going)
        return Window(np.stack(reached, axis=1), np.stack(mask, axis=1))

    def history(self, rows: np.ndarray, steps: int) -> Window:
        """The `steps` rows up to each of `rows [B]`, inside its episode: `[B, steps]`, the newest last.

        Before the episode's first row, or the oldest one still held, the row is repeated with mask False.
        """
        reached, mask = [rows], [np.ones(len(rows), bool)]
        full = self._written > self.length
        oldest = np.where(full, self._written % self.length, 0)[rows // self.length]  # place in the ring
        for _ in range(steps - 1):
            here = reached[-1]
            going = mask[-1] & ~self._rows["is_first"][here] & (here % self.length != oldest)
            before = here - 1 + np.where(here % self.length == 0, self.length, 0)
            reached.append(np.where(going, before, here))
            mask.append(going)
        return Window(np.stack(reached[::-1], axis=1), np.stack(mask[::-1], axis=1))

    def _following(self, rows: np.ndarray) -> np.ndarray:
        place = rows % self.length + 1
        return rows + 1 - np.where(place == self.length, self.length, 0)

    def read(self, name: str, rows: np.ndarray) -> np.ndarray:
        """One column at any array of flat rows; extras are called `extra.<name>`."""
        values: np.ndarray = self._rows[name][rows]
        return values

    def write_extra(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        """Replaces an extra, for instance a latent recomputed with newer weights."""
        self._rows[f"extra.{name}"][rows] = values

    def n_step(self, rows: np.ndarray, n: int, discount: float) -> Transitions:
        """Transitions over `n` steps, or fewer where the episode or the buffer ends.

        A truncated end is bootstrapped from its last observation, a terminated one is worth nothing more.
        """
        reached, mask = self.window(rows, n)  # [B, n + 1]
        weights = discount ** np.arange(n, dtype=np.float32)
        rewards = np.where(mask[:, 1:], self._rows["reward"][reached[:, 1:]], np.float32(0.0))
        steps = mask[:, 1:].sum(axis=1)  # at least 1
        end = reached[:, -1]  # the last row that exists
        live = ~self._rows["terminated"][end]
        return Transitions(
            observation=self._rows["observation"][rows],
            action=self._rows["action"][rows],
            reward=(rewards * weights).sum(axis=1, dtype=np.float32),
            discount=(np.float32(discount) ** steps * live).astype(np.float32),
            next_observation=self._rows["observation"][end],
        )

    def sample_sequences(self, batch: int, length: int, draw: np.random.Generator) -> Sequences:
        """`batch` stretches of `length` rows, uniformly over all there are; they may span episodes."""
        filled = self._filled()
        starts = np.maximum(filled - length + 1, 0)
        ends = np.cumsum(starts)
        if ends[-1] == 0:
            raise ValueError(f"the buffer holds no sequence of {length} rows yet")
        ordinal = draw.integers(0, ends[-1], size=batch)
        stream = np.searchsorted(ends, ordinal, side="right")
        oldest = np.where(self._written > self.length, self._written, 0)[stream]
        first = oldest + ordinal - (ends - starts)[stream]
        place = (first[:, None] + np.arange(length)) % self.length
        return self.sequences(stream[:, None] * self.length + place)

    def sequences(self, rows: np.ndarray) -> Sequences:
        """The flat `rows [B, T]` as sequences."""
        names = ("observation", "action", "reward", "is_first", "terminated", "truncated")
        return Sequences(
            rows=rows,
            extras={name: self._rows[f"extra.{name}"][rows] for name in self._extras},
            **{name: self._rows[name][rows] for name in names},
        )

    def state(self) -> dict[str, np.ndarray]:
        """Everything, as named arrays; places of the ring never written are left out."""
        used = int(self._filled().max(initial=0))
        arrays = {
            name: values.reshape(self.streams, self.length, *values.shape[1:])[:, :used]
            for name, values in self._rows.items()
        }
        arrays["written"] = self._written
        arrays["counters"] = np.array([self._top, self.transitions_added], np.float64)
        if self._tree is not None:
            arrays["priority"] = self._tree.leaves().reshape(self.streams, self.length)[:, :used]
        return {name: np.ascontiguousarray(values) for name, values in arrays.items()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes back what `state` gave, into a buffer made with the same arguments."""
        for name, values in self._rows.items():
            rows = values.reshape(self.streams, self.length, *values.shape[1:])
            rows[:] = 0
            rows[:, : arrays[name].shape[1]] = arrays[name]
        self._written = arrays["written"].copy()
        self._top, self.transitions_added = float(arrays["counters"][0]), int(arrays["counters"][1])
        if self._tree is not None:
            leaves = np.zeros((self.streams, self.length))
            leaves[:, : arrays["priority"].shape[1]] = arrays["priority"]
            self._tree.set(np.arange(leaves.size), leaves.ravel())
