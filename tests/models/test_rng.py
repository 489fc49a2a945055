"""The random stream: the same in eager mode, in a graph and under XLA, and distributed as it says."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from models import rng

SHAPE = (64, 33)

EXACT = {
    "bits": lambda s: rng.bits(s, SHAPE),
    "uniform": lambda s: rng.uniform(s, SHAPE),
    "integers": lambda s: rng.integers(s, SHAPE, -3, 1000),
    "categorical": lambda s: rng.categorical(s, tf.reshape(tf.range(60, dtype=tf.float32), (20, 3)) % 5.0),
    "permutation": lambda s: rng.permutation(s, 50, (4,)),
    "split": lambda s: tf.stack(rng.split(s, 5)),
    "fold_in name": lambda s: rng.fold_in(s, "actor"),
    "fold_in number": lambda s: rng.fold_in(s, tf.constant(7)),
}
CLOSE = {
    "uniform bounds": lambda s: rng.uniform(s, SHAPE, -2.0, 3.0),
    "normal": lambda s: rng.normal(s, SHAPE, 1.0, 2.0),
    "gumbel": lambda s: rng.gumbel(s, SHAPE),
    "truncated normal": lambda s: rng.truncated_normal(s, tf.linspace(-3.0, 1.5, 33), 2.5, SHAPE),
}


def _three_ways(draw):
    seed = tf.constant(rng.key(20_240_117))  # an argument, since XLA folds constants on the host
    graph = tf.function(draw, autograph=False)
    compiled = tf.function(draw, autograph=False, jit_compile=True)
    return draw(seed).numpy(), graph(seed).numpy(), compiled(seed).numpy()


@pytest.mark.parametrize("name", EXACT)
def test_eager_graph_and_xla_draw_the_same_bits(name):
    eager, graph, compiled = _three_ways(EXACT[name])
    np.testing.assert_array_equal(eager, graph)
    np.testing.assert_array_equal(eager, compiled)


@pytest.mark.parametrize("name", CLOSE)
def test_eager_graph_and_xla_draw_the_same_floats(name):
    eager, graph, compiled = _three_ways(CLOSE[name])
    np.testing.assert_array_equal(eager, graph)
    np.testing.assert_allclose(eager, compiled, rtol=1e-5, atol=1e-5)


def test_draws_follow_their_distributions():
    seeds = rng.split(rng.key(3), 5)
    n = 20_000
    assert stats.kstest(rng.uniform(seeds[0], (n,)).numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(rng.normal(seeds[1], (n,)).numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(rng.gumbel(seeds[2], (n,)).numpy(), "gumbel_r").pvalue > 1e-3
    for low, high in ((-1.0, 2.0), (1.0, 3.0), (3.0, 5.0), (-6.0, -4.0)):
        draws = rng.truncated_normal(seeds[3], tf.fill((n,), low), high).numpy()
        assert draws.min() >= low
        assert draws.max() <= high
        assert stats.kstest(draws, stats.truncnorm(low, high).cdf).pvalue > 1e-3
    logits = np.log([0.1, 0.2, 0.7]).astype(np.float32)
    counts = np.bincount(rng.categorical(seeds[4], np.tile(logits, (n, 1))).numpy(), minlength=3)
    assert stats.chisquare(counts, n * np.array([0.1, 0.2, 0.7])).pvalue > 1e-3


def test_permutations_are_permutations():
    orders = rng.permutation(rng.key(1), 40, (8,)).numpy()
    np.testing.assert_array_equal(np.sort(orders, axis=-1), np.tile(np.arange(40), (8, 1)))
    assert len({tuple(order) for order in orders}) == 8


def test_integers_fill_their_range_and_no_more():
    draws = rng.integers(rng.key(5), (5000,), 2, 9).numpy()
    assert set(draws.tolist()) == set(range(2, 9))


def test_host_streams_are_pure_functions_of_seed_and_path():
    first = rng.generator(7, "explore", 12).random(4)
    np.testing.assert_array_equal(first, rng.generator(7, "explore", 12).random(4))
    others = [(8, "explore", 12), (7, "explore", 13), (7, "replay", 12), (7, 12)]
    assert all(not np.array_equal(first, rng.generator(*path).random(4)) for path in others)
    assert rng.derive(0, "a") != rng.derive(0, "b")
    assert 0 <= rng.derive(2**63, "a", 1) < 2**31


def test_key_holds_64_bits():
    np.testing.assert_array_equal(rng.key(5), np.array([5, 0], np.int32))
    assert not np.array_equal(rng.key(1 << 40), rng.key(0))
