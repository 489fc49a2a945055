"""Checkpoints: exact, atomic, and of one run only. The curve goes along."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import checkpoint, networks
from models.curve import Curve

IDENTITY = {"family": "x", "config": {"rate": 0.1, "units": [4]}, "seed": 3}


def test_arrays_and_values_come_back_exactly(tmp_path):
    arrays = {"a": np.random.default_rng(0).normal(size=(3, 2)), "b": np.array([True]), "c": np.int64(7)}
    values = {"x": 0.1 + 0.2, "list": [1, None, "two"]}
    assert checkpoint.load(tmp_path, IDENTITY) is None
    checkpoint.save(tmp_path, IDENTITY, arrays, values)
    first = (tmp_path / checkpoint.FILE).read_bytes()
    found = checkpoint.load(tmp_path, IDENTITY)
    assert found is not None
    assert found.values == values
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    checkpoint.save(tmp_path, IDENTITY, arrays, values)
    assert (tmp_path / checkpoint.FILE).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE]


def test_a_write_that_dies_leaves_the_last_good_one(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, IDENTITY, {"a": np.zeros(3)}, {"n": 1})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, IDENTITY, {"a": np.ones(3)}, {"n": 2})
    monkeypatch.undo()
    found = checkpoint.load(tmp_path, IDENTITY)
    assert found is not None
    assert (found.values["n"], found.arrays["a"].tolist()) == (1, [0.0, 0.0, 0.0])


def test_another_run_is_refused_with_what_differs(tmp_path):
    checkpoint.save(tmp_path, IDENTITY, {}, {})
    other = {**IDENTITY, "config": {"rate": 0.2, "units": [4]}, "seed": 4}
    with pytest.raises(ValueError, match=r"config\.rate is 0\.1 there and 0\.2 here; seed is 3 .* 4 here"):
        checkpoint.load(tmp_path, other)


def test_a_keras_model_and_its_optimiser_carry_on_bitwise(tmp_path):
    x = tf.constant(np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32))

    def build():
        model = networks.MLP((8,), 1, seed=0)
        model.build((None, 3))
        optimiser = keras.optimizers.Adam(1e-2)
        optimiser.build(model.trainable_variables)
        return model, optimiser

    def step(model, optimiser):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - 1.0))
        optimiser.apply(tape.gradient(loss, model.trainable_variables))

    whole = build()
    for _ in range(6):
        step(*whole)
    part = build()
    for _ in range(4):
        step(*part)
    arrays = checkpoint.nest("model", checkpoint.read_variables(part[0].variables))
    arrays |= checkpoint.nest("optimiser", checkpoint.read_variables(part[1].variables))
    checkpoint.save(tmp_path, IDENTITY, arrays, {})
    found = checkpoint.load(tmp_path, IDENTITY)
    assert found is not None
    again = build()
    checkpoint.write_variables(again[0].variables, checkpoint.unnest("model", found.arrays))
    checkpoint.write_variables(again[1].variables, checkpoint.unnest("optimiser", found.arrays))
    for _ in range(2):
        step(*again)
    for one, other in zip(whole[0].variables, again[0].variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    with pytest.raises(ValueError, match="shape"):
        checkpoint.write_variables(again[0].variables[:1], {"000": np.zeros((2, 2))})
    with pytest.raises(ValueError, match="4 variables"):
        checkpoint.write_variables(again[0].variables, {})


def test_the_curve_writes_means_when_due_and_survives():
    lines = []
    curve = Curve(lambda step, metrics: lines.append((step, metrics)), every=10)
    curve.add("train/loss", 1.0)
    curve.write(7, epsilon=0.5)
    curve.add("train/loss", 3.0)
    curve.write(12, epsilon=0.25)
    curve.write(14, epsilon=0.1)
    curve.add("train/loss", 5.0)
    expected = [(12, {"train/loss": 2.0, "train/epsilon": 0.25})]
    assert lines == expected
    again = []
    copy = Curve(lambda step, metrics: again.append((step, metrics)), every=10)
    copy.restore(curve.state())
    assert again == expected
    copy.write(16, last=True)
    copy.write(16, last=True)
    assert again == [*expected, (16, {"train/loss": 5.0})]
