"""Training of the Q-network: collect, learn, at a fixed and stated ratio."""

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
from models.dqn import agent as acting
from models.dqn import losses, networks
from models.dqn.config import Config
from models.scalars import unit_scale


class _Run:
    """One training: everything that `save` writes and `restore` takes back."""

    def __init__(self, env: Any, config: Config, seed: int, init_from: Path | None, log: Log | None) -> None:
        self.config, self.seed = config, seed
        self.spaces = storage.spaces_of(env)
        self.shape = acting.shape_of(config, self.spaces)
        self.replay = buffer_for(env, config.replay_capacity, prioritised=config.priority_exponent > 0)
        self.collector = Collector(env, self.replay, seed=seed)
        self.curve = Curve(log, config.log_steps)
        self.reward_scale: float | None = None  # known after the warm-up
        self.updates_done = 0
        weights, origin = networks.initial(self.shape, rng.derive(seed, "weights")), None
        if init_from is not None:
            earlier = acting.load(init_from)
            if earlier.shape != self.shape:
                raise configuration.Misfit(
                    f"dqn: {init_from} has a network {earlier.shape}, not {self.shape}"
                )
            weights, self.reward_scale, origin = earlier.weights, earlier.reward_scale, earlier.digest()
        start, zeros = tf.constant(weights), tf.zeros(self.shape.size)
        self.learner = losses.Learner(start, start, zeros, zeros, tf.constant(0))
        self.weights = weights  # the online network's, for acting
        self._update = losses.updates(self.shape, compiled=config.compile)
        self.identity = {
            "family": acting.FAMILY,
            "config": configuration.resolved(config),
            "seed": seed,
            "sub_environments": env.num_envs,
            "network": list(self.shape.widths),
            "init_from": origin,
        }

    @property
    def progress(self) -> int:
        """Real steps made."""
        return self.collector.env_steps

    @property
    def epsilon(self) -> float:
        """The share of random actions at this step."""
        if self.progress < self.config.warmup_steps:
            return 1.0
        gone = min(1.0, (self.progress - self.config.warmup_steps) / self.config.epsilon_steps)
        return self.config.epsilon_start + gone * (self.config.epsilon_end - self.config.epsilon_start)

    @property
    def learning_rate(self) -> float:
        """Adam's step at this time."""
        gone = min(1.0, self.progress / self.config.env_steps)
        return self.config.learning_rate + gone * (
            self.config.final_learning_rate - self.config.learning_rate
        )

    def explore(self, observation: np.ndarray, state: State, first: np.ndarray, step: int) -> Choice:
        """The greedy action, or with probability epsilon a uniform one."""
        draw = rng.generator(self.seed, "explore", step)
        wild = draw.random(len(observation)) < self.epsilon
        random = draw.integers(0, self.shape.choices, size=(len(observation), len(self.shape.choices)))
        values = networks.q_values_numpy(self.weights, observation, self.shape)
        choice = np.where(wild[:, None], random, values.argmax(axis=-1))
        return Choice(acting.to_action(choice, self.spaces))

    def measure_rewards(self) -> None:
        """Fixes the scale that brings rewards to order one, from those of the warm-up."""
        if self.reward_scale is None:
            rows = self.replay.complete_rows()
            self.reward_scale = unit_scale(self.replay.n_step(rows, 1, 1.0).reward)

    def learn(self) -> None:
        """One compiled call of `updates_per_call` updates."""
        config = self.config
        assert self.reward_scale is not None
        number, size = config.updates_per_call, config.batch_size
        draw = rng.generator(self.seed, "replay", self.updates_done)
        weight: np.ndarray = np.ones(number * size, np.float32)
        if config.priority_exponent > 0:
            rows, probability = self.replay.sample_prioritised(number * size, draw)
            order = draw.permutation(number * size)  # the draw is sorted by row: mix the minibatches
            rows, probability = rows[order], probability[order]
            weight = (probability * self.replay.transitions) ** -config.importance_exponent
            weight = (weight / weight.max()).astype(np.float32)
        else:
            rows = self.replay.sample(number * size, draw)
        found = self.replay.n_step(rows, config.n_step, config.discount)
        batch = losses.Batch(
            found.observation.astype(np.float32),
            acting.to_choice(found.action, self.spaces),
            found.reward * np.float32(self.reward_scale),
            found.discount,
            found.next_observation.astype(np.float32),
            weight,
        )
        batch = losses.Batch(*(tf.constant(part.reshape(number, size, *part.shape[1:])) for part in batch))
        rates = losses.Rates(
            learning_rate=tf.constant(self.learning_rate),
            gradient_clip=tf.constant(config.gradient_clip),
            huber=tf.constant(config.huber),
            target_rate=tf.constant(config.target_rate),
            target_period=tf.constant(config.target_period),
        )
        self.learner, errors, metrics = self._update(self.learner, batch, rates)
        self.weights = self.learner.online.numpy()
        self.updates_done += number
        sizes = errors.numpy()
        if config.priority_exponent > 0:
            self.replay.prioritise(rows, (sizes.ravel() + 1e-6) ** config.priority_exponent)
        loss, norm, value = metrics.numpy().tolist()
        self.curve.add("train/loss", loss)
        self.curve.add("train/gradient_norm", norm)
        self.curve.add("train/value", value / self.reward_scale)
        self.curve.add("train/error", float(sizes.mean()))

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
            self.measure_rewards()
            while self.due() >= self.config.updates_per_call:
                self.learn()
        self.curve.write(
            self.progress,
            last=self.progress >= self.config.env_steps,
            epsilon=self.epsilon,
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
        values = {
            "updates": self.updates_done,
            "reward_scale": self.reward_scale,
            "curve": self.curve.state(),
        }
        checkpoint.save(directory, self.identity, arrays, values)

    def restore(self, directory: Path) -> None:
        """Carries on from the checkpoint in `directory`, if there is one."""
        found = checkpoint.load(directory, self.identity)
        if found is None:
            return
        self.collector.restore(checkpoint.unnest("collector", found.arrays))
        self.replay.restore(checkpoint.unnest("replay", found.arrays))
        learner = checkpoint.unnest("learner", found.arrays)
        self.learner = losses.Learner(**{name: tf.constant(value) for name, value in learner.items()})
        self.weights = learner["online"]
        self.updates_done, self.reward_scale = found.values["updates"], found.values["reward_scale"]
        self.curve.restore(found.values["curve"])

    def agent(self) -> acting.QAgent:
        counters = {
            "env_steps": self.progress,
            "env_calls": self.collector.calls,
            "updates": self.updates_done,
            "seed": self.seed,
        }
        return acting.QAgent(
            self.config,
            self.spaces,
            self.weights,
            reward_scale=1.0 if self.reward_scale is None else self.reward_scale,
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
) -> acting.QAgent:
    """Trains on `env` until `config.env_steps` real steps are made; see `models.train`.

    The agent is the last one, not the best seen. The last step of the vector environment is completed, so
    that up to `num_envs - 1` steps more are made.
    """
    run = _Run(env, config, seed, init_from, log)
    loop.complete(run, config.env_steps, every=config.checkpoint_steps, directory=checkpoint_dir)
    return run.agent()
