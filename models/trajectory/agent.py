"""A trained trajectory transformer that plans, or does what its target asks for.

The agent carries the last transitions as tokens, cropped by whole transitions. It is not told its
rewards, so those of the past are unknown to it; training hides them in the same way.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tensorflow as tf

from models import agent as storage
from models import configuration, rng
from models.agent import Decision, Spaces, State
from models.trajectory import gpt
from models.trajectory.config import Config
from models.trajectory.data import Layout, layout_of, valid_tokens
from models.trajectory.plan import Plan, Scales, searcher
from models.trajectory.tokens import Tokeniser

FAMILY = "trajectory"
GRID = np.linspace(0.0, 1.0, 101)
"""The quantiles of recorded returns and drawdowns that are kept."""


def shape_of(config: Config, layout: Layout) -> gpt.Shape:
    """The network that `config` makes for a layout."""
    transitions = config.context + config.horizon
    return gpt.Shape(layout.slots, transitions, config.bins, config.width, config.heads, config.layers)


def plan_of(config: Config, shape: gpt.Shape, layout: Layout) -> Plan:
    """The search that `config` asks for; a Decision Transformer only names the next action."""
    condition = config.mode == "condition"
    return Plan(
        shape,
        layout,
        horizon=0 if condition else config.horizon,
        width=1 if condition else config.beam_width,
        expand=config.beam_expand,
        action_cdf=config.action_cdf,
        observation_top_k=config.observation_top_k,
        score=config.beam_score,
        likelihood_weight=config.likelihood_weight,
        quantile=config.decode_quantile if config.decode == "quantile" else None,
        discount=config.discount,
    )


class TrajectoryAgent:
    """See the module. `quantiles [2, 101]` are those of the recorded returns and drawdowns."""

    def __init__(
        self,
        config: Config,
        spaces: Spaces,
        weights: np.ndarray,
        tokeniser: Tokeniser,
        quantiles: np.ndarray,
        *,
        counters: dict[str, Any],
    ) -> None:
        self.config, self.spaces, self.counters = config, spaces, counters
        self.layout = layout_of(spaces, drawdown=config.drawdown_token)
        self.shape = shape_of(config, self.layout)
        if weights.shape != (gpt.size(self.shape),):
            raise ValueError(
                f"trajectory: {weights.size} weights for a network of {gpt.size(self.shape)}; "
                "spaces, bins, context, horizon or sizes differ"
            )
        self.weights, self.tokeniser, self.quantiles = weights, tokeniser, quantiles
        self.plan = plan_of(config, self.shape, self.layout)
        centres = tokeniser.centres(self.shape.classes)  # [K + 1, C]
        spread = quantiles[0, 84] - quantiles[0, 16]  # two deviations of a normal
        self._scales = Scales(
            tf.constant(valid_tokens(self.layout, tokeniser, config.bins)),
            tf.constant(centres[self.layout.reward]),
            tf.constant(centres[self.layout.slots]),
            tf.constant(np.float32(spread / 2.0 if spread > 0 else 1.0)),
        )
        self._flat = tf.constant(weights)
        self.target = self._target_tokens()

    def _target_tokens(self) -> np.ndarray:
        """The tokens `[G]` of what is asked for; unknown where nothing is."""
        asked = [self.config.target, self.config.target_drawdown][: self.layout.given]
        tokens = np.full(self.layout.given, self.shape.unknown, np.int32)
        for place, quantile in enumerate(asked):
            if quantile is not None:
                value = np.interp(quantile, GRID, self.quantiles[place])
                tokens[place] = self.tokeniser.encode(np.array([value]), [place]).tokens[0]
        return tokens

    def with_target(
        self, *, quantile: float | None = None, value: float | None = None, clip: bool = False
    ) -> TrajectoryAgent:
        """The same agent asked for another return: a quantile of the recorded ones, or a `value`.

        A return that was never recorded is refused, since nothing is known about how to reach it; with
        `clip` the nearest recorded one is asked for instead (`config.target` of the result says which).
        """
        if (quantile is None) == (value is None):
            raise ValueError("give either a quantile or a value to aim at")
        if value is not None:
            low, high = self.quantiles[0, 0], self.quantiles[0, -1]
            if not clip and not low <= value <= high:
                raise ValueError(
                    f"a return of {value:g} over {self.config.return_steps} steps was never recorded; "
                    f"recorded ones lie in [{low:g}, {high:g}]"
                )
            quantile = float(np.interp(value, self.quantiles[0], GRID))
        elif quantile is not None and clip:
            quantile = min(max(quantile, 0.0), 1.0)
        return self.with_config(target=quantile)

    def with_config(self, **changes: Any) -> TrajectoryAgent:
        """The same weights with another way to act: mode, target, beams, score."""
        config = dataclasses.replace(self.config, **changes)
        return TrajectoryAgent(
            config, self.spaces, self.weights, self.tokeniser, self.quantiles, counters=self.counters
        )

    def initial_state(self, batch_size: int) -> State:
        """No past, no plan."""
        layout = self.layout
        return {
            "past": np.full((batch_size, self.config.context, layout.slots), self.shape.unknown, np.int32),
            "count": np.zeros(batch_size, np.int64),
            "queue": np.zeros((batch_size, self.config.plan_every, layout.action), np.int32),
            "left": np.zeros(batch_size, np.int64),
            "said": np.zeros((batch_size, 2), np.float32),
        }

    def act(self, observation: np.ndarray, state: State, *, seed: int = 0) -> Decision:
        """Decides for `observation [B, D]`; consumes `seed` where the search draws observations or actions.

        `info`: `value [B]`, the return the best plan promises, discounted, and `log_probability [B]`, of its
        tokens; `clipped [B]`, numbers of the observation outside of what was recorded; and, in the steps
        in which a plan is made, `plan [B, H, *action]`, `plan_observation [B, H - 1, D]`, `plan_reward
        [B, H]`, and of all beams `beam_scores [B, W]` and `beam_actions [B, W, H, *action]`.
        """
        assert isinstance(state, dict)
        now: dict[str, np.ndarray] = {name: np.array(values) for name, values in state.items()}
        layout, batch = self.layout, len(observation)
        columns = range(layout.given, layout.first_action)
        tokens = self.tokeniser.encode(observation, columns).tokens  # [B, N]
        outside = (observation < self.tokeniser.low[columns.start : columns.stop]) | (
            observation > self.tokeniser.high[columns.start : columns.stop]
        )
        row = np.full((batch, layout.slots), self.shape.unknown, np.int32)
        row[:, : layout.given] = self.target
        row[:, layout.given : layout.first_action] = tokens
        info: dict[str, np.ndarray] = {}
        due = now["left"] == 0
        if due.any():
            info = self._plan(row, now, due, seed)
        at = self.config.plan_every - now["left"]
        action = now["queue"][np.arange(batch), at]  # [B, M] tokens
        now["left"] -= 1
        row[:, layout.first_action : layout.reward] = action
        self._remember(row, now)
        said = {"value": now["said"][:, 0].copy(), "log_probability": now["said"][:, 1].copy()}
        return Decision(
            self._actions(action),
            dict(now),
            said | {"clipped": outside.sum(axis=1).astype(np.float32)} | info,
        )

    def _plan(
        self, row: np.ndarray, state: dict[str, np.ndarray], due: np.ndarray, seed: int
    ) -> dict[str, np.ndarray]:
        """Searches for all, and puts the plans of those that are `due` into their queues."""
        layout, batch, plan = self.layout, len(row), self.plan
        prefix = np.concatenate([state["past"], row[:, None]], axis=1)  # [B, C + 1, K]
        prefix[np.arange(batch), state["count"]] = row
        length = (state["count"] * layout.slots + layout.first_action).astype(np.int32)
        beams = searcher(plan, compiled=self.config.compile)(
            self._flat,
            tf.constant(prefix),
            tf.constant(length),
            tf.constant(np.tile(self.target, (batch, 1))),
            self._scales,
            tf.constant(rng.key(seed)),
        )
        tokens = beams.tokens.numpy()  # [B, W, steps]
        horizon = max(1, plan.horizon)
        whole = np.zeros((*tokens.shape[:2], horizon * layout.slots), np.int32)
        whole[..., : tokens.shape[2]] = tokens
        # From the action on: the first M of each transition are its action.
        whole = whole.reshape(*tokens.shape[:2], horizon, layout.slots)
        actions = whole[..., : layout.action]  # [B, W, H, M]
        every = self.config.plan_every if plan.horizon else 1
        state["queue"][due, -every:] = actions[due, 0, :every]
        state["left"][due] = every
        rewards, value = beams.measures["rewards"].numpy(), beams.measures["value"].numpy()
        state["said"][due, 0] = (rewards[:, 0].sum(axis=-1) + value[:, 0])[due]
        state["said"][due, 1] = beams.log_probability.numpy()[due, 0]
        if plan.horizon == 0:
            return {}
        observed = whole[:, 0, :-1, layout.slots - layout.observation :]  # [B, H - 1, N]
        return {
            "plan": self._actions(actions[:, 0].reshape(-1, layout.action)).reshape(
                batch, horizon, *(self.spaces.action.shape or ())
            ),
            "plan_observation": self.tokeniser.decode(observed, range(layout.given, layout.first_action)),
            "plan_reward": rewards[:, 0] / plan.discount ** np.arange(horizon),
            "beam_scores": beams.score.numpy(),
            "beam_actions": self._actions(actions.reshape(-1, layout.action)).reshape(
                *actions.shape[:3], *(self.spaces.action.shape or ())
            ),
        }

    def _remember(self, row: np.ndarray, state: dict[str, np.ndarray]) -> None:
        """Appends a transition; the oldest whole one makes room."""
        context = self.config.context
        if context == 0:
            return
        full = state["count"] == context
        state["past"][full] = np.roll(state["past"][full], -1, axis=1)
        state["count"] = np.minimum(state["count"] + 1, context)
        state["past"][np.arange(len(row)), state["count"] - 1] = row

    def _actions(self, tokens: np.ndarray) -> np.ndarray:
        """Action tokens `[B, M]` as actions `[B, *action]`."""
        space = self.spaces.action
        values = self.tokeniser.decode(tokens, range(self.layout.first_action, self.layout.reward))
        shaped = values.reshape(len(tokens), *(space.shape or ()))
        if isinstance(space, gymnasium.spaces.Box):
            shaped = np.clip(shaped, space.low, space.high)
        return shaped.astype(space.dtype)

    def attention(self, observation: np.ndarray) -> np.ndarray:
        """Which inputs the choice of an action looks at: mean attention `[B, K]` of first steps, by slot.

        Averaged over layers and heads, at the token that the action is read from. Attention is not
        influence: it says where the network looked, not what it made of it.
        """
        layout = self.layout
        row = np.full((len(observation), 1, layout.slots), self.shape.unknown, np.int32)
        row[:, 0, : layout.given] = self.target
        columns = range(layout.given, layout.first_action)
        row[:, 0, layout.given : layout.first_action] = self.tokeniser.encode(observation, columns).tokens
        weights = gpt.unflatten(self._flat, self.shape)
        seen = gpt.trunk(weights, gpt.embed(weights, tf.constant(row), self.shape), self.shape)
        shares = np.mean([layer.numpy() for layer in seen.attention], axis=(0, 2))  # [B, K, K]
        looked: np.ndarray = shares[:, layout.first_action - 1]
        return looked

    def digest(self) -> str:
        """A name for exactly these weights."""
        return hashlib.sha256(self.weights.tobytes()).hexdigest()

    def save(self, directory: Path) -> None:
        """Writes the agent's directory."""
        tokeniser = {f"tokeniser.{name}": array for name, array in self.tokeniser.arrays().items()}
        storage.save(
            directory,
            family=FAMILY,
            config=self.config,
            spaces=self.spaces,
            counters=self.counters,
            weights={"weights": self.weights, "quantiles": self.quantiles, **tokeniser},
        )


def load(directory: Path) -> TrajectoryAgent:
    """The agent saved in `directory`."""
    saved = storage.read(directory)
    if saved.family != FAMILY:
        raise ValueError(f"{directory} holds an agent of the family {saved.family!r}, not {FAMILY!r}")
    prefix = "tokeniser."
    arrays: Mapping[str, np.ndarray] = {
        name.removeprefix(prefix): array for name, array in saved.weights.items() if name.startswith(prefix)
    }
    return TrajectoryAgent(
        configuration.parse(Config, saved.config, where=f"{directory}/{storage.DESCRIPTION}"),
        saved.spaces,
        saved.weights["weights"],
        Tokeniser.from_arrays(arrays),
        saved.weights["quantiles"],
        counters=saved.counters,
    )
