"""Quantile tokens against the Trajectory Transformer's own discretiser."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from models.trajectory.tokens import Tokeniser, expectation

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(os.environ.get("CONFORMANCE_DATA", ROOT.parent / "shared" / "conformance")) / "tt_quantile.json"


@pytest.fixture(scope="module")
def vectors():
    if not FILE.exists():
        pytest.skip(f"no conformance data at {FILE.name}: set CONFORMANCE_DATA")
    return {
        name: np.array(value) for name, value in json.loads(FILE.read_text()).items() if name != "_source"
    }


def test_thresholds_tokens_and_reconstruction(vectors):
    tokeniser = Tokeniser.fit(vectors["data"], int(vectors["N"]))
    for place, column in enumerate(tokeniser.columns):
        np.testing.assert_array_equal(column.starts, vectors["thresholds"][:-1, place])
    np.testing.assert_array_equal(tokeniser.high, vectors["thresholds"][-1])
    found = tokeniser.encode(vectors["x"])
    np.testing.assert_array_equal(found.tokens, vectors["indices"])
    # Their file prints centres in single precision arithmetic order; ours agree to the last digits.
    np.testing.assert_allclose(tokeniser.decode(found.tokens), vectors["reconstruct"], rtol=1e-13)
    np.testing.assert_array_equal(found.clipped, [2, 2, 2, 2])  # the two rows far outside


def test_value_expectation(vectors):
    given = vectors["value_expectation"].item()
    tokeniser = Tokeniser.fit(vectors["data"], int(vectors["N"]))
    probabilities = np.array(given["probs"])[..., :-1]  # theirs end with a stop token
    for place, name in ((-2, "rewards"), (-1, "next_values")):
        row = 0 if name == "rewards" else 1
        mean = expectation(probabilities[:, row], tokeniser.columns[place].centres)
        np.testing.assert_allclose(mean, given[name], rtol=1e-5)
