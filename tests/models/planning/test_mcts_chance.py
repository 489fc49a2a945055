"""Chance nodes against brute-force expectimax on random tabular decision problems."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from models import rng
from models.planning import chance, mcts

STATES, ACTIONS, HORIZON, DISCOUNT, B = 5, 3, 6, 0.9, 200


@pytest.fixture(scope="module")
def problems():
    draw = np.random.default_rng(0)
    reward = draw.normal(size=(B, STATES, ACTIONS)).astype(np.float32)
    moves = draw.dirichlet(np.ones(STATES), (B, STATES, ACTIONS)).astype(np.float32)
    return reward, moves


def expectimax(reward, moves):
    """Q [B, A] of the first action from state 0."""
    value = np.zeros((B, STATES))
    for _ in range(HORIZON):
        q = reward + DISCOUNT * np.einsum("bsat,bt->bsa", moves, value)
        value = q.max(axis=-1)
    return q[:, 0]


def run(reward, moves, simulations, jit=True):
    logits, nothing, lanes = np.log(moves), tf.zeros(B), tf.range(B)

    def decide(params, seed, action, embedding):
        state, steps, _ = embedding
        where = tf.stack([lanes, state, action], axis=1)
        after = chance.Afterstate(tf.gather_nd(logits, where), nothing)
        return after, (state, steps, tf.gather_nd(reward, where))

    def happen(params, seed, outcome, embedding):
        _, steps, pay = embedding
        more = tf.cast(steps + 1 < HORIZON, tf.float32)
        step = mcts.Step(pay, tf.zeros((B, ACTIONS)), nothing, DISCOUNT * more)
        return step, (outcome, steps + 1, nothing)

    place = tf.zeros(B, tf.int32)
    root = mcts.Root(tf.zeros((B, ACTIONS)), nothing, (place, place, nothing))
    policy = functools.partial(
        chance.stochastic_muzero_policy, root, decide, happen, outcomes=STATES, simulations=simulations,
        max_depth=2 * HORIZON,
    )  # fmt: skip
    return tf.function(policy, jit_compile=jit, autograph=False)(seed=rng.key(0))


def test_it_approaches_expectimax(problems):
    best = expectimax(*problems)
    gaps = []
    for simulations in (25, 200):
        found = run(*problems, simulations)
        reached = np.asarray(found.root.q)[:, :ACTIONS].max(axis=1)
        gaps.append(float(np.abs(best.max(axis=1) - reached).mean()))
    assert gaps[1] < 0.9 * gaps[0], gaps
    regret = best.max(axis=1) - best[np.arange(B), np.asarray(found.action)]
    assert (regret < 1e-5).mean() >= 0.95
    # Decisions and chance take turns on the way down, and outcomes are visited as often as they happen.
    tree = found.tree
    used = np.asarray(tree.visits) > 0
    depth, action = np.asarray(tree.depths), np.asarray(tree.actions)
    np.testing.assert_array_equal(
        (action >= ACTIONS)[used & (depth > 0)], (depth % 2 == 0)[used & (depth > 0)]
    )
    node = int(np.asarray(tree.children)[0, 0, np.asarray(found.action)[0]])
    children = np.asarray(tree.children)[0, node, ACTIONS:]
    visits = np.where(children >= 0, np.asarray(tree.visits)[0][children], 0)
    expected = problems[1][0, 0, int(found.action[0])]
    np.testing.assert_allclose(visits / visits.sum(), expected, atol=0.05)
    assert found.action_weights.shape == (B, ACTIONS)
    np.testing.assert_allclose(np.sum(found.action_weights, axis=1), 1.0, rtol=1e-5)


def test_graph_and_xla_agree(problems):
    first, second = (run(*problems, 12, jit=jit) for jit in (False, True))
    np.testing.assert_array_equal(first.tree.visits, second.tree.visits)
    np.testing.assert_array_equal(first.action, second.action)


def test_one_certain_outcome_is_a_plain_search(problems):
    """With a single possible outcome everywhere the best action is that of the deterministic problem."""
    reward, _ = problems
    following = np.random.default_rng(1).integers(0, STATES, (B, STATES, ACTIONS))
    moves = np.maximum(np.eye(STATES, dtype=np.float32)[following], 1e-12)
    best = expectimax(reward, np.round(moves))
    found = run(reward, moves, 150)
    depth = np.asarray(found.tree.depths).max(axis=1)
    assert (depth >= 6).mean() > 0.9  # certain outcomes cost one simulation each, not five
    regret = best.max(axis=1) - best[np.arange(B), np.asarray(found.action)]
    assert regret.mean() < 0.15
