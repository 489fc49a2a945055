"""A trained trajectory transformer that plans, or does what its target asks for.

The agent carries the last transitions as tokens, cropped by whole transitions. It is not told its
rewards, so those of the past are unknown to it; training hides them in the same way.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import tensorflow as tf

from models import agent as storage
from models import configuration, rng
from models.agent import Decision, Spaces, State
from models.planning.beam import DEAD
from models.trajectory import gpt
from models.trajectory.config import Config
from models.trajectory.data import Layout, layout_of, valid_tokens
from models.trajectory.forecast import Decide, Start, prefix_of, sample
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


class _Beams(NamedTuple):
    """Beams on the host, best first."""

    tokens: np.ndarray  # [B, W, H, K] from the action on
    score: np.ndarray  # [B, W]
    log_probability: np.ndarray  # [B, W]
    rewards: np.ndarray  # [B, W, H] discounted
    value: np.ndarray  # [B, W] discounted


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
            raise configuration.Misfit(
                f"trajectory: {weights.size} weights for a network of {gpt.size(self.shape)}; "
                "spaces, bins, context, horizon or sizes differ"
            )
        self.weights, self.tokeniser, self.quantiles = weights, tokeniser, quantiles
        self.plan = plan_of(config, self.shape, self.layout)
        spread = quantiles[0, 84] - quantiles[0, 16]  # two deviations of a normal
        self._scales = Scales(
            tf.constant(valid_tokens(self.layout, tokeniser, config.bins)),
            tf.constant(tokeniser.means(self.layout.reward, self.shape.classes)),
            tf.constant(tokeniser.means(self.layout.slots, self.shape.classes)),
            tf.constant(np.float32(spread / 2.0 if spread > 0 else 1.0)),
            tf.constant(np.float32(np.interp(config.target or 0.0, GRID, quantiles[0]))),
        )
        self._flat = tf.constant(weights)
        self.target = self._target_tokens()

    def _target_tokens(self) -> np.ndarray:
        """The tokens `[G]` of what is asked for; unknown where nothing is."""
        # A search that asks how likely a plan makes the target must not be told that it comes true.
        weighed = self.plan.horizon > 0 and self.plan.score == "target"
        asked = [None if weighed else self.config.target, self.config.target_drawdown][: self.layout.given]
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
        seen = slice(layout.given, layout.first_action)
        outside = (observation < self.tokeniser.low[seen]) | (observation > self.tokeniser.high[seen])
        row = self._begin(observation)
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

    def _begin(self, observation: np.ndarray) -> np.ndarray:
        """The tokens `[B, K]` of transitions that have just begun: what is asked for, and what is seen."""
        layout = self.layout
        row = np.full((len(observation), layout.slots), self.shape.unknown, np.int32)
        row[:, : layout.given] = self.target
        columns = range(layout.given, layout.first_action)
        row[:, layout.given : layout.first_action] = self.tokeniser.encode(observation, columns).tokens
        return row

    def _search(self, plan: Plan, prefix: np.ndarray, length: np.ndarray, seed: int, jit: bool) -> _Beams:
        """The beams of `plan` from `prefix [B, P, K]`, of which `length [B]` tokens count."""
        layout = self.layout
        beams = searcher(plan, compiled=jit)(
            self._flat,
            tf.constant(prefix),
            tf.constant(length.astype(np.int32)),
            tf.constant(np.tile(self.target, (len(prefix), 1))),
            self._scales,
            tf.constant(rng.key(seed)),
        )
        tokens = beams.tokens.numpy()  # [B, W, steps]
        horizon = max(1, plan.horizon)
        whole = np.zeros((*tokens.shape[:2], horizon * layout.slots), np.int32)
        whole[..., : tokens.shape[2]] = tokens
        return _Beams(
            # From the action on: the first M of each transition are its action.
            whole.reshape(*tokens.shape[:2], horizon, layout.slots),
            beams.score.numpy(),
            beams.log_probability.numpy(),
            beams.measures["rewards"].numpy(),
            beams.measures["value"].numpy(),
        )

    def _prefix(self, row: np.ndarray, state: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Past and present as `[B, C + 1, K]`, and how many tokens stand before the action `[B]`."""
        start = Start(state["past"], state["count"], row)
        prefix, kept = prefix_of(start, self.config.context, self.shape.unknown)
        return prefix, kept * self.layout.slots + self.layout.first_action

    def _plan(
        self, row: np.ndarray, state: dict[str, np.ndarray], due: np.ndarray, seed: int
    ) -> dict[str, np.ndarray]:
        """Searches for all, and puts the plans of those that are `due` into their queues."""
        layout, plan = self.layout, self.plan
        found = self._search(plan, *self._prefix(row, state), seed, self.config.compile)
        every = self.config.plan_every if plan.horizon else 1
        state["queue"][due, -every:] = found.tokens[due, 0, :every, : layout.action]
        state["left"][due] = every
        state["said"][due, 0] = (found.rewards[:, 0].sum(axis=-1) + found.value[:, 0])[due]
        state["said"][due, 1] = found.log_probability[due, 0]
        if plan.horizon == 0:
            return {}
        observed = found.tokens[:, 0, :-1, layout.slots - layout.observation :]  # [B, H - 1, N]
        actions = self._planned(found)  # [B, W, H, *action]
        return {
            "plan": actions[:, 0],
            "plan_observation": self.tokeniser.decode(observed, range(layout.given, layout.first_action)),
            "plan_reward": found.rewards[:, 0] / plan.discount ** np.arange(plan.horizon),
            "beam_scores": found.score,
            "beam_actions": actions,
        }

    def _planned(self, found: _Beams) -> np.ndarray:
        """The actions `[B, W, H, *action]` of beams."""
        tokens = found.tokens[..., : self.layout.action]
        actions = self._actions(tokens.reshape(-1, self.layout.action))
        return actions.reshape(*tokens.shape[:3], *(self.spaces.action.shape or ()))

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
        """Sampled rewards `[B, M, H]`; see `models.agent.Forecaster` and `models.trajectory.forecast`.

        Without `actions` each path follows the plan that `act` would follow, and beyond it does what
        promises most one step ahead; planning anew with all beams at each step of each path would take
        minutes. In the mode `condition` it is exactly what the agent would do. Consumes `seed`.
        """
        assert isinstance(state, dict)
        past: dict[str, np.ndarray] = {name: np.array(values) for name, values in state.items()}
        start = Start(past["past"], past["count"], self._begin(observation))
        return sample(
            self._flat,
            start,
            self._own_actions(observation, state, seed) if actions is None else self._held_actions(actions),
            self.tokeniser,
            self._scales.valid,
            self.shape,
            self.layout,
            horizon=horizon,
            samples=samples,
            seed=seed,
        )

    def _held_actions(self, actions: np.ndarray) -> Decide:
        """The given actions `[B, H, *action]`, on every path."""
        layout = self.layout
        columns = range(layout.first_action, layout.reward)
        tokens = self.tokeniser.encode(actions.reshape(*actions.shape[:2], layout.action), columns).tokens

        def decide(prefix: np.ndarray, length: np.ndarray, step: int) -> np.ndarray:
            return np.repeat(tokens[:, step], len(prefix) // len(tokens), axis=0)

        return decide

    def _own_actions(self, observation: np.ndarray, state: State, seed: int) -> Decide:
        """What the agent would do on every path: its plan, then one step ahead at a time."""
        decided = self.act(observation, state, seed=seed).state
        assert isinstance(decided, dict)
        now: dict[str, np.ndarray] = {name: np.array(values) for name, values in decided.items()}
        first = self.config.plan_every - now["left"] - 1  # [B] place in the queue of the action taken now
        short = self.plan if self.plan.horizon == 0 else self.plan._replace(horizon=1, width=1)

        def decide(prefix: np.ndarray, length: np.ndarray, step: int) -> np.ndarray:
            paths = len(prefix) // len(observation)
            at = np.minimum(first + step, self.config.plan_every - 1)
            planned = np.repeat(now["queue"][np.arange(len(at)), at], paths, axis=0)  # [R, M]
            known = np.repeat(step <= now["left"], paths)
            if known.all():
                return planned
            found = self._search(short, prefix, length, rng.derive(seed, "decide", step), jit=False)
            ahead = found.tokens[:, 0, 0, : self.layout.action]
            return np.where(known[:, None], planned, ahead)

        return decide

    def explain(
        self, observation: np.ndarray, state: State, *, seed: int
    ) -> dict[str, dict[str, np.ndarray]]:
        """The beams and the attention of one decision, for `observation [1, D]`.

        `beams`: `rewards [W, H]`, `actions [W, H, *action]`, `score [W]`, `log_probability [W]`, best first,
        even where an earlier plan is still being followed; a Decision Transformer has none.
        `attention`: `weight [D]`, how much the token from which the action is read looked at each number
        of the observations, past ones included, averaged over layers and heads; the rest went elsewhere.
        """
        assert isinstance(state, dict)
        layout = self.layout
        past: dict[str, np.ndarray] = {name: np.array(values) for name, values in state.items()}
        prefix, length = self._prefix(self._begin(observation), past)
        weights = gpt.unflatten(self._flat, self.shape)
        seen = gpt.trunk(weights, gpt.embed(weights, tf.constant(prefix), self.shape), self.shape)
        shares = np.mean([layer.numpy() for layer in seen.attention], axis=(0, 2))  # [1, S, S]
        looked = shares[0, length[0] - 1].reshape(-1, layout.slots).sum(axis=0)  # [K]
        kinds = {"attention": {"weight": looked[layout.given : layout.first_action]}}
        if self.plan.horizon > 0:
            found = self._search(self.plan, prefix, length, seed, self.config.compile)
            alive = found.score[0] > 0.5 * DEAD
            kinds["beams"] = {
                "rewards": found.rewards[0, alive] / self.plan.discount ** np.arange(self.plan.horizon),
                "actions": self._planned(found)[0, alive],
                "score": found.score[0, alive],
                "log_probability": found.log_probability[0, alive],
            }
        return kinds

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
