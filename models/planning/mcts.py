"""Monte Carlo tree search in a learned model, for a batch of roots at once, as one compiled program.

One simulation (Schrittwieser et al. 2020, appendix B):

1. **descend** from the root along the highest scores until an action that was never tried;
2. **expand** it: ask the model for its reward, the next node's value and prior;
3. **back up** the return from the new node to the root, into the mean of every node on the way.

B trees do this side by side and never look at one another. All shapes are static, so a whole search can be
compiled: wrap the call in `tf.function(jit_compile=True)`, which is about thirty times faster than the
same graph uncompiled. The model is two things: a `Root`, and a function

    recurrent(params, seed, action [B], embedding) -> (Step, embedding)

whose embedding is any nest of tensors `[B, ...]`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from models import rng
from models.planning import selection
from models.planning import tree as trees
from models.planning.selection import LOW, QTransform, Selection
from models.planning.tree import NONE, ROOT, Node, Tree


class Root(NamedTuple):
    """Where the search starts."""

    prior_logits: tf.Tensor  # [B, A]
    value: tf.Tensor  # [B]
    embedding: Any  # nest of [B, ...]


class Step(NamedTuple):
    """What the model says of one transition and of the state it leads to."""

    reward: tf.Tensor  # [B]
    prior_logits: tf.Tensor  # [B, A]
    value: tf.Tensor  # [B]
    discount: tf.Tensor | None = None  # [B] times the search's own discount: 0 after an end; None is 1


Recurrent = Callable[[Any, tf.Tensor, tf.Tensor, Any], tuple[Step, Any]]


class SearchOutput(NamedTuple):
    """The decision, a policy to learn from, and the whole tree."""

    action: tf.Tensor  # [B] int32
    action_weights: tf.Tensor  # [B, A] probabilities
    tree: Tree  # batch first
    root: Node  # the root's statistics


def search(
    root: Root,
    recurrent: Recurrent,
    *,
    params: Any = None,
    simulations: int,
    seed: Any,
    invalid_actions: tf.Tensor | None = None,
    max_depth: int | None = None,
    qtransform: QTransform = selection.by_parent_and_siblings,
    root_selection: Selection | None = None,
    interior_selection: Selection | None = None,
    discount: Any = 1.0,
) -> SearchOutput:
    """Runs `simulations` simulations from each of B roots; consumes `seed` (int32 `[2]`).

    `invalid_actions` (bool `[B, A]`) are never taken at the root; a root must have a valid one. Selections
    default to PUCT with `qtransform`. `params` are handed to `recurrent`. The action is the most visited
    one, the first of equals, and the weights are the shares of the visits.
    """
    batch, choices = root.prior_logits.shape
    puct = functools.partial(selection.puct, qtransform=qtransform)
    root_selection, interior_selection = root_selection or puct, interior_selection or puct
    prior = _normalised(root.prior_logits)
    blocked = tf.zeros((batch, choices), tf.bool) if invalid_actions is None else invalid_actions
    planted = trees.plant(simulations + 1, prior, root.value, root.embedding)

    def simulate(place: tf.Tensor, tree: Tree) -> tuple[tf.Tensor, Tree]:
        parent, action = _descend(tree, root_selection, interior_selection, blocked, max_depth or simulations)
        here = rng.fold_in(seed, place)
        step, embedding = recurrent(
            params,
            here,
            action,
            tf.nest.map_structure(lambda rows: trees.take(rows, parent), tree.embeddings),
        )
        tree, leaf = _expand(tree, place, parent, action, step, embedding, discount)
        return place + 1, _back_up(tree, leaf, step.value)

    _, tree = tf.while_loop(
        lambda place, _: place <= simulations,
        simulate,
        (tf.constant(1), planted),
        maximum_iterations=simulations,
    )
    top = trees.look_at_root(tree)
    weights = top.child_visits / tf.maximum(tf.reduce_sum(top.child_visits, axis=-1, keepdims=True), 1.0)
    return SearchOutput(
        action=tf.argmax(tf.where(blocked, -1.0, weights), axis=-1, output_type=tf.int32),
        action_weights=weights,
        tree=trees.batch_first(tree),
        root=top,
    )


def _normalised(logits: tf.Tensor) -> tf.Tensor:
    """Logarithms of probabilities, floored so that a mask stays finite."""
    return tf.nn.log_softmax(tf.maximum(logits, LOW), axis=-1)


def _descend(
    tree: Tree, at_root: Selection, inside: Selection, blocked: tf.Tensor, max_depth: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The node `[B]` at which each tree is to grow, and the action `[B]` by which.

    All trees go down in step; one that has arrived waits for the deepest.
    """
    q = trees.q_of_nodes(tree)  # [N, B]
    low, high = trees.bounds(tree, q)

    def best(scores: tf.Tensor) -> tf.Tensor:
        return tf.argmax(scores, axis=-1, output_type=tf.int32)

    root = tf.zeros(blocked.shape[0], tf.int32)
    scores = at_root(trees.look(tree, root, q, low, high))  # [B, A]
    first = best(tf.where(blocked, 4.0 * LOW, scores))

    def child_of(node: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
        return tf.gather(trees.take(tree.children, node), action, batch_dims=1)  # [B]

    def going_on(depth: tf.Tensor, node: tf.Tensor, action: tf.Tensor, child: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any(child != NONE) & (depth < max_depth)

    def step(depth: tf.Tensor, node: tf.Tensor, action: tf.Tensor, child: tf.Tensor) -> Any:
        moving = child != NONE
        node = tf.where(moving, child, node)
        action = tf.where(moving, best(inside(trees.look(tree, node, q, low, high))), action)
        return depth + 1, node, action, tf.where(moving, child_of(node, action), NONE)

    _, node, action, _ = tf.while_loop(
        going_on,
        step,
        (tf.constant(1), root, first, child_of(root, first)),
        maximum_iterations=max_depth,
    )
    return node, action


def _expand(
    tree: Tree,
    place: tf.Tensor,
    parent: tf.Tensor,
    action: tf.Tensor,
    step: Step,
    embedding: Any,
    discount: Any,
) -> tuple[Tree, tf.Tensor]:
    """Writes the new nodes at `place`, and returns the node `[B]` from which to back up.

    With `max_depth` a descent may end on a node that exists: that node is visited again, with the model's
    newest word on its value, and `place` stays empty.
    """
    nodes, _, choices = tree.children.shape
    known = tf.gather(trees.take(tree.children, parent), action, batch_dims=1)  # [B]
    fresh = known == NONE
    leaf = tf.where(fresh, place, known)
    discounts = tf.ones_like(step.reward) if step.discount is None else step.discount
    here = trees.at(leaf, nodes)  # [N, B]
    edge = trees.at(parent, nodes)[..., None] & (tf.range(choices) == action[:, None])  # [N, B, A]
    grown = tree._replace(
        visits=tree.visits + tf.cast(here, tf.int32),
        values=tf.where(here, step.value, tree.values),
        raw_values=tf.where(here, step.value, tree.raw_values),
        rewards=tf.where(here, step.reward, tree.rewards),
        discounts=tf.where(here, discount * discounts, tree.discounts),
        parents=tf.where(here, parent, tree.parents),
        actions=tf.where(here, action, tree.actions),
        depths=tf.where(here, trees.take(tree.depths, parent) + 1, tree.depths),
        children=tf.where(edge, leaf[:, None], tree.children),
        prior_logits=trees.write(tree.prior_logits, place, _normalised(step.prior_logits)),
        embeddings=tf.nest.map_structure(
            lambda rows, row: trees.write(rows, place, row), tree.embeddings, embedding
        ),
    )
    return grown, leaf


def _back_up(tree: Tree, leaf: tf.Tensor, value: tf.Tensor) -> Tree:
    """Adds the return from `leaf [B]`, worth `value [B]`, to the mean of every node above it."""
    nodes = tree.visits.shape[0]

    def going_on(node: tf.Tensor, *_: Any) -> tf.Tensor:
        return tf.reduce_any(node != ROOT)

    def step(node: tf.Tensor, value: tf.Tensor, visits: tf.Tensor, values: tf.Tensor) -> Any:
        below = node != ROOT  # trees that have arrived wait
        value = tf.where(
            below, trees.take(tree.rewards, node) + trees.take(tree.discounts, node) * value, value
        )
        node = tf.where(below, trees.take(tree.parents, node), ROOT)
        here = trees.at(node, nodes) & below  # [N, B]
        count = tf.cast(visits, tf.float32)
        values = tf.where(here, (values * count + value) / (count + 1.0), values)
        return node, value, visits + tf.cast(here, tf.int32), values

    _, _, visits, values = tf.while_loop(
        going_on, step, (leaf, value, tree.visits, tree.values), maximum_iterations=nodes
    )
    return tree._replace(visits=visits, values=values)


def muzero_policy(
    root: Root,
    recurrent: Recurrent,
    *,
    params: Any = None,
    simulations: int,
    seed: Any,
    invalid_actions: tf.Tensor | None = None,
    max_depth: int | None = None,
    qtransform: QTransform = selection.by_parent_and_siblings,
    dirichlet_fraction: Any = 0.25,
    dirichlet_alpha: float = 0.3,
    c_init: float = 1.25,
    c_base: float = 19652.0,
    temperature: Any = 1.0,
    random_ties: bool = False,
    discount: Any = 1.0,
) -> SearchOutput:
    """MuZero's search: PUCT everywhere, Dirichlet noise at the root, an action drawn from the visits.

    The action is drawn with probability in proportion to visits^(1 / temperature); at temperature 0 it is
    the most visited one. With `random_ties` equal scores are decided by lot, once for a search; otherwise
    the first action wins. Consumes `seed`.
    """
    for_noise, for_search, for_action, for_ties = rng.split(seed, 4)
    noisy = with_noise(
        root.prior_logits,
        for_noise,
        fraction=dirichlet_fraction,
        alpha=dirichlet_alpha,
        invalid=invalid_actions,
    )
    ties = 1e-7 * rng.uniform(for_ties, noisy.shape) if random_ties else 0.0
    puct = functools.partial(selection.puct, qtransform=qtransform, c_init=c_init, c_base=c_base, ties=ties)
    found = search(
        root._replace(prior_logits=noisy),
        recurrent,
        params=params,
        simulations=simulations,
        seed=for_search,
        invalid_actions=invalid_actions,
        max_depth=max_depth,
        root_selection=puct,
        interior_selection=puct,
        discount=discount,
    )
    return drawn_by_visits(found, for_action, temperature)


def with_noise(
    logits: tf.Tensor, seed: Any, *, fraction: Any, alpha: float, invalid: tf.Tensor | None
) -> tf.Tensor:
    """The root's prior `[B, A]` mixed with Dirichlet noise, as logits; consumes `seed`."""
    prior = _masked(logits, invalid)
    noise = dirichlet(seed, prior.shape, alpha)  # [B, A]
    mixed = (1.0 - fraction) * tf.nn.softmax(prior, axis=-1) + fraction * noise
    return _masked(tf.math.log(tf.maximum(mixed, 1e-30)), invalid)


def drawn_by_visits(found: SearchOutput, seed: Any, temperature: Any) -> SearchOutput:
    """The search with its action drawn by visits^(1 / temperature); consumes `seed`."""
    visits = tf.math.log(tf.maximum(found.action_weights, 1e-30))  # [B, A]
    heat = tf.convert_to_tensor(temperature, tf.float32)
    warmed = tf.where(found.action_weights > 0, visits / tf.maximum(heat, 1e-3), LOW)
    drawn = rng.categorical(seed, warmed)
    return found._replace(action=tf.where(heat > 0.0, drawn, found.action))


def gumbel_muzero_policy(
    root: Root,
    recurrent: Recurrent,
    *,
    params: Any = None,
    simulations: int,
    seed: Any,
    invalid_actions: tf.Tensor | None = None,
    max_depth: int | None = None,
    qtransform: QTransform = selection.completed_by_mixed_value,
    max_considered: int = 16,
    gumbel_scale: Any = 1.0,
    discount: Any = 1.0,
) -> SearchOutput:
    """Gumbel MuZero's search: a policy improvement however few the simulations (Danihelka et al. 2022).

    At the root Sequential Halving among the `max_considered` actions of the highest prior plus Gumbel noise;
    inside, visits in proportion to the improved policy. The weights are that policy at the root,
    softmax(logits + sigma(completed q)) (eq. 11). With `gumbel_scale` 0 nothing is random. Consumes `seed`.
    """
    for_gumbel, for_search = rng.split(seed, 2)
    batch, choices = root.prior_logits.shape
    prior = _masked(root.prior_logits, invalid_actions)
    gumbel = gumbel_scale * rng.gumbel(for_gumbel, (batch, choices))
    most = min(max_considered, choices)
    valid = tf.fill((batch,), choices)
    if invalid_actions is not None:
        valid = tf.reduce_sum(tf.cast(~invalid_actions, tf.int32), axis=-1)  # [B]
    rows = tf.constant(selection.considered_table(most, simulations))
    table = tf.gather(rows, tf.minimum(valid, most))  # [B, simulations]
    found = search(
        root._replace(prior_logits=prior),
        recurrent,
        params=params,
        simulations=simulations,
        seed=for_search,
        invalid_actions=invalid_actions,
        max_depth=max_depth,
        root_selection=functools.partial(
            selection.gumbel_root, qtransform=qtransform, gumbel=gumbel, table=table
        ),
        interior_selection=functools.partial(selection.gumbel_interior, qtransform=qtransform),
        discount=discount,
    )
    q = qtransform(found.root)  # [B, A]
    most_visits = tf.reduce_max(found.root.child_visits, axis=-1)
    scores = _masked_scores(selection.considered_score(found.root, most_visits, gumbel, q), invalid_actions)
    weights = tf.nn.softmax(_masked_scores(found.root.prior_logits + q, invalid_actions), axis=-1)
    return found._replace(
        action=tf.argmax(scores, axis=-1, output_type=tf.int32),
        action_weights=weights,
    )


def _masked(logits: tf.Tensor, invalid: tf.Tensor | None) -> tf.Tensor:
    """Logits whose largest is 0 and whose invalid ones are far below."""
    return _masked_scores(logits - tf.reduce_max(logits, axis=-1, keepdims=True), invalid)


def _masked_scores(scores: tf.Tensor, invalid: tf.Tensor | None) -> tf.Tensor:
    return scores if invalid is None else tf.where(invalid, 4.0 * LOW, scores)


def dirichlet(seed: Any, shape: Any, alpha: float) -> tf.Tensor:
    """Dirichlet noise over the last axis, the same in every mode; consumes `seed`.

    Gamma variates by Marsaglia and Tsang 2000 for alpha + 1, times U^(1 / alpha), in logarithms because
    a small alpha underflows. Eight tries each at an acceptance above 95 %: all fail once in 10^11, and
    then the last one stands.
    """
    for_normal, for_test, for_boost = rng.split(seed, 3)
    tries = 8
    third = alpha + 1.0 - 1.0 / 3.0
    x = rng.normal(for_normal, (tries, *shape))
    v = (1.0 + x / (9.0 * third) ** 0.5) ** 3  # [8, ...]
    log_v = tf.math.log(tf.maximum(v, 1e-30))
    drawn = tf.math.log(tf.maximum(rng.uniform(for_test, (tries, *shape)), 1e-30))
    accepted = (v > 0.0) & (drawn < 0.5 * x * x + third * (1.0 - v + log_v))
    log_gamma = log_v[-1]
    for attempt in reversed(range(tries)):
        log_gamma = tf.where(accepted[attempt], log_v[attempt], log_gamma)
    boost = tf.math.log(tf.maximum(rng.uniform(for_boost, shape), 1e-30)) / alpha
    return tf.nn.softmax(log_gamma + boost, axis=-1)
