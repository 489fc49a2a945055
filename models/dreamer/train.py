"""Training of Dreamer: collect, replay, dream, at a fixed and stated ratio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from models import agent as storage
from models import checkpoint, configuration, loop, rng
from models.agent import State
from models.collect import Choice, Collector, buffer_for
from models.curve import Curve, Log
from models.dreamer import agent as acting
from models.dreamer import networks as nets
from models.dreamer import policy
from models.dreamer.config import Config
from models.dreamer.learner import Batch, Learner
from models.dreamer.rssm import Latent
from models.scalars import unit_scale


class _Run:
    """One training: everything that `save` writes and `restore` takes back."""

    def __init__(self, env: Any, config: Config, seed: int, init_from: Path | None, log: Log | None) -> None:
        self.config, self.seed = config, seed
        self.spaces = storage.spaces_of(env)
        sizes = config.sizes
        stored = {
            "deterministic": ((sizes.deterministic,), np.float32),
            "classes": ((sizes.groups,), np.int16),
        }
        self.replay = buffer_for(env, config.replay_capacity, extras=stored)
        self.networks = nets.build(config, self.spaces, rng.derive(seed, "weights"))
        self.reward_scale = config.reward_scale  # or known after the warm-up
        self.updates_done, origin = 0, None
        if init_from is not None:
            origin = self._start_from(init_from)
        self.learner = Learner(config, self.networks)
        self.blank_state = acting.blank_state(config, self.networks, env.num_envs)
        self.collector = Collector(env, self.replay, seed=seed, state=self.blank_state)
        self.curve = Curve(log, config.log_steps)
        self.identity = {
            "family": acting.FAMILY,
            "config": configuration.resolved(config),
            "seed": seed,
            "sub_environments": env.num_envs,
            "inputs": self.spaces.observation.shape[0],
            "actions": [list(self.networks.actions.choices), self.networks.actions.width],
            "init_from": origin,
        }

    def _start_from(self, directory: Path) -> str:
        earlier = acting.load(directory)
        for name, layer in self.networks.parts().items():
            theirs = earlier.networks.parts()[name]
            shapes = [[tuple(v.shape) for v in part.variables] for part in (layer, theirs)]
            if shapes[0] != shapes[1]:
                raise configuration.Misfit(f"dreamer: {directory} has other sizes or spaces ({name} differs)")
            checkpoint.write_variables(layer.variables, checkpoint.read_variables(theirs.variables))
        self.networks.follow(1.0)
        self.reward_scale = earlier.reward_scale
        return earlier.digest()

    @property
    def progress(self) -> int:
        return self.collector.env_steps

    def explore(self, observation: np.ndarray, state: State, first: np.ndarray, step: int) -> Choice:
        """An action drawn from the policy, in the warm-up from all alike, and the latent it was taken in."""
        assert isinstance(state, dict)
        seed = rng.derive(self.seed, "explore", step)
        latent, sampled = self.learner.explore(
            observation.astype(np.float32),
            Latent(state["deterministic"], state["stochastic"]),
            state["action"],
            first,
            rng.key(seed),
        )
        vector = sampled.numpy()
        if self.progress < self.config.warmup_steps:
            vector = self._random(len(observation), rng.generator(self.seed, "random", step))
        h, z = latent.deterministic.numpy(), latent.stochastic.numpy()
        sizes = self.config.sizes
        classes = z.reshape(len(z), sizes.groups, sizes.classes).argmax(-1).astype(np.int16)
        return Choice(
            policy.to_action(vector, self.networks.actions),
            {"action": vector, "deterministic": h, "stochastic": z},
            {"deterministic": h, "classes": classes},
        )

    def _random(self, count: int, draw: np.random.Generator) -> np.ndarray:
        actions = self.networks.actions
        if actions.discrete:
            choice = draw.integers(0, actions.choices, size=(count, actions.branches)) + actions.start
            return policy.to_vector(choice.reshape(count, *actions.shape), actions)
        return draw.uniform(-1.0, 1.0, (count, actions.width)).astype(np.float32)

    def measure_rewards(self) -> None:
        """Fixes the scale that brings rewards to order one, from those of the warm-up."""
        if self.reward_scale is None:
            rows = self.replay.complete_rows()
            self.reward_scale = unit_scale(self.replay.n_step(rows, 1, 1.0).reward)

    def batch(self) -> tuple[Batch, np.ndarray]:
        """Replayed sequences for one update, and their rows `[B, T]`.

        One row more is drawn: its stored latent and its action are what the sequence starts from, so that
        the model's memory reaches further back than a sequence does.
        """
        config = self.config
        assert self.reward_scale is not None
        draw = rng.generator(self.seed, "replay", self.updates_done)
        found = self.replay.sample_sequences(config.batch_size, config.batch_length + 1, draw)
        first = found.is_first[:, 1:]
        last = (found.terminated | found.truncated)[:, 1:]
        last[:, :-1] |= first[:, 1:]  # an episode that was cut without a word ends there too
        taken = found.action[:, :-1].copy()
        # The step before a first one has no action; what stands there must only be valid to be encoded.
        actions = self.networks.actions
        taken[first] = actions.start.reshape(actions.shape) if actions.discrete else 0.0
        sizes = config.sizes
        classes = found.extras["classes"][:, 0]  # [B, G]
        stochastic = np.eye(sizes.classes, dtype=np.float32)[classes].reshape(len(classes), -1)
        batch = Batch(
            found.observation[:, 1:].astype(np.float32),
            policy.to_vector(taken, actions),
            found.reward[:, 1:] * np.float32(self.reward_scale),
            first,
            last,
            found.terminated[:, 1:],
            Latent(found.extras["deterministic"][:, 0], stochastic),
        )
        return batch, found.rows[:, 1:]

    def learn(self) -> None:
        """One update; the latents it computed replace the stored ones, which older weights had made."""
        batch, rows = self.batch()
        dreaming = self.progress >= self.config.dreams_from
        seed = rng.key(rng.derive(self.seed, "update", self.updates_done))
        update = self.learner.update(batch, seed) if dreaming else self.learner.model(batch, seed)
        self.updates_done += 1
        self.replay.write_extra("deterministic", rows, update.deterministic.numpy())
        self.replay.write_extra("classes", rows, update.classes.numpy().astype(np.int16))
        for name, value in update.metrics.items():
            self.curve.add(name, float(value))

    def due(self) -> int:
        """Updates that the train ratio asks for and that are not done."""
        return self.config.updates(self.progress) - self.updates_done

    def advance(self) -> None:
        """One step of the vector environment and the updates that are due."""
        for episode in self.collector.collect(self.explore, 1):
            self.curve.add("train/episode_return", episode.reward)
            self.curve.add("train/episode_length", episode.length)
        if self.progress >= self.config.warmup_steps:
            self.measure_rewards()
            for _ in range(self.due()):
                self.learn()
        self.curve.write(
            self.progress,
            last=self.progress >= self.config.env_steps,
            updates=self.updates_done,
            reward_scale=1.0 if self.reward_scale is None else self.reward_scale,
        )

    def save(self, directory: Path) -> None:
        arrays = (
            checkpoint.nest("learner", self.learner.arrays())
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
        self.collector.restore(checkpoint.unnest("collector", found.arrays), self.blank_state)
        self.replay.restore(checkpoint.unnest("replay", found.arrays))
        self.learner.restore(checkpoint.unnest("learner", found.arrays))
        self.updates_done, self.reward_scale = found.values["updates"], found.values["reward_scale"]
        self.curve.restore(found.values["curve"])

    def agent(self) -> acting.DreamerAgent:
        counters = {
            "env_steps": self.progress,
            "env_calls": self.collector.calls,
            "updates": self.updates_done,
            "seed": self.seed,
        }
        return acting.DreamerAgent(
            self.config,
            self.spaces,
            self.networks,
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
) -> acting.DreamerAgent:
    """Trains on `env` until `config.env_steps` real steps are made; see `models.train`.

    The agent is the last one, not the best seen. The last step of the vector environment is completed, so
    that up to `num_envs - 1` steps more are made.
    """
    rows = min(config.warmup_steps, config.replay_capacity) // env.num_envs
    if rows < config.batch_length + 1:
        raise configuration.Misfit(
            f"dreamer: {rows} steps of each of {env.num_envs} sub-environments (the lesser of warmup_steps "
            f"and replay_capacity) do not hold a sequence of batch_length {config.batch_length} and one"
        )
    run = _Run(env, config, seed, init_from, log)
    loop.complete(run, config.env_steps, every=config.checkpoint_steps, directory=checkpoint_dir)
    return run.agent()
