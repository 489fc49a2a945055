"""Dyna on the mazes of Sutton and Barto, 2nd edition, chapter 8, against exact figures where there are any.

    python -m benchmarks.dyna_maze [--runs 30] [--seed 0]

- the Dyna maze (example 8.1): mean steps an episode for 0, 5 and 50 simulated updates a step;
- the blocking and the shortcut maze (examples 8.2 and 8.3): Dyna-Q+ against Dyna-Q when the world changes;
- prioritised sweeping against Dyna-Q on the Dyna maze (example 8.4): updates until the path is optimal.

Prints the figures and writes them to benchmarks/results/dyna_maze.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.dyna.table import Table, greedy

RESULTS = Path(__file__).parent / "results" / "dyna_maze.json"
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))


class Maze(NamedTuple):
    """A grid world; bumping into a wall or the edge changes nothing, reaching the goal pays one."""

    height: int
    width: int
    start: tuple[int, int]
    goal: tuple[int, int]
    walls: frozenset[tuple[int, int]]

    def moves(self) -> list[list[int]]:
        """The next cell of every cell and action."""
        following = []
        for cell in range(self.height * self.width):
            row, column = divmod(cell, self.width)
            ends = []
            for down, right in MOVES:
                there = (
                    min(max(row + down, 0), self.height - 1),
                    min(max(column + right, 0), self.width - 1),
                )
                ends.append(cell if there in self.walls else there[0] * self.width + there[1])
            following.append(ends)
        return following

    def cell(self, place: tuple[int, int]) -> int:
        return place[0] * self.width + place[1]


DYNA = Maze(6, 9, (2, 0), (0, 8), frozenset({(1, 2), (2, 2), (3, 2), (0, 7), (1, 7), (2, 7), (4, 5)}))
SHORTEST = 14  # steps of the best path in it
_ROW = {(3, column) for column in range(9)}
BLOCKING = (
    Maze(6, 9, (5, 3), (0, 8), frozenset(_ROW - {(3, 8)})),
    Maze(6, 9, (5, 3), (0, 8), frozenset(_ROW - {(3, 0)})),
)
SHORTCUT = (
    Maze(6, 9, (5, 3), (0, 8), frozenset(_ROW - {(3, 0)})),
    Maze(6, 9, (5, 3), (0, 8), frozenset(_ROW - {(3, 0), (3, 8)})),
)


def expected_first_episode(maze: Maze) -> float:
    """Mean steps of a uniform random walk from start to goal, by a linear solve."""
    following = maze.moves()
    open_cells = [c for c in range(len(following)) if divmod(c, maze.width) not in maze.walls]
    inside = [cell for cell in open_cells if cell != maze.cell(maze.goal)]
    place = {cell: index for index, cell in enumerate(inside)}
    system = np.eye(len(inside))
    for cell in inside:
        for end in following[cell]:
            if end in place:
                system[place[cell], place[end]] -= 1 / len(MOVES)
    return float(np.linalg.solve(system, np.ones(len(inside)))[place[maze.cell(maze.start)]])


def learning(
    maze: Maze, *, planning: int, seed: int, episodes: int, sweep: bool = False
) -> Iterator[tuple[int, Table]]:
    """One run of Dyna-Q (epsilon 0.1, gamma 0.95; alpha 0.1, or 0.5 with prioritised sweeping).

    Yields, after each episode, the updates made so far and the table, whose `now` counts real steps.
    """
    draw = np.random.default_rng(seed)
    following, start, goal = maze.moves(), maze.cell(maze.start), maze.cell(maze.goal)
    table = Table(len(following), len(MOVES), learning_rate=0.5 if sweep else 0.1, discount=0.95)
    made = 0
    for _ in range(episodes):
        cell = start
        while cell != goal:
            action = int(draw.integers(4)) if draw.random() < 0.1 else greedy(table.q[cell], draw)
            there = following[cell][action]
            table.observe(cell, action, float(there == goal), there, terminated=there == goal)
            if sweep:
                made += 1 + table.sweep(cell, action, planning)
            else:
                table.simulate(planning, draw)
                made += 1 + planning
            cell = there
        yield made, table


def lengths(maze: Maze, *, planning: int, seed: int, episodes: int) -> list[int]:
    """Steps of each episode of one run."""
    ends = [table.now for _, table in learning(maze, planning=planning, seed=seed, episodes=episodes)]
    return np.diff([0, *ends]).tolist()


def changing(
    mazes: tuple[Maze, Maze], *, change: int, steps: int, planning: int, bonus: float, seed: int
) -> int:
    """Cumulative reward of one run in a maze that changes once; alpha 1, epsilon 0.1, gamma 0.95."""
    draw = np.random.default_rng(seed)
    before, after = (maze.moves() for maze in mazes)
    start, goal = mazes[0].cell(mazes[0].start), mazes[0].cell(mazes[0].goal)
    table = Table(len(before), len(MOVES), learning_rate=1.0, discount=0.95, bonus=bonus)
    cell, reward = start, 0
    for step in range(steps):
        following = before if step < change else after
        action = int(draw.integers(4)) if draw.random() < 0.1 else greedy(table.q[cell], draw)
        there = following[cell][action]
        over = there == goal
        table.observe(cell, action, float(over), there, terminated=over)
        table.simulate(planning, draw)
        reward += over
        cell = start if over else there
    return reward


def updates_to_optimum(maze: Maze, *, planning: int, sweep: bool, seed: int, shortest: int) -> int | None:
    """Updates made when an episode first ends with a greedy path that is as short as can be (example 8.4)."""
    for made, table in learning(maze, planning=planning, seed=seed, sweep=sweep, episodes=200):
        if greedy_steps(maze, table, shortest) is not None:
            return made
    return None


def greedy_steps(maze: Maze, table: Table, most: int) -> int | None:
    """Steps from start to goal by the best actions (the first on a tie), or None if above `most`."""
    following, cell, goal = maze.moves(), maze.cell(maze.start), maze.cell(maze.goal)
    for steps in range(most + 1):
        if cell == goal:
            return steps
        cell = following[cell][int(np.argmax(table.q[cell]))]
    return None


def summary(values: list[float]) -> dict[str, float]:
    """Mean and its standard error."""
    return {"mean": float(np.mean(values)), "error": float(np.std(values, ddof=1) / np.sqrt(len(values)))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.runs)
    figures: dict[str, object] = {"first_episode_exact": expected_first_episode(DYNA)}
    for planning in (0, 5, 50):
        steps = np.array([lengths(DYNA, planning=planning, seed=s, episodes=50) for s in seeds])
        reached = np.flatnonzero(steps.mean(axis=0) <= 20)
        figures[f"maze_n{planning}"] = {
            "first_episode": summary(steps[:, 0].tolist()),
            "second_episode": summary(steps[:, 1].tolist()),
            "last_ten_episodes": float(steps[:, -10:].mean()),
            "episode_of_mean_20_or_less": int(reached[0]) + 1 if len(reached) else None,
        }
    for name, mazes, change, total, planning, bonus, runs in (
        ("blocking", BLOCKING, 1000, 3000, 10, 1e-4, 20),
        ("shortcut", SHORTCUT, 3000, 6000, 50, 1e-3, 5),
    ):
        for label, kappa in (("dyna_q", 0.0), ("dyna_q_plus", bonus)):
            rewards = [
                float(
                    changing(mazes, change=change, steps=total, planning=planning, bonus=kappa, seed=s)
                )
                for s in seeds[:runs]
            ]  # fmt: skip
            figures[f"{name}_{label}"] = summary(rewards)
    for label, sweep in (("dyna_q", False), ("prioritised", True)):
        made = [
            updates_to_optimum(DYNA, planning=5, sweep=sweep, seed=s, shortest=SHORTEST) for s in seeds[:10]
        ]
        found = [number for number in made if number is not None]
        figures[f"updates_to_optimum_{label}"] = {
            "median": float(np.median(found)),
            "solved": len(found),
            "of": len(made),
        }
    result = {
        "command": f"python -m benchmarks.dyna_maze --runs {arguments.runs} --seed {arguments.seed}",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "figures": figures,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
