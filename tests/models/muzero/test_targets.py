"""Targets against a plain loop, at the ends of episodes above all."""

import numpy as np
import pytest
from gymnasium import spaces

from models.muzero import actions as arms
from models.muzero import targets
from models.replay import Replay

K, N, GAMMA, SCALE, H = 3, 2, 0.9, 10.0, 2
SPACE = spaces.Discrete(3)
ACTIONS = arms.actions_of(SPACE, joint_actions=64, sampled_actions=4, temperature=1.0)
EXTRAS = {"policy": ((3,), np.float32), "value": ((), np.float32), "searched": ((), np.float32)}
ONE = np.array([0])


def _episode(length, terminated, more=0):
    """A buffer with one episode; observation t is (t, 1), action t % 3, reward (t + 1) / 10 for step t."""
    replay = Replay(64, 1, ((2,), np.float32), ((), np.int64), extras=EXTRAS)
    replay.start(ONE, np.array([[0.0, 1.0]]))
    for t in range(length):
        last = t == length - 1
        replay.step(
            ONE, np.array([t % 3]), np.array([(t + 1) / 10]), np.array([[t + 1.0, 1.0]]),
            np.array([last and terminated is True]), np.array([last and terminated is False]),
            {"policy": np.eye(3, dtype=np.float32)[[t % 3]], "value": np.array([0.0]),
             "searched": np.array([1.0])},
        )  # fmt: skip
    for _ in range(more):
        replay.start(ONE, np.array([[100.0, 1.0]]))
    return replay


def _unroll(replay, rows):
    rows = np.array(rows)
    return targets.unroll(
        replay, rows, np.ones(len(rows), np.float32), unroll_steps=K, n_step=N, discount=GAMMA,
        reward_scale=SCALE, history=H, shift=np.zeros(2, np.float32), scale=np.ones(2, np.float32),
        actions=ACTIONS, space=SPACE, draw=np.random.default_rng(0),
    )  # fmt: skip


def test_inside_an_episode_every_index_is_right():
    batch = _unroll(_episode(9, None), [1])
    np.testing.assert_array_equal(batch.window[0, :, 0], [0, 1])
    np.testing.assert_array_equal(batch.later[0, :, :, 0], [[1, 2], [2, 3], [3, 4]])
    np.testing.assert_array_equal(batch.code[0].argmax(axis=1), [1, 2, 0])
    np.testing.assert_allclose(batch.reward[0], [2, 3, 4])  # r of the step taken there, scaled by ten
    np.testing.assert_array_equal(batch.policy[0].argmax(axis=1), [1, 2, 0, 1])
    np.testing.assert_allclose(batch.partial_return[0], [2 + 0.9 * 3, 3 + 0.9 * 4, 4 + 0.9 * 5, 5 + 0.9 * 6])
    np.testing.assert_array_equal(batch.bootstrap[0, :, -1, 0], [3, 4, 5, 6])
    np.testing.assert_allclose(batch.bootstrap_discount[0], [0.81] * 4)
    for name in ("reward_weight", "value_weight", "policy_weight", "later_weight"):
        np.testing.assert_array_equal(getattr(batch, name), 1.0, err_msg=name)


def test_after_a_termination_the_state_absorbs():
    batch = _unroll(_episode(4, True, more=1), [3])  # the last transition; row 4 is terminal
    np.testing.assert_allclose(batch.reward[0], [4, 0, 0])
    np.testing.assert_array_equal(batch.reward_weight[0], [1, 1, 1])
    np.testing.assert_allclose(batch.partial_return[0], [4, 0, 0, 0])
    np.testing.assert_array_equal(batch.bootstrap_discount[0], [0, 0, 0, 0])
    np.testing.assert_array_equal(batch.value_weight[0], [1, 1, 1, 1])
    np.testing.assert_allclose(batch.policy[0, 1:], 1 / 3)
    np.testing.assert_array_equal(batch.policy_weight[0], [1, 1, 1, 1])
    np.testing.assert_array_equal(batch.later_weight[0], [1, 0, 0])  # row 4 was seen, nothing after it
    np.testing.assert_allclose(batch.code.sum(axis=-1), 1.0)  # actions at random, but actions


@pytest.mark.parametrize("ending", [False, None], ids=["truncated", "still running"])
def test_what_was_cut_short_is_bootstrapped_and_has_no_weight_beyond(ending):
    batch = _unroll(_episode(4, ending), [3])
    np.testing.assert_allclose(batch.partial_return[0, 0], 4)
    np.testing.assert_allclose(batch.bootstrap_discount[0, 0], GAMMA)  # one step, not two
    np.testing.assert_array_equal(batch.bootstrap[0, 0, -1], [4, 1])  # the last observation of the episode
    np.testing.assert_array_equal(batch.reward_weight[0], [1, 0, 0])
    np.testing.assert_array_equal(batch.value_weight[0], [1, 0, 0, 0])
    np.testing.assert_array_equal(batch.policy_weight[0], [1, 0, 0, 0])
    np.testing.assert_array_equal(batch.later_weight[0], [1, 0, 0])


def test_random_actions_teach_no_policy():
    replay = _episode(6, None)
    replay.write_extra("searched", np.array([2]), np.zeros(1))
    batch = _unroll(replay, [1])
    np.testing.assert_array_equal(batch.policy_weight[0], [1, 0, 1, 1])
    np.testing.assert_array_equal(batch.value_weight[0], [1, 1, 1, 1])


def test_windows_are_blank_before_the_episode():
    replay = _episode(3, True, more=1)
    window = targets.windows(replay, np.array([0, 2, 4]), 3, np.zeros(2), np.ones(2))
    np.testing.assert_array_equal(window[..., 0], [[0, 0, 0], [0, 1, 2], [0, 0, 10]])  # 100 is clipped
    np.testing.assert_array_equal(window[..., 1], [[0, 0, 1], [1, 1, 1], [0, 0, 1]])


def test_importance_weights_undo_the_draw():
    probability = np.array([0.5, 0.25, 0.125])
    np.testing.assert_allclose(targets.importance_weights(probability, 8, 1.0), [0.25, 0.5, 1.0])
    np.testing.assert_allclose(targets.importance_weights(probability, 8, 0.5), np.sqrt([0.25, 0.5, 1.0]))
