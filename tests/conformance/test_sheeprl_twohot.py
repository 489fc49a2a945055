"""Linear two-hot encoding, with overflow and underflow, against sheeprl's tests."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from models import scalars

ROOT = Path(__file__).resolve().parents[2]
FILE = (
    Path(os.environ.get("CONFORMANCE_DATA", ROOT.parent / "shared" / "conformance")) / "sheeprl_twohot.json"
)


def test_linear_two_hot():
    if not FILE.exists():
        pytest.skip(f"no conformance data at {FILE.name}: set CONFORMANCE_DATA")
    cases = json.loads(FILE.read_text())["encode"]
    assert cases
    for case in cases:
        support = case["support"]
        number = case["buckets"] or 2 * support + 1
        expected = np.zeros(number)
        for column, weight in case["nz"].items():
            expected[int(column)] = weight
        found = scalars.two_hot(np.float32(case["x"]), scalars.linear_bins(-support, support, number))
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=str(case))
