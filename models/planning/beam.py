"""Beam search over sequences of tokens, a batch of searches in one compiled call.

The search knows tokens only. What they mean is passed in as functions: `step` feeds a token to a sequence
model and gives logits for the next one, `measure` adds up what a planner wants to know on the way (a
return, say), and `score` ranks. A repeating pattern of *slots* says how each token is found:

- `given`: it is prescribed (a target), nothing is chosen;
- `draw`: each beam goes on with one token, the likeliest or a sampled one;
- `branch`: each beam goes on with `expand` different tokens, and all of them live until the next slot with
  `prune`, where the best `width` stay. Planning for reward needs this: an action can be judged only
  after its reward and value have been read (Janner et al. 2021, algorithm 1);
- `beam`: each beam offers `expand` tokens, and the best `width` of all are kept at once. With the
  log-probability as the score this is the beam search of language models.

A search starts from one prefix, so at first all but one of its beams are *dead*: no beam is ever a copy
of another. A dead beam, and one whose score is not a number, ranks below every live one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from models import rng

DEAD = -1e30
"""Log-probability and score of a dead beam: finite, so that sums and sorts stay exact."""


class Slot(NamedTuple):
    """How one token of the pattern is found. Equal neighbours run as one compiled loop."""

    kind: Literal["given", "draw", "branch", "beam"]
    sample: bool = False  # draw at random instead of taking the likeliest
    top_k: int | None = None  # only the k likeliest tokens are in question
    cdf: float | None = None  # only the likeliest tokens up to this probability together
    prune: bool = False  # afterwards the best `width` beams are kept
    measured: bool = True  # `measure` is called; otherwise there is nothing to add up here


class Start(NamedTuple):
    """Where B searches begin."""

    state: Any  # of the sequence model, for B * width rows in turn
    logits: Any  # [B, V] of the first token
    measures: Any  # nested [B, 1, ...]


class Beams(NamedTuple):
    """The beams of B searches, best first."""

    tokens: Any  # [B, W, steps] int32
    score: Any  # [B, W]; DEAD where there were fewer beams than places
    log_probability: Any  # [B, W] of all tokens that were chosen
    measures: Any  # nested [B, W, ...]
    broken: Any  # [B] int32: beams dropped because their score was not a number


class _Rows(NamedTuple):
    """R beams a search, while it runs."""

    tokens: Any  # [B, R, steps]
    log_probability: Any  # [B, R]
    measures: Any  # nested [B, R, ...]
    logits: Any  # [B, R, V] of the next token
    state: Any
    broken: Any  # [B]


Step = Callable[[Any, tf.Tensor, tf.Tensor], tuple[tf.Tensor, Any]]
"""`step(state, tokens [B * R], place) -> logits [B * R, V], state`: token number `place` is fed."""
Measure = Callable[[Any, tf.Tensor, tf.Tensor, tf.Tensor], Any]
"""`measure(measures, logits [B, R, V], tokens [B, R], place) -> measures`."""
Score = Callable[[tf.Tensor, Any], tf.Tensor]
"""`score(log_probability [B, R], measures) -> [B, R]`; more is better."""


def by_log_probability(log_probability: tf.Tensor, measures: Any) -> tf.Tensor:
    """What the data would most likely do: imitation."""
    return log_probability


def beam_search(
    step: Step,
    initial: Start,
    *,
    width: int,
    expand: int,
    steps: int,
    score: Score,
    seed: Any,
    pattern: Sequence[Slot],
    measure: Measure,
    reorder: Callable[[Any, tf.Tensor], Any],
    given: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> Beams:
    """Extends B prefixes by `steps` tokens; consumes `seed`.

    Args:
        step: the sequence model; see `Step`. The last token is not fed.
        width: W, beams a search.
        expand: tokens a beam offers at a `branch` or `beam`.
        pattern: slots, repeated; at its end the search must be back at `width` beams.
        measure: what to add up; called with the logits each token was found from, where a slot is `measured`.
        reorder: `reorder(state, rows [B * R'])` picks rows of the state (indices into B * R).
        given: `given(place) -> [B]` tokens of the `given` slots.

    Under XLA or not, the shapes are static: it is meant to be called inside a `tf.function`.
    """
    batch, vocabulary = initial.logits.shape
    alive = tf.where(tf.range(width) == 0, 0.0, DEAD)  # [W]
    rows = _Rows(
        tokens=tf.zeros((batch, width, steps), tf.int32),
        log_probability=tf.tile(alive[None], (batch, 1)),
        measures=tf.nest.map_structure(
            lambda x: tf.broadcast_to(x, (batch, width, *x.shape[2:])), initial.measures
        ),
        logits=tf.tile(initial.logits[:, None], (1, width, 1)),
        state=initial.state,
        broken=tf.zeros(batch, tf.int32),
    )

    def take(rows: _Rows, parents: tf.Tensor) -> _Rows:
        """The beams `parents [B, R']`, with their states."""
        count = rows.log_probability.shape[1]
        flat = tf.reshape(tf.range(batch)[:, None] * count + parents, (-1,))
        picked = tf.nest.map_structure(
            lambda x: tf.gather(x, parents, batch_dims=1),
            (rows.tokens, rows.log_probability, rows.measures, rows.logits),
        )
        tokens, log_probability, measures, logits = picked
        state = reorder(rows.state, flat)
        return _Rows(tokens, log_probability, measures, logits, state, rows.broken)

    def rank(rows: _Rows, log_probability: tf.Tensor, measures: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores with the dead and the broken last, and the count of the broken."""
        scores = score(log_probability, measures)
        dead = log_probability <= 0.5 * DEAD
        bad = tf.math.is_nan(scores) & ~dead
        counted = rows.broken + tf.reduce_sum(tf.cast(bad, tf.int32), axis=1)
        return tf.where(dead | bad, DEAD, scores), counted

    def prune(rows: _Rows) -> _Rows:
        scores, broken = rank(rows, rows.log_probability, rows.measures)
        best, parents = tf.math.top_k(scores, width)  # [B, W]
        kept = take(rows, parents)
        dead = tf.where(best <= 0.5 * DEAD, DEAD, kept.log_probability)
        return kept._replace(log_probability=dead, broken=broken)

    def choose(rows: _Rows, slot: Slot, place: tf.Tensor, number: int) -> tuple[tf.Tensor, tf.Tensor]:
        """`number` different tokens a beam `[B, R, number]`, and their log-probabilities."""
        logp = tf.nn.log_softmax(rows.logits, axis=-1)  # [B, R, V]
        if number == 1 and not slot.sample:  # the likeliest, which no truncation leaves out
            tokens = tf.argmax(logp, axis=-1, output_type=tf.int32)[..., None]
            return tokens, tf.reduce_max(logp, axis=-1, keepdims=True)
        allowed = _truncate(logp, slot)
        if slot.sample:
            # The largest of logits plus Gumbel noise are draws without replacement.
            noise = rng.gumbel(rng.fold_in(seed, place), tf.shape(logp))
            _, tokens = tf.math.top_k(tf.where(allowed, logp + noise, DEAD), number)
        else:
            _, tokens = tf.math.top_k(logp, number)
        chosen = tf.gather(logp, tokens, batch_dims=2)
        return tokens, tf.where(tf.gather(allowed, tokens, batch_dims=2), chosen, DEAD)

    def advance(rows: _Rows, slot: Slot, place: tf.Tensor, *, feed: bool) -> _Rows:
        count = rows.log_probability.shape[1]
        if slot.kind == "given":
            assert given is not None
            tokens = tf.tile(given(place)[:, None], (1, count))
        else:
            number = 1 if slot.kind == "draw" else min(expand, vocabulary)
            offered, gained = choose(rows, slot, place, number)  # [B, R, number]
            total = tf.maximum(rows.log_probability[..., None] + gained, DEAD)
            tokens = tf.reshape(offered, (batch, count * number))
            total = tf.reshape(total, (batch, count * number))
            if slot.kind == "beam" or number > 1:
                parents = tf.tile(tf.repeat(tf.range(count), number)[None], (batch, 1))
            if slot.kind == "beam":
                measures = tf.nest.map_structure(lambda x: tf.gather(x, parents, batch_dims=1), rows.measures)
                logits = tf.gather(rows.logits, parents, batch_dims=1)
                if slot.measured:
                    measures = measure(measures, logits, tokens, place)
                scores, broken = rank(rows, total, measures)
                best, kept = tf.math.top_k(scores, width)
                tokens, parents, total = (tf.gather(x, kept, batch_dims=1) for x in (tokens, parents, total))
                total = tf.where(best <= 0.5 * DEAD, DEAD, total)
                measures = tf.nest.map_structure(lambda x: tf.gather(x, kept, batch_dims=1), measures)
                rows = take(rows, parents)._replace(measures=measures, broken=broken)
            elif number > 1:
                rows = take(rows, parents)
            rows = rows._replace(log_probability=total)
        if slot.measured and slot.kind != "beam":
            rows = rows._replace(measures=measure(rows.measures, rows.logits, tokens, place))
        written = tf.where(tf.range(steps) == place, tokens[..., None], rows.tokens)
        rows = rows._replace(tokens=written)
        if slot.prune:
            rows = prune(rows)
            tokens = tf.reduce_sum(tf.where(tf.range(steps) == place, rows.tokens, 0), axis=-1)
        if feed:
            logits, state = step(rows.state, tf.reshape(tokens, (-1,)), place)
            rows = rows._replace(logits=tf.reshape(logits, (batch, -1, vocabulary)), state=state)
        return rows

    def repeat(rows: _Rows, slot: Slot, first: tf.Tensor, times: int) -> _Rows:
        """The same slot several times over."""

        def body(place: tf.Tensor, *leaves: Any) -> Any:
            current = tf.nest.pack_sequence_as(rows, leaves)
            return place + 1, *tf.nest.flatten(advance(current, slot, place, feed=True))

        loop = (first, *tf.nest.flatten(rows))
        _, *leaves = tf.while_loop(
            lambda place, *_: place < first + times, body, loop, maximum_iterations=times
        )
        packed: _Rows = tf.nest.pack_sequence_as(rows, leaves)
        return packed

    def stretch(rows: _Rows, slots: Sequence[Slot], first: tf.Tensor, *, last: bool) -> _Rows:
        """One slot after the other; where `last`, the final token is not fed."""
        place = 0
        while place < len(slots):
            slot, times = slots[place], 1
            while place + times < len(slots) and slots[place + times] == slot:
                times += 1
            ends = last and place + times == len(slots)
            looped = times - ends
            if looped > 1 and slot.kind != "branch" and not slot.prune:
                rows = repeat(rows, slot, first + place, looped)
            else:
                for i in range(looped):
                    rows = advance(rows, slot, first + place + i, feed=True)
            if ends:
                rows = advance(rows, slot, first + place + looped, feed=False)
            place += times
        return rows

    # The last stretch is taken out of the loop, because its final token is not fed.
    whole = (steps - 1) // len(pattern)
    if whole > 0:

        def period(i: tf.Tensor, *leaves: Any) -> Any:
            current = tf.nest.pack_sequence_as(rows, leaves)
            return i + 1, *tf.nest.flatten(stretch(current, pattern, i * len(pattern), last=False))

        start = (tf.constant(0), *tf.nest.flatten(rows))
        _, *leaves = tf.while_loop(lambda i, *_: i < whole, period, start, maximum_iterations=whole)
        rows = tf.nest.pack_sequence_as(rows, leaves)
    done = whole * len(pattern)
    rows = stretch(rows, pattern[: steps - done], tf.constant(done), last=True)
    scores, broken = rank(rows, rows.log_probability, rows.measures)
    best, order = tf.math.top_k(scores, width)
    tokens, log_probability, measures = tf.nest.map_structure(
        lambda x: tf.gather(x, order, batch_dims=1), (rows.tokens, rows.log_probability, rows.measures)
    )
    return Beams(tokens, best, log_probability, measures, broken)


def _truncate(logp: tf.Tensor, slot: Slot) -> tf.Tensor:
    """Which tokens of `logp [..., V]` are in question; the likeliest always is."""
    allowed = logp > 0.5 * DEAD
    if slot.top_k is None and slot.cdf is None:
        return allowed
    ordered = tf.sort(logp, axis=-1, direction="DESCENDING")
    if slot.top_k is not None and slot.top_k < logp.shape[-1]:
        allowed = allowed & (logp >= ordered[..., slot.top_k - 1 : slot.top_k])
    if slot.cdf is not None:
        # A token is in as long as those before it do not reach the share by themselves.
        before = tf.cumsum(tf.exp(ordered), axis=-1, exclusive=True) < slot.cdf
        last = tf.reduce_min(tf.where(before, ordered, 0.0), axis=-1, keepdims=True)
        allowed = allowed & (logp >= last)
    return allowed
