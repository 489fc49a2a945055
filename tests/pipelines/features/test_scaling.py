"""A scaler knows the rows it was fitted on, keeps its bits on disk, and cuts what is far out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from pipelines.features import Scaler
from pipelines.splits import walk_forward

NAMES = ("a", "b")


def test_robust_is_median_and_quartiles() -> None:
    rows = np.stack([np.arange(9.0), 10 * np.arange(9.0) ** 3], axis=1)
    scaler = Scaler.fit(rows, NAMES)
    np.testing.assert_allclose(scaler.centre, [4.0, 640.0])
    np.testing.assert_allclose(scaler.scale, np.array([4.0, 2160.0 - 80.0]) / 1.3489795003921634)


def test_standard_is_mean_and_deviation() -> None:
    rows = np.random.default_rng(0).normal([3.0, -1.0], [2.0, 0.1], (5000, 2))
    scaled = Scaler.fit(rows, NAMES, method="standard", clip=50.0).transform(rows)
    np.testing.assert_allclose(scaled.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(axis=0), 1.0, rtol=1e-12)


def test_robust_and_standard_agree_on_a_normal_sample_and_part_on_outliers() -> None:
    rows = np.random.default_rng(1).normal(0.0, 1.0, (200_000, 1))
    assert Scaler.fit(rows, ["a"]).scale[0] == pytest.approx(1.0, rel=0.01)
    rows[:100] = 1e6
    assert Scaler.fit(rows, ["a"]).scale[0] == pytest.approx(1.0, rel=0.01)
    assert Scaler.fit(rows, ["a"], method="standard").scale[0] > 1e4


def test_each_symbol_has_its_own_scale() -> None:
    rows = np.random.default_rng(2).normal(0.0, [[1.0], [7.0]], (20_000, 2, 1))  # [N, S, F]
    scaler = Scaler.fit(rows, ["a"])
    assert scaler.scale.shape == (2, 1)
    assert scaler.scale[1, 0] == pytest.approx(7 * scaler.scale[0, 0], rel=0.05)


@pytest.mark.parametrize("method", ["robust", "standard"])
def test_constant_and_mostly_constant_columns_stay_finite(method: str) -> None:
    rows = np.full((100, 2), 0.1)
    rows[0, 1] = 1.1
    scaler = Scaler.fit(rows, NAMES, method=method)
    assert scaler.scale[0] == 1.0
    assert scaler.scale[1] == pytest.approx(rows[:, 1].std())
    np.testing.assert_allclose(scaler.transform(rows)[:, 0], 0.0, atol=1e-12)


def test_values_far_out_are_cut_and_counted() -> None:
    scaler = Scaler(NAMES, np.zeros(2), np.ones(2), clip=3.0, method="robust")
    rows = np.array([[0.0, 4.0], [-9.0, 2.0], [1.0, 3.0], [5.0, -1.0]])
    np.testing.assert_array_equal(scaler.transform(rows), [[0, 3], [-3, 2], [1, 3], [3, -1]])
    assert scaler.clip_share(rows) == {"a": 0.5, "b": 0.25}


def test_transform_leaves_its_argument_alone() -> None:
    rows = np.random.default_rng(3).normal(size=(20, 2))
    kept = rows.copy()
    Scaler.fit(rows, NAMES).transform(rows)
    np.testing.assert_array_equal(rows, kept)


@settings(max_examples=50, deadline=None)
@given(rows=st_numpy.arrays(np.float64, (7, 3, 2), elements=st.floats(-1e9, 1e9)))
def test_saved_and_loaded_is_the_same_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, rows: np.ndarray
) -> None:
    path = tmp_path_factory.mktemp("scaler") / "scaler.json"
    scaler = Scaler.fit(rows, NAMES)
    scaler.save(path)
    loaded = Scaler.load(path)
    assert (loaded.names, loaded.clip, loaded.method) == (scaler.names, scaler.clip, scaler.method)
    np.testing.assert_array_equal(loaded.transform(rows), scaler.transform(rows))
    assert [child.name for child in path.parent.iterdir()] == ["scaler.json"]
    assert np.isfinite(scaler.transform(rows)).all()


def test_rows_outside_the_training_window_have_no_say() -> None:
    rng = np.random.default_rng(4)
    features = rng.normal(size=(300, 2))
    for fold in walk_forward(300, folds=3, train_bars=100, test_bars=50, purge_bars=5):
        retold = rng.normal(50.0, 9.0, features.shape)
        retold[fold.train.rows] = features[fold.train.rows]
        before, after = (Scaler.fit(rows[fold.train.rows], NAMES) for rows in (features, retold))
        np.testing.assert_array_equal(before.transform(features[:150]), after.transform(features[:150]))


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (np.ones((3, 2)), {"method": "minmax"}, "'minmax' is unknown; allowed: robust, standard"),
        (np.ones((3, 2)), {"clip": 0.0}, "clip is 0.0"),
        (np.ones((0, 2)), {}, "cannot fit 2 features on rows of shape (0, 2)"),
        (np.ones((3, 3)), {}, "cannot fit 2 features on rows of shape (3, 3)"),
        (np.array([[1.0, np.nan]]), {}, "not finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(rows: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Scaler.fit(rows, NAMES, **options)
    assert message in str(caught.value)


def test_a_scaler_refuses_another_shape() -> None:
    scaler = Scaler.fit(np.random.default_rng(0).normal(size=(9, 3, 2)), NAMES)
    with pytest.raises(ValueError, match="cannot scale"):
        scaler.transform(np.zeros((4, 2, 2)))
