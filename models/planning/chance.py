"""Chance nodes: a search in a model whose next state is not a function of the action alone.

Stochastic MuZero (Antonoglou et al. 2022): an action leads to an *afterstate*, and an outcome drawn from the
afterstate's distribution leads on to the next state. Afterstates are nodes of the same tree. The search's
action space is A actions followed by C outcomes; a decision node blocks the outcomes and a chance node
the actions, by their priors, which is how a selection tells the two apart. Two model calls in place of one:

    decide(params, seed, action [B], embedding)   -> (Afterstate, embedding)
    happen(params, seed, outcome [B], embedding)  -> (mcts.Step with A prior logits, embedding)

A round of the market is two steps down the tree: give it twice the simulations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from models import rng
from models.planning import mcts, selection
from models.planning.mcts import Recurrent, Root, SearchOutput, Step
from models.planning.selection import LOW, QTransform
from models.planning.tree import Node


class Afterstate(NamedTuple):
    """What the model says of a state and an action together."""

    outcome_logits: tf.Tensor  # [B, C]
    value: tf.Tensor  # [B]


Decide = Callable[[Any, tf.Tensor, tf.Tensor, Any], tuple[Afterstate, Any]]


def recurrent_of(decide: Decide, happen: Recurrent, actions: int, outcomes: int) -> Recurrent:
    """Both functions as the one the search calls.

    Both are computed at every expansion, and the right one is taken element by element: that keeps the
    program static, and a batch is rarely of one mind. The embedding is a pair of nests of the same
    structure and shapes, which is what lets one tree hold both.
    """

    def recurrent(params: Any, seed: Any, action: tf.Tensor, embedding: Any) -> tuple[Step, Any]:
        chance = action >= actions  # [B] the step is an outcome
        after, on = decide(params, seed, tf.minimum(action, actions - 1), embedding)
        step, following = happen(params, seed, tf.maximum(action - actions, 0), embedding)
        blocked = tf.fill((action.shape[0], actions), LOW)
        at_chance = tf.concat([blocked, tf.nn.log_softmax(after.outcome_logits, axis=-1)], axis=-1)
        no_outcome = tf.fill((action.shape[0], outcomes), LOW)
        at_decision = tf.concat([tf.nn.log_softmax(step.prior_logits, axis=-1), no_outcome], axis=-1)
        discount = tf.ones_like(step.reward) if step.discount is None else step.discount
        said = Step(
            reward=tf.where(chance, step.reward, 0.0),  # the outcome brings the reward
            prior_logits=tf.where(chance[:, None], at_decision, at_chance),
            value=tf.where(chance, step.value, after.value),
            discount=tf.where(chance, discount, 1.0),
        )

        def either(of_chance: tf.Tensor, of_decision: tf.Tensor) -> tf.Tensor:
            return tf.where(
                tf.reshape(chance, (-1, *[1] * (of_chance.shape.rank - 1))), of_chance, of_decision
            )

        return said, tf.nest.map_structure(either, following, on)

    return recurrent


def stochastic_selection(node: Node, *, actions: int, decision: selection.Selection) -> tf.Tensor:
    """At decision nodes the scores of `decision`; at chance nodes p / (n + 1), which keeps visits near p.

    Quasi-random instead of drawn: the visits of an outcome never stray far from its probability, so the
    mean over a chance node is an expectation with little noise (Antonoglou et al. 2022, appendix A).
    """
    prior = tf.exp(node.prior_logits)  # [B, A + C]
    chance = tf.reduce_sum(prior[:, actions:], axis=-1) > 0.5  # [B]
    scores = decision(node)
    even = prior / (node.child_visits + 1.0)
    places = tf.range(node.q.shape[1])
    allowed = tf.where(chance[:, None], places >= actions, places < actions)
    return tf.where(allowed, tf.where(chance[:, None], even, scores), 2.0 * LOW)


def stochastic_muzero_policy(
    root: Root,
    decide: Decide,
    happen: Recurrent,
    *,
    outcomes: int,
    params: Any = None,
    simulations: int,
    seed: Any,
    invalid_actions: tf.Tensor | None = None,
    max_depth: int | None = None,
    qtransform: QTransform = selection.by_tree,
    dirichlet_fraction: Any = 0.0,
    dirichlet_alpha: float = 0.3,
    c_init: float = 1.25,
    c_base: float = 19652.0,
    temperature: Any = 0.0,
) -> SearchOutput:
    """PUCT over decisions and expectation over chance, from decision roots; consumes `seed`.

    Noise and temperature as in `mcts.muzero_policy`, but without either by default: the action is the most
    visited one. `action_weights [B, A]`; the tree and its root have A + C actions. `max_depth` counts both
    kinds of step. Time passes with an outcome, so `happen` gives the discount of its step.
    """
    for_noise, for_search, for_action = rng.split(seed, 3)
    batch, actions = root.prior_logits.shape
    puct = functools.partial(selection.puct, qtransform=qtransform, c_init=c_init, c_base=c_base)
    choose = functools.partial(stochastic_selection, actions=actions, decision=puct)
    unreachable = tf.ones((batch, outcomes), tf.bool)
    invalid = tf.zeros((batch, actions), tf.bool) if invalid_actions is None else invalid_actions
    blocked = tf.concat([invalid, unreachable], axis=-1)
    prior = mcts.with_noise(
        root.prior_logits, for_noise, fraction=dirichlet_fraction, alpha=dirichlet_alpha, invalid=invalid
    )
    wide = tf.concat([tf.nn.log_softmax(prior, axis=-1), tf.fill((batch, outcomes), LOW)], axis=-1)
    found = mcts.search(
        root._replace(prior_logits=wide),
        recurrent_of(decide, happen, actions, outcomes),
        params=params,
        simulations=simulations,
        seed=for_search,
        invalid_actions=blocked,
        max_depth=max_depth,
        root_selection=choose,
        interior_selection=choose,
    )
    narrow = found._replace(action_weights=found.action_weights[:, :actions])
    return mcts.drawn_by_visits(narrow, for_action, temperature)
