"""Training of MuZero: gather by search, analyse anew, learn, in one thread at a stated ratio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from models import agent as storage
from models import checkpoint, configuration, loop, rng
from models.agent import State
from models.collect import Choice, Collector, buffer_for
from models.curve import Curve, Log
from models.muzero import actions as arms
from models.muzero import agent as acting
from models.muzero import losses, networks, search, targets
from models.muzero.config import Config
from models.scalars import unit_scale


class Run:
    """One training: everything that `save` writes and `restore` takes back."""

    def __init__(self, env: Any, config: Config, seed: int, init_from: Path | None, log: Log | None) -> None:
        self.config, self.seed = config, seed
        self.spaces = storage.spaces_of(env)
        self.shape = acting.shape_of(config, self.spaces)
        self.actions = self.shape.actions
        self.settings = search.settings_of(config, config.train_simulations)
        extras: dict[str, tuple[tuple[int, ...], Any]] = {
            "policy": ((self.actions.arms,), np.float32),
            "value": ((), np.float32),  # of the root, in scaled rewards
            "searched": ((), np.float32),  # 0 for the random actions of the warm-up
        }
        if self.actions.drawn:
            extras["codes"] = ((self.actions.arms, self.actions.width), np.float32)
        self.replay = buffer_for(
            env, config.replay_capacity, extras=extras, prioritised=config.priority_exponent > 0
        )
        width = self.shape.observation
        blank = np.zeros((env.num_envs, config.history, width), np.float32)
        self.collector = Collector(env, self.replay, seed=seed, state=blank)
        self.curve = Curve(log, config.log_steps)
        self.units: acting.Units | None = None  # known after the warm-up
        weights, origin = networks.initial(self.shape, rng.derive(seed, "weights")), None
        if init_from is not None:
            earlier = acting.load(init_from)
            if earlier.shape != self.shape:
                raise configuration.Misfit(
                    f"muzero: {init_from} has networks {earlier.shape}, not {self.shape}"
                )
            weights, self.units, origin = earlier.weights, earlier.units, earlier.digest()
        zeros = tf.zeros(self.shape.size)
        flat = tf.constant(weights)
        self.learner = losses.Learner(flat, flat, zeros, zeros, tf.constant(0))
        self.updates_done = 0
        scales = losses.Scales(
            config.value_weight,
            config.reward_weight,
            config.consistency_weight,
            config.entropy_weight,
            config.chance_weight,
        )
        self._update = losses.updater(self.shape, scales, compiled=config.compile_update)
        self.identity = {
            "family": acting.FAMILY,
            "config": configuration.resolved(config),
            "seed": seed,
            "sub_environments": env.num_envs,
            "weights": self.shape.size,
            "init_from": origin,
        }

    @property
    def progress(self) -> int:
        return self.collector.env_steps

    @property
    def gone(self) -> float:
        """The share of training that is done."""
        return min(1.0, self.progress / self.config.env_steps)

    @property
    def learning_rate(self) -> float:
        first, last = self.config.learning_rate, self.config.final_learning_rate
        return first + self.gone * (last - first)

    @property
    def temperature(self) -> float:
        """Of visit counts: the schedule's steps at 50 % and 75 % of training."""
        place = int(self.gone >= 0.5) + int(self.gone >= 0.75)
        return self.config.temperatures[min(place, len(self.config.temperatures) - 1)]

    def _search(self, flat: tf.Tensor, window: np.ndarray, seed: int, *, noise: float) -> search.Found:
        return acting.run_search(
            self.shape, self.settings, flat, window, rng.key(seed), noise=noise,
            temperature=self.temperature if noise > 0.0 else 0.0, compiled=self.config.compile,
        )  # fmt: skip

    def explore(self, observation: np.ndarray, state: State, first: np.ndarray, step: int) -> Choice:
        """Random actions at first, or always; then those of a search with noise at its root."""
        count = len(observation)
        assert isinstance(state, np.ndarray)
        always = self.config.gather == "random"
        if self.units is None or self.progress < self.config.warmup_steps or always:
            draw = rng.generator(self.seed, "warm-up", step)
            code = targets.random_codes(self.actions, (count,), draw)
            return Choice(arms.decode(self.actions, self.spaces.action, code), state)
        past = np.where(first[:, None, None], np.float32(0.0), state)
        shown = targets.normalise(observation, self.units.shift, self.units.scale)
        window = np.concatenate([past[:, 1:], shown[:, None]], axis=1)
        found = self._search(self.learner.online, window, rng.derive(self.seed, "explore", step), noise=1.0)
        self.curve.add("search/depth", found.depth.mean())
        self.curve.add("search/value", found.value.mean())
        extras = {"policy": found.policy, "value": found.value, "searched": np.ones(count, np.float32)}
        if self.actions.drawn:
            extras["codes"] = found.codes
        return Choice(arms.decode(self.actions, self.spaces.action, found.code), window, extras)

    def measure(self) -> None:
        """Fixes the units of observations and rewards, from those of the warm-up."""
        if self.units is not None:
            return
        rows = self.replay.complete_rows()
        shown = self.replay.read("observation", rows).astype(np.float64)
        deviation = shown.std(axis=0)
        scale = np.where(deviation > 1e-6, 1.0 / np.maximum(deviation, 1e-6), 1.0)
        self.units = acting.Units(
            shown.mean(axis=0).astype(np.float32),
            scale.astype(np.float32),
            unit_scale(self.replay.n_step(rows, 1, 1.0).reward),
        )

    def windows(self, rows: np.ndarray) -> np.ndarray:
        """What the agent saw at each of `rows [...]`: `[..., H, D]`."""
        assert self.units is not None
        return targets.windows(self.replay, rows, self.config.history, self.units.shift, self.units.scale)

    def reanalyse(self, rows: np.ndarray, seed: int) -> None:
        """Searches the positions of the stretches from `rows [B]` anew with the target network.

        The search at a row sees what the agent saw at that very row, and its word is kept at that row.
        """
        reached, exists = self.replay.window(rows, self.config.unroll_steps)  # [B, K + 1]
        found = self._search(self.learner.target, self.windows(reached.ravel()), seed, noise=0.0)
        keep = (exists & self.replay.read("complete", reached)).ravel()
        places = reached.ravel()[keep]
        self.replay.write_extra("policy", places, found.policy[keep])
        self.replay.write_extra("value", places, found.value[keep])
        self.replay.write_extra("searched", places, np.ones(len(places), np.float32))
        if self.actions.drawn:
            self.replay.write_extra("codes", places, found.codes[keep])

    def sample(self, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Rows `[B]` to begin at, and their importance `[B]`."""
        size = self.config.batch_size
        if self.config.priority_exponent == 0:
            return self.replay.sample(size, draw), np.ones(size, np.float32)
        rows, probability = self.replay.sample_prioritised(size, draw)
        order = draw.permutation(size)  # the draw is sorted: the reanalysed share must not be the oldest
        rows, probability = rows[order], probability[order]
        return rows, targets.importance_weights(
            probability, self.replay.transitions, self.config.importance_exponent
        )

    def learn(self) -> None:
        """One update, and the reanalysis that belongs to it."""
        config = self.config
        assert self.units is not None
        draw = rng.generator(self.seed, "replay", self.updates_done)
        rows, importance = self.sample(draw)
        again = round(config.reanalyse_ratio * config.batch_size)
        if again:
            self.reanalyse(rows[:again], rng.derive(self.seed, "reanalyse", self.updates_done))
        batch = targets.unroll(
            self.replay,
            rows,
            importance,
            unroll_steps=config.unroll_steps,
            n_step=config.n_step,
            discount=config.discount,
            reward_scale=self.units.reward,
            history=config.history,
            shift=self.units.shift,
            scale=self.units.scale,
            actions=self.actions,
            space=self.spaces.action,
            draw=draw,
        )
        rates = losses.Rates(
            learning_rate=tf.constant(self.learning_rate, tf.float32),
            weight_decay=tf.constant(config.weight_decay, tf.float32),
            gradient_clip=tf.constant(config.gradient_clip, tf.float32),
            target_period=tf.constant(config.target_period),
        )
        self.learner, error, metrics = self._update(
            self.learner, targets.Unrolled(*(tf.constant(part) for part in batch)), rates
        )
        self.updates_done += 1
        if config.priority_exponent > 0:
            self.replay.prioritise(rows, (error.numpy() + 1e-6) ** config.priority_exponent)
        for name, value in metrics.items():
            self.curve.add(f"train/{name}", float(value))

    def due(self) -> int:
        """Updates that the train ratio asks for and that are not done."""
        learned_from = self.progress - self.config.warmup_steps
        return int(learned_from * self.config.updates_per_step) - self.updates_done

    def advance(self) -> None:
        """One step of the vector environment and the updates that are due."""
        for episode in self.collector.collect(self.explore, 1):
            self.curve.add("train/episode_return", episode.reward)
            self.curve.add("train/episode_length", episode.length)
        if self.progress >= self.config.warmup_steps:
            self.measure()
            for _ in range(self.due()):
                self.learn()
        self.curve.write(
            self.progress,
            last=self.progress >= self.config.env_steps,
            learning_rate=self.learning_rate,
            updates=self.updates_done,
            updates_per_step=self.updates_done / max(1, self.progress - self.config.warmup_steps),
        )

    def save(self, directory: Path) -> None:
        learner = {name: value.numpy() for name, value in self.learner._asdict().items()}
        arrays = (
            checkpoint.nest("learner", learner)
            | checkpoint.nest("replay", self.replay.state())
            | checkpoint.nest("collector", self.collector.arrays())
        )
        values = {"updates": self.updates_done, "curve": self.curve.state(), "reward_scale": None}
        if self.units is not None:
            arrays |= {"units.shift": self.units.shift, "units.scale": self.units.scale}
            values["reward_scale"] = self.units.reward
        checkpoint.save(directory, self.identity, arrays, values)

    def restore(self, directory: Path) -> None:
        """Carries on from the checkpoint in `directory`, if there is one."""
        found = checkpoint.load(directory, self.identity)
        if found is None:
            return
        self.collector.restore(checkpoint.unnest("collector", found.arrays), self.collector.state)
        self.replay.restore(checkpoint.unnest("replay", found.arrays))
        learner = checkpoint.unnest("learner", found.arrays)
        self.learner = losses.Learner(**{name: tf.constant(value) for name, value in learner.items()})
        self.updates_done = found.values["updates"]
        if found.values["reward_scale"] is not None:
            self.units = acting.Units(
                found.arrays["units.shift"], found.arrays["units.scale"], found.values["reward_scale"]
            )
        self.curve.restore(found.values["curve"])

    def agent(self) -> acting.SearchAgent:
        width = self.shape.observation
        unit = acting.Units(np.zeros(width, np.float32), np.ones(width, np.float32), 1.0)
        counters = {
            "env_steps": self.progress,
            "env_calls": self.collector.calls,
            "updates": self.updates_done,
            "seed": self.seed,
        }
        return acting.SearchAgent(
            self.config, self.spaces, self.learner.online.numpy(), units=self.units or unit, counters=counters
        )


def train(
    env: Any,
    config: Config,
    *,
    seed: int,
    checkpoint_dir: Path | None = None,
    init_from: Path | None = None,
    log: Log | None = None,
) -> acting.SearchAgent:
    """Trains on `env` until `config.env_steps` real steps are made; see `models.train`.

    The agent is the last one, not the best seen. The last step of the vector environment is completed, so
    that up to `num_envs - 1` steps more are made.
    """
    run = Run(env, config, seed, init_from, log)
    loop.complete(run, config.env_steps, every=config.checkpoint_steps, directory=checkpoint_dir)
    return run.agent()
