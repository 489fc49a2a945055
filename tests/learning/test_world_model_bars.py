"""The world model's bars on the embedded market, and on one without any edge: minutes of training."""

import numpy as np
import pytest

from benchmarks.world_model_regimes import one, summary

pytestmark = pytest.mark.learning


@pytest.mark.parametrize("seed", range(2))
def test_what_is_seen_and_remembered_beats_what_needs_no_network(seed):
    figures = one("regimes", seed, {}, test_bars=12_000)
    seen, kept = figures["vision"], figures["memory"]
    assert seen["elbo"] > seen["pca"] > seen["predict_mean"]
    assert kept["nll"] < kept["autoregressive_gaussian"] - 0.1
    assert kept["autoregressive_gaussian"] < kept["persistence"]
    assert kept["return_nll"] < kept["return_constant_gaussian"] - 0.1
    assert figures["regimes"]["smoothed"] >= 0.5


def test_it_earns_half_of_the_oracle_and_more_than_a_q_network():
    runs = [one("regimes", seed, {}, dqn=True, test_bars=24_000) for seed in range(5)]
    found = summary(runs)
    assert found["share_of_oracle"] >= 0.5
    assert found["log_return"] > found["dqn"]


def test_nothing_is_earned_where_there_is_nothing_to_earn():
    """Dreams may be sweet; forty of them come to no profit beyond chance once awake."""
    earned = np.array([one("martingale", seed, {})["log_return"] for seed in range(40)])
    assert earned.mean() < 2 * earned.std(ddof=1) / np.sqrt(len(earned))
