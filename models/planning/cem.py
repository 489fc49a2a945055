"""The cross-entropy method: as in PETS (Chua et al. 2018) and improved (iCEM, Pinneri et al. 2020).

A distribution over action sequences is drawn from, scored, and fitted to the best draws, a few times over.
Continuous actions have a normal for each step, truncated to the box; discrete ones a categorical. Where
PETS narrows the deviation so that two of them fit into the box and draws within them, we draw from the
normal conditioned on the box itself: nothing is cut and nothing is narrowed by the walls.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models import rng
from models.planning import plan
from models.planning.plan import ActionSpace, Choices, Continuous, Evaluate, Plan

_INITIAL_TRUST = 0.3  # of a discrete warm start: the rest is spread over all choices
_FLOOR = 0.02  # of discrete probability that stays spread, so that no choice dies out


class _Normal(NamedTuple):
    """Independent normals in a box."""

    mean: tf.Tensor  # [B, H, A]
    variance: tf.Tensor  # [B, H, A]


def colour_matrix(horizon: int, exponent: float) -> np.ndarray:
    """The matrix `[K, H]` that turns K standard normals into noise of power 1 / f^exponent, variance one.

    It is the inverse Fourier transform of independent coefficients of standard deviation f^(-exponent / 2)
    (Timmer and Koenig 1995), the zero frequency taking the lowest other one's; exponent 0 is white.
    """
    if horizon == 1:
        return np.ones((1, 1), np.float32)
    steps = np.arange(horizon)
    rows = []
    for place in range(horizon // 2 + 1):
        amplitude = (max(place, 1) / horizon) ** (-exponent / 2)
        single = place == 0 or 2 * place == horizon  # frequencies whose sine vanishes
        angle = 2 * np.pi * place * steps / horizon
        rows.append(amplitude * (1.0 if single else np.sqrt(2.0)) * np.cos(angle))
        if not single:
            rows.append(amplitude * np.sqrt(2.0) * np.sin(angle))
    matrix = np.array(rows)
    return np.asarray(matrix / np.sqrt(np.square(matrix).sum(axis=0)), np.float32)


def coloured_noise(seed: Any, samples: int, horizon: int, width: int, exponent: float) -> tf.Tensor:
    """Unit-variance noise `[N, H, A]`, correlated along H, independent otherwise; consumes the seed."""
    matrix = tf.constant(colour_matrix(horizon, exponent))  # [K, H]
    white = rng.normal(seed, (samples, width, matrix.shape[0]))
    return tf.transpose(white @ matrix, (0, 2, 1))


def cem(
    evaluate: Evaluate,
    space: ActionSpace,
    *,
    horizon: int,
    samples: int,
    elites: int,
    iterations: int,
    seed: Any,
    batch: int,
    initial: Any = None,
    momentum: float = 0.1,
    deviation: float = 0.25,
    colour: float | None = None,
    decay: float = 1.0,
    kept: float = 0.0,
    carried: Any = None,
    take_best: bool = False,
) -> Plan:
    """The sequence that the cross-entropy method settles on, for each of `batch` problems; consumes the seed.

    Args:
        evaluate: `[B, N, H, A]` to returns `[B, N]`; called with a few values of N.
        space: what an action may be.
        horizon: H.
        samples: N of the first iteration.
        elites: how many of the best the distribution is fitted to.
        iterations: rounds of drawing and fitting.
        seed: int32 `[2]`.
        batch: B.
        initial: mean (or, for choices, the sequence to favour) to start from, `[B, H, A]`: the last plan,
            shifted. The middle of the space if not given.
        momentum: share of the old mean and variance that a fit keeps; with 1 nothing moves.
        deviation: standard deviation to start with, in widths of the box (PETS: a quarter).
        colour: continuous only: draws are noise of power 1 / f^colour along the horizon, clipped to the box,
            instead of truncated normals.
        decay: N shrinks by this factor each round, down to twice `elites`.
        kept: share of the elites that compete again in the next round.
        carried: `[B, K, H, A]` further candidates of the first round: last step's elites, shifted.
        take_best: the plan is the best candidate ever drawn, among them the final mean, instead of the mean
            (for choices, of the most likely sequence). On a noisy model its value is too good to be true.

    iCEM is `colour=2.0, decay=1.25, kept=0.3, carried=..., take_best=True`.

    `info`: `lost [B]`, share of candidates without a finite return; `spread [B]`, standard deviation of the
    last distribution in widths of the box (for choices, its entropy as a share of the largest);
    `elites [B, elites, H, A]` of the last round, and their mean return `elite_return [B]`.
    """
    if not 1 <= elites <= samples:
        raise ValueError(f"cem: elites is {elites}; it must lie in [1, samples = {samples}]")
    belief = _start(space, initial, batch, horizon, deviation)
    retained = None if carried is None else _typed(carried, space)
    keep = min(elites, round(kept * elites))
    lost, drawn, last = tf.zeros(batch), 0, iterations - 1
    champion, record = _centre(belief), tf.fill((batch,), -np.inf)
    top, top_returns = champion[:, None], record[:, None]
    for turn, part in enumerate(rng.split(seed, iterations)):
        number = max(round(samples * decay**-turn), min(2 * elites, samples))
        actions = _draw(part, belief, space, number, colour)  # [B, N, H, A]
        if retained is not None:
            actions = tf.concat([actions, retained], axis=1)
        if take_best and turn == last:
            actions = tf.concat([actions, _centre(belief)[:, None]], axis=1)
        returns, gone = plan.score(evaluate, actions)
        lost, drawn = lost + gone, drawn + actions.shape[1]
        top_returns, place = tf.math.top_k(returns, elites)  # [B, E]
        top = tf.gather(actions, place, batch_dims=1)  # [B, E, H, A]
        champion = tf.where((top_returns[:, 0] > record)[:, None, None], top[:, 0], champion)
        record = tf.maximum(record, top_returns[:, 0])
        belief = _fit(belief, top, tf.math.is_finite(top_returns), space, momentum)
        retained = top[:, :keep] if keep else None
    if take_best:
        chosen, value = champion, record
    else:
        chosen = _centre(belief)
        value = plan.score(evaluate, chosen[:, None])[0][:, 0]
    info = {
        "lost": lost / drawn,
        "spread": _spread(belief, space),
        "elites": top,
        "elite_return": tf.reduce_mean(top_returns, axis=-1),
    }
    return Plan(chosen, value, info)


def _typed(actions: Any, space: ActionSpace) -> tf.Tensor:
    return tf.cast(tf.convert_to_tensor(actions), plan.kind(space))


def _start(
    space: ActionSpace, initial: Any, batch: int, horizon: int, deviation: float
) -> _Normal | tf.Tensor:
    """Normals, or for choices probabilities `[B, H, A, K]`."""
    if isinstance(space, Continuous):
        centre = tf.broadcast_to(tf.constant(plan.middle(space)), (batch, horizon, plan.width(space)))
        mean = centre if initial is None else _typed(initial, space)
        low, high = plan.bounds(space)
        size = np.float32(deviation) * (high - low)
        return _Normal(mean, tf.broadcast_to(tf.constant(size**2), tf.shape(mean)))
    spread = tf.broadcast_to(_even(space), (batch, horizon, len(space.counts), max(space.counts)))
    if initial is None:
        return spread
    favoured = tf.one_hot(_typed(initial, space), max(space.counts))
    return _INITIAL_TRUST * favoured + (1.0 - _INITIAL_TRUST) * spread


def _even(space: Choices) -> tf.Tensor:
    """Equal probabilities of the choices that each branch has: `[A, K]`."""
    valid = np.arange(max(space.counts)) < np.array(space.counts)[:, None]
    return tf.constant((valid / np.array(space.counts)[:, None]).astype(np.float32))


def _draw(
    seed: Any, belief: _Normal | tf.Tensor, space: ActionSpace, number: int, colour: float | None
) -> tf.Tensor:
    """Candidates `[B, N, H, A]`, the same underlying noise for every problem."""
    if isinstance(belief, _Normal) and isinstance(space, Continuous):
        low, high = map(tf.constant, plan.bounds(space))
        mean, size = belief.mean[:, None], tf.sqrt(belief.variance)[:, None]  # [B, 1, H, A]
        if colour is not None:
            noise = coloured_noise(seed, number, mean.shape[2], mean.shape[3], colour)
            return tf.clip_by_value(mean + size * noise, low, high)
        size = tf.maximum(size, 1e-6 * (high - low))
        return tf.clip_by_value(_truncated(seed, mean, size, low, high, number), low, high)
    assert isinstance(belief, tf.Tensor)
    shape = (number, *belief.shape[1:])
    noise = rng.gumbel(seed, shape)  # [N, H, A, K]
    logits = tf.math.log(belief)[:, None]  # minus infinity where a branch has no such choice
    return tf.argmax(logits + noise, axis=-1, output_type=tf.int32)


def _truncated(
    seed: Any, mean: tf.Tensor, size: tf.Tensor, low: tf.Tensor, high: tf.Tensor, number: int
) -> tf.Tensor:
    """Normals conditioned on the box, by inversion of uniforms that the problems share: `[B, N, H, A]`."""
    unit = rng.uniform(seed, (number, *mean.shape[2:]), 2.0**-25, 1.0 - 2.0**-24)  # [N, H, A]
    below = 0.5 * tf.math.erfc((mean - low) / size * 2.0**-0.5)  # [B, 1, H, A]
    above = 0.5 * tf.math.erfc((mean - high) / size * 2.0**-0.5)
    share = tf.clip_by_value(below + (above - below) * unit, 1e-7, 1.0 - 1e-7)
    return mean + size * tf.math.ndtri(share)


def _fit(
    belief: _Normal | tf.Tensor, top: tf.Tensor, finite: tf.Tensor, space: ActionSpace, momentum: float
) -> _Normal | tf.Tensor:
    """The belief moved toward the elites `[B, E, H, A]`; those that are not `finite [B, E]` do not count."""
    weight = tf.cast(finite, tf.float32)
    known = tf.reduce_any(finite, axis=1)[:, None, None]  # [B, 1, 1]
    weight = (weight / tf.maximum(tf.reduce_sum(weight, axis=1, keepdims=True), 1.0))[:, :, None, None]
    if isinstance(belief, _Normal):
        mean = tf.reduce_sum(weight * top, axis=1)  # [B, H, A]
        variance = tf.reduce_sum(weight * tf.square(top - mean[:, None]), axis=1)
        return _Normal(
            tf.where(known, momentum * belief.mean + (1.0 - momentum) * mean, belief.mean),
            tf.where(known, momentum * belief.variance + (1.0 - momentum) * variance, belief.variance),
        )
    assert isinstance(space, Choices)
    chosen = tf.one_hot(top, max(space.counts))  # [B, E, H, A, K]
    share = tf.reduce_sum(weight[..., None] * chosen, axis=1)
    share = (1.0 - _FLOOR) * share + _FLOOR * _even(space)
    return tf.where(known[..., None], momentum * belief + (1.0 - momentum) * share, belief)


def _centre(belief: _Normal | tf.Tensor) -> tf.Tensor:
    """The mean, or the most likely sequence: `[B, H, A]`."""
    if isinstance(belief, _Normal):
        return belief.mean
    return tf.argmax(belief, axis=-1, output_type=tf.int32)


def _spread(belief: _Normal | tf.Tensor, space: ActionSpace) -> tf.Tensor:
    if isinstance(belief, _Normal) and isinstance(space, Continuous):
        low, high = plan.bounds(space)
        return tf.reduce_mean(tf.sqrt(belief.variance) / (high - low), axis=(1, 2))
    assert isinstance(space, Choices)
    entropy = -tf.reduce_sum(tf.math.xlogy(belief, belief), axis=-1)  # [B, H, A]
    largest = np.log(np.maximum(space.counts, 2)).astype(np.float32)
    return tf.reduce_mean(entropy / largest, axis=(1, 2))
