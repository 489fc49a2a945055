"""Layers: seeds, shapes, independence, and the cache that changes nothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import networks


def _input(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("norm", ["none", "rms", "layer"])
def test_a_stack_is_a_function_of_its_seed(norm):
    x = _input(5, 3)
    first, same, other = (networks.MLP((8, 8), 2, seed=seed, norm=norm) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first(x), same(x))
    assert not np.allclose(first(x), other(x))
    assert first(x).shape == (5, 2)
    assert len(first.trainable_variables) == 6 + {"none": 0, "rms": 2, "layer": 4}[norm]


def test_a_stack_equals_the_formula_and_can_start_at_zero():
    x = _input(4, 3)
    stack = networks.MLP((6,), 2, seed=0, activation="tanh")
    stack.build((None, 3))
    w, b, v, c = (variable.numpy() for variable in stack.trainable_variables)
    np.testing.assert_allclose(stack(x), np.tanh(x @ w + b) @ v + c, rtol=1e-5, atol=1e-6)
    zero = networks.MLP((6,), 2, seed=0, output_scale=0.0)
    np.testing.assert_array_equal(zero(x), np.zeros((4, 2)))
    assert networks.MLP((6,), seed=0)(x).shape == (4, 6)


def test_rms_norm_has_unit_root_mean_square():
    y = networks.RMSNorm(epsilon=1e-8)(100.0 * _input(7, 16))
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(y), -1)), np.ones(7), rtol=1e-4)


def test_ensemble_members_are_independent_and_one_matmul_equals_the_loop():
    layer = networks.EnsembleDense(4, 5, seed=3)
    x = _input(4, 6, 3)
    y = layer(x).numpy()
    for member in range(4):
        expected = x[member] @ layer.kernel[member] + layer.bias[member]
        np.testing.assert_allclose(y[member], expected, rtol=1e-5, atol=1e-6)
    assert len({kernel.tobytes() for kernel in layer.kernel.numpy()}) == 4
    order = [2, 0, 3, 1]
    layer.kernel.assign(tf.gather(layer.kernel, order))
    np.testing.assert_allclose(layer(tf.gather(x, order)), y[order], rtol=1e-6)
    assert layer(x[0]).shape == (4, 6, 5)


def test_gru_remembers_when_its_update_gate_is_shut():
    cell = networks.GRUCell(6, seed=0, norm="none")
    h, x = _input(2, 6), _input(2, 3, seed=1)
    assert cell(h, x).shape == (2, 6)
    cell.gates.bias.assign(tf.concat([tf.zeros(12), tf.fill((6,), -50.0)], 0))
    np.testing.assert_allclose(cell(h, x), h, rtol=1e-5)
    cell.gates.bias.assign(tf.concat([tf.fill((6,), -50.0), tf.zeros(6), tf.fill((6,), 50.0)], 0))
    np.testing.assert_allclose(cell(h, x), np.zeros((2, 6)), atol=1e-6)  # reset shut: nothing new either


def _attention():
    layer = networks.CausalAttention(8, 2, seed=5)
    layer.build((None, None, 8))
    return layer


def test_attention_never_looks_ahead():
    layer, x = _attention(), _input(2, 7, 8)
    before, _ = layer(x)
    changed = tf.concat([x[:, :4], x[:, 4:] + 1.0], axis=1)
    after, _ = layer(changed)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert not np.allclose(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("split", [(7,), (1,) * 7, (3, 4), (2, 1, 4)])
def test_cached_attention_equals_the_whole(split, jit):
    layer, x = _attention(), _input(2, 7, 8)
    hidden = tf.constant([False, True, False, False, True, False, False])
    padded = tf.concat([hidden, [False, False]], 0)
    whole, _ = layer(x, hidden=hidden)
    step = tf.function(layer, jit_compile=jit, autograph=False)
    cache, position, parts = layer.empty_cache(2, 9), 0, []
    for size in split:
        part, cache = step(
            x[:, position : position + size], hidden=padded, cache=cache, position=tf.constant(position)
        )
        parts.append(part)
        position += size
    np.testing.assert_allclose(tf.concat(parts, 1), whole, atol=1e-5)


def test_hidden_steps_are_seen_by_themselves_only():
    layer, x = _attention(), _input(2, 6, 8)
    hidden = tf.constant([False, False, True, False, False, False])
    before, _ = layer(x, hidden=hidden)
    changed = x + tf.one_hot(2, 6)[:, None] * 3.0
    after, _ = layer(changed, hidden=hidden)
    np.testing.assert_array_equal(np.delete(before, 2, 1), np.delete(after, 2, 1))
    assert not np.allclose(before[:, 2], after[:, 2])
    first = tf.constant([True, False, False, False, False, False])
    np.testing.assert_allclose(layer(x, hidden=first)[0][:, :1], layer(x[:, :1])[0], atol=1e-6)


def test_keras_tracks_every_weight():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [networks.MLP((4,), 4, seed=0), networks.GRUCell(4, seed=1)]

        def call(self, x):
            return self.parts[1](self.parts[0](x), x)

    model = Model()
    model(_input(2, 4))
    assert len(model.trainable_variables) == 4 + 2 + 1
