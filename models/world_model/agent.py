"""A trained world model that acts: see, remember, and let the controller decide."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models import agent as storage
from models import checkpoint, configuration, rng
from models.agent import Decision, Spaces, State
from models.world_model import actions, controller, dream, forecast, mdn_rnn, regimes, vae
from models.world_model.actions import Acts
from models.world_model.config import Config
from models.world_model.dream import Imagination, World
from models.world_model.env import DreamVectorEnv
from models.world_model.mdn_rnn import Memory
from models.world_model.regimes import Chain

FAMILY = "world_model"


class Design(NamedTuple):
    """All that is static about an agent; hashable."""

    vision: vae.Shape
    world: World

    @property
    def assets(self) -> int:
        return self.world.control.held


class Learned(NamedTuple):
    """All that was learned: what is saved with an agent."""

    centre: np.ndarray  # [I] of the world's part of the observation
    scale: np.ndarray  # [I]
    vision: dict[str, np.ndarray]
    memory: dict[str, np.ndarray]
    payoff_scale: np.ndarray  # [R] the memory predicts payoffs in this unit
    terms: np.ndarray  # [2 S + 2] slopes and offsets of the returns, cost rate and fit; empty without account
    controller: np.ndarray  # [D]
    starts: dream.State  # where dreams begin
    regimes: Chain

    @property
    def cost(self) -> float:
        """Of the traded share of equity; 0 without an account."""
        return float(self.terms[-2]) if self.terms.size else 0.0


def design_of(config: Config, spaces: Spaces) -> Design:
    """What `config` makes of `spaces`; a ValueError says what does not fit."""
    acts: Acts = actions.acts_of(spaces.action, config)
    width, exposure = spaces.observation.shape[0], config.reward == "exposure"
    assets = len(config.return_columns) if exposure else 0
    world = width - (config.account_columns if exposure else 0)
    if exposure:
        if assets != acts.outputs:
            raise configuration.Misfit(
                f"world_model.return_columns: {list(config.return_columns)} must name one component of the "
                f"observation for each of the {acts.outputs} assets of {spaces.action}"
            )
        if config.account_columns < assets or world < 1:
            raise configuration.Misfit(
                f"world_model.account_columns: {config.account_columns} is not allowed; of the {width} "
                f"components the last ones must be the {assets} exposures and what else the account shows"
            )
        if not all(0 <= column < world for column in config.return_columns):
            raise configuration.Misfit(
                f"world_model.return_columns: {list(config.return_columns)} must lie in [0, {world})"
            )
    memory = mdn_rnn.Shape(
        latents=config.latents,
        payoffs=assets if exposure else 1,
        actions=0 if exposure else acts.code,
        units=config.units,
        components=config.components,
        joint=config.mixture == "joint",
        layer_norm=config.layer_norm,
    )
    control = controller.Shape(config.latents + config.units, assets, config.hidden, acts.outputs)
    return Design(
        vae.Shape(world, config.vae_hidden, config.latents, config.likelihood),
        World(memory, control, acts, exposure, config.terminal_weight),
    )


def regime_path(
    vision: dict[str, np.ndarray], posterior: vae.Posterior, design: Design, config: Config
) -> np.ndarray:
    """What the regimes are read off, `[..., X]`: the returns that the latents show, where there are assets
    (decoded, so that nothing but the latent counts), else the latents themselves."""
    if not design.world.exposure:
        return np.asarray(posterior.mean)
    shown: np.ndarray = vae.decode(vision, posterior.mean, design.vision)[..., list(config.return_columns)]
    return shown


class WorldModelAgent:
    """Sees z, remembers h, and asks the controller. The latent is sampled, as in the dreams it grew up in."""

    def __init__(self, config: Config, spaces: Spaces, learned: Learned, *, counters: dict[str, Any]) -> None:
        self.config, self.spaces, self.learned, self.counters = config, spaces, learned, counters
        self.design = design_of(config, spaces)
        if learned.controller.shape != (self.design.world.control.size,):
            raise configuration.Misfit(
                f"world_model: a controller of {learned.controller.size} weights where "
                f"{self.design.world.control.size} are needed"
            )

    def initial_state(self, batch_size: int) -> State:
        """An empty memory, and a belief over regimes before anything was seen."""
        units = self.config.units
        return {
            "h": np.zeros((batch_size, units), np.float32),
            "c": np.zeros((batch_size, units), np.float32),
            "belief": np.tile(self.learned.regimes.start, (batch_size, 1)),
            "step": np.zeros(batch_size, np.int64),
        }

    def act(self, observation: np.ndarray, state: State, *, seed: int = 0) -> Decision:
        """Decides for `observation [B, D]`; `seed` and the step of each episode name the draw of z.

        `info`: `value [B]`, the expected reward of the next step before costs, and `uncertainty [B]`, its
        standard deviation; `expected_payoff [B, R]`, the returns of the assets where there is an account,
        else the reward; `regime [B]`, the likeliest regime, 0 the calmest, of the `belief [B, regimes]` that
        the past alone gives; `latent [B, Z]`.
        """
        assert isinstance(state, dict)
        world, learned, shape = self.design.world, self.learned, self.design.world.memory
        observation = np.asarray(observation, np.float32)
        steps = np.asarray(state["step"])
        posterior = self.encode(observation)
        z = vae.sample(posterior, self._noise(steps, seed))  # [B, Z]
        memory = Memory(np.asarray(state["h"]), np.asarray(state["c"]))
        held = np.zeros((len(z), 0), np.float32)
        if world.exposure:
            memory = mdn_rnn.step(learned.memory, memory, z)
            held = self.held(observation)
        seen = np.concatenate([z, memory.h], axis=-1)
        scores = controller.scores(learned.controller[None], seen[None], held[None], world.control)[0]
        decided = actions.decide(scores, world.acts)
        x = z
        if not world.exposure:
            x = np.concatenate([z, decided.value], axis=-1)
            memory = mdn_rnn.step(learned.memory, memory, x)
        ahead = mdn_rnn.outlook(learned.memory, memory.h, x, shape)
        payoff = mdn_rnn.mean_payoff(ahead.mixture, shape) * learned.payoff_scale  # [B, R]
        stake = decided.value if world.exposure else np.ones_like(payoff)
        moments = mdn_rnn.payoff_moments(ahead.mixture, stake * learned.payoff_scale, shape)
        path = regime_path(learned.vision, posterior, self.design, self.config)
        belief = regimes.update(learned.regimes, np.asarray(state["belief"]), path)
        return Decision(
            action=actions.to_space(decided, world.acts, self.spaces.action),
            state={"h": memory.h, "c": memory.c, "belief": belief, "step": steps + 1},
            info={
                "value": (stake * payoff).sum(axis=-1).astype(np.float32),
                "uncertainty": np.sqrt(np.maximum(moments.second - moments.first**2, 0.0)),
                "expected_payoff": payoff.astype(np.float32),
                "regime": belief.argmax(axis=1).astype(np.float32),
                "belief": belief.astype(np.float32),
                "latent": z,
            },
        )

    def forecast(
        self,
        observation: np.ndarray,
        state: State,
        actions_taken: np.ndarray | None,
        *,
        horizon: int,
        samples: int,
        seed: int,
    ) -> np.ndarray:
        """Sampled rewards `[B, M, H]` of the next steps; see `models.agent.Forecaster`.

        With an account, its costs are paid and it starts from the exposures that `observation` shows.
        Without actions the controller decides at every step of the dream, as it would awake.
        """
        assert isinstance(state, dict)
        world, shape = self.design.world, self.design.world.memory
        observation = np.asarray(observation, np.float32)
        batch = len(observation)
        chance = forecast.luck(world, batch, samples, horizon, seed=seed)

        def each(values: Any) -> np.ndarray:  # [B, ...] to [B x M, ...]
            return np.repeat(np.asarray(values, np.float32), samples, axis=0)

        posterior = self.encode(observation)
        apart = vae.Posterior(each(posterior.mean), each(posterior.log_variance))
        z = vae.sample(apart, chance.latent.reshape(batch * samples, shape.latents))
        memory = Memory(each(state["h"]), each(state["c"]))
        if world.exposure:
            memory = mdn_rnn.step(self.learned.memory, memory, z)
        begin = dream.State(z, memory, each(self.held(observation))[None])
        if actions_taken is None:
            deciding = self.learned.controller[None]
        else:
            flat = np.asarray(actions_taken).reshape(batch * horizon, -1)
            value = actions.value_of(flat, world.acts).reshape(batch, horizon, -1)
            deciding = np.repeat(value, samples, axis=0).transpose(1, 0, 2)  # [H, B x M, A]
        imagination = self.imagination(1.0)
        deciding, begin, noise, survive = tf.nest.map_structure(
            tf.constant, (deciding, begin, chance.noise, chance.survive)
        )
        rewards = forecast.paths(world, given=actions_taken is not None)(
            imagination.weights, deciding, begin, noise, survive, imagination.setting
        )
        found: np.ndarray = rewards.numpy().T.reshape(batch, samples, horizon)
        return found

    def _noise(self, steps: np.ndarray, seed: int) -> np.ndarray:
        # One draw for each step, not for each place in the batch: a batch acts as its elements would alone.
        drawn = {
            int(step): rng.generator(seed, "act", int(step)).standard_normal(
                self.config.latents, dtype=np.float32
            )
            for step in np.unique(steps)
        }
        return np.stack([drawn[int(step)] for step in steps]) if len(steps) else np.zeros((0, 1), np.float32)

    def encode(self, observation: np.ndarray) -> vae.Posterior:
        """The posterior of observations `[B, D]` in the environment's own units."""
        part = observation[:, : self.design.vision.inputs]
        standard = ((part - self.learned.centre) / self.learned.scale).astype(np.float32)
        return vae.encode(self.learned.vision, standard, self.design.vision)

    def held(self, observation: np.ndarray) -> np.ndarray:
        """The exposures `[B, S]` that observations `[B, D]` show."""
        first = self.design.vision.inputs
        return np.asarray(observation[:, first : first + self.design.assets], np.float32)

    def imagination(self, temperature: float | None = None) -> Imagination:
        """The model, ready to dream."""
        return dream.imagination(
            self.design.world,
            self.learned.memory,
            self.learned.starts,
            temperature=self.config.temperature if temperature is None else temperature,
            payoff_scale=self.learned.payoff_scale,
            cost=self.learned.cost,
            risk_aversion=self.config.risk_aversion,
        )

    def market(self, steps: int, *, seed: int, temperature: float) -> np.ndarray:
        """Log returns `[T, S]` of the assets in one dream of `steps`, whoever trades; consumes `seed`."""
        if not self.design.world.exposure:
            raise configuration.Misfit(
                "world_model.reward: this agent foretells rewards, not the returns of assets"
            )
        nobody = np.zeros((1, self.design.world.control.size), np.float32)
        found = self.imagination(temperature).dream(
            nobody, dreams=1, steps=steps, seed=seed, expected=False, record=True
        )
        # A dreamed loss beyond all one has is the tail of a normal, not a price.
        returns = np.maximum(np.asarray(found.payoffs, np.float64)[:, 0], -0.95)
        return np.asarray(np.log1p(returns))

    def dream_env(
        self, num_envs: int, *, steps: int = 256, temperature: float | None = None
    ) -> DreamVectorEnv:
        """The dream as an environment in which any family can be trained."""
        return DreamVectorEnv(
            self.imagination(temperature), self.spaces.action, num_envs=num_envs, steps=steps
        )

    def _weights(self) -> dict[str, np.ndarray]:
        learned, starts = self.learned, self.learned.starts
        return (
            checkpoint.nest("vision", learned.vision)
            | checkpoint.nest("memory", learned.memory)
            | checkpoint.nest("regimes", regimes.arrays(learned.regimes))
            | {
                "centre": learned.centre,
                "scale": learned.scale,
                "payoff_scale": learned.payoff_scale,
                "terms": learned.terms,
                "controller": learned.controller,
                "starts.z": starts.z,
                "starts.h": starts.memory.h,
                "starts.c": starts.memory.c,
                "starts.held": starts.held,
            }
        )

    def digest(self) -> str:
        """A name for exactly these weights."""
        total = hashlib.sha256()
        for name, value in sorted(self._weights().items()):
            total.update(name.encode())
            total.update(np.ascontiguousarray(value).tobytes())
        return total.hexdigest()

    def save(self, directory: Path) -> None:
        """Writes the agent's directory."""
        storage.save(
            directory,
            family=FAMILY,
            config=self.config,
            spaces=self.spaces,
            counters=self.counters,
            weights=self._weights(),
        )


def load(directory: Path) -> WorldModelAgent:
    """The agent saved in `directory`."""
    saved = storage.read(directory)
    if saved.family != FAMILY:
        raise ValueError(f"{directory} holds an agent of the family {saved.family!r}, not {FAMILY!r}")
    weights = saved.weights
    learned = Learned(
        centre=weights["centre"],
        scale=weights["scale"],
        vision=checkpoint.unnest("vision", weights),
        memory=checkpoint.unnest("memory", weights),
        payoff_scale=weights["payoff_scale"],
        terms=weights["terms"],
        controller=weights["controller"],
        starts=dream.State(
            weights["starts.z"], Memory(weights["starts.h"], weights["starts.c"]), weights["starts.held"]
        ),
        regimes=regimes.of(checkpoint.unnest("regimes", weights)),
    )
    return WorldModelAgent(
        configuration.parse(Config, saved.config, where=f"{directory}/{storage.DESCRIPTION}"),
        saved.spaces,
        learned,
        counters=saved.counters,
    )
