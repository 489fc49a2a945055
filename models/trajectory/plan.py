"""Decisions as one compiled call: read the prefix, search over whole transitions, rank by what they bring.

The return of a plan of H transitions is sum_k d^k r_k + d^H V, with reward and value decoded from the whole
distribution over their tokens (Janner et al. 2021, section 3.3, "offline reinforcement learning"). The
book's chapter scores by log-probability and weighs by return; that is `mixture`.

A Decision Transformer imitates whoever reached the target, habits included: where everybody holds on, it
holds on. The score `target` asks instead how likely a plan makes the target: by Bayes log p(plan | target)
is log p(target | plan) + log p(plan) and a constant. The first is taken as that of a normal with the mean
that the network foresees and the deviation of the recorded returns: with a variance of each plan's own the
widest bet comes nearest to any far target, whichever way it goes. The second is weighted
(`likelihood_weight`).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from models.planning.beam import Beams, Slot, Start, beam_search
from models.trajectory import gpt, keyvalue
from models.trajectory.data import Layout


class Plan(NamedTuple):
    """All that is static about a search; hashable."""

    shape: gpt.Shape
    layout: Layout
    horizon: int  # H transitions; 0 only names the next action, greedily
    width: int
    expand: int
    action_cdf: float
    observation_top_k: int
    score: str
    likelihood_weight: float
    quantile: float | None  # None decodes by expectation
    discount: float
    cached: bool = True

    @property
    def steps(self) -> int:
        """Tokens that are planned."""
        if self.horizon == 0:
            return self.layout.action
        # From the action on, to the slot after the last reward, where the value is read.
        return (self.horizon - 1) * self.layout.slots + self.layout.action + 2

    @property
    def pattern(self) -> tuple[Slot, ...]:
        """How each slot of a transition is found, beginning with the action."""
        if self.horizon == 0:
            return (Slot("draw"),) * self.layout.action
        rest = Slot("draw", sample=True, cdf=self.action_cdf, measured=False)
        several = self.observation_top_k > 1
        observation = Slot("draw", sample=several, top_k=self.observation_top_k if several else None)
        return (
            Slot("branch", cdf=self.action_cdf, measured=False),
            *(rest,) * (self.layout.action - 1),
            Slot("draw"),  # the reward
            Slot("given", prune=True),  # the value has just been read
            *(Slot("given", measured=False),) * (self.layout.given - 1),
            observation,  # or the end of the episode
            *(observation._replace(measured=False),) * (self.layout.observation - 1),
        )


class Scales(NamedTuple):
    """What tokens are worth: arrays, so that they do not compile anew."""

    valid: Any  # [K, C] bool
    reward: Any  # [C] mean of each cell
    value: Any  # [C]
    deviation: Any  # [] of the recorded returns
    target: Any  # [] return that is asked for; nothing but the score `target` reads it


def decode(logits: tf.Tensor, means: tf.Tensor, quantile: float | None) -> tf.Tensor:
    """A distribution over tokens `[..., C]` as a number: its mean, or its `quantile`."""
    shares = tf.nn.softmax(logits, axis=-1)
    if quantile is None:
        return tf.reduce_sum(shares * means, axis=-1)
    reached = tf.cast(tf.cumsum(shares, axis=-1) >= quantile - 1e-6, tf.int32)
    return tf.gather(means, tf.argmax(reached, axis=-1))


def search(
    flat: Any, tokens: tf.Tensor, length: tf.Tensor, target: tf.Tensor, scales: Scales, seed: Any, plan: Plan
) -> Beams:
    """Beams from `tokens [B, C + 1, K]`, of which `length [B]` count; consumes `seed`.

    `target [B, G]` are the tokens of the prescribed slots. The measures are `rewards [B, W, H]`,
    discounted, and `value [B, W]`, discounted too.
    """
    shape, layout = plan.shape, plan.layout
    weights = gpt.unflatten(flat, shape)
    prefix = keyvalue.read_prefix(weights, tokens, length, scales.valid, shape)
    batch, rows = tokens.shape[0], tokens.shape[0] * plan.width
    stop = shape.bins

    def slot_of(place: tf.Tensor) -> tf.Tensor:
        return (layout.first_action + place) % layout.slots

    def cached(state: Any, tokens: tf.Tensor, place: tf.Tensor) -> Any:
        return keyvalue.step(weights, prefix, state, tokens, place, slot_of(place), scales.valid, shape)

    def recomputed(state: Any, tokens: tf.Tensor, place: tf.Tensor) -> Any:
        return keyvalue.full_step(weights, state, length, tokens, place, slot_of(place), scales.valid, shape)

    def measure(measures: Any, logits: tf.Tensor, tokens: tf.Tensor, place: tf.Tensor) -> Any:
        if plan.horizon == 0:
            return measures
        slot, number = slot_of(place), (layout.first_action + place) // layout.slots
        factor = tf.pow(plan.discount, tf.cast(number, tf.float32))
        scale = factor * measures["live"]
        gained = scale * decode(logits, scales.reward, plan.quantile)  # [B, R]
        earns = (tf.range(plan.horizon) == number) & (slot == layout.reward)  # [H]
        value = scale * decode(logits, scales.value, plan.quantile)
        stopped = (slot == layout.given) & (tokens == stop)
        return {
            "rewards": tf.where(earns, gained[..., None], measures["rewards"]),
            "value": tf.where(slot == 0, value, measures["value"]),
            "live": tf.where(stopped, 0.0, measures["live"]),
        }

    def score(log_probability: tf.Tensor, measures: Any) -> tf.Tensor:
        if plan.horizon == 0 or plan.score == "log_probability":
            return log_probability
        total = tf.reduce_sum(measures["rewards"], axis=-1) + measures["value"]
        if plan.score == "return":
            return total
        if plan.score == "target":
            missed = (scales.target - total) / scales.deviation
            return -0.5 * tf.square(missed) + plan.likelihood_weight * log_probability
        return total / scales.deviation + plan.likelihood_weight * log_probability

    state: Any = keyvalue.empty_cache(rows, max(1, plan.steps - 1), shape)
    if not plan.cached:
        written = tf.reshape(tokens, (batch, -1))
        written = tf.pad(written, ((0, 0), (0, shape.length - written.shape[1])))
        state = tf.repeat(written, plan.width, axis=0)  # [B * W, L]
    return beam_search(
        cached if plan.cached else recomputed,
        Start(
            state,
            prefix.logits,
            {
                "rewards": tf.zeros((batch, 1, max(1, plan.horizon))),
                "value": tf.zeros((batch, 1)),
                "live": tf.ones((batch, 1)),
            },
        ),
        width=plan.width,
        expand=plan.expand,
        steps=plan.steps,
        score=score,
        seed=seed,
        pattern=plan.pattern,
        measure=measure,
        reorder=keyvalue.reorder if plan.cached else lambda state, rows: tf.gather(state, rows),
        given=lambda place: tf.gather(target, tf.minimum(slot_of(place), layout.given - 1), axis=1),
    )


@functools.lru_cache(maxsize=32)
def searcher(plan: Plan, *, compiled: bool) -> Any:
    """`search` for one plan, compiled once in a process for each batch size."""

    def run(
        flat: Any, tokens: tf.Tensor, length: tf.Tensor, target: tf.Tensor, scales: Scales, seed: Any
    ) -> Beams:
        return search(flat, tokens, length, target, scales, seed, plan)

    return tf.function(run, jit_compile=compiled, autograph=False)
