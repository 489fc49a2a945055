"""Random shooting: the best of what it drew, inside the space, each problem for itself."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from models import rng
from models.planning import plan
from models.planning.plan import Choices, Continuous
from models.planning.shooting import random_shooting

BOX = Continuous((-1.0, 0.0), (2.0, 0.5))
GRID = Choices((5, 2))
KEY = rng.key(3)


def _quadratic(target):
    def evaluate(actions):
        return -tf.reduce_sum(tf.square(tf.cast(actions, tf.float32) - target[:, None]), axis=(2, 3))

    return evaluate


@pytest.mark.parametrize("space", [BOX, GRID])
def test_it_returns_the_best_of_what_it_drew_and_its_own_value(space):
    seen = []

    def evaluate(actions):
        seen.append(actions.numpy())
        return tf.reduce_sum(tf.cast(actions, tf.float32), axis=(2, 3)) * tf.constant([[1.0], [-1.0]])

    found = random_shooting(evaluate, space, horizon=3, samples=50, seed=KEY, batch=2)
    (drawn,) = seen
    sums = drawn.sum(axis=(2, 3))
    np.testing.assert_allclose(found.value, [sums[0].max(), -sums[1].min()], rtol=1e-6)
    np.testing.assert_array_equal(found.actions[0], drawn[0, sums[0].argmax()])
    assert found.actions.shape == (2, 3, 2)
    if space is BOX:
        assert (drawn >= BOX.low).all()
        assert (drawn <= BOX.high).all()
        assert np.ptp(drawn, axis=(0, 1, 2)) == pytest.approx([3.0, 0.5], rel=0.05)
    else:
        assert [set(drawn[..., branch].ravel()) for branch in (0, 1)] == [set(range(5)), {0, 1}]


def test_a_candidate_without_a_finite_return_is_never_the_plan_and_is_counted():
    def evaluate(actions):  # all rewards negative: a rescue to zero would win
        bad = actions[..., 0, 0] > 0.0
        return tf.where(bad, np.nan, -tf.ones(actions.shape[:2]))

    found = random_shooting(evaluate, BOX, horizon=1, samples=300, seed=KEY, batch=1)
    assert found.value[0] == -1.0
    assert found.actions[0, 0, 0] <= 0.0
    assert float(found.info["lost"][0]) == pytest.approx(2 / 3, abs=0.1)
    none = random_shooting(
        lambda a: tf.fill(a.shape[:2], np.inf), BOX, horizon=1, samples=4, seed=KEY, batch=1
    )
    assert none.value[0] == -np.inf
    assert none.info["lost"][0] == 1.0


def test_a_plan_is_the_same_alone_and_in_a_batch_eager_and_compiled():
    target = tf.constant(np.random.default_rng(0).uniform(0, 0.5, (3, 4, 2)), tf.float32)

    def search(target):
        return random_shooting(
            _quadratic(target), BOX, horizon=4, samples=64, seed=KEY, batch=target.shape[0]
        )

    together = search(target)
    alone = search(target[1:2])
    np.testing.assert_array_equal(alone.actions[0], together.actions[1])
    compiled = tf.function(search, jit_compile=True, autograph=False)(target)
    np.testing.assert_allclose(compiled.actions, together.actions, rtol=1e-6)


def test_a_start_is_kept_where_nothing_better_is_drawn():
    target = tf.constant(np.random.default_rng(1).uniform(0, 0.5, (2, 5, 2)), tf.float32)
    found = random_shooting(_quadratic(target), BOX, horizon=5, samples=16, seed=KEY, batch=2, initial=target)
    np.testing.assert_array_equal(found.actions, target)
    np.testing.assert_array_equal(found.value, [0.0, 0.0])
    np.testing.assert_array_equal(plan.shift(target)[:, :4], target[:, 1:])
    np.testing.assert_array_equal(plan.shift(target)[:, 4], target[:, 4])


def test_spaces_are_read_and_unbounded_ones_refused():
    spaces = gymnasium.spaces
    assert plan.space_of(spaces.Discrete(3, start=-1)) == Choices((3,))
    assert plan.space_of(spaces.MultiDiscrete([2, 4])) == Choices((2, 4))
    assert plan.space_of(spaces.Box(-1, 2, (2,))) == Continuous((-1.0, -1.0), (2.0, 2.0))
    np.testing.assert_array_equal(plan.middle(Choices((5, 2))), [2, 1])
    np.testing.assert_array_equal(plan.middle(BOX), [0.5, 0.25])
    for space in (spaces.Box(-np.inf, 1, (1,)), spaces.Box(0, 1, (2, 2)), spaces.MultiBinary(2)):
        with pytest.raises(ValueError, match="cannot be planned in"):
            plan.space_of(space)
