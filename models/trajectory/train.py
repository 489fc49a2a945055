"""Training: gather or take over recorded steps, cut them into tokens, learn each from those before.

**Where the data come from.** The environment may bring them: if it has an attribute `recorded` (a
`data.Record`), its first `config.env_steps` transitions are used and the environment is never stepped.
Otherwise the simple policies of `behaviours` gather as many. Either way `env_steps` counts transitions
learned from, so that sample efficiency compares with families that explore.

Everything is offline after that, so the axis of the training curve is the number of updates.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from models import agent as storage
from models import checkpoint, configuration, loop, rng
from models.curve import Curve, Log
from models.trajectory import agent as acting
from models.trajectory import behaviours, gpt, learning
from models.trajectory.config import Config
from models.trajectory.data import (
    Layout,
    Record,
    Table,
    check,
    exact_actions,
    fit_tokeniser,
    layout_of,
    numbers_of,
    sample_starts,
    slot_names,
    slot_weights,
    tabulate,
    unigram_and_bigram,
    valid_tokens,
    windows,
)
from models.trajectory.tokens import Tokeniser

HELD_OUT = 0.1
"""Share of the episodes, the last ones, that are never learned from: the table of losses is theirs."""
_CHECKED = 256  # held-out windows at most


def gather(env: Any, config: Config, seed: int) -> Record:
    """The steps to learn from; see the module."""
    recorded: Record | None = getattr(env, "recorded", None)
    if recorded is None:
        recorded = behaviours.record(env, config.env_steps, seed=seed)
    record = recorded.head(config.env_steps)
    check(record, storage.spaces_of(env))
    return record


class _Run:
    """One training: everything that `save` writes and `restore` takes back."""

    def __init__(self, env: Any, config: Config, seed: int, init_from: Path | None, log: Log | None) -> None:
        self.config, self.seed = config, seed
        self.spaces = storage.spaces_of(env)
        self.layout = layout_of(self.spaces, drawdown=config.drawdown_token)
        self.shape = acting.shape_of(config, self.layout)
        self.curve = Curve(log, config.log_updates)
        record = gather(env, config, seed)
        earlier = None if init_from is None else acting.load(init_from)
        if earlier is not None and (earlier.shape, earlier.layout) != (self.shape, self.layout):
            raise configuration.Misfit(
                f"trajectory: {init_from} has a network {earlier.shape}, not {self.shape}"
            )
        self.env_steps = len(record.reward)
        numbers = numbers_of(record, self.layout, discount=config.discount, steps=config.return_steps)
        known = numbers.returns.known if numbers.returns.known.any() else np.ones(self.env_steps, bool)
        self.quantiles = np.quantile(
            np.stack([numbers.returns.to_go[known], numbers.returns.drawdown[known]]), acting.GRID, axis=1
        ).T  # [2, 101]
        # A warm start keeps the earlier bins: its embeddings mean nothing in others.
        self.tokeniser = (
            earlier.tokeniser
            if earlier is not None
            else fit_tokeniser(
                numbers,
                self.layout,
                config.bins,
                config.binning,
                exact_actions(self.spaces.action, self.layout),
            )
        )
        whole = tabulate(
            record, numbers, self.layout, self.tokeniser, stop=config.bins, unknown=self.shape.unknown
        )
        self.table, self.held_out = split(whole)
        self.valid = tf.constant(valid_tokens(self.layout, self.tokeniser, config.bins))
        self.slot_weights = slot_weights(
            self.layout, action=config.action_weight, reward=config.reward_weight, value=config.value_weight
        )
        weights = gpt.initial(self.shape, rng.derive(seed, "weights")) if earlier is None else earlier.weights
        zeros = tf.zeros(gpt.size(self.shape))
        self.learner = learning.Learner(tf.constant(weights), zeros, zeros, tf.constant(0))
        self.progress = 0
        schedule = learning.Schedule(
            config.learning_rate,
            config.final_learning_rate,
            config.warmup_updates,
            config.updates,
            config.weight_decay,
            config.gradient_clip,
        )
        self._update = learning.updates(self.shape, schedule, config.dropout)
        self.identity = {
            "family": acting.FAMILY,
            "config": configuration.resolved(config),
            "seed": seed,
            "network": list(self.shape),
            "data": hashlib.sha256(whole.inputs.tobytes() + whole.labels.tobytes()).hexdigest(),
            "init_from": None if earlier is None else earlier.digest(),
        }

    def advance(self) -> None:
        """One compiled call of updates; the last one may hold fewer."""
        config = self.config
        number = min(config.updates_per_call, config.updates - self.progress)
        draw = rng.generator(self.seed, "windows", self.progress)
        starts = sample_starts(self.table, (number, config.batch_size), self.shape.transitions, draw)
        batch = windows(
            self.table,
            starts,
            self.shape.transitions,
            self.layout,
            self.slot_weights,
            draw,
            unknown=self.shape.unknown,
            target_dropout=config.target_dropout,
        )
        seed = tf.constant(rng.key(rng.derive(self.seed, "dropout")))
        self.learner, metrics = self._update(
            self.learner, *(tf.constant(part) for part in batch), self.valid, seed
        )
        self.progress += number
        found = metrics.numpy()
        for each in found:
            self.curve.add("train/loss", each[-2])
            self.curve.add("train/gradient_norm", each[-1])
            self.curve.add("train/action_loss", each[self.layout.first_action - 1])
            self.curve.add("train/reward_loss", each[self.layout.reward - 1])
            self.curve.add("train/value_loss", each[self.layout.reward])
        self.curve.write(self.progress, last=self.progress == config.updates)

    def save(self, directory: Path) -> None:
        arrays = {name: value.numpy() for name, value in self.learner._asdict().items()}
        checkpoint.save(
            directory, self.identity, arrays, {"updates": self.progress, "curve": self.curve.state()}
        )

    def restore(self, directory: Path) -> None:
        """Carries on from the checkpoint in `directory`, if there is one."""
        found = checkpoint.load(directory, self.identity)
        if found is None:
            return
        self.learner = learning.Learner(**{name: tf.constant(value) for name, value in found.arrays.items()})
        self.progress = found.values["updates"]
        self.curve.restore(found.values["curve"])

    def agent(self) -> acting.TrajectoryAgent:
        weights = self.learner.weights.numpy()
        counters = {
            "env_steps": self.env_steps,
            "updates": self.progress,
            "seed": self.seed,
            "held_out": held_out_losses(
                weights, self.table, self.held_out, self.layout, self.tokeniser, self.shape
            ),
        }
        return acting.TrajectoryAgent(
            self.config, self.spaces, weights, self.tokeniser, self.quantiles, counters=counters
        )


def split(table: Table) -> tuple[Table, Table]:
    """The table without its last episodes, and these; a single episode is on both sides."""
    episodes = len(table.begins) - 1
    kept = max(1, episodes - max(1, round(HELD_OUT * episodes))) if episodes > 1 else 1
    cut = table.begins[kept]
    rows = ("inputs", "labels", "counted", "target_known")
    first = table._replace(
        begins=table.begins[: kept + 1], **{name: getattr(table, name)[:cut] for name in rows}
    )
    if episodes == 1:
        return first, first
    last = table._replace(
        begins=table.begins[kept:] - cut, **{name: getattr(table, name)[cut:] for name in rows}
    )
    return first, last


def held_out_losses(
    weights: np.ndarray, train: Table, held_out: Table, layout: Layout, tokeniser: Tokeniser, shape: gpt.Shape
) -> dict[str, dict[str, float]]:
    """Cross-entropy in nats of every label, by the network and by the two simplest models.

    Windows that follow one another, with the targets hidden, since a target all but gives the value away;
    the bigram is shown them. A token early in its window has less to go by.
    """
    starts = np.concatenate(
        [
            np.arange(a, b, shape.transitions)
            for a, b in zip(held_out.begins, held_out.begins[1:], strict=False)
        ]
    )
    starts = starts[np.linspace(0, len(starts) - 1, min(_CHECKED, len(starts))).astype(int)]
    found = windows(
        held_out._replace(target_known=np.zeros_like(held_out.target_known)),
        starts,
        shape.transitions,
        layout,
        np.ones(layout.slots),
        None,
        unknown=shape.unknown,
        target_dropout=0.0,
    )
    valid = tf.constant(valid_tokens(layout, tokeniser, shape.bins))
    losses = learning.evaluator(shape)(
        tf.constant(weights), tf.constant(found.inputs), tf.constant(found.labels), valid
    ).numpy()  # [K, W * T]
    counted = found.weight.reshape(-1, layout.slots).T
    model = (losses * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1.0)
    unigram, bigram = unigram_and_bigram(train, held_out, shape.bins + 2)
    first = layout.given - 1
    return {
        name: {"model": float(m), "unigram": float(u), "bigram": float(b)}
        for name, m, u, b in zip(
            slot_names(layout)[layout.given - 1 :],
            model[first:],
            unigram[first:],
            bigram[first:],
            strict=True,
        )
    }


def train(
    env: Any,
    config: Config,
    *,
    seed: int,
    checkpoint_dir: Path | None = None,
    init_from: Path | None = None,
    log: Log | None = None,
) -> acting.TrajectoryAgent:
    """Trains on `config.env_steps` steps; see the module and `models.train`. The agent is the last one."""
    run = _Run(env, config, seed, init_from, log)
    loop.complete(run, config.updates, every=config.checkpoint_updates, directory=checkpoint_dir)
    return run.agent()
