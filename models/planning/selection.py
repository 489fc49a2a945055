"""Which action a simulation follows: scores of a node's actions; the search takes the highest.

A *selection* is a function of a `tree.Node` to scores `[B, A]`. It is made of a *q-transform*, a function of
a `Node` to values `[B, A]` that can be weighed against the prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from models.planning.tree import Node

Selection = Callable[[Node], tf.Tensor]
QTransform = Callable[[Node], tf.Tensor]

LOW = -1e9
"""Below every score. Not minus infinity, which becomes NaN in a softmax that is masked whole."""


def by_parent_and_siblings(node: Node, *, epsilon: float = 1e-8) -> tf.Tensor:
    """Q scaled to [0, 1] between the extremes of the node's value and its children's; unvisited ones 0."""
    visited = node.child_visits > 0
    known = tf.where(visited, node.q, node.value[:, None])  # [B, A]
    low = tf.minimum(node.value, tf.reduce_min(known, axis=-1))[:, None]
    high = tf.maximum(node.value, tf.reduce_max(known, axis=-1))[:, None]
    return (tf.where(visited, node.q, low) - low) / tf.maximum(high - low, epsilon)


def by_tree(node: Node, *, epsilon: float = 1e-8) -> tf.Tensor:
    """Q scaled to [0, 1] between the extremes of the whole tree   (MuZero, appendix B, eq. 5)."""
    low, high = node.low[:, None], node.high[:, None]
    return (tf.where(node.child_visits > 0, node.q, low) - low) / tf.maximum(high - low, epsilon)


def by_bounds(node: Node, *, low: float, high: float) -> tf.Tensor:
    """Q scaled to [0, 1] between bounds that are known beforehand, as in board games."""
    return (tf.where(node.child_visits > 0, node.q, low) - low) / (high - low)


def completed_by_mixed_value(
    node: Node,
    *,
    value_scale: float = 0.1,
    visit_offset: float = 50.0,
    rescale: bool = True,
    whole_tree: bool = False,
    mixed: bool = True,
    epsilon: float = 1e-8,
) -> tf.Tensor:
    """sigma(q) of Gumbel MuZero: (c_visit + max N) c_scale q, unvisited actions completed by a value.

    Danihelka et al. 2022, eq. 8 for sigma, appendix D, eq. 33 for the mixed value. With `rescale` q is
    first brought to [0, 1]: among the actions, as in the paper, or with `whole_tree` between the extremes of
    the tree. Among the actions the best is always 1 and the worst 0, however little they differ, so that of
    two equal actions a rounding error makes one e^6 times as likely as the other; the tree's scale leaves
    small differences small. With `mixed` false the model's own value completes.
    """
    visited = node.child_visits > 0
    value = mixed_value(node) if mixed else node.raw_value
    q = tf.where(visited, node.q, value[:, None])  # [B, A]
    if rescale:
        low = node.low[:, None] if whole_tree else tf.reduce_min(q, axis=-1, keepdims=True)
        high = node.high[:, None] if whole_tree else tf.reduce_max(q, axis=-1, keepdims=True)
        q = (q - low) / tf.maximum(high - low, epsilon)
    most = tf.reduce_max(node.child_visits, axis=-1, keepdims=True)
    return (visit_offset + most) * value_scale * q


def mixed_value(node: Node) -> tf.Tensor:
    """The model's value and the prior-weighted mean q of visited actions, by their visits: `[B]` (eq. 33)."""
    visited = node.child_visits > 0
    weight = tf.where(visited, tf.maximum(tf.exp(node.prior_logits), 1e-30), 0.0)  # [B, A]
    total = tf.reduce_sum(weight, axis=-1)
    q = tf.reduce_sum(weight * node.q, axis=-1) / tf.maximum(total, 1e-30)  # 0 where nothing is visited
    simulations = tf.reduce_sum(node.child_visits, axis=-1)
    return (node.raw_value + simulations * q) / (simulations + 1.0)


def puct(
    node: Node, *, qtransform: QTransform, c_init: float = 1.25, c_base: float = 19652.0, ties: Any = 0.0
) -> tf.Tensor:
    """q + P sqrt(N) / (1 + n) (c_init + log((N + c_base + 1) / c_base))   (MuZero, appendix B, eq. 2).

    `ties [B, A]`, tiny numbers, decide between equal scores; without them the first action wins.
    """
    factor = c_init + tf.math.log((node.visits + c_base + 1.0) / c_base)  # [B]
    explore = (tf.sqrt(node.visits) * factor)[:, None] * tf.exp(node.prior_logits) / (node.child_visits + 1.0)
    return qtransform(node) + explore + ties


def gumbel_root(node: Node, *, qtransform: QTransform, gumbel: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Sequential Halving with Gumbel: `table [B, simulations]` says how often the next action was visited.

    Danihelka et al. 2022, algorithm 2. `gumbel [B, A]` is drawn once for a search.
    """
    simulation = tf.cast(tf.reduce_sum(node.child_visits, axis=-1), tf.int32)  # [B]
    considered = tf.gather(table, tf.minimum(simulation, table.shape[1] - 1), batch_dims=1)  # [B]
    return considered_score(node, considered, gumbel, qtransform(node))


def considered_score(node: Node, considered: tf.Tensor, gumbel: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
    """g + logits + sigma(q) for actions with exactly `considered [B]` visits; far below for others."""
    score = tf.maximum(gumbel + node.prior_logits + q, LOW)  # [B, A]
    return tf.where(node.child_visits == considered[:, None], score, 2.0 * LOW)


def gumbel_interior(node: Node, *, qtransform: QTransform) -> tf.Tensor:
    """Keeps the visits in proportion to the improved policy   (Danihelka et al. 2022, eq. 14)."""
    policy = tf.nn.softmax(node.prior_logits + qtransform(node), axis=-1)  # [B, A]
    total = tf.reduce_sum(node.child_visits, axis=-1, keepdims=True)
    return policy - node.child_visits / (1.0 + total)


def considered_visits(considered: int, simulations: int) -> tuple[int, ...]:
    """How often the action of each simulation was visited before, in Sequential Halving.

    Rounds of equal numbers of simulations; after each the better half stays in, never fewer than two.
    """
    if considered <= 1:
        return tuple(range(simulations))
    rounds = math.ceil(math.log2(considered))
    sequence: list[int] = []
    visits, staying = 0, considered
    while len(sequence) < simulations:
        for _ in range(max(1, simulations // (rounds * staying))):
            sequence += [visits] * staying
            visits += 1
        staying = max(2, staying // 2)
    return tuple(sequence[:simulations])


def considered_table(most: int, simulations: int) -> np.ndarray:
    """`considered_visits` of 0 to `most` actions: float32 `[most + 1, simulations]`."""
    return np.array([considered_visits(number, simulations) for number in range(most + 1)], np.float32)
