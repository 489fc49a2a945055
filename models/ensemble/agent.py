"""Model-predictive control with a learned ensemble, that stands aside where it does not know."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import models
from models import agent as storage
from models import checkpoint, configuration, rng
from models.agent import Agent, Decision, Spaces, State
from models.ensemble import decision, forecast, networks
from models.ensemble.config import Config
from models.ensemble.dream import Known, Limits, Model, Settings
from models.ensemble.networks import Scaling, Shape, Weights
from models.planning import plan
from models.planning.plan import ActionSpace, Continuous

FAMILY = "ensemble"
POLICY = "policy"
"""The folder of the agent that learned inside the model."""
OPEN = Limits(*map(np.float32, (np.inf, 0.0, np.inf, -np.inf, -np.inf)))
"""Limits that are never met, and every regime a trend: while data are gathered, the unknown is visited."""
_EXPLAINING_PATHS = 256


def shape_of(config: Config, spaces: Spaces, members: int | None = None) -> Shape:
    """The networks that `config` makes for `spaces`."""
    return Shape(
        spaces.observation.shape[0],
        plan.space_of(spaces.action),
        config.members if members is None else members,
        config.hidden,
        config.activation,
        config.interactions,
    )


def neutral_action(config: Config, space: ActionSpace) -> tuple[float, ...]:
    """The action of doing nothing; see `Config.neutral`."""
    if config.neutral is None:
        if isinstance(space, Continuous):
            return tuple(float(v) for v in np.clip(0.0, *plan.bounds(space)))
        return tuple(float(v) for v in plan.middle(space))
    given = np.array(config.neutral)
    low = space.low if isinstance(space, Continuous) else np.zeros(plan.width(space))
    high = space.high if isinstance(space, Continuous) else np.array(space.counts) - 1
    whole = isinstance(space, Continuous) or np.array_equal(given, np.round(given))
    if given.shape != (plan.width(space),) or (given < low).any() or (given > high).any() or not whole:
        raise configuration.Misfit(f"ensemble.neutral: {config.neutral} is no action of {space}")
    return config.neutral


def settings_of(config: Config, space: ActionSpace) -> Settings:
    """What a decision needs of the configuration."""
    shared = {name: getattr(config, name) for name in Settings._fields if name != "neutral"}
    return Settings(**shared, neutral=neutral_action(config, space))


def to_action(choice: np.ndarray, spaces: Spaces) -> np.ndarray:
    """Planner actions `[B, A]` as actions of the space."""
    if isinstance(plan.space_of(spaces.action), Continuous):
        return choice.astype(spaces.action.dtype)
    shifted: np.ndarray = choice.reshape(len(choice), *spaces.action.shape) + spaces.action.start
    return shifted.astype(spaces.action.dtype)


def to_choice(action: np.ndarray, spaces: Spaces) -> np.ndarray:
    """The inverse of `to_action`: float32 or, for choices, int32."""
    if isinstance(plan.space_of(spaces.action), Continuous):
        return action.astype(np.float32)
    choice: np.ndarray = (action - spaces.action.start).reshape(len(action), -1).astype(np.int32)
    return choice


class EnsembleAgent:
    """Plans anew at every step from where the last plan left off.

    Args:
        model: the members that plan; the `members` of its shape are those.
        known: functions that take the place of learned ones; not saved with the agent.
        fallback: another agent, without memory, to act where the plan is not followed; doing nothing if not
            given. Saved with the agent if it was learned inside the model (`config.fallback`).
    """

    def __init__(
        self,
        config: Config,
        spaces: Spaces,
        model: Model,
        limits: Limits,
        *,
        counters: dict[str, Any],
        known: Known = Known(),  # noqa: B008, immutable
        fallback: Agent | None = None,
    ) -> None:
        self.config, self.spaces, self.counters = config, spaces, counters
        self.shape = shape_of(config, spaces, config.elites)
        expected = networks.initial(self.shape, 0)
        for mine, fresh in zip(networks.flatten(model.weights), networks.flatten(expected), strict=True):
            if mine.shape != fresh.shape:
                raise configuration.Misfit(
                    f"ensemble: weights of shape {mine.shape} where the configuration and the spaces "
                    f"make {fresh.shape}"
                )
        self.model, self.limits = model, limits
        self.known, self.fallback = known, fallback
        if config.acting == "policy" and fallback is None:
            raise configuration.Misfit(
                "ensemble.acting: policy is not allowed without a policy that has learned"
            )
        self.settings = settings_of(config, self.shape.space)

    def initial_state(self, batch_size: int) -> State:
        """The plan that is being followed `[B, H, A]`: at first, to do nothing."""
        neutral = np.array(self.settings.neutral, plan.kind(self.shape.space))
        return np.tile(neutral, (batch_size, self.settings.horizon, 1))

    def act(self, observation: np.ndarray, state: State, *, seed: int) -> Decision:
        """Actions for `observation [B, D]`. The seed draws candidates and noise, the same for the batch.

        `info` is that of `decision.decider`; where the policy acts alone, its own.
        """
        if self.config.acting == "policy":
            assert self.fallback is not None
            found = self.fallback.act(observation, self.fallback.initial_state(len(observation)), seed=seed)
            return found._replace(state=state)
        return decide(
            self.model, self.limits, self.shape, self.settings, self.spaces, observation, state, seed,
            known=self.known, fallback=self.fallback, compiled=self.config.compile,
        )  # fmt: skip

    def forecast(
        self,
        observation: np.ndarray,
        state: State,
        actions: np.ndarray | None,
        *,
        horizon: int,
        samples: int,
        seed: int,
    ) -> np.ndarray:
        """Rewards `[B, M, H]` that the members foretell; see `models.agent.Forecaster`.

        For `actions=None` these are of the plan, whose last action is kept to where H is longer; where the
        gate closes, of doing nothing throughout, or of the fallback acting inside the model.
        """
        shown = np.asarray(observation, np.float32)
        batch, ahead = len(shown), {"horizon": horizon, "samples": samples}
        if actions is not None:
            flat = np.asarray(actions).reshape(-1, *self.spaces.action.shape)
            return self._paths(shown, to_choice(flat, self.spaces).reshape(batch, horizon, -1), samples, seed)
        if self.config.acting == "policy":
            return self._policy_paths(shown, **ahead, seed=seed)
        info = self.act(shown, state, seed=rng.derive(seed, "plan")).info
        gated = info["gated"][:, None, None] > 0.0
        meant = np.where(gated, np.array(self.settings.neutral, info["plan"].dtype), info["plan"])
        meant = meant[:, np.minimum(np.arange(horizon), self.settings.horizon - 1)]  # [B, H, A]
        paths = self._paths(shown, meant, samples, seed)
        if self.fallback is not None and gated.any():
            paths = np.where(gated, self._policy_paths(shown, **ahead, seed=seed), paths)
        return paths

    def _paths(self, shown: np.ndarray, choices: np.ndarray, samples: int, seed: int) -> np.ndarray:
        batch, horizon = choices.shape[:2]
        run = forecast.forecaster(
            self.shape, self.settings, self.known, batch, horizon, samples, compiled=self.config.compile
        )
        key = rng.key(rng.derive(seed, "paths"))
        paths: np.ndarray = run(self.model, tf.constant(shown), tf.constant(choices), key).numpy()
        return paths

    def _policy_paths(self, shown: np.ndarray, *, horizon: int, samples: int, seed: int) -> np.ndarray:
        assert self.fallback is not None
        rows = len(shown) * samples
        move = forecast.mover(self.shape, self.known, rows, compiled=self.config.compile)
        choose = functools.partial(to_choice, spaces=self.spaces)
        return forecast.follow(
            self.fallback, move, self.model, shown, choose, horizon=horizon, samples=samples, seed=seed
        )

    def explain(
        self, observation: np.ndarray, state: State, *, seed: int
    ) -> dict[str, dict[str, np.ndarray]]:
        """The plan for one observation `[1, D]`, as it was found, whether or not it is followed.

        `plan`: `actions [H, *action]`, and mean and deviation over particles of the reward of each step,
        `rewards [H]` and `spread [H]`. Nothing where the policy acts alone.
        """
        if self.config.acting == "policy":
            return {}
        found = self.act(observation, state, seed=seed).info["plan"]  # [1, H, A]
        paths = self._paths(np.asarray(observation, np.float32), found, _EXPLAINING_PATHS, seed)[0]  # [M, H]
        shown = to_action(found[0], self.spaces)
        return {"plan": {"actions": shown, "rewards": paths.mean(axis=0), "spread": paths.std(axis=0)}}

    def save(self, directory: Path) -> None:
        """Writes the agent's directory. An agent with known functions says so and needs them to be loaded."""
        storage.save(
            directory,
            family=FAMILY,
            config=self.config,
            spaces=self.spaces,
            counters={**self.counters, "known": self._known_names()},
            weights=pack(self.model, self.limits),
            parts={POLICY: self.fallback} if self.fallback and self.config.fallback != "neutral" else {},
        )

    def _known_names(self) -> list[str]:
        return [name for name, function in self.known._asdict().items() if function is not None]

    def digest(self) -> str:
        """A name for exactly these weights."""
        packed = pack(self.model, self.limits)
        return hashlib.sha256(b"".join(packed[name].tobytes() for name in sorted(packed))).hexdigest()


def decide(
    model: Model,
    limits: Limits,
    shape: Shape,
    settings: Settings,
    spaces: Spaces,
    observation: np.ndarray,
    state: State,
    seed: int,
    *,
    known: Known,
    compiled: bool,
    fallback: Agent | None = None,
) -> Decision:
    """One decision for a batch; see `EnsembleAgent.act`."""
    run = decision.decider(shape, settings, known, len(observation), compiled=compiled)
    shown = tf.constant(np.asarray(observation, np.float32))
    action, following, info = run(
        model, shown, tf.constant(state), Limits(*map(tf.constant, limits)), rng.key(seed)
    )
    said = {name: value.numpy() for name, value in info.items()}
    taken = to_action(action.numpy(), spaces)
    if fallback is not None:
        other = fallback.act(observation, fallback.initial_state(len(observation)), seed=seed).action
        gated = said["gated"].reshape(-1, *[1] * (taken.ndim - 1)) > 0.0
        taken = np.where(gated, other, taken)
    return Decision(action=taken, state=following.numpy(), info=said)


def pack(model: Model, limits: Limits) -> dict[str, np.ndarray]:
    """Model and limits as named arrays."""
    scaling = {name: tensor.numpy() for name, tensor in model.scaling._asdict().items()}
    bounds = {name: np.array(value, np.float32) for name, value in limits._asdict().items()}
    return (
        checkpoint.nest("weights", networks.arrays(model.weights))
        | checkpoint.nest("scaling", scaling)
        | checkpoint.nest("limits", bounds)
    )


def unpack(arrays: dict[str, np.ndarray]) -> tuple[Model, Limits]:
    """The inverse of `pack`."""
    weights: Weights = networks.from_arrays(checkpoint.unnest("weights", arrays))
    scaling = checkpoint.unnest("scaling", arrays)
    limits = checkpoint.unnest("limits", arrays)
    return (
        Model(weights, Scaling(**{name: tf.constant(value) for name, value in scaling.items()})),
        Limits(**{name: np.float32(value) for name, value in limits.items()}),
    )


def load(directory: Path, *, known: Known = Known(), fallback: Agent | None = None) -> EnsembleAgent:  # noqa: B008
    """The agent saved in `directory`; one that was trained with known functions needs the same ones.

    The policy that learned inside its model comes with it, unless another `fallback` is given.
    """
    saved = storage.read(directory)
    if saved.family != FAMILY:
        raise ValueError(f"{directory} holds an agent of the family {saved.family!r}, not {FAMILY!r}")
    model, limits = unpack(saved.weights)
    counters = dict(saved.counters)
    needed = counters.pop("known")
    config = configuration.parse(Config, saved.config, where=f"{directory}/{storage.DESCRIPTION}")
    if fallback is None and config.fallback != "neutral":
        fallback = models.load(Path(directory) / POLICY)
    agent = EnsembleAgent(
        config,
        saved.spaces,
        model,
        limits,
        counters=counters,
        known=known,
        fallback=fallback,
    )
    if agent._known_names() != needed:
        raise ValueError(f"{directory}: the agent was trained with known {needed}; pass the same to load")
    return agent
