"""What the model expects to earn from here on: sampled paths of observations, and rewards along them.

The transformer is asked the way an acting agent is: past rewards are unknown to it. A path of observations
is drawn token by token from the model's own distributions; at each step of a path the reward's whole
distribution is at hand, and each of several sampled returns draws from it. Since rewards are hidden from
what follows, that is an exact draw of the model, and drawing an observation costs as many tokens as it
has numbers, so returns share paths: `PATHS` of them at most.

A token names a cell and not a number, so a drawn reward lies somewhere in its cell, by a power of a uniform
draw that gives the cell its mean: in the outermost cells most of it is near the inner end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models import configuration, rng
from models.trajectory import gpt, keyvalue
from models.trajectory.data import Layout
from models.trajectory.tokens import Tokeniser

PATHS = 4
"""Different paths of observations that the samples of one forecast share."""


class Ahead(NamedTuple):
    """One step of R paths."""

    reward: Any  # [R, C] probabilities of the reward's tokens
    observation: Any  # [R, N] tokens that follow
    stopped: Any  # [R] the episode ends instead


Decide = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""`decide(prefix [R, P, K], length [R], step) -> action tokens [R, M]`; the last row begins a transition."""


@functools.lru_cache(maxsize=8)
def stepper(shape: gpt.Shape, layout: Layout) -> Any:
    """`(flat, tokens [R, P + 1, K], length [R], valid, seed) -> Ahead`; `length` reaches to the last action.

    A graph: with thousands of paths the arithmetic decides, and XLA would first compile for seconds.
    """
    between = 1 + layout.given  # tokens from the action to where the next observation is predicted

    def run(flat: Any, tokens: tf.Tensor, length: tf.Tensor, valid: Any, seed: Any) -> Ahead:
        weights = gpt.unflatten(flat, shape)
        rows, used = tokens.shape[0], tokens.shape[1] * shape.slots - layout.observation - layout.action - 1
        x = gpt.embed(weights, tokens, shape)[:, :used]  # [R, S, D]; nothing is known of what comes later
        seen = gpt.trunk(weights, x, shape)
        reward = gpt.slot_logits(
            weights, tf.gather(seen.hidden, length - 1, batch_dims=1), layout.reward - 1, valid
        )
        prefix = keyvalue.Prefix(seen.keys, seen.values, length + between, tf.zeros((rows, 1)))
        hidden = tf.gather(seen.hidden, length + between - 1, batch_dims=1)
        logits = gpt.slot_logits(weights, hidden, layout.given - 1, valid)  # [R, C]
        first = rng.categorical(rng.fold_in(seed, 0), logits)
        stopped = first == shape.bins
        drawn = tf.TensorArray(tf.int32, size=layout.observation, element_shape=(rows,)).write(0, first)

        def body(i: tf.Tensor, last: tf.Tensor, cache: Any, drawn: Any) -> Any:
            logits, cache = keyvalue.step(
                weights, prefix, cache, last, i - 1, layout.given + i - 1, valid, shape
            )
            token = rng.categorical(rng.fold_in(seed, i), logits)
            return i + 1, token, cache, drawn.write(i, token)

        cache = keyvalue.empty_cache(rows, max(1, layout.observation - 1), shape)
        *_, drawn = tf.while_loop(
            lambda i, *_: i < layout.observation,
            body,
            (tf.constant(1), first, cache, drawn),
            maximum_iterations=layout.observation - 1,
        )
        return Ahead(tf.nn.softmax(reward), tf.transpose(drawn.stack()), stopped)

    return tf.function(run, autograph=False)


class Start(NamedTuple):
    """Where B forecasts begin: the transitions before, and the row that has just begun."""

    past: np.ndarray  # [B, C, K] tokens
    held: np.ndarray  # [B] of them that hold something
    row: np.ndarray  # [B, K]


def prefix_of(start: Start, context: int, unknown: int) -> tuple[np.ndarray, np.ndarray]:
    """The last `context` transitions and the row `[B, context + 1, K]`, and how many are before it `[B]`."""
    batch, _, slots = start.past.shape
    kept = np.minimum(start.held, context)  # [B]
    tokens = np.full((batch, context + 1, slots), unknown, np.int32)
    for place in range(context):
        fits = place < kept
        tokens[fits, place] = start.past[fits, (start.held - kept + place)[fits]]
    tokens[np.arange(batch), kept] = start.row
    return tokens, kept


def sample(
    flat: Any,
    start: Start,
    decide: Decide,
    tokeniser: Tokeniser,
    valid: Any,
    shape: gpt.Shape,
    layout: Layout,
    *,
    horizon: int,
    samples: int,
    seed: int,
) -> np.ndarray:
    """Sampled rewards `[B, samples, horizon]`; consumes `seed`. `start` holds B forecasts.

    One past transition is kept beside the current one, so that a next one always fits.
    """
    if shape.transitions < 2:
        raise configuration.Misfit("trajectory: a forecast needs context + horizon of at least 2, not 1")
    batch, paths = len(start.row), min(samples, PATHS)
    context = min(1, start.past.shape[1], shape.transitions - 2)
    start = Start(*(np.repeat(part, paths, axis=0) for part in start))
    past = np.full((len(start.row), max(1, context), layout.slots), shape.unknown, np.int32)
    tokens, kept = prefix_of(start, context, shape.unknown)
    rewards = np.zeros((batch, samples, horizon))
    live = np.ones(batch * paths, bool)
    share = np.arange(samples) % paths  # which path a sample follows
    every = np.arange(len(tokens))
    run = stepper(shape, layout)
    cell = inside(tokeniser, layout.reward)
    for step in range(horizon):
        length = (kept * layout.slots + layout.reward).astype(np.int32)
        action = decide(tokens, length - layout.action, step)
        tokens[every, kept, layout.first_action : layout.reward] = action
        longer = np.full((len(tokens), context + 2, layout.slots), shape.unknown, np.int32)
        longer[:, :-1] = tokens
        longer[every, kept + 1, : layout.given] = start.row[:, : layout.given]
        found = run(
            flat,
            tf.constant(longer),
            tf.constant(length),
            valid,
            tf.constant(rng.key(rng.derive(seed, "path", step))),
        )
        chances = found.reward.numpy().reshape(batch, paths, -1)[:, share]  # [B, M, C]
        draw = rng.generator(seed, "reward", step)
        drawn = _draw(chances, draw.random((batch, samples)))
        uniform = draw.random((batch, samples))
        value = cell.near[drawn] + (cell.far - cell.near)[drawn] * uniform ** cell.power[drawn]
        rewards[..., step] = np.where(live.reshape(batch, paths)[:, share], value, 0.0)
        live &= ~found.stopped.numpy()
        following = np.full((len(tokens), layout.slots), shape.unknown, np.int32)
        following[:, : layout.given] = start.row[:, : layout.given]
        # A stopped path is read on as if nothing were known; what it earns is zero.
        following[:, layout.given : layout.first_action] = np.where(
            live[:, None], found.observation.numpy(), shape.unknown
        )
        if context:
            past[:, 0] = tokens[every, kept]
        tokens, kept = prefix_of(
            Start(past, np.full(len(tokens), context), following), context, shape.unknown
        )
    return rewards


class Cell(NamedTuple):
    """How values lie in the cells of a column, `[V']` each: `near + (far - near) * u ** power`."""

    near: np.ndarray  # the end that the mean is closer to
    far: np.ndarray
    power: np.ndarray


def inside(tokeniser: Tokeniser, column: int) -> Cell:
    """The laws inside of the cells; that of an atom is its value."""
    starts, centres, means = tokeniser.columns[column]
    ends = np.append(starts[1:], max(tokeniser.high[column], centres[-1]))
    atom = starts == centres
    low, high = np.where(atom, centres, starts), np.where(atom, centres, ends)
    upper = means > 0.5 * (low + high)
    near, far = np.where(upper, high, low), np.where(upper, low, high)
    # u ** k has the mean 1 / (k + 1); the floor keeps a cell of one value from an infinite power.
    share = np.maximum((means - near) / np.where(far == near, 1.0, far - near), 1e-3)
    return Cell(near, far, 1.0 / share - 1.0)


def _draw(chances: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """An index `[...]` for each of `chances [..., C]`, by the inverse of their sums."""
    sums = np.cumsum(chances, axis=-1, dtype=np.float64)
    index: np.ndarray = (sums < uniform[..., None] * sums[..., -1:]).sum(axis=-1)
    return index
