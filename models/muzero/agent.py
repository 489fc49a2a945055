"""A trained MuZero agent: at every step a tree search in its model, for a whole batch at once."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models import agent as storage
from models import configuration, rng
from models.agent import Decision, Spaces, State
from models.muzero import actions as arms
from models.muzero import forecast, search, targets
from models.muzero.config import Config
from models.muzero.networks import Shape

FAMILY = "muzero"


class Units(NamedTuple):
    """How the environment's numbers are brought to order one."""

    shift: np.ndarray  # [D] subtracted from observations
    scale: np.ndarray  # [D] then multiplied with them
    reward: float  # multiplied with rewards


def shape_of(config: Config, spaces: Spaces) -> Shape:
    """The networks that `config` makes for `spaces`."""
    actions = arms.actions_of(
        spaces.action,
        joint_actions=config.joint_actions,
        sampled_actions=config.sampled_actions,
        temperature=config.sampling_temperature,
    )
    return Shape(
        spaces.observation.shape[0],
        config.history,
        config.encoder,
        config.latent,
        config.hidden,
        config.blocks,
        config.action_gate,
        config.value_limit,
        config.value_bins,
        config.reward_limit,
        config.reward_bins,
        config.chance_outcomes,
        actions,
    )


class SearchAgent:
    """Acts by search without exploration noise. Its state is the window of the last observations."""

    def __init__(
        self, config: Config, spaces: Spaces, weights: np.ndarray, *, units: Units, counters: dict[str, Any]
    ) -> None:
        self.config, self.spaces, self.units, self.counters = config, spaces, units, counters
        self.shape = shape_of(config, spaces)
        if weights.shape != (self.shape.size,):
            raise configuration.Misfit(
                f"muzero: {weights.size} weights for networks of {self.shape.size}; "
                "observation, action space or sizes differ"
            )
        self.weights = weights  # [P]
        self._flat = tf.constant(weights)
        self._fitting: dict[int, SearchAgent] = {}  # by size of the batch, what keeps to the budget

    def with_simulations(self, simulations: int) -> SearchAgent:
        """The same agent with searches of another size; 0 acts by the policy head alone."""
        config = dataclasses.replace(self.config, simulations=simulations, budget_ms=None)
        return SearchAgent(config, self.spaces, self.weights, units=self.units, counters=self.counters)

    def within(self, milliseconds: float, *, batch_size: int = 1) -> SearchAgent:
        """The agent with the largest search of 0, 8, 16, 32, ... 256 simulations that keeps to a budget.

        Measures on this machine, now: the choice depends on it, decisions made with the choice do not.
        """
        chosen = self.with_simulations(0)
        for simulations in (8, 16, 32, 64, 128, 256):
            candidate = self.with_simulations(simulations)
            if candidate.latency(batch_size=batch_size) > milliseconds:
                break
            chosen = candidate
        return chosen

    def latency(self, *, batch_size: int = 1, calls: int = 20) -> float:
        """Median milliseconds of a decision for a batch, after compiling."""
        observation = np.zeros((batch_size, self.shape.observation), np.float32)
        state, seconds = self.initial_state(batch_size), []
        for call in range(calls + 1):
            start = time.perf_counter()
            self.act(observation, state, seed=call)
            seconds.append(time.perf_counter() - start)
        return 1e3 * float(np.median(seconds[1:]))

    def initial_state(self, batch_size: int) -> State:
        """Windows in which nothing was seen yet: `[B, H, D]`."""
        return np.zeros((batch_size, self.shape.history, self.shape.observation), np.float32)

    def remember(self, observation: np.ndarray, state: State) -> np.ndarray:
        """The windows with `observation [B, D]` as their newest."""
        shown = targets.normalise(np.asarray(observation), self.units.shift, self.units.scale)
        assert isinstance(state, np.ndarray)
        return np.concatenate([state[:, 1:], shown[:, None]], axis=1)

    def act(self, observation: np.ndarray, state: State, *, seed: int = 0) -> Decision:
        """Decides for `observation [B, D]`; with drawn actions `seed` decides which are looked at.

        `info`, values in the environment's rewards: `value [B]` after the search and `raw_value [B]` before
        it, `policy [B, A]`, `visits [B, A]`, `q_values [B, A]` (0 where not visited), `depth [B]`, `line
        [B, 8]` the arm taken and then the most visited ones (-1 after the end; arms and outcomes of chance,
        numbered after the arms, take turns), and, where each node draws its own, `candidates [B, A,
        *action]`. With 0 simulations `value` and `policy` are the networks' own.
        """
        if self.config.budget_ms is not None:
            size = len(observation)
            if size not in self._fitting:
                self._fitting[size] = self.within(self.config.budget_ms, batch_size=size)
            return self._fitting[size].act(observation, state, seed=seed)
        window = self.remember(observation, state)
        if self.config.simulations == 0:
            return self._by_head(window)
        found = self._search(window, seed)
        units = np.float32(1.0 / self.units.reward)
        info = {
            "value": found.value * units,
            "raw_value": found.raw_value * units,
            "policy": found.policy,
            "visits": found.visits,
            "q_values": found.q * units,
            "depth": found.depth,
            "line": found.line,
        }
        if self.shape.actions.drawn:
            info["candidates"] = arms.decode(self.shape.actions, self.spaces.action, found.codes)
        return Decision(arms.decode(self.shape.actions, self.spaces.action, found.code), window, info)

    def _search(self, window: np.ndarray, seed: int) -> search.Found:
        settings = search.settings_of(self.config, self.config.simulations)
        return run_search(
            self.shape, settings, self._flat, window, rng.key(seed), noise=0.0, temperature=0.0,
            compiled=self.config.compile,
        )  # fmt: skip

    def _by_head(self, window: np.ndarray) -> Decision:
        head, value = search.reader(self.shape)(self._flat, tf.constant(window))
        value = value.numpy() / np.float32(self.units.reward)
        info = {"value": value, "raw_value": value}
        if not self.shape.actions.drawn:
            info["policy"] = tf.nn.softmax(head, axis=-1).numpy()
        code = arms.likeliest(self.shape.actions, head).numpy()
        return Decision(arms.decode(self.shape.actions, self.spaces.action, code), window, info)

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
        """Rewards `[B, M, H]` that the model expects along `actions [B, H, *action]`.

        `None` stands for the action that the search takes and then, inside the model, the policy's likeliest
        one. Paths are drawn from the reward's distribution, and with chance outcomes from theirs; of a model
        without them a single sample is its expectation. Consumes `seed`.
        """
        window = self.remember(observation, state)
        if actions is not None:
            codes = arms.encode(self.shape.actions, self.spaces.action, np.asarray(actions)[:, :horizon])
        else:
            decided = self.act(observation, state, seed=seed).action
            codes = arms.encode(self.shape.actions, self.spaces.action, decided)[:, None]  # [B, 1, W]
        rewards = forecast.rewards(
            self.shape, self._flat, window, codes, horizon=horizon, samples=samples, seed=seed
        )
        return rewards / np.float32(self.units.reward)

    def explain(
        self, observation: np.ndarray, state: State, *, seed: int
    ) -> dict[str, dict[str, np.ndarray]]:
        """The search's tree for `observation [1, D]`, nodes in the order of expansion, the root first.

        `tree`: `parent [N]` (-1 for the root), `action [N]` that led there (an arm, or the number of arms
        plus an outcome of chance; -1), `visits`, `value` and `reward` in the environment's units, `prior` of
        the action. Without a search there is nothing to show.
        """
        if self.config.simulations == 0:
            return {}
        settings = search.settings_of(self.config, self.config.simulations)
        run = search.searcher(self.shape, settings, 1, compiled=self.config.compile, whole=True)
        window = self.remember(observation, state)
        _, grown = run(
            self._flat, tf.constant(window), tf.constant(rng.key(seed)), tf.constant(0.0), tf.constant(0.0)
        )
        grown = type(grown)(*(part.numpy()[0] for part in grown[:-1]), ())
        used = grown.visits > 0  # [N]
        place = np.append(np.cumsum(used) - 1, -1)  # the root's parent, -1, stays what it is
        units = np.float32(1.0 / self.units.reward)
        parent, action = grown.parents[used], grown.actions[used]
        prior = np.exp(grown.prior_logits[parent, action])
        prior[0] = 1.0
        return {
            "tree": {
                "parent": place[parent],
                "action": action,
                "visits": grown.visits[used],
                "value": grown.values[used] * units,
                "prior": prior,
                "reward": grown.rewards[used] * units,
            }
        }

    def digest(self) -> str:
        """A name for exactly these weights."""
        return hashlib.sha256(self.weights.tobytes()).hexdigest()

    def save(self, directory: Path) -> None:
        """Writes the agent's directory."""
        storage.save(
            directory,
            family=FAMILY,
            config=self.config,
            spaces=self.spaces,
            counters=self.counters,
            weights={
                "weights": self.weights,
                "observation_shift": self.units.shift,
                "observation_scale": self.units.scale,
                "reward_scale": np.array(self.units.reward, np.float64),
            },
        )


def run_search(
    shape: Shape,
    settings: search.Settings,
    flat: tf.Tensor,
    window: np.ndarray,
    seed: np.ndarray,
    *,
    noise: float,
    temperature: float,
    compiled: bool,
) -> search.Found:
    """A search for `window [B, H, D]` with weights `flat [P]`, as NumPy arrays.

    The batch is filled up to a power of two, so that few sizes are ever compiled.
    """
    batch = len(window)
    padded = 1 << (batch - 1).bit_length()
    filled = np.concatenate([window, np.repeat(window[:1], padded - batch, axis=0)])
    run = search.searcher(shape, settings, padded, compiled=compiled)
    found = run(
        flat, tf.constant(filled), tf.constant(seed), tf.constant(noise, tf.float32),
        tf.constant(temperature, tf.float32),
    )  # fmt: skip
    return search.Found(*(part.numpy()[:batch] for part in found))


def load(directory: Path) -> SearchAgent:
    """The agent saved in `directory`."""
    saved = storage.read(directory)
    if saved.family != FAMILY:
        raise ValueError(f"{directory} holds an agent of the family {saved.family!r}, not {FAMILY!r}")
    return SearchAgent(
        configuration.parse(Config, saved.config, where=f"{directory}/{storage.DESCRIPTION}"),
        saved.spaces,
        saved.weights["weights"],
        units=Units(
            saved.weights["observation_shift"],
            saved.weights["observation_scale"],
            float(saved.weights["reward_scale"]),
        ),
        counters=saved.counters,
    )
