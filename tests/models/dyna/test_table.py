"""Dyna on the mazes of Sutton and Barto, at small run counts; the whole sweep is benchmarks/dyna_maze.py."""

import numpy as np
import pytest

from benchmarks import dyna_maze as mazes
from models.dyna.table import Table, greedy

GAMMA = 0.95


def _optimal_values(maze):
    following, goal = maze.moves(), maze.cell(maze.goal)
    values = np.zeros(len(following))
    for _ in range(200):
        reached = np.array(
            [[float(e == goal) + GAMMA * values[e] * (e != goal) for e in row] for row in following]
        )
        values = reached.max(axis=1)
        values[goal] = 0.0
    return reached


def test_the_first_episode_of_the_maze_is_a_uniform_walk():
    assert mazes.expected_first_episode(mazes.DYNA) == pytest.approx(868.73, abs=0.005)
    first = [mazes.lengths(mazes.DYNA, planning=0, seed=seed, episodes=1)[0] for seed in range(40)]
    assert np.mean(first) == pytest.approx(868.73, abs=4 * np.std(first) / np.sqrt(40))


def test_planning_needs_fewer_episodes():
    second = {}
    for planning, expected in ((0, 475), (5, 126), (50, 40)):
        runs = np.array([mazes.lengths(mazes.DYNA, planning=planning, seed=s, episodes=8) for s in range(6)])
        second[planning] = runs[:, 1].mean()
        assert second[planning] == pytest.approx(expected, rel=0.7)
        if planning:
            assert runs[:, -1].mean() <= 20
    assert second[0] > second[5] > second[50]


def test_dyna_and_sweeping_find_the_exact_values_of_the_best_path():
    best = _optimal_values(mazes.DYNA)
    assert best[mazes.DYNA.cell(mazes.DYNA.start)].max() == pytest.approx(GAMMA**13)
    for sweep in (False, True):
        *_, (_, table) = mazes.learning(mazes.DYNA, planning=50, seed=1, episodes=40, sweep=sweep)
        assert mazes.greedy_steps(mazes.DYNA, table, mazes.SHORTEST) == mazes.SHORTEST
        assert max(table.q[mazes.DYNA.cell(mazes.DYNA.start)]) == pytest.approx(GAMMA**13, rel=0.02)
        assert (table.values() <= best + 1e-9).all()  # values rise from zero and never overshoot


def test_sweeping_needs_fewer_updates():
    def updates(sweep):
        return mazes.updates_to_optimum(mazes.DYNA, planning=5, sweep=sweep, seed=0, shortest=mazes.SHORTEST)

    assert updates(True) < updates(False)


def test_dyna_q_plus_finds_what_has_opened():
    for maze, change, steps, kappa, planning in (
        (mazes.BLOCKING, 1000, 3000, 1e-4, 10),
        (mazes.SHORTCUT, 1500, 3500, 1e-3, 20),
    ):
        plain, plus = (
            np.mean(
                [
                    mazes.changing(maze, change=change, steps=steps, planning=planning, bonus=bonus, seed=s)
                    for s in range(3)
                ]
            )
            for bonus in (0.0, kappa)
        )
        assert plus > 1.1 * plain


def test_without_planning_it_is_q_learning():
    draw = np.random.default_rng(0)
    table = Table(3, 2, learning_rate=0.5, discount=0.9)
    q = np.zeros((3, 2))
    for _ in range(200):
        s, a, s2 = draw.integers(3), draw.integers(2), draw.integers(3)
        r, over = draw.normal(), bool(draw.random() < 0.2)
        q[s, a] += 0.5 * (r + (0.0 if over else 0.9) * q[s2].max() - q[s, a])
        table.observe(int(s), int(a), float(r), int(s2), terminated=over)
        table.simulate(0, draw)
    np.testing.assert_allclose(table.values(), q, rtol=1e-12)
    before = table.values()
    table.sweep(0, 0, 0)
    np.testing.assert_array_equal(table.values(), before)


def test_the_model_remembers_as_many_outcomes_as_it_may():
    """A coin that pays 0 or 1: one remembered outcome swings, many give the mean."""
    draw = np.random.default_rng(1)
    spread = {}
    for memory in (1, 64):
        table = Table(1, 1, learning_rate=0.1, discount=0.0, memory=memory)
        values = []
        for reward in draw.integers(0, 2, 300).tolist():
            table.observe(0, 0, float(reward), 0, terminated=True)
            table.simulate(30, draw)
            values.append(table.q[0][0])
        spread[memory] = np.std(values[100:])
        assert len(table.arrays()["outcomes"]) == memory
    assert spread[64] < 0.15 < 0.4 < spread[1]
    counted = Table(1, 1, learning_rate=1.0, discount=0.0, count_exponent=1.0)
    rewards = draw.normal(size=50)
    for reward in rewards.tolist():
        counted.observe(0, 0, reward, 0, terminated=True)
    assert counted.q[0][0] == pytest.approx(rewards.mean())  # a rate of 1/n is the sample mean


@pytest.mark.parametrize("sweep", [False, True])
def test_a_restored_table_goes_on_as_if_nothing_had_happened(sweep):
    following = mazes.DYNA.moves()

    def new():
        bonus = 0.0 if sweep else 1e-3
        return Table(54, 4, learning_rate=0.3, discount=GAMMA, memory=3, bonus=bonus, threshold=1e-6)

    def steps(table, seed, cell):
        draw = np.random.default_rng(seed)
        for _ in range(300):
            action = greedy(table.q[cell], draw)
            there = following[cell][action]
            table.observe(cell, action, 0.1 + (there == 8), there, terminated=there == 8)
            table.sweep(cell, action, 3) if sweep else table.simulate(3, draw)
            cell = 18 if there == 8 else there
        return cell

    whole, cut = new(), new()
    cell = steps(whole, 0, 18)
    assert steps(cut, 0, 18) == cell
    resumed = new()
    resumed.restore(cut.arrays())
    steps(whole, 1, cell)
    steps(resumed, 1, cell)
    for name, values in whole.arrays().items():
        np.testing.assert_array_equal(resumed.arrays()[name], values, err_msg=name)


def test_ties_are_broken_at_random():
    draw = np.random.default_rng(0)
    assert {greedy([0.0, 1.0, 1.0], draw) for _ in range(30)} == {1, 2}
