"""The search against brute force, by hand, and against itself in other company."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from models import rng
from models.planning import mcts, selection
from models.planning import tree as trees
from models.planning.tree import Node

STATES, ACTIONS, HORIZON, DISCOUNT = 5, 3, 6, 0.9


class Tables:
    """B random deterministic decision problems that end after six steps; the state counts the steps."""

    def __init__(self, batch, seed):
        draw = np.random.default_rng(seed)
        self.following = draw.integers(0, STATES, (batch, STATES, ACTIONS)).astype(np.int32)
        self.reward = draw.normal(size=(batch, STATES, ACTIONS)).astype(np.float32)
        self.batch = batch

    def optimum(self):
        """Q [B, A] of the first action from state 0, by brute force over all that can follow."""
        value = np.zeros((self.batch, STATES))
        lanes = np.arange(self.batch)[:, None, None]
        for _ in range(HORIZON):
            q = self.reward + DISCOUNT * value[lanes, self.following]
            value = q.max(axis=-1)
        return q[:, 0]

    def of_random_play(self):
        """What acting at random earns from each state with each number of steps left: `[H + 1, B, S]`."""
        value = np.zeros((HORIZON + 1, self.batch, STATES), np.float32)
        lanes = np.arange(self.batch)[:, None, None]
        for step in reversed(range(HORIZON)):
            value[step] = (self.reward + DISCOUNT * value[step + 1][lanes, self.following]).mean(axis=-1)
        return value

    def root(self):
        place = tf.zeros(self.batch, tf.int32)
        return mcts.Root(tf.zeros((self.batch, ACTIONS)), tf.zeros(self.batch), (place, place))

    def recurrent(self, params, seed, action, embedding):
        state, steps = embedding
        where = tf.stack([tf.range(self.batch), state, action], axis=1)
        more = tf.cast(steps + 1 < HORIZON, tf.float32)
        step = mcts.Step(
            tf.gather_nd(self.reward, where), tf.zeros((self.batch, ACTIONS)), tf.zeros(self.batch), more
        )
        return step, (tf.gather_nd(self.following, where), steps + 1)


def compiled(policy, **kwargs):
    return tf.function(functools.partial(policy, **kwargs), jit_compile=True, autograph=False)


POLICIES = {
    "puct": functools.partial(mcts.muzero_policy, dirichlet_fraction=0.0, temperature=0.0,
                              qtransform=selection.by_tree, c_init=2.0),
    "gumbel": functools.partial(
        mcts.gumbel_muzero_policy, gumbel_scale=0.0,
        qtransform=functools.partial(selection.completed_by_mixed_value, value_scale=0.03)),
}  # fmt: skip


def test_the_search_approaches_brute_force():
    problems = Tables(200, seed=0)
    best = problems.optimum()
    gaps, hits = [], []
    for simulations in (25, 200):
        run = compiled(
            POLICIES["puct"], root=problems.root(), recurrent=problems.recurrent,
            simulations=simulations, max_depth=HORIZON, discount=DISCOUNT,
        )  # fmt: skip
        found = run(seed=rng.key(1))
        regret = best.max(axis=1) - best[np.arange(problems.batch), np.asarray(found.action)]
        hits.append(float((regret < 1e-5).mean()))
        reached = np.asarray(found.root.q).max(axis=1)  # what the search believes it can get
        gaps.append(float(np.abs(best.max(axis=1) - reached).mean()))
        assert int(tf.reduce_max(found.tree.depths)) <= HORIZON
        assert int(tf.reduce_max(found.tree.depths)) > 1
        np.testing.assert_array_equal(found.tree.visits[:, 0], simulations + 1)
    assert gaps[0] > gaps[1], gaps
    assert hits[-1] >= 0.9, hits


class Critic(Tables):
    """The same, and leaves are worth what a critic of random play says."""

    def root(self):
        return super().root()._replace(value=tf.constant(self.of_random_play()[0, :, 0]))

    def recurrent(self, params, seed, action, embedding):
        step, (state, steps) = super().recurrent(params, seed, action, embedding)
        where = tf.stack([steps, tf.range(self.batch), state], axis=1)
        return step._replace(value=tf.gather_nd(self.of_random_play(), where)), (state, steps)


def test_the_agent_s_search_is_right_in_95_percent_with_200_simulations():
    problems = Critic(1000, seed=0)
    best = problems.optimum()
    found = compiled(
        mcts.gumbel_muzero_policy, root=problems.root(), recurrent=problems.recurrent, simulations=200,
        max_depth=HORIZON, discount=DISCOUNT, gumbel_scale=0.0,
        qtransform=functools.partial(selection.completed_by_mixed_value, whole_tree=True),
    )(seed=rng.key(1))  # fmt: skip
    along = np.asarray(trees.best_q(found.tree))
    shares = [
        float((best.max(axis=1) - best[np.arange(1000), action] < 1e-5).mean())
        for action in (np.asarray(found.action), along.argmax(axis=1))
    ]
    assert min(shares) >= 0.95, shares
    assert (along <= best + 1e-4).all()  # a line of play, with something left that random play earns


def test_the_best_line_by_hand():
    """Two actions; the first one's mean is spoilt by a bad continuation that its best line leaves out."""
    following = np.array([[1, 2], [3, 4], [5, 5], [5, 5], [5, 5], [5, 5]], np.int32)
    reward = np.array([[0, 1], [3, -9], [0, 0], [0, 0], [0, 0], [0, 0]], np.float32)

    def recurrent(params, seed, action, state):
        where = tf.stack([state, action], axis=1)
        step = mcts.Step(tf.gather_nd(reward, where), tf.zeros((1, 2)), tf.zeros(1))
        return step, tf.gather_nd(following, where)

    policy = functools.partial(
        mcts.muzero_policy, mcts.Root(tf.zeros((1, 2)), tf.zeros(1), tf.zeros(1, tf.int32)), recurrent,
        seed=rng.key(0), dirichlet_fraction=0.0, temperature=0.0, c_init=50.0,
    )  # fmt: skip
    found = policy(simulations=12)
    assert found.root.q[0, 0] < found.root.q[0, 1]
    np.testing.assert_allclose(trees.best_q(found.tree), [[3.0, 1.0]])
    np.testing.assert_allclose(trees.best_q(policy(simulations=1).tree), [[0.0, -1e9]])


def test_batch_elements_do_not_influence_each_other():
    problems = Tables(6, seed=3)
    root = problems.root()._replace(value=tf.range(6, dtype=tf.float32))
    whole = compiled(mcts.gumbel_muzero_policy, root=root, recurrent=problems.recurrent,
                     simulations=24, gumbel_scale=0.0)(seed=rng.key(0))  # fmt: skip
    one = Tables(1, seed=0)
    one.following, one.reward = problems.following[4:5], problems.reward[4:5]
    alone = compiled(mcts.gumbel_muzero_policy, root=one.root()._replace(value=tf.constant([4.0])),
                     recurrent=one.recurrent, simulations=24, gumbel_scale=0.0)(seed=rng.key(9))  # fmt: skip
    for name in ("parents", "actions", "visits"):
        np.testing.assert_array_equal(getattr(whole.tree, name)[4], getattr(alone.tree, name)[0])
    np.testing.assert_allclose(whole.tree.values[4], alone.tree.values[0], atol=1e-6)
    np.testing.assert_allclose(whole.action_weights[4], alone.action_weights[0], atol=1e-6)


def test_graph_and_xla_agree_with_noise_and_the_seed_decides():
    problems = Tables(8, seed=5)
    kwargs = {"root": problems.root(), "recurrent": problems.recurrent, "simulations": 20,
              "random_ties": True}  # fmt: skip
    policy = functools.partial(mcts.muzero_policy, **kwargs)
    graph, xla = (tf.function(policy, jit_compile=jit, autograph=False) for jit in (False, True))
    first, second, other = graph(seed=rng.key(1)), xla(seed=rng.key(1)), xla(seed=rng.key(2))
    np.testing.assert_array_equal(first.tree.visits, second.tree.visits)
    np.testing.assert_array_equal(first.action, second.action)
    assert not np.array_equal(first.tree.visits, other.tree.visits)


@pytest.mark.parametrize("name", POLICIES)
def test_equal_actions_are_taken_in_order(name):
    problems = Tables(2, seed=0)
    problems.reward[:] = 0.0
    found = POLICIES[name](problems.root(), problems.recurrent, simulations=3, seed=rng.key(0))
    np.testing.assert_array_equal(found.tree.actions[:, 1:], [[0, 1, 2]] * 2)
    np.testing.assert_array_equal(found.action, [0, 0])


@pytest.mark.parametrize("name", POLICIES)
def test_masked_roots_stay_finite(name):
    problems = Tables(3, seed=1)
    invalid = np.array([[True, True, False], [False, True, True], [False, False, False]])
    policy = {"puct": mcts.muzero_policy, "gumbel": mcts.gumbel_muzero_policy}[name]
    root = problems.root()
    found = policy(
        root._replace(prior_logits=tf.where(invalid, -np.inf, root.prior_logits)), problems.recurrent,
        simulations=12, seed=rng.key(0), invalid_actions=tf.constant(invalid),
    )  # fmt: skip
    np.testing.assert_array_equal(found.action[:2], [2, 0])
    np.testing.assert_array_equal(np.asarray(found.root.child_visits)[invalid], 0)
    np.testing.assert_allclose(np.asarray(found.action_weights)[invalid], 0, atol=1e-12)
    for part in (found.action_weights, found.tree.values, found.tree.prior_logits, found.root.q):
        assert np.isfinite(np.asarray(part)).all()


def test_a_depth_of_one_never_leaves_the_root():
    problems = Tables(4, seed=2)
    found = mcts.search(problems.root(), problems.recurrent, simulations=12, seed=rng.key(0), max_depth=1)
    assert int(tf.reduce_max(found.tree.depths)) == 1
    np.testing.assert_array_equal(found.tree.visits[:, 0], 13)
    np.testing.assert_array_equal(tf.reduce_sum(found.root.child_visits, axis=1), 12)
    # The fourth simulation on begins to revisit; places it would have filled stay empty.
    np.testing.assert_array_equal(tf.reduce_sum(tf.cast(found.tree.visits > 0, tf.int32), axis=1), 4)


def test_principal_line_follows_the_most_visited():
    problems = Tables(3, seed=7)
    found = mcts.search(problems.root(), problems.recurrent, simulations=40, seed=rng.key(0))
    line_found = trees.principal_line(found.tree, found.action, 8)
    for element in range(3):
        node, line = 0, []
        while True:
            children = np.asarray(found.tree.children[element, node])
            visits = np.where(children >= 0, np.asarray(found.tree.visits[element])[children], 0)
            if visits.max() == 0 or len(line) == 8:
                break
            line.append(int(visits.argmax()))
            node = children[visits.argmax()]
        np.testing.assert_array_equal(line_found[element], line + [-1] * (8 - len(line)))


# 16 simulations, 4 actions: two rounds of 8. 4 actions twice each, then the best 2 four times each.
BY_HAND = {
    (4, 16): [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5],
    (8, 16): [0] * 8 + [1, 1, 1, 1] + [2, 2, 3, 3],
    (3, 8): [0, 0, 0, 1, 1, 2, 2, 3],
    (1, 4): [0, 1, 2, 3],
    (0, 3): [0, 1, 2],
    (2, 5): [0, 0, 1, 1, 2],
    (8, 5): [0, 0, 0, 0, 0],
}


@pytest.mark.parametrize(("case", "expected"), BY_HAND.items())
def test_sequential_halving_by_hand(case, expected):
    assert list(selection.considered_visits(*case)) == expected


def _node(visits, q, prior, value=0.5, raw=0.25):
    visits = np.atleast_2d(np.array(visits, np.float32))
    ones = np.ones(len(visits), np.float32)
    return Node(*(tf.constant(part) for part in (
        visits.sum(axis=1) + 1, value * ones, raw * ones, np.log(np.atleast_2d(np.float32(prior))), visits,
        np.atleast_2d(np.array(q, np.float32)), -2.0 * ones, 3.0 * ones,
    )))  # fmt: skip


def test_q_transforms_by_hand():
    node = _node([2, 0, 1], [1.5, 0.0, -0.5], [0.5, 0.3, 0.2])
    np.testing.assert_allclose(selection.by_parent_and_siblings(node), [[1.0, 0.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(selection.by_tree(node), [[3.5 / 5, 0.0, 1.5 / 5]], atol=1e-6)
    np.testing.assert_allclose(
        selection.by_bounds(node, low=-1.0, high=2.0), [[2.5 / 3, 0, 0.5 / 3]], atol=1e-6
    )
    # (0.25 + 3 (0.5 * 1.5 - 0.2 * 0.5) / 0.7) / 4
    mixed = (0.25 + 3 * 0.65 / 0.7) / 4
    np.testing.assert_allclose(selection.mixed_value(node), [mixed], rtol=1e-6)
    sigma = selection.completed_by_mixed_value(node, rescale=False, visit_offset=20.0)
    np.testing.assert_allclose(sigma, [[22 * 0.1 * 1.5, 22 * 0.1 * mixed, -22 * 0.1 * 0.5]], rtol=1e-5)
    tree = selection.completed_by_mixed_value(node, whole_tree=True, visit_offset=20.0)
    np.testing.assert_allclose(tree, 2.2 * (np.array([[1.5, mixed, -0.5]]) + 2.0) / 5.0, rtol=1e-5)
    unseen = _node([0, 0], [0, 0], [0.5, 0.5])
    np.testing.assert_allclose(selection.mixed_value(unseen), [0.25])
    np.testing.assert_allclose(selection.by_parent_and_siblings(unseen), [[0, 0]])


def test_puct_by_hand():
    node = _node([2, 0], [1.0, 0.0], [0.6, 0.4], value=0.0)
    found = selection.puct(node, qtransform=selection.by_parent_and_siblings)
    factor = 1.25 + np.log((3 + 19652 + 1) / 19652)
    expected = [[1.0 + np.sqrt(3) * factor * 0.6 / 3, np.sqrt(3) * factor * 0.4]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_gumbel_search_improves_the_policy_of_any_bandit():
    """Danihelka et al. 2022, section 4: the expected value of the action and of the weights never falls."""
    draw = np.random.default_rng(0)
    bandits, repeats, arms = 40, 50, 6
    logits = np.repeat(draw.normal(size=(bandits, arms)), repeats, axis=0).astype(np.float32)
    worth = np.repeat(draw.normal(size=(bandits, arms)), repeats, axis=0).astype(np.float32)
    prior = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    before = (prior * worth).sum(axis=1)
    rows = bandits * repeats

    def recurrent(params, seed, action, embedding):
        reward = tf.gather(worth, action, batch_dims=1)
        return mcts.Step(reward, tf.zeros((rows, arms)), tf.zeros(rows), tf.zeros(rows)), embedding

    root = mcts.Root(tf.constant(logits), tf.constant(before), tf.zeros(rows))
    found = compiled(mcts.gumbel_muzero_policy, root=root, recurrent=recurrent, simulations=4,
                     max_considered=4)(seed=rng.key(0))  # fmt: skip
    gained = worth[np.arange(rows), np.asarray(found.action)] - before
    assert gained.reshape(bandits, repeats).mean(axis=1).min() > -0.1  # five standard errors of 50 draws
    assert gained.mean() > 0.2
    better = (np.asarray(found.action_weights) * worth).sum(axis=1) - before
    assert better.min() > -1e-5


def test_dirichlet_noise_has_the_right_moments_in_every_mode():
    alpha, choices, draws = 0.3, 4, 20_000
    noise = functools.partial(mcts.dirichlet, shape=(draws, choices), alpha=alpha)
    found = np.asarray(tf.function(noise, jit_compile=True)(rng.key(4)))
    np.testing.assert_allclose(found[:500], np.asarray(noise(rng.key(4)))[:500], atol=2e-4)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(found.mean(axis=0), 1 / choices, atol=0.01)
    variance = (1 / choices) * (1 - 1 / choices) / (choices * alpha + 1)
    np.testing.assert_allclose(found.var(axis=0), variance, rtol=0.05)


def test_temperature_draws_by_visits():
    problems = Tables(400, seed=0)
    problems.following[:], problems.reward[:] = problems.following[:1], problems.reward[:1]
    run = compiled(mcts.muzero_policy, root=problems.root(), recurrent=problems.recurrent, simulations=20,
                   dirichlet_fraction=0.0)  # fmt: skip
    found = run(seed=rng.key(0), temperature=tf.constant(1.0))
    shares = np.bincount(np.asarray(found.action), minlength=ACTIONS) / 400
    np.testing.assert_allclose(shares, found.action_weights[0], atol=0.1)
    greedy = run(seed=rng.key(0), temperature=tf.constant(0.0))
    np.testing.assert_array_equal(greedy.action, np.argmax(found.action_weights, axis=1))
