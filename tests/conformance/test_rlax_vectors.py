"""Scalars and returns against the expected values printed in rlax's own tests."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from models import returns, scalars

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(os.environ.get("CONFORMANCE_DATA", ROOT.parent / "shared" / "conformance")) / "rlax_vectors.json"


@pytest.fixture(scope="module")
def vectors():
    if not FILE.exists():
        pytest.skip(f"no conformance data at {FILE.name}: set CONFORMANCE_DATA")
    return json.loads(FILE.read_text())


def _arrays(case, *names):
    return [np.array(case[name], np.float32) for name in names]


def test_lambda_returns(vectors):
    case = vectors["lambda_returns"]
    found = returns.lambda_returns(*_arrays(case, "r_t", "discount_t", "v_t"), case["lambda_"])
    np.testing.assert_allclose(found, case["expected"], rtol=case["rtol"])


def test_discounted_returns(vectors):
    case = vectors["discounted_returns"]
    found = returns.discounted(*_arrays(case, "r_t", "discount_t", "bootstrap"))
    np.testing.assert_allclose(found, case["expected"], rtol=1e-5)


def test_n_step_returns(vectors):
    case = vectors["n_step_bootstrapped_returns"]
    for n, expected in case["expected"].items():
        found = returns.n_step(*_arrays(case, "r_t", "discount_t", "v_t"), int(n))
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=f"n = {n}")


def test_generalised_advantages(vectors):
    case = vectors["truncated_gae"]
    for lambda_, expected in case["expected"].items():
        found = returns.generalised_advantages(*_arrays(case, "r_t", "discount_t", "values"), float(lambda_))
        np.testing.assert_allclose(found, expected, atol=case["atol"], err_msg=f"lambda = {lambda_}")


def test_two_hot(vectors):
    case = vectors["two_hot"]
    bins = scalars.linear_bins(case["min"], case["max"], case["bins"])
    np.testing.assert_allclose(
        scalars.two_hot(case["scalars"], bins), np.array(case["probs"], float), atol=case["atol"]
    )


def test_value_support(vectors):
    case = vectors["muzero_value_support"]
    h = scalars.compress(np.array(case["x"], np.float32), case["eps"])
    np.testing.assert_allclose(h, case["h"], rtol=2e-6, atol=1e-7)
    bins = scalars.linear_bins(*case["support"])
    back = scalars.expand(scalars.mean(scalars.two_hot(h, bins), bins), case["eps"])
    np.testing.assert_allclose(back, case["x"], rtol=case["roundtrip_rtol"], atol=1e-6)


def test_value_transform_grid(vectors):
    case = vectors["value_transform_grid"]
    found = scalars.compress(np.array(case["x"], np.float32), 1e-3)
    np.testing.assert_allclose(found, case["h_eps_1e3"], rtol=3e-7)
