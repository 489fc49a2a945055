"""The mazes of Sutton and Barto at the book's run counts (about ten seconds)."""

import numpy as np
import pytest

from benchmarks import dyna_maze as mazes

pytestmark = pytest.mark.learning


@pytest.mark.parametrize(("planning", "by"), [(0, 30), (5, 7), (50, 4)])
def test_mean_steps_fall_to_twenty_in_as_many_episodes_as_published(planning, by):
    runs = np.array([mazes.lengths(mazes.DYNA, planning=planning, seed=s, episodes=40) for s in range(30)])
    assert np.flatnonzero(runs.mean(axis=0) <= 20)[0] + 1 <= by
    # Two sides: 868.73 is exact, so 30 runs must come within three standard errors of it.
    assert runs[:, 0].mean() == pytest.approx(868.73, abs=3 * runs[:, 0].std(ddof=1) / np.sqrt(30))


@pytest.mark.parametrize(
    ("maze", "change", "steps", "planning", "kappa", "runs"),
    [(mazes.BLOCKING, 1000, 3000, 10, 1e-4, 20), (mazes.SHORTCUT, 3000, 6000, 50, 1e-3, 5)],
)
def test_the_bonus_pays_when_the_world_changes(maze, change, steps, planning, kappa, runs):
    def rewards(bonus):
        return [
            mazes.changing(maze, change=change, steps=steps, planning=planning, bonus=bonus, seed=s)
            for s in range(runs)
        ]

    plain, plus = rewards(0.0), rewards(kappa)
    error = np.hypot(np.std(plain), np.std(plus)) / np.sqrt(runs)
    assert np.mean(plus) - np.mean(plain) > 3 * error
