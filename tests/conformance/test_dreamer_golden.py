"""Dreamer's own losses against values of DreamerV3's functions: what is trained, not only its parts."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from models.dreamer import losses

ROOT = Path(__file__).resolve().parents[2]
FILE = (
    Path(os.environ.get("CONFORMANCE_DATA", ROOT.parent / "shared" / "conformance")) / "dreamerv3_golden.json"
)


@pytest.fixture(scope="module")
def golden():
    if not FILE.exists():
        pytest.skip(f"no conformance data at {FILE.name}: set CONFORMANCE_DATA")
    return json.loads(FILE.read_text())


def test_returns_of_replayed_steps(golden):
    for case in golden["lambda_return"]:
        found = losses.replay_returns(
            np.array(case["rew"], np.float32),
            np.array(case["term"]),
            np.array(case["last"]),
            np.array(case["boot"], np.float32),
            case["disc"],
            case["lam"],
        )
        np.testing.assert_allclose(found, case["ret"], rtol=1e-5, atol=1e-6)


def test_returns_of_dreams_without_an_end(golden):
    """A dream that always goes on is a replayed stretch with no last step; continues hold the discount."""
    compared = 0
    for case in golden["lambda_return"]:
        values = np.array(case["boot"], np.float32)
        found = losses.dreamed_returns(
            np.array(case["rew"], np.float32),
            np.full(values.shape, case["disc"], np.float32),
            np.zeros_like(values),
            values,
            case["lam"],
        )
        for row, (ended, terminal) in enumerate(zip(case["last"], case["term"], strict=True)):
            if not any(ended) and not any(terminal):
                np.testing.assert_allclose(found.returns[row], case["ret"][row], rtol=1e-5, atol=1e-6)
                compared += 1
    assert compared > 0


def test_the_loss_and_the_mean_of_a_two_hot_head(golden):
    for case in golden["symexp_twohot"]:
        bins = np.array(case["bins"], np.float32)
        logits = np.array(case["logits"], np.float32)
        target = np.array(case["target"], np.float32)
        np.testing.assert_allclose(losses.scalar_loss(logits, [(1.0, target)], bins), case["loss"], rtol=1e-5)
        np.testing.assert_allclose(losses.scalar_mean(logits, bins), case["pred"], rtol=1e-5)
        # Several targets share one log-softmax: the same as their losses added up.
        both = losses.scalar_loss(logits, [(1.0, target), (0.5, target)], bins)
        np.testing.assert_allclose(both, 1.5 * np.array(case["loss"]), rtol=1e-5)
