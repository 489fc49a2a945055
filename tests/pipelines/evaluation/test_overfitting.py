import numpy as np
import pytest

from pipelines.evaluation.overfitting import probability_of_backtest_overfitting
from tests.pipelines.evaluation.examples import vector_returns


def matrices() -> dict[str, np.ndarray]:
    t, n = np.arange(1, 161)[:, None], np.arange(1, 9)[None]
    skill_less = 0.01 * np.sin(1.7 * t * n + 0.3 * n) + 0.004 * np.cos(0.37 * t)
    edge = skill_less.copy()
    edge[:, 4] += 0.004
    lucky = skill_less.copy()
    for j in range(8):
        lucky[20 * j : 20 * j + 20, j] += 0.03
    return {"M1": skill_less, "M2": edge, "M3": lucky}


@pytest.mark.parametrize(
    ("name", "partitions", "splits", "probability", "loss", "slope", "logit"),
    [
        ("M1", 8, 70, 0.9, 0.8285714285714286, -0.7982930196107886, -1.4738698389749239),
        ("M1", 16, 12870, 0.9313131313131313, 0.7302253302253302, -0.9027234832289059, -1.4780218751819183),
        ("M2", 8, 70, 0.0, 0.0, -0.999844141607502, 2.0794415416798353),
        ("M2", 16, 12870, 0.0, 0.0, -0.9991921988461263, 2.079441541679835),
        ("M3", 8, 70, 1.0, 0.7571428571428571, -0.8641354806300361, -1.572916203209488),
        ("M3", 16, 12870, 0.997979797979798, 0.5638694638694639, -1.4607936450630787, -1.9163834358098981),
    ],
)
def test_reference_matrices(name, partitions, splits, probability, loss, slope, logit):
    found = probability_of_backtest_overfitting(matrices()[name], partitions)
    assert found.splits == splits
    assert found.probability == pytest.approx(probability, abs=1e-9)
    assert found.loss == pytest.approx(loss, abs=1e-9)
    assert found.slope == pytest.approx(slope, abs=1e-9)
    assert found.mean_logit == pytest.approx(logit, abs=1e-9)


def test_first_logits():
    logits = probability_of_backtest_overfitting(matrices()["M1"], 8).logits
    assert logits[:5] == pytest.approx([-2.079442, 0.223144, -0.223144, -1.252763, -2.079442], abs=1e-6)


def test_a_logit_of_zero_counts_as_overfitted():
    # Seven columns: the middle rank has a logit of exactly 0. Counting < 0 would give .1269841.
    found = probability_of_backtest_overfitting(vector_returns(), 10)
    assert found.probability == pytest.approx(0.23412698412698413, abs=1e-9)


def test_the_oldest_rows_that_fill_no_block_are_left_out():
    table = matrices()["M1"]
    longer = np.concatenate([np.full((5, 8), 0.5), table])
    assert probability_of_backtest_overfitting(longer, 8).slope == pytest.approx(
        -0.7982930196107886, abs=1e-9
    )


def test_an_agent_that_never_trades_is_a_sharpe_ratio_of_zero():
    table = matrices()["M1"]
    table[:, 0] = 0.0
    found = probability_of_backtest_overfitting(table, 8)
    assert np.isfinite(found.logits).all()
    idle = probability_of_backtest_overfitting(np.zeros((100, 3)), 4)
    assert (idle.probability, idle.slope, idle.loss) == (1.0, 0.0, 0.0)  # all share the middle rank


@pytest.mark.parametrize(
    ("shape", "partitions"), [((100, 1), 4), ((100,), 4), ((100, 3), 5), ((100, 3), 0), ((3, 3), 4)]
)
def test_nonsense_is_refused(shape, partitions):
    with pytest.raises(ValueError):
        probability_of_backtest_overfitting(np.zeros(shape), partitions)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="finite"):
        probability_of_backtest_overfitting(np.full((100, 3), np.nan), 4)
