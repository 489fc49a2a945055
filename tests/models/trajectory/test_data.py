"""From records to tokens: returns, stops, windows, and what an agent will not be told."""

import numpy as np
import pytest
from gymnasium import spaces

from models.agent import Spaces
from models.trajectory import data
from models.trajectory.data import Record

SPACES = Spaces(spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3, start=-1))
LAYOUT = data.layout_of(SPACES, drawdown=False)
STOP, UNKNOWN = 8, 9


def _record(seed=0, lengths=(5, 3, 7), terminated=(True, False, True)):
    draw = np.random.default_rng(seed)
    count = sum(lengths)
    ends = np.zeros(count, bool)
    ends[np.cumsum(lengths) - 1] = terminated
    return Record(
        draw.uniform(-1, 1, (count, 2)).astype(np.float32),
        draw.integers(-1, 2, count),
        draw.choice([0.0, 1.0, -1.0], count),
        ends,
        np.repeat(np.arange(len(lengths)), lengths),
    )


def _table(record, layout=LAYOUT, steps=4, discount=0.9, bins=8):
    numbers = data.numbers_of(record, layout, discount=discount, steps=steps)
    tokeniser = data.fit_tokeniser(
        numbers, layout, bins, "quantile", data.exact_actions(SPACES.action, layout)
    )
    return data.tabulate(record, numbers, layout, tokeniser, stop=bins, unknown=bins + 1), tokeniser, numbers


def test_returns_stop_at_the_end_and_say_where_they_are_cut():
    record = _record()
    found = data.returns_of(record, discount=0.9, steps=4)
    bounds = record.starts()
    for start, end, over in zip(bounds, bounds[1:], (True, False, True), strict=False):
        for t in range(start, end):
            ahead = record.reward[t : min(end, t + 4)]
            assert found.to_go[t] == pytest.approx((ahead * 0.9 ** np.arange(len(ahead))).sum())
            assert found.known[t] == (over or t + 4 <= end)
            path = np.concatenate([[0], np.cumsum(ahead)])
            assert found.drawdown[t] == pytest.approx((np.maximum.accumulate(path) - path).max())
            if t + 1 < end:
                assert found.after[t] == found.to_go[t + 1]
                assert found.known_after[t] == found.known[t + 1]
        assert found.after[end - 1] == 0.0
        assert found.known_after[end - 1] == over


def test_no_foresight_beyond_the_stated_horizon():
    """What lies further ahead than `steps` changes no return: a target cannot smuggle in the future."""
    record = _record(lengths=(40,), terminated=(False,))
    other = record._replace(reward=np.where(np.arange(40) < 20, record.reward, 5.0))
    one, two = (data.returns_of(each, discount=1.0, steps=4) for each in (record, other))
    np.testing.assert_array_equal(one.to_go[:17], two.to_go[:17])
    assert (one.to_go[17:] != two.to_go[17:]).any()


def test_labels_are_what_follows_and_the_stop_row_says_so():
    record = _record()
    table, tokeniser, numbers = _table(record)
    assert len(table.inputs) == 15 + 2
    np.testing.assert_array_equal(table.begins, [0, 6, 9, 17])
    rows = [*range(5), *range(6, 9), *range(9, 16)]
    np.testing.assert_array_equal(table.inputs[rows], tokeniser.encode(numbers.values).tokens[:, :-1])
    np.testing.assert_array_equal(table.labels[rows, :-1], table.inputs[rows, 1:])
    np.testing.assert_array_equal(tokeniser.decode(table.inputs[rows][:, [3]], [3])[:, 0], record.action)
    assert table.counted[rows, :-1].all()
    np.testing.assert_array_equal(table.counted[rows, -1], numbers.returns.known_after)
    for halt in (5, 16):
        assert table.labels[halt, 0] == STOP
        np.testing.assert_array_equal(table.counted[halt], [True, False, False, False, False])
        np.testing.assert_array_equal(table.inputs[halt, 1:], UNKNOWN)
        assert table.labels[halt - 1, -1] == tokeniser.encode(np.zeros(1), [5]).tokens[0]
    valid = data.valid_tokens(LAYOUT, tokeniser, 8)
    np.testing.assert_array_equal(valid[:, STOP], [True, False, False, False, False])
    assert valid[2].sum() == 3  # the three actions and nothing else


def test_values_and_targets_share_their_bins():
    layout = data.layout_of(SPACES, drawdown=True)
    table, tokeniser, _ = _table(_record(lengths=(30, 30), terminated=(True, False)), layout)
    np.testing.assert_array_equal(tokeniser.columns[0].starts, tokeniser.columns[-1].starts)
    steps = np.arange(25)
    np.testing.assert_array_equal(table.labels[steps, -1], table.inputs[steps + 1, 0])
    assert table.inputs.shape[1] == layout.slots == 6


def _windows(table, starts, draw, **options):
    weights = data.slot_weights(LAYOUT, action=5.0, reward=1.0, value=1.0)
    return data.windows(
        table, starts, 4, LAYOUT, weights, draw, unknown=UNKNOWN, **{"target_dropout": 0.5, **options}
    )


def test_windows_stay_in_their_episode_and_hide_what_is_not_told():
    table, _, _ = _table(_record(lengths=(20, 3, 30), terminated=(True, False, True)))
    draw = np.random.default_rng(0)
    starts = data.sample_starts(table, (400,), 4, draw)
    lengths = np.diff(table.begins)
    assert set(starts) == {
        begin + i for begin, n in zip(table.begins, lengths, strict=False) for i in range(max(1, n - 3))
    }
    found = _windows(table, starts, draw)
    for inputs, weight, start in zip(found.inputs, found.weight, starts, strict=True):
        end = table.begins[np.searchsorted(table.begins, start, side="right")]
        inside = max(0, min(4, end - start))
        assert (weight[inside:] == 0).all()
        hidden = inputs[:inside, LAYOUT.reward] == UNKNOWN
        real = table.inputs[start : start + inside, LAYOUT.reward] != UNKNOWN
        assert (np.diff((hidden | ~real).astype(int))[real[1:]] <= 0).all()  # a first part is hidden
        np.testing.assert_array_equal(inputs[:inside, 1:4], table.inputs[start : start + inside, 1:4])
    whole = starts < table.begins[1] - 8
    shown = (found.inputs[..., 0] != UNKNOWN)[whole]
    assert (shown.all(axis=1) | (~shown).all(axis=1)).all()  # a target is hidden for the whole window
    assert 0.4 < shown[:, 0].mean() < 0.6
    assert set(np.unique(found.weight[..., 2])) <= {0.0, 5.0}
    everything = _windows(table, starts[:3], None, target_dropout=0.0)
    assert (everything.inputs[0, 0] != UNKNOWN).all()


def test_returns_that_are_not_whole_are_no_targets():
    table, _, _ = _table(_record(lengths=(20, 20), terminated=(False, True)))
    found = _windows(table, np.array([16, 36]), None, target_dropout=0.0)
    np.testing.assert_array_equal(found.inputs[0, :, 0] == UNKNOWN, [False, True, True, True])
    assert (found.inputs[1, :4, 0] != UNKNOWN).all()
    np.testing.assert_array_equal(found.weight[0, :, -1], 0.0)


def test_the_two_simplest_models():
    table, _, _ = _table(_record(lengths=(400,), terminated=(False,)))
    copied = table._replace(labels=np.repeat(table.inputs[:, :1], 5, axis=1), counted=np.ones((400, 5), bool))
    unigram, bigram = data.unigram_and_bigram(copied, copied, 10)
    share = np.bincount(table.inputs[:, 0]) / 400
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    np.testing.assert_allclose(unigram, entropy, atol=0.01)
    assert bigram[0] < 0.1 < bigram[3]  # slot 0 sees its own label, the others do not


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": np.full(15, np.nan)}, "reward is not finite"),
        ({"observation": np.zeros((15, 3))}, r"recorded observation has shape \(15, 3\), not \(15, 2\)"),
        ({"episode": np.arange(15) % 2}, "do not follow one another"),
        ({"terminated": np.ones(15, bool)}, "goes on after it was terminated"),
    ],
)
def test_records_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        data.check(_record()._replace(**changes), SPACES)
