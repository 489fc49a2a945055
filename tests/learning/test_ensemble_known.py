"""Planning where the answer is known; the scripts in benchmarks/ measure more seeds and more of each."""

import pytest

from benchmarks import cartpole_pets, execution_planner, linear_quadratic, sample_efficiency
from models.ensemble.config import Config
from models.ensemble.train import train
from pipelines.market.env_known import LinearQuadraticTask

pytestmark = [pytest.mark.learning, pytest.mark.timeout(1800)]


def test_the_true_model_reaches_the_linear_quadratic_optimum():
    best, _ = linear_quadratic.worth(linear_quadratic.Optimal(LinearQuadraticTask()), 1000)
    greedy, _ = linear_quadratic.worth(linear_quadratic.true_agent(1), 1000)
    planned, _ = linear_quadratic.worth(linear_quadratic.true_agent(10), 1000)
    assert greedy < 0.95 * best
    assert 0.98 * best < planned < 1.02 * best


@pytest.mark.parametrize("seed", range(5))
def test_a_learned_model_reaches_nine_tenths_of_it(seed):
    best, _ = linear_quadratic.worth(linear_quadratic.Optimal(LinearQuadraticTask()), 1000)
    config = Config(**linear_quadratic.PLANNING, **linear_quadratic.LEARNING, horizon=10)
    agent = train(linear_quadratic.make_env(16, noise=False), config, seed=seed)
    value, _ = linear_quadratic.worth(agent, 1000)
    assert value > 0.9 * best
    assert linear_quadratic.epistemic_ratio(agent, seed) > 10
    for share in linear_quadratic.coverage(agent, seed).values():
        assert 0.85 < share < 0.95


def test_the_true_model_finds_the_execution_schedule():
    value, _ = execution_planner.objective(execution_planner.true_agent(1e-6), 1e-6)
    assert value == pytest.approx(1_275_355.558, rel=0.005)


def test_cartpole_is_held_up_from_the_sixth_trial_on():
    returns = [cartpole_pets.trials(seed, 10) for seed in range(5)]
    assert sum(min(trial[5:]) >= 190 for trial in returns) >= 4


def test_it_stays_flat_where_there_is_nothing_to_gain():
    rows = []
    for seed in range(8):
        market = sample_efficiency.make_market("martingale", 1_000 + seed)
        rows.append(sample_efficiency.tested(market, "ensemble", {}, seed))
    assert sum(row["mean_exposure"] for row in rows) / len(rows) < 0.2
