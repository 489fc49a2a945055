"""The world model's bars on the embedded market, and on one without any edge: minutes of training."""

import numpy as np
import pytest

from benchmarks.world_model_regimes import one

pytestmark = pytest.mark.learning


@pytest.mark.parametrize("seed", range(2))
def test_what_is_seen_and_remembered_beats_what_needs_no_network(seed):
    figures = one("regimes", seed, {})
    seen, kept = figures["vision"], figures["memory"]
    assert seen["elbo"] > seen["pca"] > seen["predict_mean"]
    assert kept["nll"] < kept["autoregressive_gaussian"] - 0.1
    assert kept["autoregressive_gaussian"] < kept["persistence"]
    assert kept["return_nll"] < kept["return_constant_gaussian"] - 0.1
    assert figures["regimes"]["smoothed"] >= 0.5


def test_nothing_is_earned_where_there_is_nothing_to_earn():
    earned = np.array([one("martingale", seed, {}, dqn=False)["log_return"] for seed in range(4)])
    # Costs can only lose; a profit beyond chance would be a leak.
    assert earned.mean() < 3 * earned.std(ddof=1) / np.sqrt(len(earned))
