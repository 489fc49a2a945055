"""The training curve: metrics gathered between two lines of the log, kept across a kill.

A resumed run calls `log` again for every line the killed one had logged, so that whoever writes the curve
to a file gets the whole of it, the same as from an unbroken run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Log = Callable[[int, dict[str, float]], None]
"""Called as `log(env_step, {"group/metric": value, ...})` while training."""


class Curve:
    """Means of what was added since the last line, one line every `every` steps."""

    def __init__(self, log: Log | None, every: int) -> None:
        self._log, self._every = log, every
        self.lines: list[tuple[int, dict[str, float]]] = []
        self._pending: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        """One observation of the metric `group/name`."""
        self._pending.setdefault(name, []).append(float(value))

    def write(self, step: int, *, last: bool = False, **now: float) -> None:
        """Writes a line if one is due at `step`, or if it is the `last` one.

        Metrics of which nothing was added are left out; `now` are values of the moment, `train/` before.
        """
        newest = self.lines[-1][0] if self.lines else 0
        if step // self._every == newest // self._every and not (last and step > newest):
            return
        metrics = {name: float(np.mean(values)) for name, values in sorted(self._pending.items())}
        metrics |= {f"train/{name}": float(value) for name, value in now.items()}
        self._pending = {}
        self.lines.append((step, metrics))
        if self._log is not None:
            self._log(step, metrics)

    def state(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {"lines": self.lines, "pending": self._pending}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back `state` and logs its lines again."""
        self.lines = [(int(step), dict(metrics)) for step, metrics in state["lines"]]
        self._pending = {name: list(values) for name, values in state["pending"].items()}
        if self._log is not None:
            for step, metrics in self.lines:
                self._log(step, metrics)
