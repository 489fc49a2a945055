"""A sum tree: draw in proportion to priorities and change them, in log2(n) vector steps a batch."""

from __future__ import annotations

import numpy as np


class SumTree:
    """`size` priorities of at least zero. Each node is the sum of its children, in float64.

    A node is always recomputed from its children, never adjusted, so that the sums depend on the
    priorities alone and not on the order in which they came.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._depth = max(1, (size - 1).bit_length())
        self._first = 1 << self._depth  # the root is node 1
        self._nodes = np.zeros(2 * self._first, np.float64)

    @property
    def total(self) -> float:
        """The sum of all priorities."""
        return float(self._nodes[1])

    def get(self, rows: np.ndarray) -> np.ndarray:
        """The priorities of `rows [B]`."""
        priorities: np.ndarray = self._nodes[self._first + rows]
        return priorities

    def leaves(self) -> np.ndarray:
        """All priorities `[size]`."""
        return self._nodes[self._first : self._first + self._size].copy()

    def set(self, rows: np.ndarray, priorities: np.ndarray) -> None:
        """Sets the priorities of `rows [B]`; of a row named twice the last counts."""
        if not np.isfinite(priorities).all() or (priorities < 0).any():
            raise ValueError("priorities must be finite and at least zero")
        nodes = self._first + rows
        self._nodes[nodes] = priorities
        for _ in range(self._depth):
            nodes = nodes >> 1
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def find(self, targets: np.ndarray) -> np.ndarray:
        """The rows `[B]` in which the running sum of priorities passes `targets [B]` in [0, total)."""
        nodes = np.ones(len(targets), np.int64)
        for _ in range(self._depth):
            nodes = 2 * nodes
            left = self._nodes[nodes]
            # A target that rounding put past the end must not fall into an empty right half.
            right = (targets >= left) & (self._nodes[nodes + 1] > 0.0)
            targets = np.where(right, targets - left, targets)
            nodes = nodes + right
        return nodes - self._first
