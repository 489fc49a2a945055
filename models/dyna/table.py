"""Tabular Dyna: action values, a model of what was seen, and updates from both (Sutton and Barto, chapter 8).

Cells and actions are numbered from 0. Values and model live in plain Python lists: these updates touch a
handful of numbers each, and lists are several times faster at that than arrays.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping

import numpy as np

_BLOCK = 256  # random numbers drawn at a time


class Table:
    """Values `q [cells, actions]` and the model that simulated updates draw on.

    The model keeps the last `memory` outcomes (reward, discount of what follows, next cell) of every pair of
    cell and action. With memory 1 it is the textbook's, which takes the world for deterministic.

    Args:
        learning_rate: alpha.
        discount: gamma, a step.
        count_exponent: the rate of a pair is alpha over its real visits to this power.
        bonus: kappa of Dyna-Q+ (section 8.3). With it, the actions not yet tried in a cell that was visited
            may be simulated too; the model then says that they lead back with no reward.
        threshold: smallest error that prioritised sweeping queues (section 8.4).
    """

    def __init__(
        self,
        cells: int,
        actions: int,
        *,
        learning_rate: float,
        discount: float,
        memory: int = 1,
        count_exponent: float = 0.0,
        bonus: float = 0.0,
        threshold: float = 1e-4,
    ) -> None:
        self.cells, self.actions, self.memory = cells, actions, memory
        self.learning_rate, self.discount = learning_rate, discount
        self.count_exponent = count_exponent
        self.bonus, self.threshold = bonus, threshold
        self.q: list[list[float]] = [[0.0] * actions for _ in range(cells)]
        self.count = [[0] * actions for _ in range(cells)]  # real visits
        self.tried = [[0] * actions for _ in range(cells)]  # when last, in real steps
        self.now = 0
        self._outcomes: dict[int, list[tuple[float, float, int]]] = {}  # by pair = cell * actions + action
        self._pairs: list[int] = []  # that may be simulated, in the order they became known
        self._sources: dict[int, dict[int, None]] = {}  # next cell to the pairs that led there
        self._queue: list[tuple[float, int]] = []  # (-priority, pair), some outdated
        self._priority: dict[int, float] = {}

    def error(self, cell: int, action: int, reward: float, later: float, following: int) -> float:
        """R + d max_a Q(S', a) - Q(S, A) with d = `later`: gamma, or 0 after a termination."""
        ahead = max(self.q[following]) if later else 0.0
        return reward + later * ahead - self.q[cell][action]

    def observe(self, cell: int, action: int, reward: float, following: int, *, terminated: bool) -> None:
        """A real transition: one step of Q-learning and of learning the model (steps d and e of Dyna-Q)."""
        self.now += 1
        self.count[cell][action] += 1
        self.tried[cell][action] = self.now
        later = 0.0 if terminated else self.discount
        self.q[cell][action] += self._rate(cell, action) * self.error(cell, action, reward, later, following)
        self._remember(cell, action, (reward, later, following))

    def _rate(self, cell: int, action: int) -> float:
        if not self.count_exponent:
            return self.learning_rate
        return self.learning_rate * float(max(1, self.count[cell][action]) ** -self.count_exponent)

    def _remember(self, cell: int, action: int, outcome: tuple[float, float, int]) -> None:
        pair = cell * self.actions + action
        if self.bonus and cell * self.actions not in self._outcomes:
            for other in range(self.actions):  # the whole cell becomes known at once
                self._outcomes[cell * self.actions + other] = [(0.0, self.discount, cell)]
                self._pairs.append(cell * self.actions + other)
        kept = self._outcomes.get(pair)
        if kept is None:
            self._outcomes[pair] = [outcome]
            self._pairs.append(pair)
        elif self.bonus and self.count[cell][action] == 1:
            self._outcomes[pair] = [outcome]  # what was seen replaces what was supposed
        else:
            if len(kept) == self.memory:
                del kept[0]
            kept.append(outcome)
        self._sources.setdefault(outcome[2], {})[pair] = None

    def simulate(self, steps: int, draw: np.random.Generator) -> None:
        """`steps` updates of pairs drawn uniformly from those the model knows (step f of Dyna-Q)."""
        if not self._pairs:
            return
        pairs, outcomes, q = self._pairs, self._outcomes, self.q
        for start in range(0, steps, _BLOCK):
            for first, second in draw.random((min(_BLOCK, steps - start), 2)).tolist():
                pair = pairs[int(first * len(pairs))]
                cell, action = divmod(pair, self.actions)
                kept = outcomes[pair]
                reward, later, following = kept[int(second * len(kept))]
                if self.bonus:
                    reward += self.bonus * math.sqrt(self.now - self.tried[cell][action])
                ahead = max(q[following]) if later else 0.0
                q[cell][action] += self._rate(cell, action) * (reward + later * ahead - q[cell][action])

    def sweep(self, cell: int, action: int, steps: int) -> int:
        """Up to `steps` updates in the order of their size, back from a pair just seen (section 8.4).

        Each takes the mean over the outcomes kept. Returns how many there were until the queue was empty.
        """
        self._offer(cell * self.actions + action)
        for done in range(steps):
            pair = self._next()
            if pair is None:
                return done
            here, act = divmod(pair, self.actions)
            self.q[here][act] += self.learning_rate * self._expected_error(pair)
            for source in self._sources.get(here, ()):
                self._offer(source)
        return steps

    def _expected_error(self, pair: int) -> float:
        cell, action = divmod(pair, self.actions)
        kept = self._outcomes[pair]
        return sum(self.error(cell, action, *outcome) for outcome in kept) / len(kept)

    def _offer(self, pair: int) -> None:
        priority = abs(self._expected_error(pair))
        if priority > max(self.threshold, self._priority.get(pair, 0.0)):
            self._priority[pair] = priority
            heapq.heappush(self._queue, (-priority, pair))

    def _next(self) -> int | None:
        while self._queue:
            negative, pair = heapq.heappop(self._queue)
            if self._priority.get(pair) == -negative:  # not an entry that a larger one has replaced
                del self._priority[pair]
                return pair
        return None

    def values(self) -> np.ndarray:
        """`q` as float64 `[cells, actions]`."""
        return np.array(self.q)

    def model(self) -> np.ndarray:
        """What the model expects, float64 `[K, 4]`: a pair of cell and action, a cell it led to, the share of
        the outcomes kept that did (less than all of them where episodes ended), and their mean reward."""
        rows = []
        for pair, kept in sorted(self._outcomes.items()):
            reached: dict[int, float] = {}
            for _, later, following in kept:
                reached[following] = reached.get(following, 0.0) + (later > 0.0) / len(kept)
            reward = sum(outcome[0] for outcome in kept) / len(kept)
            rows += [(pair, following, share, reward) for following, share in sorted(reached.items())]
        return np.array(rows, np.float64).reshape(-1, 4)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, as named arrays, in an order that `restore` keeps."""
        outcomes = [(pair, *outcome) for pair, kept in self._outcomes.items() for outcome in kept]
        sources = [(cell, pair) for cell, pairs in self._sources.items() for pair in pairs]
        queue = sorted(entry for entry in self._queue if self._priority.get(entry[1]) == -entry[0])
        return {
            "q": self.values(),
            "count": np.array(self.count, np.int64),
            "tried": np.array(self.tried, np.int64),
            "now": np.array(self.now, np.int64),
            "pairs": np.array(self._pairs, np.int64),
            "outcomes": np.array(outcomes, np.float64).reshape(-1, 4),
            "sources": np.array(sources, np.int64).reshape(-1, 2),
            "queue": np.array(queue, np.float64).reshape(-1, 2),
        }

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes back what `arrays` gave, into a table made with the same arguments."""
        self.q, self.count = arrays["q"].tolist(), arrays["count"].tolist()
        self.tried, self.now = arrays["tried"].tolist(), int(arrays["now"])
        self._pairs = arrays["pairs"].tolist()
        self._outcomes, self._sources = {}, {}
        for pair, reward, discount, following in arrays["outcomes"].tolist():
            self._outcomes.setdefault(int(pair), []).append((reward, discount, int(following)))
        for cell, pair in arrays["sources"].tolist():
            self._sources.setdefault(cell, {})[pair] = None
        self._queue = [(negative, int(pair)) for negative, pair in arrays["queue"].tolist()]  # sorted: a heap
        self._priority = {pair: -negative for negative, pair in self._queue}


def greedy(values: list[float], draw: np.random.Generator) -> int:
    """The best action, ties broken at random: with the first one an untrained walk may never end."""
    top = max(values)
    best = [action for action, value in enumerate(values) if value == top]
    return best[0] if len(best) == 1 else best[int(draw.integers(len(best)))]
