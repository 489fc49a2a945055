"""The losses of Dreamer as functions of tensors: one value for each element, weighted elsewhere.

Equations are those of DreamerV3 (Hafner et al., arXiv 2301.04104, version 2), unless said otherwise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from models import returns, scalars
from models.dreamer.rssm import mixed


class Divergence(NamedTuple):
    """Two terms of equal value and different gradients, and the value without the floor."""

    dynamics: tf.Tensor  # [...] trains the prior only
    representation: tf.Tensor  # [...] trains the posterior only
    nats: tf.Tensor  # [...] no gradient


def divergence(posterior: tf.Tensor, prior: tf.Tensor, unimix: float, free_nats: float) -> Divergence:
    """KL[posterior || prior] of logits `[..., G, K]`, summed over the G latents, then floored   (eq. 3).

    The floor comes after the sum: one nat for the whole state is free, not one for each latent. Below it
    the gradient is exactly zero.
    """
    q, p = mixed(posterior, unimix), mixed(prior, unimix)

    def kl(q: tf.Tensor, p: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(q * (tf.math.log(q) - tf.math.log(p)), axis=(-2, -1))

    dynamics = kl(tf.stop_gradient(q), p)
    representation = kl(q, tf.stop_gradient(p))
    return Divergence(
        tf.maximum(dynamics, free_nats), tf.maximum(representation, free_nats), tf.stop_gradient(dynamics)
    )


def reconstruction(decoded: tf.Tensor, observation: tf.Tensor) -> tf.Tensor:
    """Squared distance in symlog space, summed over the last axis: `[..., I]` twice to `[...]`   (eq. 8)."""
    return tf.reduce_sum(tf.square(decoded - scalars.symlog(observation)), axis=-1)


def continuation(logit: tf.Tensor, terminated: tf.Tensor, discount: float) -> tf.Tensor:
    """Cross-entropy `[...]` of the continue head against `discount`, or 0 at a terminal step.

    The discount is learned along, so that imagination carries it and needs no other.
    """
    target = discount * (1.0 - tf.cast(terminated, tf.float32))
    return tf.nn.sigmoid_cross_entropy_with_logits(target, logit)


def scalar_mean(outputs: tf.Tensor, bins: tf.Tensor | None) -> tf.Tensor:
    """What a scalar head's `outputs [..., K]` mean: over symexp `bins [K]`, or the one number itself."""
    return outputs[..., 0] if bins is None else scalars.mean_of_logits(outputs, bins)


def scalar_loss(
    outputs: tf.Tensor, targets: list[tuple[float, tf.Tensor]], bins: tf.Tensor | None
) -> tf.Tensor:
    """The weighted sum over `targets` (weight, `[...]`) of a scalar head's loss, `[...]`.

    Cross-entropy against the two-hot of the target (eq. 11), or half the squared error without `bins`
    (DreamerV2, eq. 5). Targets get no gradient.
    """
    if bins is None:
        errors = [
            weight * 0.5 * tf.square(outputs[..., 0] - tf.stop_gradient(target)) for weight, target in targets
        ]
        return tf.add_n(errors)
    # Linear in the target's distribution: one log-softmax serves all of them.
    spread = tf.add_n([weight * scalars.two_hot(target, bins) for weight, target in targets])
    return -tf.reduce_sum(tf.stop_gradient(spread) * tf.nn.log_softmax(outputs, axis=-1), axis=-1)


class Dreamed(NamedTuple):
    """What imagined trajectories are worth: all `[N, H]`, for every state but the last."""

    returns: tf.Tensor
    advantages: tf.Tensor  # not yet normalised
    weights: tf.Tensor  # probability, discounted, that the state is reached at all


def dreamed_returns(
    rewards: tf.Tensor, continues: tf.Tensor, values: tf.Tensor, targets: tf.Tensor, lambda_: float
) -> Dreamed:
    """Lambda-returns of imagined trajectories (eq. 5) from `[N, H + 1]` tensors; none carries a gradient.

    `rewards` count by arrival, so the first is not used. `continues` hold the discount. `values` are the
    critic's, `targets` those bootstrapped from (the same, or the slow critic's).
    """
    rewards, continues, values, targets = (tf.stop_gradient(x) for x in (rewards, continues, values, targets))
    never = tf.zeros_like(continues)
    worth = returns.dreamer_lambda(never, 1.0 - continues, rewards, targets, discount=1.0, lambda_=lambda_)
    # The start's own continuation counts: nothing is to be learned behind the end of an episode.
    weights = tf.math.cumprod(continues, axis=1)[:, :-1]
    return Dreamed(worth, worth - targets[:, :-1], weights)


def policy_loss(
    log_probability: tf.Tensor, entropy: tf.Tensor, advantage: tf.Tensor, weight: tf.Tensor, scale: float
) -> tf.Tensor:
    """REINFORCE with normalised `advantage` and an entropy bonus: all `[...]`   (eq. 6)."""
    advantage, weight = tf.stop_gradient(advantage), tf.stop_gradient(weight)
    return -weight * (log_probability * advantage + scale * entropy)


def replay_returns(
    rewards: tf.Tensor, terminated: tf.Tensor, last: tf.Tensor, bootstrap: tf.Tensor, discount: float,
    lambda_: float,
) -> tf.Tensor:  # fmt: skip
    """Lambda-returns `[B, T - 1]` along replayed steps `[B, T]`, from imagined returns `bootstrap`.

    At the `last` step of an episode the imagined return stands in (nothing flows into the next one).
    """
    worth = returns.dreamer_lambda(
        last, terminated, rewards, tf.stop_gradient(bootstrap), discount=discount, lambda_=lambda_
    )
    return tf.stop_gradient(worth)


def percentile(x: tf.Tensor, share: float) -> tf.Tensor:
    """The `share` quantile of all of `x`, linear between neighbours, as NumPy has it."""
    flat = tf.sort(tf.reshape(x, (-1,)))
    place = share * (flat.shape[0] - 1)
    below = int(place)
    above = min(below + 1, flat.shape[0] - 1)
    return flat[below] + (place - below) * (flat[above] - flat[below])


def running_range(state: tf.Tensor, values: tf.Tensor, rate: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Follows the 5th and 95th percentile of imagined returns   (eq. 7).

    `state [3]` holds both averages and the weight gathered so far, all zero at first, so that the
    averages are unbiased from the first update on. Returns the new state and the scale that advantages
    are divided by: the range, but at least 1, so that small returns are not blown up into noise.
    """
    now = tf.stack([percentile(values, 0.05), percentile(values, 0.95), tf.ones(())])
    state = state + rate * (tf.stop_gradient(now) - state)
    return state, tf.maximum(1.0, (state[1] - state[0]) / state[2])


def total(losses: dict[str, tf.Tensor], weights: dict[str, Any]) -> tf.Tensor:
    """The weighted sum of the means; every loss has a weight and every weight a loss."""
    if losses.keys() != weights.keys():
        raise ValueError(f"losses {sorted(losses)} do not match the weights {sorted(weights)}")
    return tf.add_n([weights[name] * tf.reduce_mean(loss) for name, loss in losses.items()])
