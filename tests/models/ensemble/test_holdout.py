"""What is held out: whole blocks, the same ones whatever the buffer holds, and no moment twice."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ensemble import holdout


@given(
    streams=st.integers(1, 5), length=st.integers(1, 200), block=st.integers(1, 20),
    share=st.floats(0.05, 0.5), seed=st.integers(0, 5),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_blocks_are_whole_and_have_their_share(streams, length, block, share, seed):
    held = holdout.blocks(streams, length, share=share, block=block, draw=np.random.default_rng(seed))
    assert held.shape == (streams * length,)
    by_stream = held.reshape(streams, length)
    for start in range(0, length, block):
        part = by_stream[:, start : start + block]
        assert (part == part[:, :1]).all()
    group = max(2, round(1 / share))
    turns = by_stream[:, ::block].T.reshape(-1)  # in the order they fill up
    for start in range(0, len(turns) - group + 1, group):
        assert turns[start : start + group].sum() == 1


def test_a_short_history_has_something_to_judge_by():
    for seed in range(20):
        held = holdout.blocks(1, 10_000, share=0.15, block=16, draw=np.random.default_rng(seed))
        assert 16 <= held[:200].sum() <= 32
        assert abs(held.mean() - 1 / 7) < 0.01


def test_the_same_moment_in_another_episode_is_recognised():
    draw = np.random.default_rng(0)
    moments = draw.normal(size=(500, 4)).astype(np.float32)
    held_rows, other_rows = np.arange(100, 130), np.concatenate([np.arange(90), np.arange(110, 125), [400]])
    position = draw.choice([-1.0, 0.0, 1.0], (500, 2)).astype(np.float32)
    held = np.concatenate([moments[held_rows], position[held_rows]], axis=1)
    other = np.concatenate([moments[other_rows], position[other_rows[::-1]]], axis=1)  # held otherwise
    same = holdout.same_moment(other, held)
    np.testing.assert_array_equal(same, np.isin(other_rows, held_rows))
    assert not holdout.same_moment(position, position[:50]).any()  # such numbers tell nothing


def test_a_resample_takes_all_steps_of_a_moment_and_keeps_to_it_while_the_data_grow():
    draw = np.random.default_rng(1)
    moments = draw.normal(size=(2000, 2)).astype(np.float32)
    visited = draw.integers(2000, size=5000)
    held = draw.normal(size=(5000, 1)).astype(np.float32)  # differs from visit to visit
    shown = np.concatenate([moments[visited], held], axis=1)
    counts = holdout.resample(shown, np.arange(5000), 3)
    assert all(len(set(counts[visited == moment])) <= 1 for moment in range(0, 2000, 7))
    np.testing.assert_array_equal(holdout.resample(shown[:3000], np.arange(3000), 3), counts[:3000])
    one_each = counts[np.unique(visited, return_index=True)[1]]
    share = np.bincount(one_each, minlength=4)[:4] / len(one_each)
    np.testing.assert_allclose(share, np.exp(-1) / np.array([1, 1, 2, 6]), atol=0.035)
    plain = holdout.resample(np.zeros((5000, 1)), np.arange(5000), 3)
    assert abs(plain.mean() - 1.0) < 0.06
    assert abs(np.corrcoef(plain, holdout.resample(np.zeros((5000, 1)), np.arange(5000), 4))[0, 1]) < 0.05
