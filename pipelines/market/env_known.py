"""Environments whose optimum is known in closed form: trading on decaying signals, and selling a block.

Both are `Batch` environments (see `pipelines.market.env` for seeds and autoreset) without any account: their
reward is the objective of the paper itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from pipelines.market import impact
from pipelines.market.account import Floats
from pipelines.market.env import Batch, Info, Mask, Single
from pipelines.market.execution import ExecutionTask, temporary_impact

Row = tuple[float, ...]
Matrix = tuple[Row, ...]


@dataclass(frozen=True)
class LinearQuadraticTask:
    """The market of Garleanu and Pedersen, "Dynamic trading with predictable returns and transaction costs"
    (2013), S assets and K factors:

        r_{t+1} = B f_t + u_{t+1}                     (eq. 1)     var u = Sigma
        f_{t+1} = (1 - Phi) f_t + epsilon_{t+1}       (eq. 2)     var epsilon = Omega
        cost of a trade = 1/2 dx' Lambda dx           (eq. 3)
        maximise E sum_t (1 - rho)^{t+1} (x_t' r_{t+1} - gamma/2 x_t' Sigma x_t)
                         - (1 - rho)^t / 2 dx_t' Lambda dx_t                          (eq. 4)

    The default has one asset, a fast and a slow factor of unit variance, and returns of unit variance.
    """

    loadings: Matrix = ((0.15, 0.1),)
    """B [S, K]"""
    mean_reversion: Matrix = ((0.2, 0.0), (0.0, 0.02))
    """Phi [K, K]"""
    factor_covariance: Matrix = ((0.36, 0.0), (0.0, 0.0396))
    """Omega [K, K]"""
    return_covariance: Matrix = ((1.0,),)
    """Sigma [S, S]"""
    cost: Matrix = ((10.0,),)
    """Lambda [S, S]"""
    risk_aversion: float = 1.0
    """gamma"""
    discount_rate: float = 0.02
    """rho: rewards are discounted by 1 - rho a step"""

    def __post_init__(self) -> None:
        loadings = np.asarray(self.loadings, np.float64)
        if loadings.ndim != 2 or 0 in loadings.shape:
            raise ValueError(f"task.loadings must be [S, K], got {self.loadings!r}")
        assets, factors = loadings.shape
        for name, size in (
            ("mean_reversion", factors),
            ("factor_covariance", factors),
            ("return_covariance", assets),
            ("cost", assets),
        ):
            matrix = np.asarray(getattr(self, name), np.float64)
            if matrix.shape != (size, size) or not np.isfinite(matrix).all():
                raise ValueError(f"task.{name} must be finite, [{size}, {size}], got {getattr(self, name)!r}")
            if name != "mean_reversion" and not _is_covariance(matrix):
                raise ValueError(f"task.{name} must be symmetric, without negative eigenvalues")
        persistence = np.eye(factors) - np.asarray(self.mean_reversion, np.float64)
        if np.abs(np.linalg.eigvals(persistence)).max() >= 1:
            raise ValueError(
                "task.mean_reversion must make the factors stationary: |eigenvalues of 1 - Phi| < 1"
            )
        if not (math.isfinite(self.risk_aversion) and self.risk_aversion > 0):
            raise ValueError(f"task.risk_aversion must be above 0, got {self.risk_aversion!r}")
        if not 0 <= self.discount_rate < 1:
            raise ValueError(f"task.discount_rate must lie in [0, 1), got {self.discount_rate!r}")

    def stationary_covariance(self) -> Floats:
        """Of the factors [K, K]: the solution of C = (1 - Phi) C (1 - Phi)' + Omega."""
        persistence = np.eye(len(self.mean_reversion)) - np.asarray(self.mean_reversion)
        size = persistence.shape[0]
        flat = np.linalg.solve(
            np.eye(size * size) - np.kron(persistence, persistence),
            np.asarray(self.factor_covariance, np.float64).ravel(),
        )
        return np.asarray(flat.reshape(size, size))


class LinearQuadraticVectorEnv(Batch):
    """N traders in a `LinearQuadraticTask`.

    The observation is the factors f_t and the position x_{t-1}; the action is the new position x_t
    (`actions="position"`) or the trade to it (`"trade"`), in `Box(-limit, limit, (S,))`. The reward is
    `(1 - rho) (x_t' r_{t+1} - gamma/2 x_t' Sigma x_t) - 1/2 dx_t' Lambda dx_t`: discounted by 1 - rho a step,
    the rewards of an episode add up to the paper's objective. Episodes start from the stationary factors
    and no position, and are truncated after `episode_steps`; nothing terminates them.

    With `noise=False` the unpredictable part u of the returns is left out (its mean is zero and no policy
    can see it coming, so that the optimum is the same and far fewer episodes measure it).
    """

    def __init__(
        self,
        task: LinearQuadraticTask | None = None,
        *,
        num_envs: int = 1,
        episode_steps: int = 200,
        actions: str = "position",
        limit: float = 3.0,
        noise: bool = True,
    ) -> None:
        self.task = task or LinearQuadraticTask()
        if actions not in ("position", "trade"):
            raise ValueError(f'actions must be "position" or "trade", got {actions!r}')
        if episode_steps < 1 or not limit > 0:
            raise ValueError(f"episode_steps and limit must be above 0, got {episode_steps!r} and {limit!r}")
        self.trades = actions == "trade"
        self.episode_steps = episode_steps
        self.noise = noise
        self.loadings = np.asarray(self.task.loadings, np.float64)  # [S, K]
        self.sigma = np.asarray(self.task.return_covariance, np.float64)
        self.lambda_ = np.asarray(self.task.cost, np.float64)
        assets, factors = self.loadings.shape
        self.persistence = np.eye(factors) - np.asarray(self.task.mean_reversion, np.float64)
        self.start_root = _root(self.task.stationary_covariance())
        self.factor_root = _root(np.asarray(self.task.factor_covariance, np.float64))
        self.return_root = _root(self.sigma)
        self.factors = np.zeros((num_envs, factors))
        self.position = np.zeros((num_envs, assets))
        self.elapsed = np.zeros(num_envs, np.int64)
        super().__init__(
            num_envs,
            gymnasium.spaces.Box(-np.inf, np.inf, (factors + assets,), np.float32),
            gymnasium.spaces.Box(-limit, limit, (assets,), np.float32),
        )

    def _begin(self, fresh: Mask) -> None:
        self.factors[fresh] = self._draw(fresh, self.factors.shape[1])[fresh] @ self.start_root.T
        self.position[fresh] = 0.0
        self.elapsed[fresh] = 0

    def _observe(self) -> NDArray[np.float32]:
        return np.concatenate([self.factors, self.position], axis=1, dtype=np.float32)  # [N, K + S]

    def _move(self, actions: NDArray[Any], moving: Mask) -> tuple[Floats, Mask, Mask, Info]:
        space = self.single_action_space
        asked = np.clip(_finite(actions, self.position.shape), space.low, space.high).astype(np.float64)
        position = self.position + asked if self.trades else asked
        trade = position - self.position  # [N, S]
        assets, factors = self.loadings.shape
        shocks = self._draw(moving, assets + factors)  # [N, S + K]
        returns = self.factors @ self.loadings.T
        if self.noise:
            returns = returns + shocks[:, :assets] @ self.return_root.T
        gain = (position * returns).sum(1)
        risk = 0.5 * self.task.risk_aversion * _quadratic(position, self.sigma)
        cost = 0.5 * _quadratic(trade, self.lambda_)
        reward = (1.0 - self.task.discount_rate) * (gain - risk) - cost
        self.position[moving] = position[moving]
        factors_next = self.factors @ self.persistence.T + shocks[:, assets:] @ self.factor_root.T
        self.factors[moving] = factors_next[moving]
        self.elapsed[moving] += 1
        truncated = (self.elapsed >= self.episode_steps) & moving
        info = {
            "returns": returns,
            "gain": gain,
            "risk": risk,
            "cost": cost,
            "position": self.position.copy(),
        }
        return np.where(moving, reward, 0.0), np.zeros_like(moving), truncated, info

    def _draw(self, where: Mask, size: int) -> Floats:
        """Standard normals [N, size], each row from its own generator; zero rows elsewhere."""
        draws = np.zeros((self.num_envs, size))
        for index in np.flatnonzero(where):
            draws[index] = self.generators[index].standard_normal(size)
        return draws


class LinearQuadraticEnv(Single):
    """One trader: `LinearQuadraticVectorEnv` for a single episode at a time, with the same arguments."""

    def __init__(self, task: LinearQuadraticTask | None = None, **options: Any) -> None:
        super().__init__(LinearQuadraticVectorEnv(task, num_envs=1, **options))


class ExecutionVectorEnv(Batch):
    """N sellers of the same block, in the market of `execution.ExecutionTask`.

    The observation is the share of the block that is left, the share of the time that is left, and the
    transient displacement in units of the daily volatility. The action is the fraction of what is left
    (`actions="fraction"`, `Box(0, 1, (1,))`) or the number of shares (`"shares"`) to sell in the period;
    the last period sells the rest whatever it says, and ends the task (terminated).

    The reward of a period is minus its part of the implementation shortfall, minus lambda times its part of
    the variance, `sigma^2 tau x_k^2`, over `reward_unit` money. With `noise=False` the rewards of an episode
    therefore add up to `-(E + lambda V)` of its schedule, which `execution.cost` gives; with noise, and
    lambda 0, to minus the realised shortfall.
    """

    def __init__(
        self,
        task: ExecutionTask | None = None,
        *,
        num_envs: int = 1,
        risk_aversion: float = 1e-6,
        actions: str = "fraction",
        noise: bool = True,
        reward_unit: float = 1.0,
    ) -> None:
        self.task = task or ExecutionTask()
        if actions not in ("fraction", "shares"):
            raise ValueError(f'actions must be "fraction" or "shares", got {actions!r}')
        if not (risk_aversion >= 0 and math.isfinite(risk_aversion)):
            raise ValueError(f"risk_aversion must be a finite number, at least 0, got {risk_aversion!r}")
        if not reward_unit > 0:
            raise ValueError(f"reward_unit must be above 0, got {reward_unit!r}")
        self.risk_aversion = risk_aversion
        self.fractions = actions == "fraction"
        self.noise = noise
        self.reward_unit = reward_unit
        self.left = np.zeros(num_envs)
        self.price = np.zeros(num_envs)
        self.displaced = np.zeros(num_envs)
        self.period = np.zeros(num_envs, np.int64)
        most = 1.0 if self.fractions else self.task.shares
        super().__init__(
            num_envs,
            gymnasium.spaces.Box(0.0, np.array([1.0, 1.0, np.inf], np.float32), (3,), np.float32),
            gymnasium.spaces.Box(0.0, most, (1,), np.float32),
        )

    def _begin(self, fresh: Mask) -> None:
        self.left[fresh] = self.task.shares
        self.price[fresh] = self.task.price
        self.displaced[fresh] = 0.0
        self.period[fresh] = 0

    def _observe(self) -> NDArray[np.float32]:
        scale = self.task.volatility or 1.0
        columns = (
            self.left / self.task.shares,
            1.0 - self.period / self.task.periods,
            self.displaced / scale,
        )
        return np.stack(columns, axis=1, dtype=np.float32)  # [N, 3]

    def _move(self, actions: NDArray[Any], moving: Mask) -> tuple[Floats, Mask, Mask, Info]:
        task = self.task
        asked = _finite(actions, (self.num_envs, 1))[:, 0].astype(np.float64)
        asked = np.clip(asked, 0.0, 1.0) * self.left if self.fractions else np.clip(asked, 0.0, self.left)
        last = self.period == task.periods - 1
        sold = np.where(last, self.left, asked)
        left = np.where(last, 0.0, self.left - sold)
        rate = sold / task.tau
        displaced = impact.decay(self.displaced, task.recovery, task.tau)
        below = temporary_impact(task, rate) + displaced + 0.5 * task.transient * sold
        fill = self.price - below
        drift = -task.tau * impact.permanent(rate, task.permanent)
        shock = np.zeros(self.num_envs)
        if self.noise:
            for index in np.flatnonzero(moving):
                shock[index] = self.generators[index].standard_normal()
            shock *= task.volatility * math.sqrt(task.tau)
        # Summed by parts, the shortfall X S_0 - sum n_k fill_k is what each period costs in itself and
        # what the price then moves on the shares that are left.
        shortfall = sold * below - left * (drift + shock)
        risk = self.risk_aversion * task.volatility**2 * task.tau * left**2
        reward = np.where(moving, -(shortfall + risk) / self.reward_unit, 0.0)
        self.left[moving] = left[moving]
        self.price[moving] = (self.price + drift + shock)[moving]
        self.displaced[moving] = (displaced + task.transient * sold)[moving]
        self.period[moving] += 1
        terminated = (self.period >= task.periods) & moving
        info = {
            "sold": sold,
            "fill": fill,
            "shortfall": shortfall,
            "risk": risk,
            "left": self.left.copy(),
            "price": self.price.copy(),
        }
        return reward, terminated, np.zeros_like(moving), info


class ExecutionEnv(Single):
    """One seller: `ExecutionVectorEnv` for a single episode at a time, with the same arguments."""

    def __init__(self, task: ExecutionTask | None = None, **options: Any) -> None:
        super().__init__(ExecutionVectorEnv(task, num_envs=1, **options))


def _is_covariance(matrix: Floats) -> bool:
    return bool(np.allclose(matrix, matrix.T) and np.linalg.eigvalsh(matrix).min() >= -1e-12)


def _root(covariance: Floats) -> Floats:
    """A matrix R with R R' = covariance, which may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _quadratic(vectors: Floats, matrix: Floats) -> Floats:
    """v' M v for each row, [N]."""
    return np.asarray(np.einsum("ns,st,nt->n", vectors, matrix, vectors))


def _finite(actions: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if actions.shape != shape or not np.isfinite(actions).all():
        raise ValueError(f"actions must be finite and of shape {shape}, got {actions!r}")
    return actions
