"""The network: causal, its cache exact, its loss and its optimiser what they say."""

import numpy as np
import pytest
import tensorflow as tf

from models import networks, rng
from models.planning.beam import DEAD
from models.trajectory import gpt, keyvalue, learning
from models.trajectory.data import Layout
from models.trajectory.plan import Plan, Scales, decode, searcher

SHAPE = gpt.Shape(slots=6, transitions=4, bins=7, width=8, heads=2, layers=2)
LAYOUT = Layout(observation=3, action=1, drawdown=False)
VALID = np.ones((6, 8), bool)


def _weights(seed=0):
    """Large enough that every part matters; biases and gains too."""
    draw = np.random.default_rng(seed)
    return (gpt.initial(SHAPE, seed) + draw.normal(0, 0.1, gpt.size(SHAPE))).astype(np.float32)


def _tokens(seed=0, batch=3):
    return np.random.default_rng(seed).integers(0, 9, (batch, 4, 6)).astype(np.int32)


def test_a_token_changes_nothing_before_it():
    weights, tokens = _weights(), _tokens()
    before = gpt.forward(weights, tokens, VALID, SHAPE).numpy().reshape(3, 24, 8)
    for place in (0, 7, 23):
        changed = tokens.reshape(3, 24).copy()
        changed[:, place] = (changed[:, place] + 1) % 9
        after = gpt.forward(weights, changed.reshape(3, 4, 6), VALID, SHAPE).numpy().reshape(3, 24, 8)
        np.testing.assert_array_equal(before[:, :place], after[:, :place])
        assert (before[:, place:] != after[:, place:]).any(axis=(0, 2)).all()


def test_prefix_and_cache_give_what_the_whole_gives():
    weights, tokens = _weights(), _tokens()
    whole = gpt.forward(weights, tokens, VALID, SHAPE).numpy().reshape(3, 24, 8)
    lengths = np.array([4, 9, 14], np.int32)  # inside a transition, each search elsewhere

    def run(tokens, lengths):
        parts = gpt.unflatten(tf.constant(weights), SHAPE)
        prefix = keyvalue.read_prefix(parts, tokens[:, :3], lengths, VALID, SHAPE)
        cache = keyvalue.empty_cache(6, 4, SHAPE)  # two beams a search
        found = [tf.repeat(prefix.logits, 2, axis=0)]
        for place in range(4):
            at = lengths + place
            fed = tf.gather(tf.reshape(tokens, (3, 24)), at, batch_dims=1)
            # A step feeds one slot to all, so each search is done by itself here.
            logits, new = [], []
            for one in range(3):
                part, cached = keyvalue.step(
                    parts, prefix, cache, tf.repeat(fed, 2), tf.constant(place), at[one] % 6, VALID, SHAPE
                )
                logits.append(part[2 * one : 2 * one + 2])
                new.append([x[:, 2 * one : 2 * one + 2] for x in tf.nest.flatten(cached)])
            cache = tf.nest.pack_sequence_as(cache, [tf.concat(x, axis=1) for x in zip(*new, strict=True)])
            found.append(tf.concat(logits, axis=0))
        return tf.stack(found, axis=1)

    found = tf.function(run, autograph=False)(tf.constant(tokens), tf.constant(lengths))
    for search, length in enumerate(lengths):
        for beam in range(2):
            np.testing.assert_allclose(
                found[2 * search + beam], whole[search, length - 1 : length + 4], atol=1e-5
            )


def test_padding_to_the_right_does_not_matter():
    weights, tokens = tf.constant(_weights()), _tokens()
    parts = gpt.unflatten(weights, SHAPE)
    length = tf.constant([5, 9, 14])
    one = keyvalue.read_prefix(parts, tf.constant(tokens), length, VALID, SHAPE).logits.numpy()
    other = tokens.reshape(3, 24).copy()
    for row, count in enumerate(length.numpy()):
        other[row, count:] = 3
    two = keyvalue.read_prefix(
        parts, tf.constant(other.reshape(3, 4, 6)), length, VALID, SHAPE
    ).logits.numpy()
    np.testing.assert_array_equal(one, two)


def test_attention_is_the_shared_layer_with_the_same_weights():
    parts = gpt.unflatten(tf.constant(_weights()), SHAPE)
    layer = networks.CausalAttention(8, 2, seed=0)
    layer.build((None, 8))
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 6, 8)), tf.float32)
    normed = gpt.normalise(x, parts["0.norm1"])
    # Keras kernels hold the three projections side by side, as ours do.
    layer.inputs.set_weights([parts["0.inputs"].numpy(), parts["0.inputs_bias"].numpy()])
    layer.out.set_weights([parts["0.out"].numpy(), parts["0.out_bias"].numpy()])
    expected = x + layer(normed)[0]
    expected = expected + gpt.feed_forward(parts, 0, expected)
    seen = gpt.trunk(parts, x, SHAPE._replace(layers=1)).hidden
    np.testing.assert_allclose(seen, gpt.normalise(expected, parts["norm"]), atol=1e-5)


def _plan(**changes):
    given = {
        "shape": SHAPE, "layout": LAYOUT, "horizon": 3, "width": 3, "expand": 2, "action_cdf": 0.9,
        "observation_top_k": 2, "score": "return", "likelihood_weight": 0.1, "quantile": None,
        "discount": 0.9,
    }  # fmt: skip
    return Plan(**{**given, **changes})


@pytest.mark.parametrize("score", ["return", "log_probability", "mixture"])
def test_cached_and_recomputed_beams_are_the_same(score):
    draw = np.random.default_rng(1)
    scales = Scales(
        VALID,
        *(tf.constant(draw.normal(size=8), tf.float32) for _ in range(2)),
        tf.constant(1.0),
        tf.constant(0.0),
    )
    tokens = draw.integers(0, 7, (2, 2, 6)).astype(np.int32)
    length, target = tf.constant([4, 10]), tf.constant([[8], [3]])
    found = [
        searcher(_plan(score=score, cached=cached, horizon=2), compiled=jit)(
            tf.constant(_weights()), tf.constant(tokens), length, target, scales, tf.constant(rng.key(5))
        )
        for cached, jit in ((True, score == "return"), (False, False))
    ]
    with_cache, without = (tf.nest.map_structure(lambda x: x.numpy(), beams) for beams in found)
    np.testing.assert_array_equal(with_cache.tokens, without.tokens)
    np.testing.assert_allclose(with_cache.score, without.score, atol=1e-5)
    np.testing.assert_allclose(with_cache.measures["rewards"], without.measures["rewards"], atol=1e-5)
    assert (np.diff(with_cache.score, axis=1) <= 0).all()
    assert (with_cache.tokens[:, :, 2] == [[8], [3]]).all()  # the target, after action and reward


def test_the_return_of_a_plan_is_rewards_and_value_until_it_stops():
    draw = np.random.default_rng(1)
    reward, value = (tf.constant(draw.normal(size=8), tf.float32) for _ in range(2))
    scales = Scales(VALID, reward, value, tf.constant(1.0), tf.constant(0.0))
    tokens = draw.integers(0, 7, (1, 2, 6)).astype(np.int32)
    valid = VALID.copy()
    args = (tf.constant([10]), tf.constant([[8]]), scales._replace(valid=valid), tf.constant(rng.key(0)))
    plan = _plan(observation_top_k=1)
    beams = searcher(plan, compiled=False)(tf.constant(_weights(2)), tf.constant(tokens), *args)
    live_beams = int((beams.score.numpy()[0] > DEAD / 2).sum())
    assert live_beams >= 2
    for number in range(live_beams):
        row = beams.tokens.numpy()[0, number]
        fed = np.full((1, 4, 6), 8, np.int32).reshape(24)
        fed[:10] = tokens.reshape(12)[:10]
        fed[10:24] = row[:14]
        logits = gpt.forward(_weights(2), fed.reshape(1, 4, 6), VALID, SHAPE)[0]
        shares = tf.nn.softmax(logits).numpy()  # [T, K, C]
        live, expected = 1.0, 0.0
        for k in range(3):
            if k > 0 and fed.reshape(4, 6)[1 + k, 1] == 7:
                live = 0.0
            expected += live * 0.9**k * (shares[1 + k, 4] @ reward.numpy())
        expected += live * 0.9**3 * (shares[3, 5] @ value.numpy())
        assert beams.score.numpy()[0, number] == pytest.approx(expected, abs=1e-5)


def test_a_quantile_decodes_to_the_token_that_reaches_it():
    logits = tf.constant(np.log([[0.2, 0.3, 0.5]]), tf.float32)
    centres = tf.constant([-1.0, 0.0, 2.0])
    found = [float(decode(logits, centres, q)[0]) for q in (None, 0.1, 0.2, 0.5, 0.51, 1.0)]
    np.testing.assert_allclose(found, [0.8, -1.0, -1.0, 0.0, 2.0, 2.0], atol=1e-6)


def test_losses_are_the_cross_entropy_and_impossible_tokens_have_none():
    weights, tokens = _weights(), _tokens()
    labels = np.random.default_rng(2).integers(0, 4, (3, 4, 6)).astype(np.int32)
    valid = VALID.copy()
    valid[:, 5:] = False
    logits = gpt.forward(weights, tokens, valid, SHAPE)
    assert (tf.nn.softmax(logits).numpy()[..., 5:] == 0).all()
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits).numpy()  # [B, T, K]
    found = learning.losses(
        tf.constant(weights), tf.constant(tokens), tf.constant(labels), valid, SHAPE
    ).numpy()
    np.testing.assert_allclose(found, expected.reshape(12, 6).T, atol=1e-4)


def test_dropout_keeps_the_mean_and_follows_its_seed():
    x = tf.ones((1000, 40))
    dropped = gpt._drop(x, 0.25, rng.key(3)).numpy()
    assert set(np.unique(dropped)) == {np.float32(0.0), np.float32(4 / 3)}
    assert dropped.mean() == pytest.approx(1.0, abs=0.01)
    np.testing.assert_array_equal(dropped, gpt._drop(x, 0.25, rng.key(3)))
    assert gpt._drop(x, 0.25, None) is x


def test_the_rate_rises_then_falls_and_only_kernels_decay():
    schedule = learning.Schedule(1.0, 0.1, 10, 110, 0.5, 1.0)
    rates = [float(learning.learning_rate(count, schedule)) for count in (1, 5, 10, 60, 110, 200)]
    np.testing.assert_allclose(rates, [0.1, 0.5, 1.0, 0.55, 0.1, 0.1], atol=1e-6)
    parts = gpt.unflatten(tf.constant(learning.decays(SHAPE)), SHAPE)
    for name, values in parts.items():
        kernel = name.split(".")[-1] in ("inputs", "out", "up", "down", "head")
        assert (values.numpy() == float(kernel)).all(), name


def test_one_update_is_adamw():
    schedule = learning.Schedule(0.01, 0.01, 0, 10, 0.1, 1e9)
    weights, tokens = _weights(), _tokens()
    labels, weight = tokens % 7, np.ones((3, 4, 6), np.float32)
    weight[:, :, 0] = 0.0
    zeros = tf.zeros(gpt.size(SHAPE))
    learner = learning.Learner(tf.constant(weights), zeros, zeros, tf.constant(0))
    run = learning.updates(SHAPE, schedule, 0.0)
    after, metrics = run(learner, tokens[None], labels[None], weight[None], VALID, rng.key(0))
    flat = tf.constant(weights)
    with tf.GradientTape() as tape:
        tape.watch(flat)
        each = learning.losses(flat, tokens, labels, VALID, SHAPE)  # [K, B * T]
        loss = tf.reduce_mean(each[1:])
    gradient = tape.gradient(loss, flat).numpy()
    direction = gradient / (np.abs(gradient) + 1e-8)
    expected = weights - 0.01 * (direction + 0.1 * learning.decays(SHAPE) * weights)
    sure = np.abs(gradient) > 1e-5
    np.testing.assert_allclose(after.weights.numpy()[sure], expected[sure], atol=1e-4)
    assert metrics.numpy()[0, -2] == pytest.approx(float(loss), rel=1e-5)
    assert int(after.updates) == 1
