"""The unrolled loss: where its gradient goes, and what it is at the answer."""

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import models
from models import configuration, muzero
from models.agent import Spaces
from models.muzero import agent, losses, networks
from models.muzero.targets import Unrolled

NANO = muzero.Config.nano()
B, K = 5, NANO.unroll_steps
SCALES = losses.Scales(0.25, 1.0, 1.0, 0.01, 1.0)


def _shape(space, **changes):
    config = configuration.parse(muzero.Config, {**configuration.resolved(NANO), **changes}, where="test")
    return agent.shape_of(config, Spaces(spaces.Box(-1, 1, (3,)), space))


def _batch(shape, seed=0):
    draw, actions = np.random.default_rng(seed), shape.actions
    drawn = (actions.arms, actions.width) if actions.drawn else (0, 0)
    sizes = {
        "window": (shape.history, 3), "later": (K, shape.history, 3), "later_weight": (K,),
        "code": (K, actions.width), "reward": (K,), "reward_weight": (K,), "policy": (K + 1, actions.arms),
        "codes": (K + 1, *drawn), "policy_weight": (K + 1,), "partial_return": (K + 1,),
        "bootstrap": (K + 1, shape.history, 3), "bootstrap_discount": (K + 1,), "value_weight": (K + 1,),
        "importance": (),
    }  # fmt: skip
    parts = {name: draw.normal(size=(B, *size)).astype(np.float32) for name, size in sizes.items()}
    for name in parts:
        if name.endswith("weight") or name == "importance":
            parts[name][:] = 1.0
    parts["policy"] = np.exp(parts["policy"]) / np.exp(parts["policy"]).sum(axis=-1, keepdims=True)
    parts["codes"] = np.tanh(parts["codes"])
    return Unrolled(**{name: tf.constant(part) for name, part in parts.items()})


def _random(shape, seed=0):
    """Weights without the zeros of fresh heads, which let no gradient through."""
    return tf.constant(np.random.default_rng(seed).normal(0, 0.3, shape.size).astype(np.float32))


def _gradients(shape, part, batch=None):
    flat = _random(shape)
    with tf.GradientTape() as tape:
        weights = networks.unflatten(flat, shape)
        tape.watch(list(weights.values()))
        parts, _ = losses.unrolled_loss(weights, tf.ones((B, K + 1)), batch or _batch(shape), shape, SCALES)
        loss = tf.reduce_sum(parts[part])
    gradients = tape.gradient(loss, weights)
    return {name: 0.0 if g is None else float(tf.norm(g)) for name, g in gradients.items()}


def _reaches(gradients, group):
    return max(size for name, size in gradients.items() if name.startswith(group)) > 0


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.Box(-1, 1, (2,))], ids=["listed", "box"])
@pytest.mark.parametrize("part", ["policy", "value", "reward", "consistency"])
def test_gradients_reach_the_networks_through_the_unroll(space, part):
    gradients = _gradients(_shape(space), part)
    assert _reaches(gradients, "representation")
    assert _reaches(gradients, "dynamics")
    assert _reaches(gradients, "prediction") == (part in ("policy", "value"))
    assert _reaches(gradients, "consistency") == (part == "consistency")


def test_the_last_position_alone_reaches_back_to_the_representation():
    shape = _shape(spaces.Discrete(4))
    batch = _batch(shape)
    weight = np.zeros((B, K + 1), np.float32)
    weight[:, K] = 1.0
    gradients = _gradients(shape, "policy", batch._replace(policy_weight=tf.constant(weight)))
    assert _reaches(gradients, "representation")
    assert _reaches(gradients, "dynamics")


def test_gradient_shares():
    x = tf.constant([2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = networks.scale_gradient(x, 0.5)
        z = tf.reduce_sum(y * y)
    np.testing.assert_allclose(y, x)
    np.testing.assert_allclose(tape.gradient(z, x), [2.0])
    # Position k weighs 1 / K of the present one.
    shape = _shape(spaces.Discrete(4))
    batch = _batch(shape)
    sizes = []
    for k in (0, 1, K):
        weight = np.zeros((B, K + 1), np.float32)
        weight[:, k] = 1.0
        blank = batch._replace(policy_weight=tf.constant(weight))
        flat = tf.zeros(shape.size)  # all logits zero: the same cross-entropy at each position
        parts, _ = losses.unrolled_loss(
            networks.unflatten(flat, shape), tf.ones((B, K + 1)), blank, shape, SCALES
        )
        sizes.append(float(tf.reduce_mean(parts["policy"])))
    np.testing.assert_allclose(sizes, np.log(4) * np.array([1.0, 1 / K, 1 / K]), rtol=1e-4)


def test_positions_without_weight_have_no_say():
    shape = _shape(spaces.Discrete(4))
    batch = _batch(shape)
    other = _batch(shape, seed=1)
    weight = np.ones((B, K + 1), np.float32)
    weight[:, 1:] = 0.0
    none = np.zeros((B, K), np.float32)
    weights = networks.unflatten(_random(shape), shape)
    mixed = tf.concat([batch.policy[:, :1], other.policy[:, 1:]], axis=1)
    none, weight = tf.constant(none), tf.constant(weight)
    losses_of = []
    for policy, rest in ((batch.policy, batch), (mixed, other)):
        changed = batch._replace(
            policy=policy, reward=rest.reward, later=rest.later, later_weight=none, reward_weight=none,
            policy_weight=weight, value_weight=weight,
        )  # fmt: skip
        parts, _ = losses.unrolled_loss(weights, tf.ones((B, K + 1)), changed, shape, SCALES)
        losses_of.append([float(tf.reduce_sum(parts[name])) for name in ("policy", "reward", "consistency")])
    np.testing.assert_array_equal(*losses_of)


def test_fresh_networks_expect_nothing_and_prefer_nothing():
    shape = _shape(spaces.Discrete(4), encoder="gru")
    weights = networks.unflatten(tf.constant(networks.initial(shape, 0)), shape)
    latent = networks.represent(weights, tf.random.stateless_normal((3, 2, 3), (0, 1)), shape)
    assert float(tf.reduce_min(latent)) == 0.0
    assert 0.999 < float(tf.reduce_max(latent)) <= 1.0
    latent, reward = networks.advance(weights, latent, tf.eye(4)[:3], shape)
    head, value = networks.predict(weights, latent)
    np.testing.assert_array_equal(networks.to_scalar(reward, shape.reward_support), 0.0)
    np.testing.assert_array_equal(networks.to_scalar(value, shape.value_support), 0.0)
    np.testing.assert_array_equal(head, 0.0)
    assert networks.initial(shape, 0).shape == (shape.size,)
    assert not np.array_equal(networks.initial(shape, 0), networks.initial(shape, 1))


def test_returns_bootstrap_from_the_target_network_and_stop_there():
    shape = _shape(spaces.Discrete(4))
    batch = _batch(shape)
    flat = _random(shape)
    found = losses.returns(networks.unflatten(flat, shape), batch, shape)
    weights = networks.unflatten(flat, shape)
    _, logits = networks.predict(weights, networks.represent(weights, batch.bootstrap[:, 1], shape))
    value = networks.to_scalar(logits, shape.value_support)
    np.testing.assert_allclose(
        found[:, 1], batch.partial_return[:, 1] + batch.bootstrap_discount[:, 1] * value, rtol=1e-4, atol=1e-5
    )


def test_an_update_lowers_the_loss_and_copies_the_target_on_time():
    shape = _shape(spaces.Discrete(4))
    flat = tf.constant(networks.initial(shape, 0))
    zeros = tf.zeros(shape.size)
    learner = losses.Learner(flat, flat, zeros, zeros, tf.constant(0))
    rates = losses.Rates(tf.constant(1e-2), tf.constant(1e-4), tf.constant(5.0), tf.constant(20))
    step = losses.updater(shape, SCALES, compiled=False)
    batch, history = _batch(shape), []
    for count in range(1, 41):
        learner, error, metrics = step(learner, batch, rates)
        history.append(float(metrics["loss"]))
        same = np.array_equal(learner.online, learner.target)
        assert same == (count % 20 == 0)
    assert history[-1] < history[0] - 0.3
    assert error.shape == (B,)
    assert models.FAMILIES["muzero"] == "models.muzero"
