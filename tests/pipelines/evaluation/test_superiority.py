import numpy as np
import pytest

from pipelines.evaluation import superiority as s
from tests.pipelines.evaluation.examples import vector_returns

DRAW = {"block": 5.0, "replications": 10_000}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hansen_on_the_reference_vectors(seed):
    table = vector_returns()
    found = s.superior_predictive_ability(table[:, 0], table[:, 1:], seed=seed, **DRAW)
    assert found.statistic == pytest.approx(2.0234270219916293, abs=1e-9)
    assert found.omega == pytest.approx([1.32495, 1.521768, 1.3948, 1.392712, 1.521227, 1.436616], abs=1e-6)
    assert found.consistent == pytest.approx(0.0868, abs=0.01)
    assert found.lower == pytest.approx(0.0748, abs=0.01)
    assert found.lower <= found.consistent <= found.upper


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_white_on_the_reference_vectors(seed):
    table = vector_returns()
    found = s.reality_check(table[:, 0], table[:, 1:], seed=seed, **DRAW)
    assert found.statistic == pytest.approx(2.9068881024215703, abs=1e-9)
    assert found.p_value == pytest.approx(0.086, abs=0.01)


def test_studentising_matters():
    """A noisy candidate without an edge hides a quiet one with an edge from White, not from Hansen."""
    rng = np.random.default_rng(0)
    quiet = 0.02 + 0.1 * rng.standard_normal(600)
    noisy = 5.0 * rng.standard_normal(600)
    both = np.column_stack([quiet, noisy])
    kwargs = {"block": 1.0, "replications": 2000, "seed": 0}
    assert s.superior_predictive_ability(0.0, both, **kwargs).consistent < 0.01
    assert s.reality_check(0.0, both, **kwargs).p_value > 0.1


def test_poor_candidates_do_not_weaken_the_consistent_test():
    rng = np.random.default_rng(1)
    good = 0.1 + rng.standard_normal((500, 1))
    poor = -1.0 + rng.standard_normal((500, 40))
    kwargs = {"block": 1.0, "replications": 2000, "seed": 0}
    alone = s.superior_predictive_ability(0.0, good, **kwargs)
    crowd = s.superior_predictive_ability(0.0, np.concatenate([good, poor], axis=1), **kwargs)
    assert crowd.consistent == pytest.approx(alone.consistent, abs=0.01)
    assert crowd.upper > crowd.consistent + 0.05


def test_when_all_are_worse_there_is_no_evidence():
    worse = -1.0 + 0.1 * np.random.default_rng(0).standard_normal((200, 3))
    found = s.superior_predictive_ability(0.0, worse, block=1.0, replications=500, seed=0)
    assert (found.statistic, found.lower, found.consistent, found.upper) == (0.0, 1.0, 1.0, 1.0)


def test_a_candidate_that_is_the_benchmark():
    series = np.random.default_rng(0).standard_normal(100)
    found = s.superior_predictive_ability(series, series, block=1.0, replications=200, seed=0)
    assert (found.statistic, found.consistent) == (0.0, 1.0)


def test_a_certain_gain_is_certain():
    found = s.superior_predictive_ability(0.0, np.full((100, 1), 0.01), block=1.0, replications=200, seed=0)
    assert found.consistent == 0.0
    assert np.isfinite(found.statistic)


def test_stepwise_against_a_table_worked_by_hand():
    draws = np.array([[0.0, 1.0, 3.0], [2.0, 0.0, 0.0], [0.5, 0.5, 0.5], [1.5, -1.0, 1.0]])
    # Order of t: column 1, 0, 2. Largest of all: 3, 2, .5, 1.5 -> 1 of 4 reach 2.5.
    # Of columns 0 and 2: 3, 2, .5, 1.5 -> 2 of 4 reach 1.8. Of column 2: 3, 0, .5, 1 -> 2 reach .7;
    # but no later p-value is below an earlier one.
    found = s.stepwise_p_values([1.8, 2.5, 0.7], draws)
    assert found == pytest.approx([3 / 5, 2 / 5, 3 / 5])


def test_stepping_down_finds_more_than_one_step():
    rng = np.random.default_rng(4)
    draws = rng.standard_normal((4000, 20))
    t_values = np.concatenate([np.full(19, 6.0), [2.0]])
    adjusted = s.stepwise_p_values(t_values, draws)
    single = np.mean(draws.max(axis=1) >= 2.0)
    assert adjusted[-1] == pytest.approx(0.0228, abs=0.01)  # as if it stood alone
    assert single > 0.3


def test_family_wise_error_of_the_stepwise_test():
    false = 0
    for market in range(300):
        table = np.random.default_rng([9, market]).standard_t(5, (400, 6))
        table[:, 3:] = 0.7 * table[:, :3] + 0.3 * table[:, 3:]
        sample = s.excess(0.0, table, block=1.0, replications=300, seed=market)
        false += s.stepwise_p_values(sample.t_values, sample.draws).min() <= 0.05
    assert false / 300 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize(("method", "seeds"), [("R", (0, 1)), ("max", (0,))])
def test_confidence_set_of_the_reference_vectors(method, seeds):
    for seed in seeds:
        found = s.model_confidence_set(vector_returns(), block=5, replications=4000, seed=seed, method=method)
        assert found.p_values[1] == pytest.approx(0.0963 if method == "R" else 0.1311, abs=0.015)
        assert found.included[[0, 2, 3, 4, 5, 6]].all()
        assert found.p_values.max() == 1.0


def test_confidence_set_with_twins():
    table = vector_returns()
    twins = np.column_stack([table, table[:, 3], table[:, 1]])
    found = s.model_confidence_set(twins, block=5, replications=500, seed=0)
    alone = s.model_confidence_set(table, block=5, replications=500, seed=0)
    np.testing.assert_array_equal(found.p_values, np.append(alone.p_values, alone.p_values[[3, 1]]))
    same = s.model_confidence_set(np.zeros((50, 3)), block=1, replications=100, seed=0)
    assert same.included.all()


def test_the_candidates_and_the_benchmark_cover_the_same_bars():
    with pytest.raises(ValueError, match="bars"):
        s.superior_predictive_ability(np.zeros(5), np.zeros((6, 2)), block=1.0, replications=5, seed=0)
