"""The buffer: what goes in comes out, in order, and nothing else does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.priorities import SumTree
from models.replay import Replay


def _buffer(capacity=24, streams=2, **options):
    return Replay(capacity, streams, ((2,), np.float32), ((), np.int64), **options)


def _feed(replay, calls, *, seed=0, end=0.2):
    """Random episodes whose observation is (stream, number of the row); returns all true transitions."""
    draw = np.random.default_rng(seed)
    streams = np.arange(replay.streams)
    counts = np.zeros(replay.streams, int)
    truth = {}

    def show(which):
        rows = np.stack([which, counts[which]], 1).astype(np.float32)
        counts[which] += 1
        return rows

    replay.start(streams, show(streams))
    for _ in range(calls):
        action, reward = draw.integers(0, 9, replay.streams), draw.normal(size=replay.streams)
        over = draw.random(replay.streams) < end
        terminated = over & (draw.random(replay.streams) < 0.5)
        before = counts - 1
        arrived = show(streams)
        replay.step(streams, action, reward, arrived, terminated, over & ~terminated)
        for s in streams:
            ends = (bool(terminated[s]), bool(over[s] and not terminated[s]))
            truth[s, before[s]] = (action[s], np.float32(reward[s]), *ends)
        if over.any():
            replay.start(streams[over], show(streams[over]))
    return truth


def test_transitions_are_the_true_ones_after_many_rounds_of_the_ring():
    replay = _buffer()
    truth = _feed(replay, 100)
    rows = replay.sample(2000, np.random.default_rng(0))
    batch = replay.n_step(rows, 1, 0.9)
    for i in range(len(rows)):
        action, reward, terminated, _ = truth[tuple(batch.observation[i].astype(int))]
        assert batch.action[i] == action
        assert batch.reward[i] == pytest.approx(reward, rel=1e-6)
        assert batch.discount[i] == pytest.approx(0.0 if terminated else 0.9)
        np.testing.assert_array_equal(batch.next_observation[i], batch.observation[i] + [0.0, 1.0])
    assert len(set(rows.tolist())) == replay.transitions  # every one is drawn, and no row without one
    counts = np.unique(rows, return_counts=True)[1]
    assert counts.min() > 0.5 * counts.mean()


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 6), calls=st.integers(1, 60), seed=st.integers(0, 99))
def test_n_step_returns_equal_the_loop(n, calls, seed):
    replay = _buffer()
    truth = _feed(replay, calls, seed=seed)
    rows = replay.sample(20, np.random.default_rng(seed))
    batch = replay.n_step(rows, n, 0.9)
    for i in range(len(rows)):
        stream, number = batch.observation[i].astype(int)
        total, weight = 0.0, 1.0
        for _ in range(n):
            _, reward, terminated, truncated = truth[stream, number]
            total, weight, number = total + weight * reward, weight * 0.9, number + 1
            if terminated:
                weight = 0.0
            if terminated or truncated or (stream, number) not in truth:
                break
        assert batch.reward[i] == pytest.approx(total, rel=1e-5, abs=1e-5)
        assert batch.discount[i] == pytest.approx(weight, rel=1e-5)
        np.testing.assert_array_equal(batch.next_observation[i], [stream, number])


def test_sequences_are_consecutive_rows_with_their_starts():
    replay = _buffer(capacity=60)
    truth = _feed(replay, 100)
    found = replay.sample_sequences(200, 7, np.random.default_rng(0))
    np.testing.assert_array_equal(np.diff(found.observation[..., 1], axis=1), np.ones((200, 6)))
    for b in range(200):
        for t in range(1, 7):
            stream, number = found.observation[b, t].astype(int)
            assert found.is_first[b, t] == ((stream, number - 1) not in truth)
            if not found.is_first[b, t]:
                action, reward, *ends = truth[stream, number - 1]
                assert found.action[b, t - 1] == action
                assert found.reward[b, t] == reward
                assert [found.terminated[b, t], found.truncated[b, t]] == ends
    newest = found.observation[..., 1].max()
    assert newest == max(number for _, number in truth) + 1 or found.is_first.any()


def test_windows_stop_at_the_end_of_the_episode():
    replay = _buffer(streams=1)
    one = np.zeros(1, int)
    replay.start(one, np.zeros((1, 2)))
    for t in range(3):
        end = np.array([t == 2])
        replay.step(one, one, np.ones(1), np.full((1, 2), t + 1), end, ~end & False)
    replay.start(one, np.full((1, 2), 9))
    window = replay.window(np.array([1]), 4)
    assert window.mask.tolist() == [[True, True, True, False, False]]
    assert replay.read("observation", window.rows)[0, :, 0].tolist() == [1, 2, 3, 3, 3]


def test_an_interrupted_episode_leaves_no_transition_across_the_cut():
    replay = _buffer(streams=1)
    one = np.zeros(1, int)
    replay.start(one, np.zeros((1, 2)))
    replay.start(one, np.ones((1, 2)))
    replay.step(one, one, one, np.full((1, 2), 2.0), one > 0, one > 0)
    assert set(replay.sample(50, np.random.default_rng(0)).tolist()) == {1}


def test_extras_stay_with_their_row_and_can_be_rewritten():
    replay = _buffer(streams=1, extras={"latent": ((3,), np.float32)})
    one = np.zeros(1, int)
    replay.start(one, np.zeros((1, 2)))
    no = one > 0
    replay.step(one, one, one, np.ones((1, 2)), no, no, {"latent": np.full((1, 3), 5.0)})
    replay.step(one, one, one, np.ones((1, 2)), no, no, {"latent": np.full((1, 3), 6.0)})
    replay.write_extra("latent", np.array([1]), np.full((1, 3), 7.0))
    found = replay.sample_sequences(1, 3, np.random.default_rng(0))
    assert found.extras["latent"][0, :, 0].tolist() == [5.0, 7.0, 0.0]


def test_restored_equals_unbroken():
    for prioritised in (False, True):
        whole = _buffer(prioritised=prioritised)
        _feed(whole, 37)
        copy = _buffer(prioritised=prioritised)
        copy.restore({name: array.copy() for name, array in whole.state().items()})
        if prioritised:
            rows = whole.sample(5, np.random.default_rng(4))
            for replay in (whole, copy):
                replay.prioritise(rows, np.arange(1.0, 6.0))
        for replay in (whole, copy):
            _feed(replay, 11, seed=1)
        for name, array in whole.state().items():
            np.testing.assert_array_equal(array, copy.state()[name], err_msg=name)
        same = [replay.sample(64, np.random.default_rng(2)) for replay in (whole, copy)]
        np.testing.assert_array_equal(*same)


def test_state_of_a_young_buffer_is_small():
    replay = _buffer(capacity=10_000)
    _feed(replay, 5, end=0.0)
    assert replay.state()["observation"].shape == (2, 6, 2)


def test_empty_and_wrong_uses_are_refused():
    replay = _buffer()
    draw = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no transition yet"):
        replay.sample(1, draw)
    with pytest.raises(ValueError, match="no sequence of 5 rows yet"):
        replay.sample_sequences(1, 5, draw)
    with pytest.raises(ValueError, match="without priorities"):
        replay.sample_prioritised(1, draw)
    with pytest.raises(ValueError, match="under two rows"):
        _buffer(capacity=3)


def test_priorities_steer_the_draw_and_skip_overwritten_rows():
    replay = _buffer(capacity=40, prioritised=True)
    _feed(replay, 15, end=0.0)
    rows = np.unique(replay.sample(400, np.random.default_rng(0)))
    priorities = np.linspace(0.0, 3.0, len(rows))
    replay.prioritise(rows, priorities)
    drawn, probability = replay.sample_prioritised(30_000, np.random.default_rng(1))
    share = np.array([(drawn == row).mean() for row in rows])
    np.testing.assert_allclose(share, priorities / priorities.sum(), atol=2e-3)
    np.testing.assert_allclose(probability[drawn == rows[-1]], priorities[-1] / priorities.sum())
    head = replay.head(np.array([0]))
    replay.prioritise(head, np.array([1e9]))  # has no transition
    assert head[0] not in replay.sample_prioritised(1000, np.random.default_rng(2))[0]


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=40).filter(lambda v: sum(v) > 0))
def test_sum_tree_finds_what_a_running_sum_finds(values):
    tree = SumTree(len(values))
    order = np.random.default_rng(0).permutation(len(values))
    tree.set(order, np.array(values)[order])
    assert tree.total == pytest.approx(sum(values))
    targets = np.linspace(0, 1, 50, endpoint=False) * tree.total
    found = tree.find(targets)
    assert (np.array(values)[found] > 0).all()
    ends = np.cumsum(values)
    slack = 1e-9 * tree.total
    assert (targets <= ends[found] + slack).all()
    assert (targets >= ends[found] - np.array(values)[found] - slack).all()


@pytest.mark.parametrize("bad", [np.nan, -1.0, np.inf])
def test_sum_tree_refuses_what_is_no_priority(bad):
    with pytest.raises(ValueError, match="finite"):
        SumTree(4).set(np.array([1]), np.array([bad]))


def test_history_goes_back_to_the_start_of_the_episode_and_no_further():
    replay = _buffer()
    _feed(replay, 100)
    rows = np.flatnonzero(replay.read("complete", np.arange(24)))
    found = replay.history(rows, 4)
    assert found.mask[:, -1].all()
    np.testing.assert_array_equal(found.rows[:, -1], rows)
    shown = replay.read("observation", found.rows)  # (stream, number of the row)
    first, stream = replay.read("is_first", found.rows), rows // 12
    assert not found.mask.all()
    for b in range(len(rows)):
        length = int(found.mask[b].sum())
        numbers = shown[b, -length:, 1]
        np.testing.assert_array_equal(numbers, shown[b, -1, 1] - np.arange(length)[::-1])
        assert not first[b, -length + 1 :].any() or length == 1
        oldest = (
            shown[b, -1, 1] - length + 1
            == replay.read("observation", np.arange(24))[stream[b] * 12 :][:12, 1].min()
        )
        assert length == 4 or first[b, -length] or oldest
        assert not found.mask[b, : 4 - length].any()
