"""Training: gather with a random policy, fit V, fit M, evolve C in the dream, and wake up.

The last real steps are the finished controller's own: what they earn is held against what it dreamed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from models import agent as storage
from models import checkpoint, configuration, rng
from models.collect import Collector, buffer_for
from models.curve import Log
from models.exposures import exposures_of
from models.world_model import calibration, dream, mdn_rnn, regimes, timeline, vae, waking
from models.world_model.agent import FAMILY, Learned, WorldModelAgent, design_of, load, regime_path
from models.world_model.config import Config
from models.world_model.controller import Evolution
from models.world_model.gathered import Gathered, digest, wanderer
from models.world_model.learner import Learner
from models.world_model.mdn_rnn import Batch, Memory

PHASES = ("gather", "see", "remember", "evolve")
_STARTS = 512


class _Run:
    """One training: everything that `save` writes and `restore` takes back."""

    def __init__(self, env: Any, config: Config, seed: int, init_from: Path | None, log: Log | None) -> None:
        config = config.settled(exposures_of(env))
        self.config, self.seed, self._log = config, seed, log
        self.spaces = storage.spaces_of(env)
        self.design = design_of(config, self.spaces)
        if config.evaluation_steps >= config.env_steps:
            raise configuration.Misfit(
                f"world_model.evaluation_steps: {config.evaluation_steps} must be below env_steps "
                f"{config.env_steps}"
            )
        # Every step is at most two rows (an episode of one), and nothing may be overwritten.
        self.replay = buffer_for(env, 2 * (config.env_steps + 2 * env.num_envs))
        self.collector = Collector(env, self.replay, seed=seed)
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.phase, self.done = 0, 0  # index into PHASES, and epochs or generations made in it
        vision = vae.initial(self.design.vision, rng.derive(seed, "vision"))
        memory = mdn_rnn.initial(self.design.world.memory, rng.derive(seed, "memory"))
        mean, origin = np.zeros(self.design.world.control.size), None
        if init_from is not None:
            earlier = load(init_from)
            if earlier.design != self.design:
                raise configuration.Misfit(f"world_model: {init_from} is {earlier.design}, not {self.design}")
            vision, memory = earlier.learned.vision, earlier.learned.memory
            mean, origin = earlier.learned.controller.astype(np.float64), earlier.digest()
        self.vision = Learner(
            vision, self._vision_loss, learning_rate=config.vae_learning_rate, clip=config.gradient_clip
        )
        self.memory = Learner(
            memory, self._memory_loss, learning_rate=config.rnn_learning_rate, clip=config.gradient_clip
        )
        self._memory_judge = tf.function(self._memory_loss, autograph=False)
        self.evolution = Evolution(
            mean,
            sigma=config.sigma,
            population=config.population,
            kind=config.evolution,
            seed=rng.derive(seed, "evolution"),
        )
        self.champion = mean
        self.figures: dict[str, float] = {}
        self._gathered: Gathered | None = None
        self._posterior: vae.Posterior | None = None
        self._learned: Learned | None = None
        self._imagination: dream.Imagination | None = None
        self.identity = {
            "family": FAMILY,
            "config": configuration.resolved(config),
            "seed": seed,
            "sub_environments": env.num_envs,
            "inputs": self.spaces.observation.shape[0],
            "init_from": origin,
        }

    def report(self, **metrics: float) -> None:
        """One line of the curve. Learning makes no real steps: its lines are numbered on from those made."""
        step = max(self.collector.env_steps, self.lines[-1][0] + 1 if self.lines else 0)
        line = (step, {name.replace("__", "/", 1): float(value) for name, value in metrics.items()})
        self.lines.append(line)
        if self._log is not None:
            self._log(*line)

    # Phase "gather".

    def gather(self) -> bool:
        wanted = self.config.env_steps - self.config.evaluation_steps
        wander = wanderer(self.spaces.action, self.design.world.acts, self.config, seed=self.seed)
        while self.collector.env_steps < wanted:
            self.collector.collect(wander, 1)
        gathered = self.gathered()
        metrics = {"gather__rows": len(gathered.fitted), "gather__fitted": gathered.fitted.sum()}
        if gathered.terms.size:
            metrics |= {"gather__cost": gathered.terms[-2], "gather__reward_r2": gathered.terms[-1]}
        self.report(**metrics)
        return True

    def gathered(self) -> Gathered:
        if self._gathered is None:
            rows = timeline.of(self.replay, timeline.rows_of(self.replay, self.replay.streams))
            self._gathered = digest(rows, self.config, self.design)
        return self._gathered

    # Phase "see".

    def _vision_loss(self, weights: Any, x: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parts = vae.elbo(weights, x, seed, self.design.vision)
        loss = vae.loss(parts, self.config.kl_floor)
        kl = tf.reduce_mean(tf.reduce_sum(parts.kl, axis=1))
        return loss, tf.stack([loss, -tf.reduce_mean(parts.log_likelihood), kl])

    def see(self) -> bool:
        """One epoch of V."""
        config, data = self.config, self.gathered()
        draw = rng.generator(self.seed, "see", self.done)
        rows = draw.permutation(np.flatnonzero(data.fitted))
        size = config.vae_batch
        rows = np.resize(rows, max(1, len(rows) // size) * size)
        found = np.mean(
            [
                self.vision.update(data.world[part], rng.key(rng.derive(self.seed, "z", self.done, number)))
                for number, part in enumerate(rows.reshape(-1, size))
            ],
            axis=0,
        )
        bound = vae.held_out_elbo(
            self.vision.weights(), data.world[data.judged], self.design.vision, seed=self.seed, draws=1
        )
        self.vision.judge(-bound)
        self.report(vae__loss=found[0], vae__kl=found[2], vae__held_out_elbo=bound)
        return self.done + 1 >= config.vae_epochs

    def posterior(self) -> vae.Posterior:
        """q(z | x) of every gathered row, by the best V."""
        if self._posterior is None:
            self._posterior = vae.encode(self.vision.best, self.gathered().world, self.design.vision)
        return self._posterior

    # Phase "remember".

    def _memory_loss(self, weights: Any, *batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return mdn_rnn.mean_losses(
            weights, Batch(*batch), self.design.world.memory, self.config.terminal_weight
        )

    def latents(self, *path: int | str) -> np.ndarray:
        """z of every row, drawn anew from its posterior."""
        posterior = self.posterior()
        draw = rng.generator(self.seed, "latents", *path)
        z: np.ndarray = vae.sample(posterior, draw.standard_normal(posterior.mean.shape, dtype=np.float32))
        return z

    def _inputs(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What M takes in and what it is to foretell, by row."""
        data = self.gathered()
        x = z if self.design.world.exposure else np.concatenate([z, data.value], axis=1)
        return x, np.concatenate([z, data.payoff / data.payoff_scale], axis=1)

    def remember(self) -> bool:
        """One epoch of M."""
        config, data = self.config, self.gathered()
        draw = rng.generator(self.seed, "remember", self.done)
        x, y = self._inputs(self.latents(self.done))
        length = min(config.sequence_length, len(x) - 1)
        starts = timeline.stretches(len(x), length, int(draw.integers(length)))
        starts = draw.permutation(starts)
        starts = np.resize(starts, max(1, len(starts) // config.rnn_batch) * config.rnn_batch)
        found = []
        for part in starts.reshape(-1, config.rnn_batch):
            batch = timeline.batch(data.rows, part, length, x=x, y=y, learned=data.fitted)
            found.append(self.memory.update(*batch))
        x, y = self._inputs(self.latents("held out"))
        begin = int(np.argmax(data.judged))
        held = timeline.batch(
            data.rows, np.arange(begin, len(x), length), length, x=x, y=y, learned=data.judged
        )
        weights = {name: tf.constant(value) for name, value in self.memory.weights().items()}
        score, parts = self._memory_judge(weights, *(tf.constant(part) for part in held))
        self.memory.judge(float(score))
        nll, payoff, ending = parts.numpy()
        self.report(
            rnn__nll=np.mean(found, axis=0)[0],
            rnn__held_out_nll=nll,
            rnn__held_out_payoff_nll=payoff,
            rnn__held_out_ending=ending,
        )
        return self.done + 1 >= config.rnn_epochs

    # Phase "evolve".

    def learned(self) -> Learned:
        """All but the controller, as an agent has it."""
        if self._learned is None:
            data = self.gathered()
            z = self.latents("starts")
            x, y = self._inputs(z)
            before, after = mdn_rnn.trace(self.memory.best, x, self.gathered().rows.first)
            memory = self._calibrated(after.h, x, y)
            seen = after if self.design.world.exposure else before
            draw = rng.generator(self.seed, "starts")
            rows = np.flatnonzero(data.fitted)
            rows = np.sort(draw.choice(rows, min(_STARTS, len(rows)), replace=False))
            starts = dream.State(z[rows], Memory(seen.h[rows], seen.c[rows]), data.held[rows])
            path, begins = self.regime_rows()
            config = self.config
            chain = regimes.fit(
                path,
                config.regimes,
                seed=rng.derive(self.seed, "regimes"),
                first=begins,
                stay=config.regime_stay,
                centred=self.design.world.exposure,
            )
            self._learned = Learned(
                data.centre,
                data.scale,
                self.vision.best,
                memory,
                data.payoff_scale,
                data.terms,
                np.asarray(self.champion, np.float32),
                starts,
                chain,
            )
        return self._learned._replace(controller=np.asarray(self.champion, np.float32))

    def regime_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """The fitted rows as the regimes see them `[M, X]`, and where they begin anew `[M]`."""
        data = self.gathered()
        chosen = np.flatnonzero(data.fitted)
        path = regime_path(self.vision.best, self.posterior(), self.design, self.config)[chosen]
        return path, data.rows.first[chosen] | np.append(True, np.diff(chosen) != 1)

    def _calibrated(self, h: np.ndarray, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        """The best M with the mean of its payoffs put right.

        On every row, held out or not: the evidence needs no judge. Where worlds repeat, each of their rows
        counts once, or the evidence would take an echo for a confirmation.
        """
        data, rows, drift = self.gathered(), self.gathered().rows.steps, 1.0
        if self.design.world.exposure:
            rows = rows[np.sort(np.unique(timeline.names(data.world[rows + 1]), return_index=True)[1])]
            drift = self.config.drift
        return calibration.calibrated(
            self.memory.best,
            h[rows],
            x[rows],
            y[rows + 1, self.config.latents :],
            self.design.world.memory,
            drift=drift,
        )

    def _dream(self, params: np.ndarray, dreams: int, name: str) -> np.ndarray:
        """The fitness `[P]` of controllers on dreams of their own that `name` and the generation fix."""
        config = self.config
        if self._imagination is None:
            self._imagination = self.agent({}).imagination()
        found = self._imagination.dream(
            params,
            dreams=dreams,
            steps=config.dream_steps,
            seed=rng.derive(self.seed, name, self.done),
            expected=config.fitness == "return",
        )
        return dream.fitness(found, config.dream_steps, config.fitness, config.tail)

    def evolve(self) -> bool:
        """One generation of C."""
        config = self.config
        candidates = self.evolution.ask()
        fitness = self._dream(candidates, config.dreams, "dream")
        self.evolution.tell(candidates, fitness)
        last = self.done + 1 >= config.generations
        if last or (self.done + 1) % config.reevaluate == 0:
            # The best of a noisy generation was lucky. It, the mean and the champion are judged anew, on
            # the same fresh dreams, and only that judgement counts.
            best = candidates[int(np.argmax(np.where(np.isfinite(fitness), fitness, -np.inf)))]
            rivals = np.stack([self.champion, self.evolution.mean, best])
            fresh = self._dream(rivals, config.reevaluation_dreams, "judge")
            self.champion = rivals[int(np.argmax(np.where(np.isfinite(fresh), fresh, -np.inf)))]
            self.report(
                dream__generation=self.done + 1,
                dream__best=float(np.max(fitness)),
                dream__champion=fresh.max(),
                dream__mean=fresh[1],
                dream__not_finite=float((~np.isfinite(fitness)).mean()),
            )
        return last

    def wake(self) -> None:
        """The finished controller's own real steps, against fresh dreams of the same length."""
        config, agent = self.config, self.agent({})
        before = self.replay.head(np.arange(self.replay.streams))
        follow = waking.follower(agent, seed=rng.derive(self.seed, "wake"))
        while self.collector.env_steps < config.env_steps:
            self.collector.collect(follow, 1)
        rows = timeline.of(self.replay, timeline.rows_of(self.replay, self.replay.streams, after=before))
        realised = rows.reward[rows.steps + 1].astype(np.float64)
        self.figures = waking.gap(waking.dreamed(agent, seed=rng.derive(self.seed, "gap")), realised)
        self.report(**{f"wake__{name}": value for name, value in self.figures.items()})

    def agent(self, counters: dict[str, Any]) -> WorldModelAgent:
        return WorldModelAgent(self.config, self.spaces, self.learned(), counters=counters)

    def counters(self) -> dict[str, Any]:
        data, score = self.gathered(), self.memory.best_score
        assert self.vision.best_score is not None
        assert score is not None
        return self.figures | {
            "env_steps": self.collector.env_steps,
            "env_calls": self.collector.calls,
            "generations": self.evolution.generation,
            "seed": self.seed,
            "held_out_elbo": -self.vision.best_score,
            "held_out_nll": score,
            "active_dimensions": vae.active_dimensions(
                vae.Posterior(*(part[data.fitted] for part in self.posterior()))
            ),
            "rows_fitted": int(data.fitted.sum()),
            "regimes": regimes.traits(self.learned().regimes, *self.regime_rows(), unit=data.return_unit),
        }

    # The course of it.

    def advance(self) -> bool:
        """One epoch or generation; True where a phase ended."""
        step: Callable[[], bool] = getattr(self, PHASES[self.phase])
        over = step()
        self.done += 1
        if over:
            self.phase, self.done = self.phase + 1, 0
        return over

    def save(self, directory: Path) -> None:
        arrays = (
            checkpoint.nest("replay", self.replay.state())
            | checkpoint.nest("collector", self.collector.arrays())
            | checkpoint.nest("vision", self.vision.arrays())
            | checkpoint.nest("memory", self.memory.arrays())
            | checkpoint.nest("evolution", self.evolution.arrays())
            | {"champion": self.champion}
        )
        values = {"phase": self.phase, "done": self.done, "lines": self.lines}
        checkpoint.save(directory, self.identity, arrays, values)

    def restore(self, directory: Path) -> None:
        """Carries on from the checkpoint in `directory`, if there is one."""
        found = checkpoint.load(directory, self.identity)
        if found is None:
            return
        held = np.zeros(found.arrays["collector.state.000"].shape)
        self.collector.restore(checkpoint.unnest("collector", found.arrays), held)
        self.replay.restore(checkpoint.unnest("replay", found.arrays))
        self.vision.restore(checkpoint.unnest("vision", found.arrays))
        self.memory.restore(checkpoint.unnest("memory", found.arrays))
        self.evolution.restore(checkpoint.unnest("evolution", found.arrays))
        self.champion = found.arrays["champion"]
        self.phase, self.done = found.values["phase"], found.values["done"]
        for step, metrics in found.values["lines"]:
            self.lines.append((int(step), metrics))
            if self._log is not None:
                self._log(int(step), metrics)


def train(
    env: Any,
    config: Config,
    *,
    seed: int,
    checkpoint_dir: Path | None = None,
    init_from: Path | None = None,
    log: Log | None = None,
) -> WorldModelAgent:
    """Trains on `env` for `config.env_steps` real steps; see `models.train`.

    The agent's counters hold the dream gap: what the controller dreamed of earning a step, what it earned
    in the last `evaluation_steps`, and the standard error of each.
    """
    run = _Run(env, config, seed, init_from, log)
    if checkpoint_dir is not None:
        run.restore(checkpoint_dir)
    while run.phase < len(PHASES):
        ended = run.advance()
        if checkpoint_dir is not None and (ended or run.done % config.checkpoint_epochs == 0):
            run.save(checkpoint_dir)
    run.wake()
    return run.agent(run.counters())
