"""Training of the ensemble: collect with the planner, fit the model, again and again."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

import models
from models import agent as storage
from models import checkpoint, configuration, loop, rng
from models.agent import Agent, State
from models.collect import Choice, Collector, buffer_for
from models.curve import Curve, Log
from models.ensemble import agent as acting
from models.ensemble import calibration, holdout, losses, networks
from models.ensemble.config import Config
from models.ensemble.dream import Known, Model
from models.ensemble.env import DreamVectorEnv
from models.ensemble.networks import Scaling
from models.planning import plan
from models.planning.plan import Continuous


class Data(NamedTuple):
    """Transitions as the networks see them, not scaled."""

    inputs: np.ndarray  # [N, I] observation and encoded action
    targets: np.ndarray  # [N, O] change of the observation, reward
    goes_on: np.ndarray  # [N]


def scaled(data: Data, scaling: Scaling) -> Data:
    """In units of the scaling."""
    return Data(
        (data.inputs - scaling.mean.numpy()) / scaling.size.numpy(),
        (data.targets - scaling.target_mean.numpy()) / scaling.target_size.numpy(),
        data.goes_on,
    )


def bootstrap(counts: np.ndarray, number: int, draw: np.random.Generator) -> np.ndarray:
    """`number` places in N rows, running through a member's resample of them, reshuffled each time round.

    `counts [N]` says how often each row is in the resample. It is the same in every fit (Poisson of mean one,
    the bootstrap with replacement of a growing set: Oza and Russell 2001), so that members keep their
    differences and do not all end up having seen everything.
    """
    resample = np.repeat(np.arange(len(counts)), counts)
    if not len(resample):
        resample = np.arange(len(counts))
    rounds = -(-number // len(resample))
    return np.concatenate([draw.permutation(resample) for _ in range(rounds)])[:number]


class _Run:
    """One training: everything that `save` writes and `restore` takes back."""

    def __init__(
        self, env: Any, config: Config, seed: int, init_from: Path | None, log: Log | None, known: Known
    ) -> None:
        self.config, self.seed, self.known = config, seed, known
        self.spaces = storage.spaces_of(env)
        self.shape = acting.shape_of(config, self.spaces)
        self.settings = acting.settings_of(config, self.shape.space)
        self.replay = buffer_for(env, config.replay_capacity)
        neutral = np.array(self.settings.neutral, plan.kind(self.shape.space))
        self.idle = np.tile(neutral, (env.num_envs, config.horizon, 1))  # the plan before the first one
        self.collector = Collector(env, self.replay, seed=seed, state=self.idle)
        self.curve = Curve(log, config.log_steps)
        # Fixed for a row of the buffer: what is held out once must not have been trained on before.
        self.held_out = holdout.blocks(
            self.replay.streams, self.replay.length,
            share=config.holdout, block=config.holdout_block, draw=rng.generator(seed, "holdout"),
        )  # fmt: skip
        self.learner = losses.start(networks.initial(self.shape, rng.derive(seed, "weights")))
        self.model: Model | None = None  # from the first fit on
        self.limits = acting.OPEN
        self.policy_from: Path | None = None
        self.fits = self.fitted_at = 0
        origin = None
        if init_from is not None:
            origin = self._start_from(init_from)
        self.identity = {
            "family": acting.FAMILY,
            "config": configuration.resolved(config),
            "seed": seed,
            "sub_environments": env.num_envs,
            "shape": [self.shape.inputs, self.shape.action_inputs],
            "known": [name for name, function in known._asdict().items() if function is not None],
            "init_from": origin,
        }

    def _start_from(self, directory: Path) -> str:
        earlier = acting.load(directory, known=self.known)
        if earlier.config.fallback == self.config.fallback != "neutral":
            self.policy_from = directory / acting.POLICY
        shape = earlier.shape._replace(members=self.shape.members)
        if shape != self.shape:
            raise configuration.Misfit(f"ensemble: {directory} has networks {shape}, not {self.shape}")
        # Members that did not plan were not kept: those that did take their places in turn.
        chosen = np.arange(self.shape.members) % earlier.config.elites
        self.learner = losses.start(networks.members(earlier.model.weights, chosen))
        self.model, self.limits = earlier.model, earlier.limits
        if self.config.elites != earlier.config.elites:
            elites = np.arange(self.config.elites) % earlier.config.elites
            self.model = Model(networks.members(earlier.model.weights, elites), earlier.model.scaling)
        return earlier.digest()

    @property
    def progress(self) -> int:
        return self.collector.env_steps

    def explore(self, observation: np.ndarray, state: State, first: np.ndarray, step: int) -> Choice:
        """The planned action whatever the gate says, or a uniform one."""
        config, number = self.config, len(observation)
        draw = rng.generator(self.seed, "explore", step)
        space = self.shape.space
        drawn: np.ndarray
        if isinstance(space, Continuous):
            drawn = draw.uniform(space.low, space.high, (number, len(space.low)))
        else:
            drawn = draw.integers(0, space.counts, size=(number, len(space.counts)))
        random = acting.to_action(drawn, self.spaces)
        if self.model is None:
            return Choice(random, state)
        assert isinstance(state, np.ndarray)
        state = np.where(first[:, None, None], self.idle, state)
        decision = acting.decide(
            self.model, acting.OPEN, self.shape._replace(members=config.elites), self.settings, self.spaces,
            observation, state, rng.derive(self.seed, "plan", step),
            known=self.known, compiled=config.compile,
        )  # fmt: skip
        wild = (draw.random(number) < config.epsilon).reshape(-1, *[1] * (random.ndim - 1))
        for name in ("epistemic", "aleatoric", "lost", "value"):
            self.curve.add(f"plan/{name}", float(decision.info[name].mean()))
        return Choice(np.where(wild, random, decision.action), decision.state)

    def gather(self, rows: np.ndarray) -> Data:
        """The transitions of `rows`."""
        found = self.replay.n_step(rows, 1, 1.0)
        shown = found.observation.astype(np.float32)
        inputs = networks.join(shown, acting.to_choice(found.action, self.spaces), self.shape).numpy()
        change = found.next_observation.astype(np.float32) - shown
        return Data(
            inputs,
            np.concatenate([change, found.reward[:, None]], axis=1),
            found.discount,
        )

    def _divided(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on and rows to judge by."""
        rows = self.replay.complete_rows()
        held, rest = rows[self.held_out[rows]], rows[~self.held_out[rows]]
        if len(held):
            shown = self.replay.read("observation", rest), self.replay.read("observation", held)
            rest = rest[~holdout.same_moment(*shown)]
        if not len(held) or not len(rest):  # a handful of transitions: look at what there is
            return rows, rows
        return rest, held

    def fit(self) -> None:
        """Trains every member on its resample until held-out data say to stop; keeps each one's best."""
        config = self.config
        draw = rng.generator(self.seed, "fit", self.fits)
        trained, held = self._divided()
        looked_at = draw.choice(held, config.holdout_rows, replace=len(held) < config.holdout_rows)
        data, test = self.gather(trained), self.gather(looked_at)
        scaling = networks.measure(data.inputs, data.targets, ends=bool((data.goes_on == 0).any()))
        data, test = scaled(data, scaling), scaled(test, scaling)
        size = (config.updates_per_round, config.batch_size)
        shown = self.replay.read("observation", trained)
        streams = np.stack(
            [
                bootstrap(
                    holdout.resample(shown, trained, rng.derive(self.seed, "bootstrap", member)),
                    config.max_rounds * size[0] * size[1],
                    draw,
                )
                for member in range(config.members)
            ]
        ).reshape(config.members, config.max_rounds, *size)
        improve = losses.round_of_updates(self.shape, config.reward_share, compiled=config.compile)
        look = losses.scorer(self.shape, config.reward_share, compiled=config.compile)
        rates = [tf.constant(rate, tf.float32) for rate in (config.learning_rate, config.weight_decay)]
        judged = [tf.constant(part, tf.float32) for part in test]

        best = self.learner.weights
        best_score = look(best, *judged, scaling.ends).numpy()  # [E]
        first_score, idle, rounds = best_score, 0, 0
        while rounds < config.max_rounds and idle < config.patience:
            places = np.swapaxes(streams[:, rounds], 0, 1)  # [U, E, B]
            batch = losses.Batch(*(tf.constant(part[places], tf.float32) for part in data))
            self.learner, each = improve(self.learner, batch, *rates, scaling.ends)
            score = look(self.learner.weights, *judged, scaling.ends).numpy()
            better = score < best_score - config.improvement
            pairs = zip(networks.flatten(self.learner.weights), networks.flatten(best), strict=True)
            best = networks.unflatten([tf.where(better[:, None, None], new, old) for new, old in pairs])
            best_score = np.where(better, score, best_score)
            idle, rounds = (0 if better.any() else idle + 1), rounds + 1
            self.curve.add("fit/train_likelihood", float(each.numpy().mean()))
        self.learner = self.learner._replace(weights=best)
        chosen = np.sort(np.argsort(best_score, kind="stable")[: config.elites])
        self.model = Model(networks.members(best, chosen), scaling)
        self.fits, self.fitted_at = self.fits + 1, self.progress
        planners = self.shape._replace(members=config.elites)
        found = self.replay.n_step(looked_at, 1, 1.0)
        self.limits = calibration.limits(
            self.model, found.observation, acting.to_choice(found.action, self.spaces),
            shape=planners, settings=self.settings, known=self.known, config=config,
        )  # fmt: skip
        for name, value in calibration.figures(self.model, test.inputs, test.targets, planners).items():
            self.curve.add(f"fit/{name}", value)
        self.curve.add("fit/holdout_likelihood", float(best_score.mean()))
        self.curve.add("fit/holdout_gain", float((first_score - best_score).mean()))
        self.curve.add("fit/rounds", rounds)

    def due(self) -> bool:
        """Whether the model is to be fitted now."""
        if self.progress >= self.config.env_steps:
            return self.fitted_at < self.progress
        learned_from = self.progress - self.config.warmup_steps
        return learned_from >= 0 and (
            self.fits == 0 or self.progress - self.fitted_at >= self.config.fit_steps
        )

    def advance(self) -> None:
        """One step of the vector environment, and the fit if one is due."""
        for episode in self.collector.collect(self.explore, 1):
            self.curve.add("train/episode_return", episode.reward)
            self.curve.add("train/episode_length", episode.length)
        if self.due():
            self.fit()
        self.curve.write(
            self.progress,
            last=self.progress >= self.config.env_steps,
            fits=self.fits,
            updates=int(self.learner.updates),
        )

    def save(self, directory: Path) -> None:
        arrays = (
            checkpoint.nest("replay", self.replay.state())
            | checkpoint.nest("collector", self.collector.arrays())
            | checkpoint.nest("learner.weights", networks.arrays(self.learner.weights))
            | checkpoint.nest("learner.mean", networks.arrays(self.learner.mean))
            | checkpoint.nest("learner.square", networks.arrays(self.learner.square))
        )
        if self.model is not None:
            arrays |= checkpoint.nest("model", acting.pack(self.model, self.limits))
        values = {
            "updates": int(self.learner.updates),
            "fits": self.fits,
            "fitted_at": self.fitted_at,
            "curve": self.curve.state(),
        }
        checkpoint.save(directory, self.identity, arrays, values)

    def restore(self, directory: Path) -> None:
        """Carries on from the checkpoint in `directory`, if there is one."""
        found = checkpoint.load(directory, self.identity)
        if found is None:
            return
        self.collector.restore(checkpoint.unnest("collector", found.arrays), self.idle)
        self.replay.restore(checkpoint.unnest("replay", found.arrays))
        weights, mean, square = (
            networks.from_arrays(checkpoint.unnest(f"learner.{name}", found.arrays))
            for name in ("weights", "mean", "square")
        )
        self.learner = losses.Learner(weights, mean, square, tf.constant(found.values["updates"]))
        model = checkpoint.unnest("model", found.arrays)
        if model:
            self.model, self.limits = acting.unpack(model)
        self.fits, self.fitted_at = found.values["fits"], found.values["fitted_at"]
        self.curve.restore(found.values["curve"])

    def policy(self, checkpoint_dir: Path | None) -> Agent | None:
        """Deep Dyna: an agent of another family, trained inside the model alone."""
        assert self.model is not None
        config, name = self.config, self.config.fallback
        if name == "neutral":
            return None
        dreams = DreamVectorEnv(
            self.model,
            self.shape._replace(members=config.elites),
            self.spaces,
            self.replay.read("observation", self.replay.complete_rows()),
            functools.partial(acting.to_choice, spaces=self.spaces),
            known=self.known,
            num_envs=config.dream_envs,
            steps=config.dream_episode,
            compiled=config.compile,
        )
        warmup = int(vars(models.config_class(name)())["warmup_steps"])
        options = {"env_steps": config.dream_steps, "warmup_steps": min(warmup, 1 + config.dream_steps // 4)}
        return models.train(
            name,
            dreams,
            options,
            seed=rng.derive(self.seed, "policy"),
            checkpoint_dir=None if checkpoint_dir is None else checkpoint_dir / acting.POLICY,
            init_from=self.policy_from,
        )

    def agent(self, policy: Agent | None) -> acting.EnsembleAgent:
        assert self.model is not None
        counters = {
            "env_steps": self.progress,
            "env_calls": self.collector.calls,
            "updates": int(self.learner.updates),
            "fits": self.fits,
            "seed": self.seed,
        }
        return acting.EnsembleAgent(
            self.config, self.spaces, self.model, self.limits,
            counters=counters, known=self.known, fallback=policy,
        )  # fmt: skip


def train(
    env: Any,
    config: Config,
    *,
    seed: int,
    checkpoint_dir: Path | None = None,
    init_from: Path | None = None,
    log: Log | None = None,
    known: Known = Known(),  # noqa: B008, immutable
) -> acting.EnsembleAgent:
    """Trains on `env` until `config.env_steps` real steps are made; see `models.train`.

    `known` holds functions of the world that need not be learned. With `config.fallback` an agent of that
    family is then trained inside the model, on simulated steps that do not count as real ones. The last step
    of the vector environment is completed, so that up to `num_envs - 1` steps more are made.
    """
    run = _Run(env, config, seed, init_from, log, known)
    loop.complete(run, config.env_steps, every=config.checkpoint_steps, directory=checkpoint_dir)
    return run.agent(run.policy(checkpoint_dir))
