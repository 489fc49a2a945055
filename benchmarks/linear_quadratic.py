"""Planning against the closed form of Garleanu and Pedersen (2013).

    python -m benchmarks.linear_quadratic [--seeds 5] [--horizons 1 5 10 20]

On `rehearsal/LinearQuadratic-v0`, discounted reward of 16 episodes of 200 steps as a share of that of the
optimal policy on the same episodes: with the true model, and with a learned one; greedy (H = 1) and planned.
Of the learned model also: coverage of the 90 % interval at horizons 1, 5 and 10; epistemic variance off the
data over that on it; bias of planned rewards by step.

Bars: true model within 2 % of the closed form, learned at least 90 %; coverage 85 to 95 %; ratio at least 10.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.planned import NETWORK, bias_by_step, walk, write
from models import rng, runtime
from models.agent import Decision, spaces_of
from models.ensemble import agent as acting
from models.ensemble import dream, networks
from models.ensemble.agent import EnsembleAgent
from models.ensemble.config import Config
from models.ensemble.dream import Known, Model
from models.ensemble.train import train
from pipelines.market.env_known import LinearQuadraticTask, LinearQuadraticVectorEnv
from pipelines.market.known import LinearQuadratic, linear_quadratic_policy

EPISODES, STEPS = 16, 200
LIMIT = 0.1  # of a trade; the best ones are of a few hundredths
PLANNING: dict[str, Any] = {
    "discount": 0.98,
    "propagation": "mean",
    "samples": 200,
    "elite_samples": 20,
    "iterations": 6,
    "gate_quantile": 1.0,
    "confidence": 0.0,
}
LEARNING: dict[str, Any] = {
    **NETWORK,
    "env_steps": 12_000,
    "warmup_steps": 10_000,
    "fit_steps": 2_000,
    "max_rounds": 60,
    "patience": 6,
    "epsilon": 0.5,
}


def known_model(task: LinearQuadraticTask) -> Known:
    """The market without its noise; by certainty equivalence its plan is that of the market with it."""
    persistence = tf.constant(np.eye(len(task.mean_reversion)) - np.array(task.mean_reversion), tf.float32)
    loadings = tf.constant(task.loadings, tf.float32)  # [S, K]
    sigma, cost = (tf.constant(m, tf.float32) for m in (task.return_covariance, task.cost))
    factors, keep = persistence.shape[0], 1.0 - task.discount_rate

    def step(x: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
        held = x[..., factors:] + action
        return tf.concat([tf.einsum("jk,...k->...j", persistence, x[..., :factors]), held], axis=-1)

    def reward(x: tf.Tensor, action: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        held = x[..., factors:] + action
        gain = tf.einsum("...s,sk,...k->...", held, loadings, x[..., :factors])
        risk = 0.5 * task.risk_aversion * tf.einsum("...s,st,...t->...", held, sigma, held)
        return keep * (gain - risk) - 0.5 * tf.einsum("...s,st,...t->...", action, cost, action)

    def terminated(x: tf.Tensor) -> tf.Tensor:
        return tf.zeros_like(x[..., 0], tf.bool)

    return Known(reward=reward, terminated=terminated, step=step)


class Optimal:
    """The closed form: trade part of the way toward the aim."""

    def __init__(self, task: LinearQuadraticTask) -> None:
        matrices = (task.mean_reversion, task.loadings, task.return_covariance, task.cost)
        phi, loadings, sigma, cost = (np.array(matrix) for matrix in matrices)
        market = LinearQuadratic(
            phi, loadings, sigma, cost, np.array(task.factor_covariance), task.risk_aversion,
            task.discount_rate,
        )  # fmt: skip
        self.policy, self.factors = linear_quadratic_policy(market), phi.shape[0]

    def initial_state(self, batch_size: int) -> tuple[()]:
        return ()

    def act(self, observation: np.ndarray, state: Any, *, seed: int) -> Decision:
        factors, held = observation[:, : self.factors], observation[:, self.factors :]
        aim = factors @ self.policy.aim.T
        return Decision(((aim - held) @ self.policy.rate.T).astype(np.float32), state, {})


def make_env(number: int, *, noise: bool) -> LinearQuadraticVectorEnv:
    return LinearQuadraticVectorEnv(
        num_envs=number, episode_steps=STEPS, actions="trade", limit=LIMIT, noise=noise
    )


def worth(agent: Any, seed: int) -> tuple[float, Any]:
    """Mean discounted reward of an episode; the predicted part of returns only, the same for all agents."""
    walked = walk(agent, make_env(EPISODES, noise=False), seed=seed, steps=STEPS)
    discounts = 0.98 ** np.arange(len(walked.rewards))
    return float((discounts[:, None] * walked.rewards).sum(axis=0).mean()), walked


def replanned(agent: EnsembleAgent, horizon: int) -> EnsembleAgent:
    """The same model, planning over another horizon."""
    config = Config(**{**vars(agent.config), "horizon": horizon})
    return EnsembleAgent(
        config, agent.spaces, agent.model, agent.limits, counters={}, known=agent.known
    )  # fmt: skip


def true_agent(horizon: int) -> EnsembleAgent:
    env = make_env(1, noise=False)
    config = Config(**PLANNING, horizon=horizon, members=1, elites=1, hidden=(2,), interactions=False)
    shape = acting.shape_of(config, spaces_of(env))
    width = shape.inputs + shape.action_inputs
    scaling = networks.measure(np.zeros((2, width)), np.zeros((2, shape.targets)), ends=False)
    model = Model(networks.initial(shape, 0), scaling)
    return EnsembleAgent(
        config, spaces_of(env), model, acting.OPEN, counters={}, known=known_model(env.task)
    )  # fmt: skip


def coverage(agent: EnsembleAgent, seed: int) -> dict[str, float]:
    """Share of realised factors inside the middle 90 % of 1000 particles, after 1, 5, 10 random actions."""
    env = make_env(256, noise=True)
    observation, _ = env.reset(seed=seed)
    draw = np.random.default_rng(seed)
    actions = draw.uniform(-LIMIT, LIMIT, (256, 10, 1)).astype(np.float32)
    start, figures = observation.copy(), {}
    settings = agent.settings._replace(propagation="tsinf", particles=200)
    for ahead in range(1, 11):
        observation, *_ = env.step(actions[:, ahead - 1])
        if ahead in (1, 5, 10):
            last = dream.dream(
                agent.model, tf.constant(start), tf.constant(actions[:, None, :ahead]), rng.key(seed),
                shape=agent.shape, settings=settings,
            ).last.numpy()  # fmt: skip
            particles = last[:, :, :, 0, :2].reshape(-1, 256, 2)
            low, high = np.quantile(particles, (0.05, 0.95), axis=0)
            inside = (observation[:, :2] >= low) & (observation[:, :2] <= high)
            figures[f"h{ahead}"] = float(inside.mean())
    return figures


def epistemic_ratio(agent: EnsembleAgent, seed: int) -> float:
    """Variance between members at five times the states of the data, over that at the states themselves."""
    env = make_env(256, noise=True)
    observation, _ = env.reset(seed=seed)
    action = np.random.default_rng(seed).uniform(-LIMIT, LIMIT, (256, 1)).astype(np.float32)
    on, off = (
        dream.doubt(agent.model, tf.constant(shown), tf.constant(action), agent.shape)
        .epistemic.numpy()
        .mean()
        for shown in (observation, 5.0 * observation)
    )
    return float(off / on)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--horizons", type=int, nargs="+", default=[1, 5, 10, 20])
    arguments = parser.parse_args()
    runtime.single_thread()
    started = time.perf_counter()
    best = worth(Optimal(LinearQuadraticTask()), 1000)[0]
    figures: dict[str, Any] = {"optimal": best, "true": {}, "learned": []}
    for horizon in arguments.horizons:
        figures["true"][f"h{horizon}"] = worth(true_agent(horizon), 1000)[0] / best
        print("true", horizon, figures["true"][f"h{horizon}"], flush=True)
    for seed in range(arguments.seeds):
        for noise in (False, True):
            config = Config(**PLANNING, **LEARNING, horizon=max(arguments.horizons))
            agent = train(make_env(16, noise=noise), config, seed=seed)
            row: dict[str, Any] = {"seed": seed, "noise": noise, "share": {}}
            for horizon in arguments.horizons:
                value, walked = worth(replanned(agent, horizon), 1000)
                row["share"][f"h{horizon}"] = value / best
            row["bias_by_step"] = bias_by_step(walked)
            row["coverage_90"] = coverage(agent, seed)
            row["epistemic_off_over_on"] = epistemic_ratio(agent, seed)
            figures["learned"].append(row)
            print(row, flush=True)
    write("linear_quadratic", arguments, figures, started)


if __name__ == "__main__":
    main()
