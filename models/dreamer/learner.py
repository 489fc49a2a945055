"""One update of everything: the world model on replayed steps, actor and critic on what it dreams."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models import checkpoint, rng
from models.dreamer import losses, policy
from models.dreamer.config import Config
from models.dreamer.networks import Networks
from models.dreamer.optimiser import LaProp
from models.dreamer.rssm import Latent, Observed, feature


class Batch(NamedTuple):
    """B replayed sequences of T steps; everything of a step came together, after the action."""

    observation: Any  # [B, T, I]
    action: Any  # [B, T, A] that led there
    reward: Any  # [B, T] scaled
    first: Any  # [B, T] begins an episode
    last: Any  # [B, T] ends one, terminal or cut short
    terminated: Any  # [B, T]
    start: Latent  # [B, ...] stored, before the first step


class Update(NamedTuple):
    """What an update leaves behind."""

    deterministic: tf.Tensor  # [B, T, D] the latents, to be stored for later starts
    classes: tf.Tensor  # [B, T, G] int32
    metrics: dict[str, tf.Tensor]


class Learner:
    """The networks and all that training adds to them.

    `update(batch, seed)` learns everything from one batch, `model(batch, seed)` the world model alone.
    """

    def __init__(self, config: Config, networks: Networks) -> None:
        self.config, self.networks = config, networks
        # All of LaProp is a matter of one variable, but for the count of updates: one optimiser for each
        # side is the paper's single one wherever both sides learn from the start.
        self.sides = {
            "optimiser": networks.world.trainable_variables,
            "behaviour_optimiser": networks.behaviour(),
        }
        every = config.updates(config.env_steps)
        spans = {"optimiser": every, "behaviour_optimiser": every - config.updates(config.dreams_from)}
        self.optimisers = {
            name: LaProp(
                config.learning_rate,
                warmup_steps=config.learning_warmup,
                total_steps=max(1, spans[name]),
                annealing=config.annealing,
                clip=config.clip,
            )
            for name in self.sides
        }
        for name, variables in self.sides.items():
            self.optimisers[name].build(variables)
        self.range = tf.Variable(tf.zeros(3), trainable=False)
        self.update = tf.function(self._update, autograph=False)
        self.model = tf.function(self._model, autograph=False)
        self.explore = tf.function(self._explore, autograph=False)

    def observe(self, batch: Batch, seed: Any) -> Observed:
        """Runs the posterior over a batch; consumes `seed`."""
        world = self.networks.world
        tokens = world.encode(batch.observation)
        return world.rssm.observe(batch.start, tokens, batch.action, batch.first, seed)

    def world_losses(self, batch: Batch, seen: Observed) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """The world model's losses, each `[B, T]`, and the divergence `[B, T]` without its floor."""
        config, world = self.config, self.networks.world
        features = feature(seen.latent)  # [B, T, F]
        apart = losses.divergence(seen.posterior, seen.prior, config.unimix, config.free_nats)
        parts = {
            "decoder": losses.reconstruction(world.decoder(features), batch.observation),
            "reward": world.reward.loss(world.reward(features), [(1.0, batch.reward)]),
            "continue": losses.continuation(
                world.continue_logit(features), batch.terminated, config.discount
            ),
            "dynamics": apart.dynamics,
            "representation": apart.representation,
        }
        return parts, apart.nats

    def dream(self, latent: Latent, seed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Features `[H + 1, N, F]` and actions `[H, N, A]` of the policy from `latent [N, ...]`."""
        config, networks = self.config, self.networks
        count = latent.deterministic.shape[0]
        world_seed, policy_seed = rng.split(seed)
        noise = policy.noise(policy_seed, (config.horizon, count), networks.actions)

        def act(seen: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
            return policy.sample(networks.actor(seen), noise[step], networks.actions, config.unimix)

        rssm = networks.world.rssm
        path = rssm.imagine(latent, act, rssm.noise(world_seed, config.horizon, count))
        return feature(path.latent), path.actions

    def _model(self, batch: Batch, seed: Any) -> Update:
        with tf.GradientTape() as tape:
            seen = self.observe(batch, rng.split(seed)[0])
            parts, nats = self.world_losses(batch, seen)
            loss = self._total(parts)
        norm = self._descend(tape, loss, ["optimiser"])
        return self._report(batch, seen, parts, {"train/gradient_norm": norm}, nats)

    def _update(self, batch: Batch, seed: Any) -> Update:
        config, networks = self.config, self.networks
        world, critic = networks.world, networks.critic
        observe_seed, dream_seed = rng.split(seed)
        with tf.GradientTape() as tape:
            seen = self.observe(batch, observe_seed)
            parts, nats = self.world_losses(batch, seen)
            # Dreams begin at every replayed state, and what is dreamt does not teach the world model.
            with tape.stop_recording():
                starts = Latent(*(tf.reshape(part, (-1, part.shape[-1])) for part in seen.latent))
                dreamt, actions = self.dream(starts, dream_seed)  # [H + 1, N, F], [H, N, A]
                rewards = world.reward.mean(world.reward(dreamt))  # [H + 1, N]
                continues = tf.sigmoid(world.continue_logit(dreamt))
                slow = networks.slow.mean(networks.slow(dreamt))
            outputs = critic(dreamt)  # [H + 1, N, K]
            values = critic.mean(outputs)
            dreamed = losses.dreamed_returns(
                tf.transpose(rewards),
                tf.transpose(continues),
                tf.transpose(values),
                tf.transpose(slow if config.slow_target else values),
                config.lambda_,
            )
            range_, scale = losses.running_range(self.range, dreamed.returns, config.return_rate)
            choice = networks.actor(dreamt[:-1])  # [H, N, O]
            weight, worth = tf.transpose(dreamed.weights), tf.transpose(dreamed.returns)  # [H, N]
            entropy = policy.entropy(choice, networks.actions, config.unimix)
            parts["policy"] = losses.policy_loss(
                policy.log_probability(choice, actions, networks.actions, config.unimix),
                entropy,
                tf.transpose(dreamed.advantages) / scale,
                weight,
                config.entropy,
            )
            targets = [(1.0, worth), (config.slow_regulariser, slow[:-1])]
            parts["value"] = weight * critic.loss(outputs[:-1], targets)
            bootstrap = tf.reshape(dreamed.returns[:, 0], batch.reward.shape)  # [B, T]
            parts["replay_value"] = self._replay_value(batch, feature(seen.latent), bootstrap)
            loss = self._total(parts)
        norm = self._descend(tape, loss, list(self.sides))
        self.range.assign(range_)
        networks.follow(config.slow_rate)
        metrics = {
            "policy/entropy": tf.reduce_mean(entropy),
            "policy/advantage": tf.reduce_mean(tf.abs(dreamed.advantages)) / scale,
            "dream/return": tf.reduce_mean(worth),
            "dream/reward": tf.reduce_mean(rewards[1:]),
            "dream/value": tf.reduce_mean(values),
            "dream/scale": scale,
            "train/gradient_norm": norm,
        }
        return self._report(batch, seen, parts, metrics, nats)

    def _total(self, parts: dict[str, tf.Tensor]) -> tf.Tensor:
        weights = self.loss_weights()
        return losses.total(parts, {name: weights[name] for name in parts})

    def _descend(self, tape: tf.GradientTape, loss: tf.Tensor, names: list[str]) -> tf.Tensor:
        """One step of the named optimisers; the norm of the whole gradient."""
        variables = [variable for name in names for variable in self.sides[name]]
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        done = 0
        for name in names:
            side = self.sides[name]
            self.optimisers[name].apply_gradients(zip(gradients[done : done + len(side)], side, strict=True))
            done += len(side)
        return tf.linalg.global_norm(gradients)

    def _report(
        self,
        batch: Batch,
        seen: Observed,
        parts: dict[str, tf.Tensor],
        metrics: dict[str, tf.Tensor],
        nats: tf.Tensor,
    ) -> Update:
        groups, classes = self.config.sizes.groups, self.config.sizes.classes
        z = tf.reshape(seen.latent.stochastic, (*batch.reward.shape, groups, classes))
        places = tf.reduce_sum(z * tf.range(classes, dtype=tf.float32), -1)
        metrics = metrics | {f"loss/{name}": tf.reduce_mean(part) for name, part in parts.items()}
        metrics |= {
            "model/divergence": tf.reduce_mean(nats),
            "model/free": tf.reduce_mean(tf.cast(nats <= self.config.free_nats, tf.float32)),
        }
        return Update(seen.latent.deterministic, tf.cast(tf.round(places), tf.int32), metrics)

    def _replay_value(self, batch: Batch, features: tf.Tensor, bootstrap: tf.Tensor) -> tf.Tensor:
        """The critic's loss `[B, T - 1]` on replayed states, whose gradient reaches the latents."""
        config, networks = self.config, self.networks
        worth = losses.replay_returns(
            batch.reward, batch.terminated, batch.last, bootstrap, config.discount, config.lambda_
        )
        slow = networks.slow.mean(networks.slow(features))[:, :-1]
        targets = [(1.0, worth), (config.slow_regulariser, slow)]
        going = 1.0 - tf.cast(batch.last, tf.float32)[:, :-1]
        return going * networks.critic.loss(networks.critic(features[:, :-1]), targets)

    def loss_weights(self) -> dict[str, float]:
        """The weight of each loss."""
        dynamics, representation = self.config.kl_scales
        return {
            "decoder": 1.0,
            "reward": 1.0,
            "continue": 1.0,
            "dynamics": dynamics,
            "representation": representation,
            "policy": 1.0,
            "value": 1.0,
            "replay_value": self.config.replay_value_scale,
        }

    def _explore(
        self, observation: tf.Tensor, latent: Latent, action: tf.Tensor, first: tf.Tensor, seed: Any
    ) -> tuple[Latent, tf.Tensor]:
        """The posterior state after `observation [N, I]` and a sampled action `[N, A]`; consumes `seed`."""
        networks, unimix = self.networks, self.config.unimix
        rssm = networks.world.rssm
        latent_seed, action_seed = rng.split(seed)
        h = rssm.enter(latent, action, first)
        logits = rssm.recognise(h, networks.world.encode(observation))
        z = rssm.sample(logits, rssm.noise(latent_seed, 1, observation.shape[0])[0])
        outputs = networks.actor(feature(Latent(h, z)))
        noise = policy.noise(action_seed, (observation.shape[0],), networks.actions)
        return Latent(h, z), policy.sample(outputs, noise, networks.actions, unimix)

    def _groups(self) -> dict[str, list[Any]]:
        networks = self.networks
        return {
            **{name: layer.variables for name, layer in networks.parts().items()},
            "slow": networks.slow.variables,
            **{name: optimiser.variables for name, optimiser in self.optimisers.items()},
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, as named arrays."""
        arrays = {"range": self.range.numpy()}
        for name, variables in self._groups().items():
            arrays |= checkpoint.nest(name, checkpoint.read_variables(variables))
        return arrays

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Takes back what `arrays` gave."""
        self.range.assign(arrays["range"])
        for name, variables in self._groups().items():
            checkpoint.write_variables(variables, checkpoint.unnest(name, arrays))
