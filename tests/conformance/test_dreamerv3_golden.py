"""Symlog, lambda-returns and symexp two-hot against values of DreamerV3's own functions."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from models import returns, scalars

ROOT = Path(__file__).resolve().parents[2]
FILE = (
    Path(os.environ.get("CONFORMANCE_DATA", ROOT.parent / "shared" / "conformance")) / "dreamerv3_golden.json"
)


@pytest.fixture(scope="module")
def golden():
    if not FILE.exists():
        pytest.skip(f"no conformance data at {FILE.name}: set CONFORMANCE_DATA")
    return json.loads(FILE.read_text())


def test_symlog(golden):
    x, y = (np.array(golden["symlog"][name], np.float32) for name in "xy")
    np.testing.assert_allclose(scalars.symlog(x), y, rtol=1e-6)
    np.testing.assert_allclose(scalars.symexp(y), x, rtol=1e-5)


def test_lambda_returns(golden):
    assert golden["lambda_return"]
    for case in golden["lambda_return"]:
        last, terminal = (np.array(case[name]) for name in ("last", "term"))
        rewards, bootstrap = (np.array(case[name], np.float32) for name in ("rew", "boot"))
        found = returns.dreamer_lambda(
            last, terminal, rewards, bootstrap, discount=case["disc"], lambda_=case["lam"]
        )
        np.testing.assert_allclose(found, case["ret"], rtol=1e-5, atol=1e-6)


def test_symexp_two_hot(golden):
    assert golden["symexp_twohot"]
    for case in golden["symexp_twohot"]:
        bins = scalars.symexp_bins(case["nbins"])
        np.testing.assert_allclose(bins, case["bins"], rtol=1e-5)
        target = np.array(case["target"], np.float32)
        logits = np.array(case["logits"], np.float32)
        # The reference's own bins: at 1e8 the last digit of a bin moves a weight by more than 1e-5.
        bins = np.array(case["bins"], np.float32)
        weights = np.zeros((len(target), case["nbins"]))
        for row, pairs in enumerate(case["twohot_nonzero"]):
            for column, weight in pairs:
                weights[row, column] = weight
        np.testing.assert_allclose(scalars.two_hot(target, bins), weights, atol=1e-5)
        np.testing.assert_allclose(scalars.two_hot_loss(logits, target, bins), case["loss"], rtol=1e-5)
        np.testing.assert_allclose(scalars.mean_of_logits(logits, bins), case["pred"], rtol=1e-5)
        assert scalars.mean_of_logits(np.zeros_like(logits), bins).numpy().tolist() == [0.0] * len(logits)
