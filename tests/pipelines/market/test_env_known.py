"""The environments with a known optimum say what their papers say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.market.env_known import (
    ExecutionEnv,
    ExecutionVectorEnv,
    LinearQuadraticEnv,
    LinearQuadraticTask,
    LinearQuadraticVectorEnv,
)
from pipelines.market.execution import ExecutionTask, cost, schedule, twap

PAPER = ExecutionTask()
ROUGH = replace(PAPER, square_root=0.4, transient=3e-7, recovery=0.7, periods=8, temporary=3e-6)


class TestExecution:
    @pytest.mark.parametrize("task", [PAPER, ROUGH])
    @pytest.mark.parametrize("actions", ["fraction", "shares"])
    def test_rewards_add_up_to_the_objective(self, task: ExecutionTask, actions: str) -> None:
        env = ExecutionEnv(task, noise=False, actions=actions, risk_aversion=1e-6)
        rng = np.random.default_rng(0)
        plans = [twap(task), schedule(replace(task, square_root=0, transient=0), risk_aversion=1e-6)]
        plans += [np.r_[np.sort(rng.uniform(0, 1e6, task.periods))[::-1], 0.0] for _ in range(5)]
        for plan in plans:
            plan[0] = task.shares
            env.reset(seed=0)
            total = 0.0
            for k in range(task.periods):
                sold = plan[k] - plan[k + 1]
                action = sold / plan[k] if actions == "fraction" else sold
                _, reward, terminated, truncated, info = env.step(np.array([action]))
                total += reward
                assert terminated == (k == task.periods - 1)
                assert not truncated
                assert info["left"] == pytest.approx(plan[k + 1], abs=1e-6)
            assert total == pytest.approx(-float(cost(task, plan, risk_aversion=1e-6).objective), rel=1e-9)

    def test_the_papers_optimum(self) -> None:
        env = ExecutionEnv(noise=False, actions="shares", reward_unit=1e6)
        env.reset(seed=0)
        plan = schedule(PAPER, risk_aversion=1e-6)
        total = sum(env.step(np.array([sold]))[1] for sold in -np.diff(plan))
        assert total == pytest.approx(-1.275355558361934, rel=1e-9)

    def test_shortfall_is_what_the_fills_say_and_has_the_papers_moments(self) -> None:
        env = ExecutionVectorEnv(num_envs=4000, risk_aversion=0.0, actions="shares")
        env.reset(seed=1)
        plan = schedule(PAPER, risk_aversion=1e-6)
        total, proceeds = np.zeros(4000), np.zeros(4000)
        for sold in -np.diff(plan):
            _, reward, _, _, info = env.step(np.full((4000, 1), sold))
            total += reward
            proceeds += info["sold"] * info["fill"]
        np.testing.assert_allclose(total, proceeds - 50e6, rtol=1e-9)
        expected = cost(PAPER, plan)
        deviation = float(np.sqrt(expected.variance))
        assert -total.mean() == pytest.approx(float(expected.expectation), abs=4 * deviation / np.sqrt(4000))
        assert total.std() == pytest.approx(deviation, rel=0.05)

    def test_the_last_period_sells_the_rest(self) -> None:
        env = ExecutionEnv()
        observation, _ = env.reset(seed=0)
        assert observation.tolist() == [1.0, 1.0, 0.0]
        for _ in range(4):
            env.step(np.array([0.0]))
        observation, _, terminated, _, info = env.step(np.array([0.0]))
        assert terminated
        assert info["sold"] == 1e6
        assert observation.tolist() == [0.0, 0.0, 0.0]

    def test_faults(self) -> None:
        for key, value in (("actions", "price"), ("risk_aversion", -1.0), ("reward_unit", 0.0)):
            with pytest.raises(ValueError, match=key):
                ExecutionVectorEnv(**{key: value})  # type: ignore[arg-type]
        env = ExecutionEnv()
        env.reset(seed=0)
        with pytest.raises(ValueError, match="finite"):
            env.step(np.array([np.nan]))


class TestLinearQuadratic:
    TASK = LinearQuadraticTask(
        loadings=((0.3, 0.1), (0.0, 0.2)),
        mean_reversion=((0.5, 0.1), (0.0, 0.1)),
        factor_covariance=((1.0, 0.2), (0.2, 0.5)),
        return_covariance=((1.0, 0.3), (0.3, 2.0)),
        cost=((4.0, 1.0), (1.0, 6.0)),
        risk_aversion=0.5,
        discount_rate=0.1,
    )

    def test_reward_by_hand(self) -> None:
        env = LinearQuadraticEnv(self.TASK, noise=False)
        observation, _ = env.reset(seed=3)
        f = env.batch.factors[0].copy()
        np.testing.assert_allclose(observation, [*f, 0, 0], rtol=1e-6)
        _, reward, _, _, info = env.step(np.array([1.0, -2.0]))
        # x'Sx = 1 - 1.2 + 8 = 7.8; dx'Ldx = 4 - 4 + 24 = 24.
        gain = 1.0 * (0.3 * f[0] + 0.1 * f[1]) - 2.0 * 0.2 * f[1]
        assert reward == pytest.approx(0.9 * (gain - 0.25 * 7.8) - 12.0, rel=1e-12)
        assert info["position"].tolist() == [1.0, -2.0]
        f = env.batch.factors[0].copy()
        _, reward, _, _, _ = env.step(np.array([1.0, -2.0]))  # held: no cost
        gain = 1.0 * (0.3 * f[0] + 0.1 * f[1]) - 2.0 * 0.2 * f[1]
        assert reward == pytest.approx(0.9 * (gain - 0.25 * 7.8), rel=1e-12)

    def test_trades_add_up_to_the_position(self) -> None:
        position, trade = LinearQuadraticEnv(self.TASK), LinearQuadraticEnv(self.TASK, actions="trade")
        position.reset(seed=5)
        trade.reset(seed=5)
        for target, change in (([1, 1], [1, 1]), ([0.5, 2], [-0.5, 1]), ([-1, 2], [-1.5, 0])):
            a, b = position.step(np.array(target, float)), trade.step(np.array(change, float))
            np.testing.assert_array_equal(a[0], b[0])
            assert a[1] == pytest.approx(b[1], rel=1e-12)

    def test_factors_and_returns_have_the_stated_law(self) -> None:
        env = LinearQuadraticVectorEnv(self.TASK, num_envs=2000, episode_steps=25)
        env.reset(seed=0)
        covariance = self.TASK.stationary_covariance()
        start = np.cov(env.factors.T)
        before, after, returns = [], [], []
        for _ in range(24):
            before.append(env.factors.copy())
            *_, info = env.step(np.zeros((2000, 2)))
            after.append(env.factors.copy())
            returns.append(info["returns"])
        f, g, r = (np.concatenate(each) for each in (before, after, returns))
        np.testing.assert_allclose(start, covariance, atol=0.15)
        np.testing.assert_allclose(np.cov(f.T), covariance, atol=0.06)
        np.testing.assert_allclose(
            np.cov((g - f @ (np.eye(2) - self.TASK.mean_reversion).T).T), [[1, 0.2], [0.2, 0.5]], atol=0.03
        )
        np.testing.assert_allclose(
            np.cov((r - f @ np.array(self.TASK.loadings).T).T), [[1, 0.3], [0.3, 2]], atol=0.05
        )

    def test_the_optimal_policy_earns_the_value_that_dynamic_programming_gives(self) -> None:
        task, steps = self.TASK, 120
        beta, size = 1 - task.discount_rate, 2
        b, cost, sigma = (np.array(m) for m in (task.loadings, task.cost, task.return_covariance))
        keep = np.zeros((4, 4))  # z = (f, x); z' = keep z + put x' + noise
        keep[:2, :2] = np.eye(2) - task.mean_reversion
        put = np.vstack([np.zeros((2, 2)), np.eye(2)])
        state = np.zeros((4, 4))  # reward = z' state z + 2 x'' cross z + x'' own x'
        state[2:, 2:] = -cost / 2
        cross = np.hstack([beta * b / 2, cost / 2])
        own = -beta * task.risk_aversion * sigma / 2 - cost / 2
        value = np.zeros((4, 4))
        for _ in range(400):
            policy = -np.linalg.solve(own + beta * put.T @ value @ put, cross + beta * put.T @ value @ keep)
            value = state + beta * keep.T @ value @ keep + policy.T @ (cross + beta * put.T @ value @ keep)
        noise = beta / (1 - beta) * np.trace(value[:2, :2] @ np.array(task.factor_covariance))
        expected = np.trace(value[:2, :2] @ task.stationary_covariance()) + noise

        def earned(rule: np.ndarray) -> np.ndarray:
            env = LinearQuadraticVectorEnv(task, num_envs=1500, episode_steps=steps, noise=False, limit=50.0)
            env.reset(seed=1)
            total = np.zeros(env.num_envs)
            for k in range(steps):
                z = np.hstack([env.factors, env.position])
                total += beta**k * env.step(z @ rule.T)[1]
            return total

        best = earned(policy)
        assert best.mean() == pytest.approx(expected, abs=4 * best.std() / np.sqrt(best.size))
        assert best.std() / np.sqrt(best.size) < 0.1 * expected
        myopic = np.hstack([np.linalg.solve(task.risk_aversion * sigma, b), np.zeros((2, size))])
        for other in (myopic, 0.5 * policy, 1.2 * policy):
            assert earned(other).mean() < best.mean()

    def test_only_time_ends_it(self) -> None:
        env = LinearQuadraticVectorEnv(num_envs=1, episode_steps=3)
        env.reset(seed=0)
        ends = [env.step([[0.0]])[2:4] for _ in range(8)]
        assert [bool(truncated[0]) for _, truncated in ends] == [
            False,
            False,
            True,
            False,
            False,
            False,
            True,
            False,
        ]
        assert not any(terminated[0] for terminated, _ in ends)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("loadings", (0.1,)),
            ("mean_reversion", ((0.0, 0.0), (0.0, 0.1))),
            ("factor_covariance", ((1.0, 2.0), (2.0, 1.0))),
            ("return_covariance", ((np.nan,),)),
            ("cost", ((-1.0,),)),
            ("risk_aversion", 0.0),
            ("discount_rate", 1.0),
        ],
    )
    def test_faults(self, key: str, value: object) -> None:
        with pytest.raises(ValueError, match=rf"task\.{key}"):
            LinearQuadraticTask(**{key: value})  # type: ignore[arg-type]
