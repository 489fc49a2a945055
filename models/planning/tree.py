"""Search trees as arrays: a batch of B trees of at most N nodes with A actions, grown side by side.

Every tree keeps its nodes in the order in which they were expanded, the root first, so that all B new nodes
of a simulation go into the same place and are written as one row. A node holds its own statistics; what a
parent knows of an action is read from the child that the action leads to.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

ROOT = 0
NONE = -1
"""No such node: the parent of a root, a child not yet expanded."""


class Tree(NamedTuple):
    """The trees. Node first while the search runs (`[N, B]`), batch first when it is handed out (`[B, N]`).

    A place that no simulation used has zero visits (a simulation that ends on a known node at `max_depth`
    leaves its place empty).
    """

    visits: tf.Tensor  # [N, B] int32, simulations through the node, its own expansion included
    values: tf.Tensor  # [N, B] mean of the returns from the node on
    raw_values: tf.Tensor  # [N, B] the model's value
    rewards: tf.Tensor  # [N, B] of the transition into the node
    discounts: tf.Tensor  # [N, B] of the node's value, seen from its parent
    parents: tf.Tensor  # [N, B] int32
    actions: tf.Tensor  # [N, B] int32, the action that led here
    depths: tf.Tensor  # [N, B] int32, 0 at the root
    children: tf.Tensor  # [N, B, A] int32, NONE where not expanded
    prior_logits: tf.Tensor  # [N, B, A] logarithms of the prior probabilities
    embeddings: Any  # nest of [N, B, ...], whatever the model carries


class Node(NamedTuple):
    """What a selection may look at: one node of each tree, and what is known of its actions."""

    visits: tf.Tensor  # [B] float32
    value: tf.Tensor  # [B]
    raw_value: tf.Tensor  # [B]
    prior_logits: tf.Tensor  # [B, A] normalised: their exponentials sum to one
    child_visits: tf.Tensor  # [B, A] float32
    q: tf.Tensor  # [B, A] reward + discount * value of the child; 0 where not expanded
    low: tf.Tensor  # [B] smallest value of the tree (its root's and all q)
    high: tf.Tensor  # [B] largest


def plant(nodes: int, prior_logits: tf.Tensor, value: tf.Tensor, embedding: Any) -> Tree:
    """Trees that are a root each, with room for `nodes`: `prior_logits [B, A]` normalised, `value [B]`."""
    batch, choices = prior_logits.shape

    def room(row: tf.Tensor) -> tf.Tensor:
        empty = tf.zeros((nodes - 1, *row.shape), row.dtype)
        return tf.concat([row[None], empty], axis=0)  # [N, B, ...]

    nothing = tf.zeros((nodes, batch))
    nowhere = tf.fill((nodes, batch), NONE)
    return Tree(
        visits=room(tf.ones((batch,), tf.int32)),
        values=room(value),
        raw_values=room(value),
        rewards=nothing,
        discounts=nothing,
        parents=nowhere,
        actions=nowhere,
        depths=tf.zeros((nodes, batch), tf.int32),
        children=tf.fill((nodes, batch, choices), NONE),
        prior_logits=room(prior_logits),
        embeddings=tf.nest.map_structure(room, embedding),
    )


def take(rows: tf.Tensor, node: tf.Tensor) -> tf.Tensor:
    """Of `rows [N, B, ...]` the one of each tree's `node [B, ...]`; NONE reads the root."""
    batch = rows.shape[1]
    lanes = tf.reshape(tf.range(batch), (batch, *[1] * (node.shape.rank - 1)))
    flat = tf.reshape(rows, (rows.shape[0] * batch, *rows.shape[2:]))
    return tf.gather(flat, tf.maximum(node, ROOT) * batch + lanes)


def write(rows: tf.Tensor, place: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
    """`rows [N, B, ...]` with `row [B, ...]` at `place` (a scalar)."""
    return tf.tensor_scatter_nd_update(rows, tf.reshape(place, (1, 1)), row[None])


def at(node: tf.Tensor, nodes: int) -> tf.Tensor:
    """Marks each tree's `node [B]`: bool `[N, B]`. A compare and select is faster than a scatter here."""
    return tf.range(nodes)[:, None] == node[None, :]


def q_of_nodes(tree: Tree) -> tf.Tensor:
    """What entering each node is worth: `[N, B]`."""
    return tree.rewards + tree.discounts * tree.values


def bounds(tree: Tree, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Smallest and largest value in each tree, over its root's value and all its `q [N, B]`: `[B]` each."""
    known = (tree.visits > 0) & (tree.parents != NONE)
    root = tree.values[ROOT]
    low = tf.reduce_min(tf.where(known, q, root), axis=0)
    return low, tf.reduce_max(tf.where(known, q, root), axis=0)


def look(tree: Tree, node: tf.Tensor, q: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> Node:
    """The view of each tree's `node [B]`; `q` from `q_of_nodes`, `low` and `high` from `bounds`."""
    children = take(tree.children, node)  # [B, A]
    known = children != NONE
    return Node(
        visits=tf.cast(take(tree.visits, node), tf.float32),
        value=take(tree.values, node),
        raw_value=take(tree.raw_values, node),
        prior_logits=take(tree.prior_logits, node),
        child_visits=tf.cast(tf.where(known, take(tree.visits, children), 0), tf.float32),
        q=tf.where(known, take(q, children), 0.0),
        low=low,
        high=high,
    )


def look_at_root(tree: Tree) -> Node:
    """The view of the roots of a tree that is still node first."""
    q = q_of_nodes(tree)
    return look(tree, tf.zeros(tree.visits.shape[1], tf.int32), q, *bounds(tree, q))


def batch_first(tree: Tree) -> Tree:
    """The tree with its first two axes exchanged."""

    def turn(rows: tf.Tensor) -> tf.Tensor:
        return tf.transpose(rows, (1, 0, *range(2, rows.shape.rank)))

    return Tree(*tf.nest.map_structure(turn, tuple(tree)))


def best_q(tree: Tree) -> tf.Tensor:
    """What each action of the root is worth along the best line that its subtree holds: `[B, A]`.

    A node is worth its best expanded action, or the model's value where there is none. The means that a
    search goes by also count what it paid to explore; where transitions are certain and the model is to be
    trusted this maximum does not. Of a learned model it is too hopeful. Actions that were never taken are
    at -1e9. For a tree that was handed out (batch first).
    """
    nodes = tree.visits.shape[1]
    inside = tf.reduce_any(tree.children != NONE, axis=-1)  # [B, N]
    worth = tf.where(inside, -1e9, tree.raw_values)

    def step(place: tf.Tensor, worth: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        q = tree.rewards[:, place] + tree.discounts[:, place] * worth[:, place]  # [B]
        parent = tf.range(nodes) == tree.parents[:, place, None]  # [B, N], none of an empty place
        return place - 1, tf.where(parent, tf.maximum(worth, q[:, None]), worth)

    _, worth = tf.while_loop(
        lambda place, _: place > ROOT, step, (tf.constant(nodes - 1), worth), maximum_iterations=nodes
    )
    children = tree.children[:, ROOT]  # [B, A]
    reached = tree.rewards + tree.discounts * worth  # [B, N]
    q = tf.gather(reached, tf.maximum(children, ROOT), batch_dims=1)
    return tf.where(children != NONE, q, -1e9)


def principal_line(tree: Tree, first: tf.Tensor, length: int) -> tf.Tensor:
    """The action taken, `first [B]`, then the most visited ones: int32 `[B, length]`, NONE after the end.

    For a tree that was handed out (batch first).
    """
    node = tf.zeros_like(first)
    line = []
    for step in range(length):
        children = tf.gather(tree.children, tf.maximum(node, ROOT), batch_dims=1)  # [B, A]
        visits = tf.gather(tree.visits, tf.maximum(children, ROOT), batch_dims=1)
        seen = tf.argmax(tf.where(children != NONE, visits, 0), axis=-1, output_type=tf.int32)
        best = first if step == 0 else seen  # [B]
        child = tf.gather(children, best, batch_dims=1)
        alive = (node != NONE) & (child != NONE)
        line.append(tf.where(alive, best, NONE))
        node = tf.where(alive, child, NONE)
    return tf.stack(line, axis=1)
