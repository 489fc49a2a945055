"""Returns: against plain loops and against each other."""

import numpy as np
import pytest
import tensorflow as tf

from models import returns


def _stretch(steps, seed=0):
    draw = np.random.default_rng(seed)
    rewards = draw.normal(size=(3, steps)).astype(np.float32)
    discounts = np.where(draw.random((3, steps)) < 0.2, 0.0, 0.97).astype(np.float32)
    values = draw.normal(size=(3, steps + 1)).astype(np.float32)
    return rewards, discounts, values


@pytest.mark.parametrize("steps", [1, 2, 5, 16, 37])
@pytest.mark.parametrize("jit", [False, True])
def test_lambda_returns_equal_the_loop(steps, jit):
    rewards, discounts, values = _stretch(steps)
    expected, following = np.zeros_like(rewards), values[:, -1]
    for t in reversed(range(steps)):
        following = rewards[:, t] + discounts[:, t] * (0.2 * values[:, t + 1] + 0.8 * following)
        expected[:, t] = following
    compute = tf.function(lambda *args: returns.lambda_returns(*args, 0.8), jit_compile=jit, autograph=False)
    np.testing.assert_allclose(compute(rewards, discounts, values[:, 1:]), expected, rtol=2e-5, atol=2e-6)


def test_each_reduces_to_the_other():
    rewards, discounts, values = _stretch(12)
    reached = values[:, 1:]
    monte_carlo = returns.discounted(rewards, discounts, values[:, -1])
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(returns.lambda_returns(rewards, discounts, reached, 1.0), monte_carlo, **close)
    np.testing.assert_allclose(returns.n_step(rewards, discounts, reached, 12), monte_carlo, **close)
    one_step = rewards + discounts * reached
    np.testing.assert_allclose(returns.lambda_returns(rewards, discounts, reached, 0.0), one_step, **close)
    np.testing.assert_allclose(returns.n_step(rewards, discounts, reached, 1), one_step, **close)
    advantages = returns.generalised_advantages(rewards, discounts, values, 0.9)
    targets = returns.lambda_returns(rewards, discounts, reached, 0.9)
    np.testing.assert_allclose(advantages + values[:, :-1], targets, **close)


def test_dreamer_counts_rewards_by_arrival():
    rewards, _, values = _stretch(9, seed=4)
    never = np.zeros((3, 9), bool)
    found = returns.dreamer_lambda(never, never, rewards, values[:, :9], discount=0.9, lambda_=0.7)
    same = returns.lambda_returns(rewards[:, 1:], np.full((3, 8), 0.9, np.float32), values[:, 1:9], 0.7)
    np.testing.assert_allclose(found, same, rtol=1e-5, atol=1e-6)


def test_nothing_flows_across_a_last_step():
    rewards, _, values = _stretch(9, seed=5)
    last, never = np.zeros((3, 9), bool), np.zeros((3, 9), bool)
    last[:, 4] = True
    settings = {"discount": 0.9, "lambda_": 0.7}
    before = returns.dreamer_lambda(last, never, rewards, values[:, :9], **settings).numpy()
    rewards[:, 5:] += 100.0
    after = returns.dreamer_lambda(last, never, rewards, values[:, :9], **settings).numpy()
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).all()
