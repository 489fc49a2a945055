"""Training of the table: random steps to choose the cells, then Dyna-Q."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from models import agent as storage
from models import checkpoint, configuration, loop, rng
from models.agent import State
from models.collect import Choice, Collector, buffer_for
from models.curve import Curve, Log
from models.dyna import agent as acting
from models.dyna import cells as grids
from models.dyna.cells import Cells
from models.dyna.config import Config
from models.dyna.table import Table, greedy
from models.scalars import unit_scale


class _Run:
    """One training: everything that `save` writes and `restore` takes back."""

    def __init__(self, env: Any, config: Config, seed: int, init_from: Path | None, log: Log | None) -> None:
        self.config, self.seed = config, seed
        self.spaces = storage.spaces_of(env)
        self.actions = int(np.prod(acting.branches(self.spaces.action)))
        # Room for the warm-up whole, even if every step of it ends an episode.
        self.replay = buffer_for(env, 2 * config.warmup_steps + 4 * env.num_envs)
        self.collector = Collector(env, self.replay, seed=seed)
        self.streams = np.arange(env.num_envs)
        self.curve = Curve(log, config.log_steps)
        self.reward_scale = 1.0
        self.table: Table | None = None  # from the end of the warm-up on
        self.grid: Cells | None = None
        origin = None
        if init_from is not None:
            origin = self._start_from(acting.load(init_from), init_from)
        self.identity = {
            "family": acting.FAMILY,
            "config": configuration.resolved(config),
            "seed": seed,
            "sub_environments": env.num_envs,
            "inputs": self.spaces.observation.shape[0],
            "actions": self.actions,
            "init_from": origin,
        }

    def _start_from(self, earlier: acting.TableAgent, directory: Path) -> str:
        inputs = self.spaces.observation.shape[0]
        if (len(earlier.cells.cuts), earlier.values.shape[1]) != (inputs, self.actions):
            raise configuration.Misfit(
                f"dyna: {directory} has {len(earlier.cells.cuts)} inputs and {earlier.values.shape[1]} "
                f"actions, not {inputs} and {self.actions}"
            )
        self.reward_scale = earlier.reward_scale
        self.grid, self.table = earlier.cells, self._new_table(earlier.cells.number)
        self.table.q, self.table.count = earlier.values.tolist(), earlier.count.tolist()
        return earlier.digest()

    def _new_table(self, number: int) -> Table:
        config = self.config
        return Table(
            number,
            self.actions,
            learning_rate=config.learning_rate,
            discount=config.discount,
            memory=config.memory,
            count_exponent=config.count_exponent,
            bonus=config.bonus,
            threshold=config.priority_threshold,
        )

    @property
    def progress(self) -> int:
        return self.collector.env_steps

    def explore(self, observation: np.ndarray, state: State, first: np.ndarray, step: int) -> Choice:
        """The greedy action, or with probability epsilon a uniform one; all uniform while warming up."""
        draw = rng.generator(self.seed, "explore", step)
        choice = draw.integers(self.actions, size=len(observation))
        if self.table is not None and self.grid is not None:
            wild = draw.random(len(observation)) < self.config.epsilon
            for place, cell in enumerate(self.grid.find(observation).tolist()):
                if not wild[place]:
                    choice[place] = greedy(self.table.q[cell], draw)
        return Choice(acting.to_action(choice, self.spaces))

    def choose_cells(self) -> None:
        """Fixes grid and reward scale on the warm-up, and learns from it, in the order it happened."""
        config = self.config
        rows = self.replay.complete_rows()
        rows = rows[np.lexsort((rows // self.replay.length, rows % self.replay.length))]
        self.reward_scale = unit_scale(self.replay.n_step(rows, 1, 1.0).reward)
        ahead = (
            min(100, math.ceil(math.log(0.05) / math.log(config.discount))) if config.discount < 1 else 100
        )
        found = self.replay.n_step(rows, max(1, ahead) if config.discount > 0 else 1, config.discount)
        self.grid = grids.choose(
            found.observation,
            acting.to_choice(found.action, self.spaces),
            found.reward.astype(np.float64) * self.reward_scale,
            actions=self.actions,
            max_cells=config.max_cells,
            min_visits=config.min_visits,
            max_bins=config.max_bins,
        )
        self.table = self._new_table(self.grid.number)
        for place, row in enumerate(rows):
            self.learn(np.array([row]), rng.generator(self.seed, "simulate", -1 - place))

    def learn(self, rows: np.ndarray, draw: np.random.Generator) -> None:
        """Q-learning on the transitions of `rows`, and k simulated updates after each."""
        assert self.table is not None
        assert self.grid is not None
        if not len(rows):
            return
        found = self.replay.n_step(rows, 1, 1.0)
        cell, following = self.grid.find(found.observation), self.grid.find(found.next_observation)
        choice = acting.to_choice(found.action, self.spaces)
        reward = found.reward.astype(np.float64) * self.reward_scale
        for s, a, r, s2, going in zip(
            cell.tolist(), choice.tolist(), reward.tolist(), following.tolist(), found.discount.tolist(),
            strict=True,
        ):  # fmt: skip
            self.curve.add("train/error", abs(self.table.error(s, a, r, going * self.config.discount, s2)))
            self.table.observe(s, a, r, s2, terminated=going == 0.0)
            if self.config.method == "prioritised":
                self.table.sweep(s, a, self.config.planning_steps)
            else:
                self.table.simulate(self.config.planning_steps, draw)

    def advance(self) -> None:
        """One step of the vector environment, and the learning that belongs to it."""
        heads = self.replay.head(self.streams)
        call = self.collector.calls
        for episode in self.collector.collect(self.explore, 1):
            self.curve.add("train/episode_return", episode.reward)
            self.curve.add("train/episode_length", episode.length)
        if self.table is not None:
            rows = heads[self.replay.read("complete", heads)]
            self.learn(rows, rng.generator(self.seed, "simulate", call))
        elif self.progress >= min(self.config.warmup_steps, self.config.env_steps):
            self.choose_cells()
        visited = 0 if self.table is None else sum(any(row) for row in self.table.count)
        self.curve.write(
            self.progress,
            last=self.progress >= self.config.env_steps,
            cells=0 if self.grid is None else self.grid.number,
            cells_visited=visited,
        )

    def save(self, directory: Path) -> None:
        arrays = checkpoint.nest("replay", self.replay.state())
        arrays |= checkpoint.nest("collector", self.collector.arrays())
        if self.table is not None and self.grid is not None:
            arrays |= checkpoint.nest("table", self.table.arrays())
            arrays |= checkpoint.nest("grid", acting.pack(self.grid))
        checkpoint.save(
            directory,
            self.identity,
            arrays,
            {"reward_scale": self.reward_scale, "curve": self.curve.state()},
        )

    def restore(self, directory: Path) -> None:
        """Carries on from the checkpoint in `directory`, if there is one."""
        found = checkpoint.load(directory, self.identity)
        if found is None:
            return
        self.collector.restore(checkpoint.unnest("collector", found.arrays))
        self.replay.restore(checkpoint.unnest("replay", found.arrays))
        grid = checkpoint.unnest("grid", found.arrays)
        if grid:
            self.grid = acting.unpack(grid)
            self.table = self._new_table(self.grid.number)
            self.table.restore(checkpoint.unnest("table", found.arrays))
        self.reward_scale = found.values["reward_scale"]
        self.curve.restore(found.values["curve"])

    def agent(self) -> acting.TableAgent:
        assert self.table is not None
        assert self.grid is not None
        counters = {
            "env_steps": self.progress,
            "env_calls": self.collector.calls,
            "simulated": self.config.planning_steps * self.table.now,
            "cells": self.grid.number,
            "seed": self.seed,
        }
        return acting.TableAgent(
            self.config,
            self.spaces,
            self.grid,
            self.table.values(),
            np.array(self.table.count, np.int64),
            model=self.table.model(),
            reward_scale=self.reward_scale,
            counters=counters,
        )


def train(
    env: Any,
    config: Config,
    *,
    seed: int,
    checkpoint_dir: Path | None = None,
    init_from: Path | None = None,
    log: Log | None = None,
) -> acting.TableAgent:
    """Trains on `env` until `config.env_steps` real steps are made; see `models.train`.

    With `init_from` the grid, the values and the scale are the earlier agent's and there is no warm-up.
    The last step of the vector environment is completed, so that up to `num_envs - 1` steps more are made.
    """
    run = _Run(env, config, seed, init_from, log)
    loop.complete(run, config.env_steps, every=config.checkpoint_steps, directory=checkpoint_dir)
    return run.agent()
