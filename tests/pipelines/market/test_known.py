"""Markets whose answer is known: the oracle under costs, the martingale, Garleanu and Pedersen's optimum."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from pipelines.market.known import (
    GRID,
    LinearQuadratic,
    SignalLaw,
    drift_statistic,
    linear_policy_value,
    linear_quadratic_policy,
    linear_quadratic_value,
    measure_signal,
    oracle_weights,
    signal_law,
    trading_rule,
)
from pipelines.sources.regimes import Floats
from pipelines.sources.simulator import Kind, simulate_market

START = datetime(2022, 1, 1, tzinfo=UTC)


def beliefs(kind: Kind, seed: int, bars: int = 24_000) -> tuple[Floats, Floats, Floats]:
    """Forecast mean and variance [T, 1] and the simple returns [T] they speak of, one bar later."""
    candles, truth = simulate_market(
        kind=kind, symbols=["BTCUSDT"], interval="1h", start=START, bars=bars, seed=seed
    )
    mean, variance = (truth[name].to_numpy()[:, None] for name in ("filtered_mean", "filtered_variance"))
    close = candles["close"].to_numpy()
    return mean, variance, np.append(np.diff(close) / close[:-1], 0.0)


def net(weights: Floats, ahead: Floats, cost_bps: float = 6.5) -> float:
    """Sum of the net simple returns of weights [T] over the returns that follow them [T]."""
    return float(weights @ ahead - cost_bps * 1e-4 * np.abs(np.diff(weights, prepend=0.0)).sum())


# --- the oracle --------


def test_the_rule_is_the_best_of_all_rules_on_a_small_chain() -> None:
    """Three cells, three positions, every one of the 3^9 stationary rules valued exactly."""
    law = SignalLaw(
        edge_cuts=np.array([-5e-4, 5e-4]),
        variance_cuts=np.empty(0),
        edge=np.array([-1e-3, 0.0, 1.2e-3]),
        variance=np.array([4e-5, 2e-5, 8e-5]),
        transition=np.array([[0.8, 0.2, 0.0], [0.15, 0.7, 0.15], [0.0, 0.4, 0.6]]),
    )
    grid = (-1.0, 0.0, 1.0)
    best = trading_rule(law, cost_bps=8.0, grid=grid, discount=0.9)

    def worth(rule: Floats) -> Floats:
        """Values [9] of following `rule` from each (cell, position)."""
        motion, gain = np.zeros((9, 9)), np.zeros(9)
        for cell, here in product(range(3), range(3)):
            there = int(rule[cell, here])
            w = grid[there]
            gain[3 * cell + here] = (
                w * law.edge[cell] - 0.5 * w * w * law.variance[cell] - 8e-4 * abs(w - grid[here])
            )
            motion[3 * cell + here, there::3] = law.transition[cell]
        return np.linalg.solve(np.eye(9) - 0.9 * motion, gain)

    optimum = worth(best)
    for rule in product(range(3), repeat=9):
        assert (worth(np.reshape(rule, (3, 3))) <= optimum + 1e-12).all()
    assert (best[:, 1] != 1).any()  # it trades at all


def test_without_costs_the_oracle_follows_the_sign_and_with_huge_costs_it_stays() -> None:
    mean, variance, _ = beliefs("regimes", 3, bars=3000)
    edge = (mean + 0.5 * variance)[:, 0]
    free = oracle_weights(mean, variance, cost_bps=0.0)[:, 0]
    strong = np.abs(edge) > 2e-4
    np.testing.assert_array_equal(free[strong], np.sign(edge[strong]))
    assert not oracle_weights(mean, variance, cost_bps=500.0).any()
    assert set(np.unique(oracle_weights(mean, variance))) <= set(GRID)


def test_higher_costs_mean_less_trading_and_less_profit() -> None:
    mean, variance, ahead = beliefs("regimes", 3)
    turnover, profit = [], []
    for cost in (0.0, 3.0, 6.5, 15.0, 40.0):
        w = oracle_weights(mean, variance, cost_bps=cost)[:, 0]
        turnover.append(np.abs(np.diff(w, prepend=0.0)).sum())
        profit.append(net(w, ahead, cost))
    assert turnover == sorted(turnover, reverse=True)
    assert profit == sorted(profit, reverse=True)
    assert profit[2] > 0


def test_no_simpler_rule_on_the_same_beliefs_earns_more() -> None:
    """Growth summed over ten markets: the dynamic programme against sign and band rules of hindsight."""
    markets = [beliefs("regimes", seed) for seed in range(10)]
    optimum = sum(net(oracle_weights(m, v)[:, 0], r) for m, v, r in markets)

    def band(enter: float, leave: float) -> float:
        total = 0.0
        for m, v, r in markets:
            edge = (m + 0.5 * v)[:, 0]
            w, held = np.empty_like(edge), 0.0
            for t, e in enumerate(edge):
                if abs(e) > enter:
                    held = float(np.sign(e))
                elif held * e < leave:
                    held = 0.0
                w[t] = held
            total += net(w, r)
        return total

    rivals = [band(e, x) for e in (1e-4, 2e-4, 3e-4, 5e-4) for x in (-2e-4, -1e-4, 0.0, 5e-5)]
    assert optimum > 0.97 * max(rivals)  # hindsight over 16 rules may win a little, never much


def test_the_oracle_decides_from_the_past_alone() -> None:
    mean, variance, _ = beliefs("regimes", 5, bars=2000)
    whole = oracle_weights(mean, variance)
    np.testing.assert_array_equal(whole[:900], oracle_weights(mean[:900], variance[:900]))
    both = oracle_weights(np.hstack([mean, -mean]), np.hstack([variance, variance]))
    np.testing.assert_array_equal(both[:, :1], whole)  # symbols do not touch each other


def test_a_martingale_oracle_stays_flat_and_earns_nothing() -> None:
    for seed in range(5):
        mean, variance, _ = beliefs("martingale", seed)
        assert not oracle_weights(mean, variance).any()
        own = measure_signal(mean[:, 0], variance[:, 0])  # even by a law measured on this very path
        assert not oracle_weights(mean, variance, law=own).any()


def test_the_law_is_measured_once_and_the_same_every_time() -> None:
    law = signal_law()
    assert signal_law() is law
    np.testing.assert_allclose(law.transition.sum(1), 1, rtol=1e-12)
    assert (law.transition >= 0).all()
    signal_law.cache_clear()
    np.testing.assert_array_equal(signal_law().transition, law.transition)


def test_wrong_arguments_of_the_oracle_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[T, S\]"):
        oracle_weights(np.zeros(5), np.zeros(5))
    with pytest.raises(ValueError, match="contain 0"):
        oracle_weights(np.zeros((5, 1)), np.ones((5, 1)), grid=(-1.0, 1.0))


def test_the_drift_statistic_sees_a_drift_and_only_a_drift() -> None:
    rng = np.random.default_rng(0)
    returns = 0.01 * rng.standard_normal((200, 2000)) * np.linspace(0.2, 3, 2000)
    flat = [drift_statistic(np.cumprod(1 + r)) for r in returns]
    assert np.std(flat) == pytest.approx(1, abs=0.15)
    assert abs(np.mean(flat)) < 0.25
    assert drift_statistic(np.cumprod(1 + 0.01 * rng.standard_normal(2000) + 0.002)) > 4


# --- linear-quadratic --------

MARKETS = (LinearQuadratic(), LinearQuadratic.two_assets())


def as_linear(parameters: LinearQuadratic) -> tuple[Floats, Floats]:
    policy = linear_quadratic_policy(parameters)
    return np.eye(len(policy.rate)) - policy.rate, policy.rate @ policy.aim


def test_trade_rate_and_aim_are_the_papers_where_costs_are_proportional_to_risk() -> None:
    """Proposition 2's trade rate a / lambda and Proposition 4's aim, for Lambda = lambda Sigma."""
    base = LinearQuadratic.two_assets()
    lam, gamma, rho = 60.0, 5.0, 0.02
    phi = np.diag([0.2, 0.03])
    market = LinearQuadratic(
        mean_reversion=phi,
        loadings=base.loadings,
        covariance=base.covariance,
        cost=lam * base.covariance,
        risk_aversion=gamma,
        discount=rho,
    )
    b = gamma * (1 - rho) + lam * rho
    a = (-b + np.sqrt(b**2 + 4 * gamma * lam * (1 - rho) ** 2)) / (2 * (1 - rho))
    policy = linear_quadratic_policy(market)
    np.testing.assert_allclose(policy.rate, a / lam * np.eye(2), atol=1e-12)
    markowitz = np.linalg.solve(gamma * base.covariance, base.loadings)
    np.testing.assert_allclose(policy.aim, markowitz / (1 + np.diag(phi) * a / gamma), rtol=1e-10)


@pytest.mark.parametrize("market", MARKETS)
def test_the_value_solves_the_bellman_equation(market: LinearQuadratic) -> None:
    """Equation (5), its maximum found by a general optimiser that knows nothing of the solution."""
    rng = np.random.default_rng(1)
    assets, factors = market.loadings.shape
    keep, policy = 1 - market.discount, linear_quadratic_policy(market)
    noise = 0.5 * np.trace(policy.ff @ market.factor_covariance)
    for _ in range(5):
        before, f = rng.standard_normal(assets), rng.standard_normal(factors)
        later = (np.eye(factors) - market.mean_reversion) @ f

        def loss(x: Floats, before: Floats = before, f: Floats = f, later: Floats = later) -> float:
            trade = x - before
            now = x @ market.loadings @ f - 0.5 * market.risk_aversion * x @ market.covariance @ x
            future = linear_quadratic_value(market, x, later) + noise
            return float(0.5 * trade @ market.cost @ trade - keep * (now + future)) * 1e4

        found = minimize(loss, before, method="BFGS", options={"gtol": 1e-9})
        assert -found.fun / 1e4 == pytest.approx(linear_quadratic_value(market, before, f), rel=1e-9)
        hold, follow = as_linear(market)
        np.testing.assert_allclose(found.x, hold @ before + follow @ f, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.01, 0.1, 0.5]), which=st.sampled_from([0, 1]))
def test_no_perturbed_linear_policy_does_better(seed: int, scale: float, which: int) -> None:
    market = MARKETS[which]
    rng = np.random.default_rng(seed)
    hold, follow = as_linear(market)
    x, f = rng.standard_normal(len(hold)), rng.standard_normal(follow.shape[1])
    optimum = linear_quadratic_value(market, x, f)
    assert linear_policy_value(market, hold, follow, x, f) == pytest.approx(optimum, rel=1e-9)
    other = linear_policy_value(
        market,
        hold * (1 + scale * rng.standard_normal(hold.shape)),
        follow * (1 + scale * rng.standard_normal(follow.shape)),
        x,
        f,
    )
    assert other < optimum


@pytest.mark.parametrize("market", MARKETS)
def test_the_value_is_what_a_simulation_earns(market: LinearQuadratic) -> None:
    """2000 paths with noisy returns (1) and factors (2), the objective (4) added up bar by bar."""
    rng = np.random.default_rng(2)
    paths, bars = 2000, 900  # the bars beyond count less than 0.99^900 = 1e-4
    assets, factors = market.loadings.shape
    hold, follow = as_linear(market)
    carry = np.eye(factors) - market.mean_reversion
    root_u, root_e = np.linalg.cholesky(market.covariance), np.linalg.cholesky(market.factor_covariance)
    x0, f0 = np.full(assets, 0.5), np.linspace(1, -1, factors)
    x, f = np.tile(x0, (paths, 1)), np.tile(f0, (paths, 1))  # [N, S], [N, K]
    total = np.zeros(paths)
    for t in range(bars):
        after = x @ hold.T + f @ follow.T
        trade = after - x
        returns = f @ market.loadings.T + rng.standard_normal((paths, assets)) @ root_u.T
        gain = (after * returns).sum(1) - 0.5 * market.risk_aversion * np.einsum(
            "ni,ij,nj->n", after, market.covariance, after
        )
        cost = 0.5 * np.einsum("ni,ij,nj->n", trade, market.cost, trade)
        total += (1 - market.discount) ** t * ((1 - market.discount) * gain - cost)
        x, f = after, f @ carry.T + rng.standard_normal((paths, factors)) @ root_e.T
    error = total.std() / np.sqrt(paths)
    value = linear_quadratic_value(market, x0, f0)
    assert abs(total.mean() - value) < 3.5 * error
    assert error < 0.1 * value  # or the test could not fail


def test_an_exploding_policy_is_worth_minus_infinity() -> None:
    market = LinearQuadratic()
    assert linear_policy_value(market, np.array([[1.2]]), np.zeros((1, 2)), [1.0], [0.0, 0.0]) == -np.inf


def test_wrong_linear_quadratic_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cost must be \[1, 1\]"):
        LinearQuadratic(cost=np.eye(2))
    with pytest.raises(ValueError, match="covariance must be symmetric"):
        LinearQuadratic(covariance=np.array([[-1.0]]))
    with pytest.raises(ValueError, match="discount"):
        LinearQuadratic(discount=0.0)
