"""The trading environment: gymnasium's contract, and the same account as the simulator."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import pipelines.market  # noqa: F401  (registers the environments)
from models.exposures import Exposures
from pipelines.market.account import Bars, Ledger, simulate
from pipelines.market.costs import Costs
from pipelines.market.env import RUIN_REWARD, TradingEnv, TradingVectorEnv, random_walk
from tests.pipelines.market.worlds import FREE, line

IDS = ("rehearsal/Trading-v0", "rehearsal/Execution-v0", "rehearsal/LinearQuadratic-v0")
TWO = random_walk(300, 2, volatility=0.01, seed=5)
FEATURES = np.arange(600, dtype=np.float32).reshape(300, 2)


def ride(env: Any, seed: int, steps: int) -> list[tuple[Any, ...]]:
    """Random actions from one seed; everything that came of them."""
    env.action_space.seed(seed)
    seen: list[tuple[Any, ...]] = [(env.reset(seed=seed)[0],)]
    for _ in range(steps):
        seen.append(env.step(env.action_space.sample())[:4])
    return seen


@pytest.mark.parametrize("name", IDS)
@pytest.mark.filterwarnings("ignore:.*Box.*")
def test_gymnasium_accepts_it(name: str) -> None:
    check_env(gymnasium.make(name).unwrapped)
    vector = gymnasium.make_vec(name, num_envs=3)
    assert vector.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    observation, _ = vector.reset(seed=1)
    assert observation in vector.observation_space
    observation, reward, terminated, truncated, _ = vector.step(vector.action_space.sample())
    assert observation in vector.observation_space
    assert reward.shape == terminated.shape == truncated.shape == (3,)


@pytest.mark.parametrize("name", IDS)
def test_one_in_a_vector_is_the_single_environment(name: str) -> None:
    short: dict[str, Any] = {
        "rehearsal/Trading-v0": {"episode_bars": 7},
        "rehearsal/LinearQuadratic-v0": {"episode_steps": 7},
    }.get(name, {})
    single = gymnasium.make(name, **short).unwrapped
    vector = gymnasium.make_vec(name, num_envs=1, **short)
    vector.action_space.seed(4)
    (observation, _), (observations, _) = single.reset(seed=4), vector.reset(seed=4)
    np.testing.assert_array_equal(observations[0], observation)
    over = ended = False
    for _ in range(40):
        actions = vector.action_space.sample()
        observations, rewards, terminateds, truncateds, infos = vector.step(actions)
        if over:  # the vector's idle step is the single environment's reset
            observation, reward, terminated, truncated = single.reset()[0], 0.0, False, False
        else:
            observation, reward, terminated, truncated, info = single.step(actions[0])
            for key, value in info.items():
                np.testing.assert_array_equal(infos[key][0], value)
        np.testing.assert_array_equal(observations[0], observation)
        assert (rewards[0], terminateds[0], truncateds[0]) == (reward, terminated, truncated)
        over = terminated or truncated
        ended |= over
    assert ended


@pytest.mark.parametrize("name", IDS)
def test_elements_do_not_know_each_other_and_seeds_hold(name: str) -> None:
    three, again = gymnasium.make_vec(name, num_envs=3), gymnasium.make_vec(name, num_envs=3)
    for one, other in zip(ride(three, 11, 30), ride(again, 11, 30), strict=True):
        for mine, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(mine, same)
    alone = gymnasium.make_vec(name, num_envs=1)
    np.testing.assert_array_equal(three.reset(seed=[7, 8, 9])[0][1:2], alone.reset(seed=[8])[0])
    three.action_space.seed(0)
    for _ in range(30):
        actions = three.action_space.sample()
        for whole, part in zip(three.step(actions)[:4], alone.step(actions[1:2])[:4], strict=True):
            np.testing.assert_array_equal(whole[1:2], part)


def test_importing_the_market_is_cheap() -> None:
    code = (
        "import sys, pipelines.market, gymnasium; gymnasium.spec('rehearsal/Trading-v0');"
        "print([m for m in ('numba', 'tensorflow', 'polars') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestTrading:
    def test_it_trades_the_simulators_account(self) -> None:
        costs = Costs(leverage=2.0, impact=0.5, no_trade_band=0.01)
        env = TradingVectorEnv(
            TWO, FEATURES, costs, num_envs=3, episode_bars=None, actions="box", start="first"
        )
        env.action_space.seed(2)
        observation, _ = env.reset(seed=2)
        weights, infos, observations = np.zeros((3, 300, 2)), [], [observation]
        for t in range(299):
            action = env.action_space.sample()
            weights[:, t] = env.exposures(action)
            observation, _, terminated, truncated, info = env.step(action)
            infos.append(info)
            observations.append(observation)
            assert not terminated.any()
            assert truncated.all() == (t == 298)
        ledger = simulate(TWO, weights, costs)
        for name in Ledger._fields[:-1]:
            stepped = np.stack([info[name] for info in infos], axis=1)
            np.testing.assert_allclose(stepped, getattr(ledger, name)[:, 1:], rtol=1e-12, atol=1e-12)
        assert weights.min() < -1.9
        shown = np.stack(observations, axis=1)  # [B, T, F + S + 1]
        np.testing.assert_array_equal(shown[..., :2], np.broadcast_to(FEATURES, (3, 300, 2)))
        np.testing.assert_allclose(shown[..., 2:4], ledger.exposure, rtol=1e-6)
        peak = np.maximum.accumulate(ledger.equity, axis=1)
        np.testing.assert_allclose(shown[..., 4], 1 - ledger.equity / peak, rtol=1e-6, atol=1e-7)

    def test_reward_is_log_growth_less_new_drawdown(self) -> None:
        bars = line(100, 100, 110, 99, 88, 99)
        env = TradingEnv(bars, costs=FREE, start="first", episode_bars=None, drawdown_penalty=2.0)
        env.reset(seed=0)
        rewards = [env.step(4)[1] for _ in range(5)]
        plain = np.log([1, 1.1, 0.9, 88 / 99, 99 / 88])
        assert rewards == pytest.approx(list(plain - 2 * np.array([0, 0, 0.1, 0.1, 0])))

    def test_ruin_terminates_with_a_finite_reward_and_the_next_step_resets(self) -> None:
        bars, costs = line(100, 100, 40, 40, 40), replace(FREE, leverage=3.0)
        env = TradingVectorEnv(bars, costs=costs, num_envs=2, start="first", episode_bars=None, actions="box")
        env.reset(seed=0)
        env.step([[1.0], [0.0]])
        _, reward, terminated, truncated, info = env.step([[1.0], [0.0]])
        assert reward.tolist() == [RUIN_REWARD, 0.0]
        assert terminated.tolist() == [True, False]
        assert truncated.tolist() == [False, False]
        assert info["ruined"].tolist() == [True, False]
        observation, reward, terminated, _, info = env.step([[1.0], [0.0]])
        assert reward.tolist() == [0.0, 0.0]
        assert not terminated.any()
        assert info["_equity"].tolist() == [False, True]
        assert env.rows.tolist() == [0, 3]
        assert env.state.equity.tolist() == [1e6, 1e6]
        assert observation[0].tolist() == [0.0, 0.0]

    def test_episodes_stay_inside_their_segment(self) -> None:
        segments = np.repeat([0, 1, 0, 2], [40, 3, 100, 157])
        env = TradingVectorEnv(TWO, num_envs=64, episode_bars=20, segments=segments)
        started: set[int] = set()
        for seed in range(0, 6_400, 64):
            env.reset(seed=seed)
            assert (segments[env.rows] == segments[env.rows + 20]).all()
            assert (env.ends == env.rows + 20).all()
            started |= set(env.rows.tolist())
        # 40 and 100 and 157 bars leave 20, 80 and 137 places to start; every one is found.
        assert started == {*range(20), *range(43, 123), *range(143, 280)}

    def test_grid_of_one_and_of_several_symbols(self) -> None:
        one = TradingVectorEnv(num_envs=2)
        assert one.single_action_space == gymnasium.spaces.Discrete(5)
        assert one.exposures([0, 3]).tolist() == [[-1.0], [0.5]]
        two = TradingVectorEnv(TWO, num_envs=1, grid=(0.0, 0.7))
        assert two.single_action_space == gymnasium.spaces.MultiDiscrete([2, 2])
        assert two.exposures([[1, 0]]).tolist() == [[0.7, 0.0]]

    def test_faults(self) -> None:
        env = TradingEnv(line(1, 1, 1), start="first", episode_bars=1)
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(0)
        env.reset(seed=0)
        for action in (-1, 5, 0.5):
            with pytest.raises(ValueError, match="actions must be whole"):
                env.step(action)
        env.step(0)
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(0)
        box = TradingVectorEnv(TWO, num_envs=1, actions="box")
        box.reset(seed=0)
        with pytest.raises(ValueError, match="actions must be finite"):
            box.step([[0.0, np.nan]])
        hole = FEATURES.copy()
        hole[17, 1] = np.nan
        with pytest.raises(ValueError, match="features is not a number at bar 17, feature 1"):
            TradingVectorEnv(TWO, hole)
        with pytest.raises(ValueError, match="no segment of the 300 bars has room"):
            TradingVectorEnv(TWO, episode_bars=300)
        with pytest.raises(ValueError, match="seeds"):
            box.reset(seed=[1, 2])
        for options in (
            {"actions": "dial"},
            {"start": "last"},
            {"grid": [np.nan]},
            {"segments": [1, 2]},
            {"episode_bars": 0},
            {"drawdown_penalty": -1.0},
            {"num_envs": 0},
        ):
            with pytest.raises(ValueError, match=next(iter(options))):
                TradingVectorEnv(TWO, **options)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"bars\.open must be"):
            TradingVectorEnv(Bars(*([np.ones((1, 3, 1))] * 4)))


def test_the_environment_tells_what_its_observations_and_actions_are() -> None:
    bars, features = TWO, np.zeros((300, 6))
    costs = Costs(leverage=1.5)

    def shown(**options: Any) -> Exposures | None:
        terms = options.pop("costs", costs)
        env = TradingVectorEnv(bars, features, terms, return_columns=[0, 3], episode_bars=20, **options)
        return env.exposures_shown

    assert shown() == Exposures(3, (0, 3), (-1.0, -0.5, 0.0, 0.5, 1.0), unit=1.5, gross=1.5)
    assert shown(costs=Costs(allow_short=False)).levels == (0.0, 0.0, 0.0, 0.5, 1.0)  # type: ignore[union-attr]
    assert shown(actions="box") == Exposures(3, (0, 3), (), unit=1.5, gross=1.5)
    # What follows from more than exposures and returns is not claimed.
    assert shown(drawdown_penalty=0.1) is None
    assert shown(actions="box", costs=Costs(allow_short=False)) is None
    assert TradingVectorEnv(bars, features, costs).exposures_shown is None
    assert TradingVectorEnv().exposures_shown == Exposures(2, (0,), (-1.0, -0.5, 0.0, 0.5, 1.0), gross=1.0)
    with pytest.raises(ValueError, match="return_columns must name 2 features"):
        TradingVectorEnv(bars, features, costs, return_columns=[0])
