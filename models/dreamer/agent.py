"""A trained Dreamer: filters what it sees bar by bar, acts, and tells what it expects and fears."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models import agent as storage
from models import checkpoint, configuration, rng
from models.agent import Decision, Spaces, State
from models.dreamer import networks as nets
from models.dreamer import policy
from models.dreamer.config import Config
from models.dreamer.networks import Networks
from models.dreamer.rssm import Latent, feature, mixed

FAMILY = "dreamer"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Risk(NamedTuple):
    """The tail of a distribution of returns; losses are positive. All `[B]`."""

    value_at_risk: np.ndarray  # the loss that the tail exceeds
    expected_shortfall: np.ndarray  # the mean loss in the tail


def tail_risk(returns: np.ndarray, tail: float) -> Risk:
    """Of `returns [B, P]`: the worst `tail` of the paths, at least one of them.

    The empirical tail itself, with no shape assumed: a Gaussian quantile would hide fat tails.
    """
    worst = np.sort(returns, axis=-1)[:, : max(1, math.ceil(tail * returns.shape[1]))]
    return Risk(-worst[:, -1], -worst.mean(axis=-1))


def blank_state(config: Config, networks: Networks, batch_size: int) -> dict[str, State]:
    """What is carried from step to step, before an episode."""
    sizes = config.sizes
    widths = {
        "action": networks.actions.width,
        "deterministic": sizes.deterministic,
        "stochastic": sizes.stochastic,
    }
    return {name: np.zeros((batch_size, width), np.float32) for name, width in widths.items()}


class DreamerAgent:
    """Carries its belief from step to step: the state of the posterior and its own last action.

    Deterministic: it takes the likeliest latent and the likeliest action. The seed drives imagination only.
    """

    def __init__(
        self,
        config: Config,
        spaces: Spaces,
        networks: Networks,
        *,
        reward_scale: float,
        counters: dict[str, Any],
    ) -> None:
        self.config, self.spaces, self.networks, self.counters = config, spaces, networks, counters
        self.reward_scale = reward_scale
        """Rewards were multiplied by this for learning."""
        # XLA: a single decision is hundreds of tiny operations, most of them inside the loop of the dream.
        self._decide = tf.function(self._step, autograph=False, jit_compile=True)
        self._foretell = tf.function(self._forecast, autograph=False)  # large enough to need no XLA

    def initial_state(self, batch_size: int) -> State:
        """Zeros, as at the start of every episode in training."""
        return blank_state(self.config, self.networks, batch_size)

    def _filter(self, observation: tf.Tensor, latent: Latent, action: tf.Tensor) -> tuple[Latent, tf.Tensor]:
        """The state after `observation [B, I]`, with the likeliest z, and logits `[B, G, K]`."""
        world = self.networks.world
        h = world.rssm.forward(latent, action)
        posterior = world.rssm.recognise(h, world.encode(observation))
        return Latent(h, world.rssm.mode(posterior)), posterior

    def _step(
        self, observation: tf.Tensor, latent: Latent, action: tf.Tensor, seed: Any
    ) -> tuple[Latent, tf.Tensor, dict[str, tf.Tensor]]:
        networks, config = self.networks, self.config
        now, posterior = self._filter(observation, latent, action)
        seen = feature(now)
        outputs = networks.actor(seen)
        q = mixed(posterior, config.unimix)
        p = mixed(networks.world.rssm.guess(now.deterministic), config.unimix)
        info = {
            "value": networks.critic.mean(networks.critic(seen)),  # [B]
            "latent_entropy": -tf.reduce_sum(q * tf.math.log(q), (-2, -1)),
            "surprise": tf.reduce_sum(q * (tf.math.log(q) - tf.math.log(p)), (-2, -1)),
        }
        if networks.actions.discrete:
            info["policy"] = policy.probabilities(outputs, networks.actions, config.unimix)
        if config.imagined_paths:
            dreamt = self._dream(now, posterior, None, config.horizon, config.imagined_paths, seed)
            info["imagined_returns"] = tf.reduce_sum(dreamt, axis=0)
        return now, policy.mode(outputs, networks.actions), info

    def _dream(
        self, now: Latent, posterior: tf.Tensor, ahead: Any, horizon: int, paths: int, seed: Any
    ) -> tf.Tensor:
        """Sampled rewards `[H, B, P]` from `now [B, ...]`, with the actions `ahead [H, B, A]` or its own.

        Every path begins in a z of its own, drawn from the posterior, and a reward is drawn from its head's
        distribution: modes and means would leave out what the model does not know, and the fan would be too
        narrow. Own actions are those of `act`, the first one that of `now`. Behind an imagined end rewards
        count by the probability that it was not reached.
        """
        networks, config = self.networks, self.config
        world, batch = networks.world, now.deterministic.shape[0]
        # The same noise for every row, so that a row's paths do not depend on its place in the batch.
        latent_seed, reward_seed = rng.split(seed)
        noise = tf.tile(world.rssm.noise(latent_seed, horizon + 1, paths), (1, batch, 1, 1))
        z = world.rssm.sample(tf.repeat(posterior, paths, axis=0), noise[0])
        z = tf.ensure_shape(z, (batch * paths, config.sizes.stochastic))
        starts = Latent(tf.repeat(now.deterministic, paths, axis=0), z)
        first = policy.mode(networks.actor(feature(now)), networks.actions)  # [B, A]
        uniform = tf.tile(rng.uniform(reward_seed, (horizon, paths, 1)), (1, batch, 1))

        def act(seen: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
            if ahead is not None:
                return tf.repeat(ahead[step], paths, axis=0)
            own = policy.mode(networks.actor(seen), networks.actions)
            return tf.where(step == 0, tf.repeat(first, paths, axis=0), own)

        dreamt = feature(world.rssm.imagine(starts, act, noise[1:]).latent)[1:]  # [H, B * P, F]
        rewards = world.reward.sample(world.reward(dreamt), uniform)
        # The continue head has learned the discount along; what is left of it is survival.
        alive = tf.minimum(1.0, tf.sigmoid(world.continue_logit(dreamt)) / config.discount)
        reached = tf.math.cumprod(alive, axis=0, exclusive=True)
        return tf.reshape(rewards * reached, (horizon, batch, paths))

    def act(self, observation: np.ndarray, state: State, *, seed: int = 0) -> Decision:
        """Decides for `observation [B, I]`.

        `info`, in the environment's own reward units: `value [B]` (discounted); over `config.horizon`
        imagined steps `imagined_returns [B, P]`, their `return_quantiles [B, 5]` (see `QUANTILES`),
        `value_at_risk [B]` and `expected_shortfall [B]`; further `latent_entropy [B]` of the posterior and
        `surprise [B]`, its divergence from the prior, in nats; `policy [B, A]` for discrete actions; and
        `exposure_scale [B]`, below 1 where a `shortfall_limit` held the action back.
        """
        assert isinstance(state, dict)
        now, chosen, told = self._decide(
            np.asarray(observation, np.float32),
            Latent(state["deterministic"], state["stochastic"]),
            state["action"],
            rng.key(seed),
        )
        vector = chosen.numpy()
        info = {name: value.numpy() for name, value in told.items()}
        info["value"] = info["value"] / np.float32(self.reward_scale)
        if self.config.imagined_paths:
            returns = info["imagined_returns"] / np.float32(self.reward_scale)
            risk = tail_risk(returns, self.config.tail)
            quantiles = np.quantile(returns, QUANTILES, axis=-1).T.astype(np.float32)
            info |= {"imagined_returns": returns, "return_quantiles": quantiles, **risk._asdict()}
        limit = self.config.shortfall_limit
        if limit is not None:
            scale = limit / np.maximum(info["expected_shortfall"], limit)  # [B]
            info["exposure_scale"] = scale.astype(np.float32)
            vector = policy.scaled_down(vector, scale, self.networks.actions, self.config.neutral_choice)
        following: State = {
            "action": vector,
            "deterministic": now.deterministic.numpy(),
            "stochastic": now.stochastic.numpy(),
        }
        return Decision(policy.to_action(vector, self.networks.actions), following, info)

    def _forecast(
        self, observation: Any, state: Any, ahead: Any, seed: Any, horizon: int, samples: int
    ) -> tf.Tensor:
        latent = Latent(state["deterministic"], state["stochastic"])
        now, posterior = self._filter(observation, latent, state["action"])
        return self._dream(now, posterior, ahead, horizon, samples, seed)

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
        """Imagined rewards `[B, M, H]` from the posterior; see `models.agent.Forecaster`.

        `actions [B, H, *action]` are taken whatever comes; without them those that `act` would take on the
        imagined states (a `shortfall_limit` is not asked there). Compiled once for each shape.
        """
        assert isinstance(state, dict)
        ahead = None
        if actions is not None:
            ahead = policy.to_vector(np.asarray(actions), self.networks.actions).transpose(1, 0, 2)
            if len(ahead) != horizon:
                raise ValueError(f"{len(ahead)} actions were given for a horizon of {horizon}")
        rewards = self._foretell(
            np.asarray(observation, np.float32), state, ahead, rng.key(seed), horizon, samples
        )
        paths: np.ndarray = rewards.numpy().transpose(1, 2, 0).astype(np.float64) / self.reward_scale
        return paths

    def weights(self) -> dict[str, np.ndarray]:
        """All weights, as named arrays."""
        arrays: dict[str, np.ndarray] = {}
        for name, layer in self.networks.parts().items():
            arrays |= checkpoint.nest(name, checkpoint.read_variables(layer.variables))
        return arrays

    def digest(self) -> str:
        """A name for exactly these weights."""
        whole = hashlib.sha256()
        for name, array in sorted(self.weights().items()):
            whole.update(name.encode() + array.tobytes())
        return whole.hexdigest()

    def save(self, directory: Path) -> None:
        """Writes the agent's directory."""
        storage.save(
            directory,
            family=FAMILY,
            config=self.config,
            spaces=self.spaces,
            counters=self.counters,
            weights={**self.weights(), "reward_scale": np.array(self.reward_scale, np.float64)},
        )


def load(directory: Path) -> DreamerAgent:
    """The agent saved in `directory`."""
    saved = storage.read(directory)
    if saved.family != FAMILY:
        raise ValueError(f"{directory} holds an agent of the family {saved.family!r}, not {FAMILY!r}")
    config = configuration.parse(Config, saved.config, where=f"{directory}/{storage.DESCRIPTION}")
    networks = nets.build(config, saved.spaces, seed=0)
    for name, layer in networks.parts().items():
        checkpoint.write_variables(layer.variables, checkpoint.unnest(name, saved.weights))
    networks.follow(1.0)
    return DreamerAgent(
        config,
        saved.spaces,
        networks,
        reward_scale=float(saved.weights["reward_scale"]),
        counters=saved.counters,
    )
