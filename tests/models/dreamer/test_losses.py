"""Losses, heads and sizes: by hand, and against the parameter counts of the paper's implementation."""

import math

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from models import scalars
from models.agent import Spaces
from models.dreamer import losses, networks
from models.dreamer.config import SIZES, Config

CARTPOLE = Spaces(spaces.Box(-1.0, 1.0, (4,), np.float32), spaces.Discrete(2))


def test_divergence_sums_over_latents_before_the_floor():
    # Two latents of two classes; half a nat each: together they are over the floor of 0.9, alone not.
    q = np.array([0.9, 0.1])
    p = np.array([0.5, 0.5])
    each = float((q * np.log(q / p)).sum())
    posterior, prior = (np.log(np.stack([x, x])[None]).astype(np.float32) for x in (q, p))
    found = losses.divergence(posterior, prior, 0.0, 0.6)
    assert each < 0.6 < 2 * each
    for term in found:
        np.testing.assert_allclose(term, [2 * each], rtol=1e-5)
    floored = losses.divergence(posterior, prior, 0.0, 1.0)
    np.testing.assert_array_equal([floored.dynamics[0], floored.representation[0]], [1.0, 1.0])
    np.testing.assert_allclose(floored.nats, [2 * each], rtol=1e-5)


def test_balance_and_two_terms_weigh_the_same_terms():
    assert Config(kl="balance", kl_balance=0.8).kl_scales == pytest.approx((0.8, 0.2))
    assert Config().kl_scales == (1.0, 0.1)


def test_reconstruction_and_continuation():
    shown = np.array([[0.0, math.e - 1.0, -(math.e - 1.0)]], np.float32)
    np.testing.assert_allclose(losses.reconstruction(np.zeros((1, 3)), shown), [2.0], rtol=1e-6)
    logit = math.log(0.97 / 0.03)
    going, ended = losses.continuation(tf.constant([logit, logit]), np.array([False, True]), 0.97)
    assert float(going) == pytest.approx(-(0.97 * math.log(0.97) + 0.03 * math.log(0.03)), rel=1e-5)
    assert float(ended) == pytest.approx(-math.log(0.03), rel=1e-4)


def test_dreams_do_not_learn_behind_the_end():
    rewards = np.array([[9.0, 1.0, 2.0, 4.0]], np.float32)  # by arrival: the first is not earned here
    continues = np.array([[0.9, 0.0, 0.9, 0.9]], np.float32)  # the first step leads into the end
    values = np.array([[5.0, 100.0, 7.0, 8.0]], np.float32)
    found = losses.dreamed_returns(rewards, continues, values, values, 0.95)
    assert float(found.returns[0, 0]) == pytest.approx(1.0)  # neither 100 nor what comes later
    assert float(found.returns[0, 2]) == pytest.approx(4.0 + 0.9 * 8.0)
    np.testing.assert_allclose(found.weights, [[0.9, 0.0, 0.0]])
    np.testing.assert_allclose(found.advantages, found.returns - values[:, :-1])


def test_replay_returns_stand_on_the_dream_at_a_cut_and_on_nothing_at_an_end():
    rewards = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32)
    boot = np.array([[10.0, 20.0, 30.0, 40.0]], np.float32)
    cut = np.array([[False, True, False, False]])
    found = losses.replay_returns(rewards, np.zeros_like(cut), cut, boot, 0.5, 0.9).numpy()
    assert found[0, 0] == pytest.approx(1.0 + 0.5 * 20.0)
    assert found[0, 2] == pytest.approx(3.0 + 0.5 * 40.0)
    ended = losses.replay_returns(rewards, cut, cut, boot, 0.5, 0.9).numpy()
    assert ended[0, 0] == pytest.approx(1.0)


def test_the_policy_loss_is_reinforce():
    log_p = tf.constant([-1.0, -2.0])
    with tf.GradientTape() as tape:
        tape.watch(log_p)
        loss = losses.policy_loss(
            log_p, tf.constant([0.7, 0.7]), tf.constant([3.0, -1.0]), tf.constant([1.0, 0.5]), 0.1
        )
    np.testing.assert_allclose(loss, [-(-3.0 + 0.07), -0.5 * (2.0 + 0.07)], rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(loss, log_p), [-3.0, 0.5])


def test_the_return_range_is_that_of_percentiles_unbiased_and_never_below_one():
    draw = np.random.default_rng(0)
    state, scale = tf.zeros(3), None
    for _ in range(3):
        values = draw.normal(5.0, 40.0, (7, 11)).astype(np.float32)
        for share in (0.05, 0.5, 0.95):
            np.testing.assert_allclose(
                losses.percentile(values, share), np.quantile(values, share), rtol=1e-5
            )
        before = state.numpy()
        state, scale = losses.running_range(state, values, 0.01)
        low, high = np.quantile(values, [0.05, 0.95])
        np.testing.assert_allclose(state, before + 0.01 * (np.array([low, high, 1.0]) - before), rtol=1e-4)
        if before[2] == 0.0:  # after one update already the range itself, not a hundredth of it
            np.testing.assert_allclose(scale, high - low, rtol=1e-4)
    _, small = losses.running_range(tf.zeros(3), tf.constant([0.0, 1e-3]), 0.01)
    assert float(small) == 1.0


def test_losses_and_weights_must_match():
    with pytest.raises(ValueError, match="do not match"):
        losses.total({"a": tf.ones(2)}, {"b": 1.0})
    assert float(losses.total({"a": tf.constant([1.0, 3.0])}, {"a": 0.5})) == 1.0


def test_new_heads_say_exactly_nothing():
    made = networks.build(Config.nano(), CARTPOLE, seed=3)
    seen = np.random.default_rng(0).normal(size=(5, Config.nano().sizes.feature)).astype(np.float32)
    for head in (made.world.reward, made.critic, made.slow):
        np.testing.assert_array_equal(head.mean(head(seen)), np.zeros(5))


def test_the_squared_critic_is_a_number_with_half_the_squared_error():
    config = Config(**{**vars(Config.nano()), "critic": "squared"})
    made = networks.build(config, CARTPOLE, seed=3)
    assert made.critic(np.zeros((2, config.sizes.feature), np.float32)).shape == (2, 1)
    assert made.world.reward.bins is not None  # the reward head stays a distribution
    np.testing.assert_allclose(
        made.critic.loss(
            tf.constant([[1.0], [2.0]]), [(1.0, tf.constant([3.0, 2.0])), (2.0, tf.constant([1.0, 1.0]))]
        ),
        [2.0, 1.0],
    )


# World models of the paper's implementation learn their first state (D numbers) beside what is counted here.
@pytest.mark.parametrize(
    ("size", "actor", "critic", "world"),
    [
        ("XS", 328_706, 393_727, 2_435_076 - 256),
        ("S", 1_051_650, 1_181_439, 7_493_380 - 512),
        ("M", 2_135_042, 2_297_215, 16_206_084 - 1_024),
    ],
)
def test_parameter_counts(size, actor, critic, world):
    made = networks.build(Config(size=size), CARTPOLE, seed=0)
    assert networks.parameters(made.actor) == actor
    assert networks.parameters(made.critic) == critic
    assert networks.parameters(made.world) == world


def test_sizes_may_be_changed_one_by_one_and_nonsense_is_refused():
    assert Config(size="XS", deterministic=200, blocks=8).sizes == SIZES["XS"]._replace(
        deterministic=200, blocks=8
    )
    for wrong, message in (
        ({"bins": 40}, "bins: 40"),
        ({"deterministic": 30, "blocks": 4}, "blocks: 4"),
        ({"size": "XXL"}, "size: 'XXL'"),
        ({"shortfall_limit": 1.0, "imagined_paths": 0}, "imagined_paths: 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Config(**wrong)


def test_the_slow_critic_follows():
    made = networks.build(Config.nano(), CARTPOLE, seed=0)
    made.critic.variables[0].assign_add(tf.ones_like(made.critic.variables[0]))
    apart = made.critic.variables[0].numpy() - made.slow.variables[0].numpy()
    np.testing.assert_allclose(apart, 1.0, rtol=1e-5)
    made.follow(0.25)
    np.testing.assert_allclose(made.critic.variables[0] - made.slow.variables[0], 0.75, rtol=1e-5)


def test_a_trained_two_hot_head_means_its_target():
    """The mean of an optimal two-hot head is the target, between bins and at coarse bins too."""
    bins = scalars.symexp_bins(63)
    for x in (0.0, 0.3, -1.7, 250.0):
        p = scalars.two_hot(np.float32(x), bins)
        assert float(scalars.mean(p, bins)) == pytest.approx(x, rel=1e-5, abs=1e-6)
