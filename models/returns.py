"""Returns: what a stretch of rewards and a value at its end are worth at each of its steps.

Time is the last axis. `rewards[..., t]` is r_{t+1}, the reward of the transition that leaves step t, and
`discounts[..., t]` is the discount of what follows it (0 after a termination), as in rlax; only
`dreamer_lambda` counts rewards by arrival, as DreamerV3 does.

Every backward recursion here is y_t = a_t + b_t y_{t+1}. It is solved by doubling in log2(T) vector
steps: no loop to compile or to unroll, and the same under XLA.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def _backward(a: Any, b: Any, last: Any) -> tf.Tensor:
    """Solves y_t = a_t + b_t y_{t+1} with y_T = last: `a, b [..., T]`, `last [...]` to `[..., T]`."""
    a, b = tf.convert_to_tensor(a), tf.convert_to_tensor(b)
    b = tf.broadcast_to(b, tf.shape(a))
    steps = a.shape[-1]
    # From here (a, b) at t stands for the map of y_{t + span} to y_t.
    span = 1
    while span < steps:
        later_a = tf.concat([a[..., span:], tf.zeros_like(a[..., :span])], axis=-1)
        later_b = tf.concat([b[..., span:], tf.ones_like(b[..., :span])], axis=-1)
        a, b = a + b * later_a, b * later_b
        span *= 2
    return a + b * tf.convert_to_tensor(last)[..., None]


def discounted(rewards: Any, discounts: Any, bootstrap: Any) -> tf.Tensor:
    """G_t = r_{t+1} + d_{t+1} G_{t+1}, G_T = bootstrap: `[..., T]`, `[..., T]`, `[...]` to `[..., T]`."""
    return _backward(rewards, discounts, bootstrap)


def lambda_returns(rewards: Any, discounts: Any, values: Any, lambda_: Any) -> tf.Tensor:
    """G_t = r_{t+1} + d_{t+1} ((1 - lambda) v_{t+1} + lambda G_{t+1}), with v_T after the last step.

    All `[..., T]`; `values[..., t]` is v_{t+1}, the value of the state that the transition reaches
    (Sutton and Barto, 2nd edition, eq. 12.18 in recursive form).
    """
    values, discounts = tf.convert_to_tensor(values), tf.convert_to_tensor(discounts)
    one_step = rewards + (1.0 - lambda_) * discounts * values
    return _backward(one_step, lambda_ * discounts, values[..., -1])


def n_step(rewards: Any, discounts: Any, values: Any, n: int, lambda_: Any = 1.0) -> tf.Tensor:
    """The n-step bootstrapped return of every step, shorter where the stretch ends first: all `[..., T]`.

    `values[..., t]` is v_{t+1}. With `lambda_` below one the n steps are mixed as in `lambda_returns`.
    """
    rewards, discounts = tf.convert_to_tensor(rewards), tf.convert_to_tensor(discounts)
    values = tf.convert_to_tensor(values)
    steps = rewards.shape[-1]
    pad = n - 1
    last = tf.repeat(values[..., -1:], pad, axis=-1)
    padded_values = tf.concat([values, last], axis=-1)  # [..., T + n - 1]
    rewards = tf.concat([rewards, tf.zeros_like(last)], axis=-1)
    discounts = tf.concat([discounts, tf.ones_like(last)], axis=-1)
    returns = padded_values[..., pad : pad + steps]
    for i in reversed(range(n)):
        reached = padded_values[..., i : i + steps]
        mixed = (1.0 - lambda_) * reached + lambda_ * returns
        returns = rewards[..., i : i + steps] + discounts[..., i : i + steps] * mixed
    return returns


def generalised_advantages(rewards: Any, discounts: Any, values: Any, lambda_: Any) -> tf.Tensor:
    """A_t = sum_k (d lambda)^k delta_{t+k}   (Schulman et al. 2016, eq. 16): `[..., T]`.

    `rewards, discounts [..., T]`; `values [..., T + 1]` holds v_0 to v_T.
    """
    values, discounts = tf.convert_to_tensor(values), tf.convert_to_tensor(discounts)
    deltas = rewards + discounts * values[..., 1:] - values[..., :-1]
    return _backward(deltas, discounts * lambda_, tf.zeros_like(values[..., -1]))


def dreamer_lambda(
    last: Any, terminal: Any, rewards: Any, bootstrap: Any, *, discount: float, lambda_: float
) -> tf.Tensor:
    """DreamerV3's lambda-return of a replayed or imagined stretch: all `[..., T]`, gives `[..., T - 1]`.

    Rewards count by arrival: `rewards[..., t]` came with the observation of step t. `terminal` steps have
    no future; at `last` steps (the end of an episode, terminal or cut) the return is `bootstrap`, the
    value of that step, and nothing flows across.
    """
    rewards, bootstrap = tf.convert_to_tensor(rewards), tf.convert_to_tensor(bootstrap)
    live = (1.0 - tf.cast(terminal, rewards.dtype))[..., 1:] * discount
    carried = (1.0 - tf.cast(last, rewards.dtype))[..., 1:] * lambda_
    one_step = rewards[..., 1:] + (1.0 - carried) * live * bootstrap[..., 1:]
    return _backward(one_step, live * carried, bootstrap[..., -1])
