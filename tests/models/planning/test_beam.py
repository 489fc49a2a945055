"""Beam search against exhaustive search over small sequence models that are tables."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from models import rng
from models.planning.beam import DEAD, Slot, Start, beam_search, by_log_probability

VOCABULARY, STEPS = 3, 4


def _table(seed, batch=2):
    """Logits of the next token for every search and every history: a tree of depth STEPS."""
    draw = np.random.default_rng(seed)
    return draw.normal(0.0, 1.5, (batch, *(VOCABULARY + 1,) * (STEPS - 1), VOCABULARY)).astype(np.float32)


def _history(table, tokens):
    """Logits after `tokens`; the last index of each axis means "not yet"."""
    index = [*tokens, *[VOCABULARY] * (STEPS - 1 - len(tokens))]
    return table[tuple(index)]


def _search(
    table, *, width, expand, pattern, score, measure=None, measures=None, seed=0, jit=True, given=None
):
    batch = len(table)
    flat = tf.constant(table.reshape(batch, -1, VOCABULARY))
    shape = (VOCABULARY + 1,) * (STEPS - 1)
    strides = np.array([int(np.prod(shape[i + 1 :])) for i in range(len(shape))], np.int32)

    def step(state, tokens, place):
        written = tf.where(tf.range(STEPS - 1) == place, tokens[:, None], state)  # [N, STEPS - 1]
        index = tf.reduce_sum(written * strides, axis=1)
        owner = tf.repeat(tf.range(batch), tf.shape(tokens)[0] // batch)
        return tf.gather_nd(flat, tf.stack([owner, index], axis=1)), written

    empty = np.full((batch * width, STEPS - 1), VOCABULARY, np.int32)
    first = np.stack([_history(one, []) for one in table])

    def run(key):
        return beam_search(
            step,
            Start(tf.constant(empty), tf.constant(first), measures or {"none": tf.zeros((batch, 1))}),
            width=width,
            expand=expand,
            steps=STEPS,
            score=score,
            seed=key,
            pattern=pattern,
            measure=measure or (lambda measures, *_: measures),
            reorder=lambda state, rows: tf.gather(state, rows),
            given=given,
        )

    beams = tf.function(run, jit_compile=jit, autograph=False)(tf.constant(rng.key(seed)))
    return tf.nest.map_structure(lambda x: x.numpy(), beams)


def _log_probability(table, tokens):
    total = 0.0
    for place, token in enumerate(tokens):
        logits = _history(table, tokens[:place]).astype(np.float64)
        total += logits[token] - np.log(np.exp(logits).sum())
    return total


SEQUENCES = list(itertools.product(range(VOCABULARY), repeat=STEPS))


@pytest.mark.parametrize("jit", [True, False])
def test_a_wide_beam_finds_the_likeliest_sequences_in_order(jit):
    table = _table(0)
    beams = _search(table, width=27, expand=3, pattern=[Slot("beam")], score=by_log_probability, jit=jit)
    for one, tokens, score in zip(table, beams.tokens, beams.score, strict=True):
        ranked = sorted(SEQUENCES, key=lambda sequence: -_log_probability(one, sequence))[:27]
        np.testing.assert_array_equal(tokens, ranked)
        np.testing.assert_allclose(score, [_log_probability(one, sequence) for sequence in ranked], atol=1e-5)
    np.testing.assert_array_equal(beams.broken, 0)


def test_a_narrow_beam_is_the_textbook_one():
    table = _table(1)
    beams = _search(table, width=2, expand=3, pattern=[Slot("beam")], score=by_log_probability)
    for one, tokens in zip(table, beams.tokens, strict=True):
        alive = [()]
        for _ in range(STEPS):
            longer = [(*beam, token) for beam in alive for token in range(VOCABULARY)]
            alive = sorted(longer, key=lambda sequence: -_log_probability(one, sequence))[:2]
        np.testing.assert_array_equal(tokens, alive)


def _worth(batch, steps=STEPS):
    """Pay for tokens at odd places, which follow the choice made just before."""
    draw = np.random.default_rng(9)
    return draw.normal(size=(batch, steps, VOCABULARY)).astype(np.float32)


def test_branches_live_until_they_can_be_judged():
    """Choose at even places, be told at odd ones: with width enough the best return of all is found."""
    table = _table(2)
    pay = tf.constant(_worth(2))

    def measure(measures, logits, tokens, place):
        gained = tf.gather(tf.gather(pay, place, axis=1), tokens, batch_dims=1)
        return {"return": measures["return"] + tf.where(place % 2 == 1, gained, 0.0)}

    beams = _search(
        table,
        width=9,
        expand=3,
        pattern=[Slot("branch"), Slot("draw", prune=True)],
        score=lambda _, measures: measures["return"],
        measure=measure,
        measures={"return": tf.zeros((2, 1))},
    )
    for batch, one in enumerate(table):
        returns = {}
        for first, second in itertools.product(range(VOCABULARY), repeat=2):
            told = int(_history(one, [first]).argmax())
            also = int(_history(one, [first, told, second]).argmax())
            value = pay[batch, 1, told].numpy() + pay[batch, 3, also].numpy()
            returns[first, told, second, also] = value
        ranked = sorted(returns.values(), reverse=True)
        np.testing.assert_allclose(beams.score[batch], ranked, rtol=1e-5)
        assert returns[tuple(beams.tokens[batch, 0])] == pytest.approx(ranked[0], rel=1e-5)
        assert len({tuple(tokens) for tokens in beams.tokens[batch]}) == 9  # never twice the same


def test_elements_of_a_batch_do_not_influence_each_other():
    table = _table(3, batch=3)
    options = {"width": 2, "expand": 2, "pattern": [Slot("beam")], "score": by_log_probability}
    together = _search(table, **options)
    for place in range(3):
        alone = _search(table[place : place + 1], jit=False, **options)
        np.testing.assert_array_equal(together.tokens[place], alone.tokens[0])


def test_not_a_number_never_wins_and_is_counted():
    table = _table(4)

    def measure(measures, logits, tokens, place):
        return {"return": tf.where(tokens == 0, np.nan, measures["return"] + tf.cast(tokens, tf.float32))}

    beams = _search(
        table,
        width=3,
        expand=3,
        pattern=[Slot("beam")],
        score=lambda _, measures: measures["return"],
        measure=measure,
        measures={"return": tf.zeros((2, 1))},
    )
    assert (beams.tokens[:, 0] == 2).all()
    assert np.isfinite(beams.score).all()
    assert (beams.broken > 0).all()
    assert not (beams.tokens[beams.score > DEAD / 2] == 0).any()


def test_truncation_leaves_unlikely_tokens_out():
    table = np.full_like(_table(5), 0.0)
    table[..., 0], table[..., 1], table[..., 2] = np.log([0.5, 0.3, 0.2])
    for slot, count in (
        (Slot("beam", cdf=0.5), 1),
        (Slot("beam", cdf=0.51), 2),
        (Slot("beam", cdf=0.81), 3),
        (Slot("beam", top_k=2), 2),
    ):
        beams = _search(table, width=81, expand=3, pattern=[slot], score=by_log_probability, jit=False)
        alive = beams.score > DEAD / 2
        assert alive.sum() == 2 * count**STEPS, slot
        assert beams.tokens[alive].max() == count - 1, slot


def test_samples_follow_the_probabilities_and_the_seed():
    table = np.full_like(_table(6, batch=1), 0.0)
    table[..., 0], table[..., 1], table[..., 2] = np.log([0.5, 0.3, 0.2])
    table = np.repeat(table, 2000, axis=0)
    options = {"width": 1, "expand": 1, "pattern": [Slot("draw", sample=True)], "score": by_log_probability}
    tokens = _search(table, seed=1, **options).tokens[:, 0]
    np.testing.assert_allclose([(tokens == i).mean() for i in range(3)], [0.5, 0.3, 0.2], atol=0.02)
    np.testing.assert_array_equal(tokens, _search(table, seed=1, jit=False, **options).tokens[:, 0])
    assert (tokens != _search(table, seed=2, **options).tokens[:, 0]).any()
    assert len(np.unique(tokens, axis=0)) == 81


def test_given_tokens_are_fed_and_cost_no_probability():
    table = _table(7)
    forced = np.array([[2, 1]], np.int32)
    beams = _search(
        table,
        width=3,
        expand=3,
        pattern=[Slot("given"), Slot("beam")],
        score=by_log_probability,
        given=lambda place: tf.tile(tf.gather(tf.constant(forced[0]), place // 2)[None], (2,)),
    )
    np.testing.assert_array_equal(beams.tokens[..., 0], 2)
    np.testing.assert_array_equal(beams.tokens[..., 2], 1)
    best = max(
        (_log_probability(table[0], [2, a, 1, b]) - _log_probability(table[0], [2])
         - _log_probability(table[0], [2, a, 1]) + _log_probability(table[0], [2, a]))
        for a, b in itertools.product(range(3), repeat=2)
    )  # fmt: skip
    assert beams.score[0, 0] == pytest.approx(best, abs=1e-5)
