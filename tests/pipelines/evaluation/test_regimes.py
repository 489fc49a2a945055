import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.regimes import adjusted_rand_index, traits


def test_the_index_by_hand():
    # Contingency [[1, 1], [1, 2]]: 1 pair together, 1 + 3 and 1 + 3 pairs in each, 10 pairs of 5 bars.
    assert adjusted_rand_index([0, 0, 1, 1, 1], [0, 1, 0, 1, 1]) == pytest.approx((1 - 1.6) / (4 - 1.6))
    # The example of a clustering in four against the classes, as printed by scikit-learn's manual: 0.57.
    assert adjusted_rand_index([0, 0, 1, 2], [0, 0, 1, 1]) == pytest.approx(4 / 7)
    assert adjusted_rand_index([0, 0, 1, 1], [5, 5, 3, 3]) == 1.0
    assert adjusted_rand_index([0, 0, 0], [1, 1, 1]) == 1.0
    with pytest.raises(ValueError, match="same bars"):
        adjusted_rand_index([0, 1], [0, 1, 1])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=2, max_size=40))
def test_the_index_is_symmetric_and_blind_to_names(pairs):
    a, b = (np.array(column) for column in zip(*pairs, strict=True))
    found = adjusted_rand_index(a, b)
    assert found == pytest.approx(adjusted_rand_index(b, a))
    assert found == pytest.approx(adjusted_rand_index(7 - a, b))
    assert found <= 1.0 + 1e-12
    assert adjusted_rand_index(a, a) == 1.0


def test_independent_labels_score_about_zero():
    rng = np.random.default_rng(0)
    assert abs(adjusted_rand_index(rng.integers(0, 3, 5000), rng.integers(0, 3, 5000))) < 0.01


def test_labels_are_named_by_what_the_market_did():
    rng = np.random.default_rng(1)
    labels = np.repeat([2, 0, 1, 3], 2000)
    returns = np.concatenate(
        [
            rng.normal(0, 0.002, 2000),
            rng.normal(-0.003, 0.02, 2000),
            rng.normal(0.001, 0.01, 2000),
            rng.normal(0, 0.002, 2000),
        ]
    )
    found = {trait.label: trait for trait in traits(labels, returns)}
    assert [found[label].name for label in range(4)] == [
        "turbulent, falling",
        "ordinary, rising",
        "calm (1)",
        "calm (2)",
    ]
    assert found[0].share == 0.25
    assert found[0].bars_in_a_row == 2000
    assert found[1].mean == pytest.approx(0.001, abs=0.001)
    with pytest.raises(ValueError, match="same bars"):
        traits([1, 2], [0.1])
