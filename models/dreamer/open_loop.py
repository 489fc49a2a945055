"""The world model held against what came: watch a little, then dream on with the actions that were taken.

Nothing here trains. The result is what people look at before they believe a policy that was learned in
dreams: a fan of imagined returns, how often the truth lay inside it, and whether the middle of the fan
knows anything, horizon by horizon.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from models import rng, scalars
from models.dreamer import policy
from models.dreamer.agent import QUANTILES, DreamerAgent
from models.dreamer.rssm import Latent, feature


class OpenLoop(NamedTuple):
    """N stretches, imagined over H steps; rewards in the environment's units, summed from the first on."""

    rewards: np.ndarray  # [N, H] that came
    fan: np.ndarray  # [5, N, H] quantiles of imagined sums, see `QUANTILES`
    mean: np.ndarray  # [N, H] of imagined sums
    deviation: np.ndarray  # [N, H] of imagined sums, over the paths: the imagined volatility
    observations: np.ndarray  # [N, H, C] the chosen columns, as they came
    observation_fan: np.ndarray  # [5, N, H, C]


class Calibration(NamedTuple):
    """By horizon, over the stretches: all `[H]`, NaN where a side does not vary."""

    inside_half: np.ndarray  # share of truths between the 25 % and 75 % line: 0.5 if calibrated
    inside_ninety: np.ndarray  # share of truths between the 5 % and 95 % line: 0.9 if calibrated
    correlation: np.ndarray  # of imagined mean and truth
    volatility_correlation: np.ndarray  # of imagined deviation and the size of the error
    relative_error: np.ndarray  # root mean square error over that of always saying zero


def open_loop(
    agent: DreamerAgent,
    observations: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    *,
    context: int = 16,
    paths: int = 64,
    columns: Sequence[int] = (),
    seed: int,
) -> OpenLoop:
    """Watches `context` steps of N stretches, then imagines the rest of them along `paths` paths each.

    `observations [N, context + H, I]` and `rewards [N, context + H]` that arrived with them;
    `actions [N, context + H, ...]` of the environment, taken on them (the last one is not used). Every
    stretch is treated as the beginning of an episode. Consumes `seed`.
    """
    if observations.shape[1] <= context:
        raise ValueError(f"{observations.shape[1]} steps leave none to imagine after a context of {context}")
    count = len(observations)
    taken = policy.to_vector(actions, agent.networks.actions)  # [N, L, A]
    drawn, expected, decoded = _imagine(
        agent, np.repeat(observations, paths, axis=0), np.repeat(taken, paths, axis=0), context, seed
    )
    steps = drawn.shape[1]
    sums, middle = (
        np.cumsum(part.reshape(count, paths, steps), axis=-1) / agent.reward_scale
        for part in (drawn, expected)
    )  # [N, P, H]
    shown = decoded.reshape(count, paths, steps, -1)[..., list(columns)]  # [N, P, H, C]
    return OpenLoop(
        rewards=np.cumsum(rewards[:, context:], axis=-1),
        fan=np.quantile(sums, QUANTILES, axis=1),
        mean=middle.mean(axis=1),  # free of the noise of the draws
        deviation=sums.std(axis=1),
        observations=observations[:, context:, list(columns)],
        observation_fan=np.quantile(shown, QUANTILES, axis=1),
    )


def _imagine(
    agent: DreamerAgent, observations: np.ndarray, taken: np.ndarray, context: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rewards `[M, H]` in learning units, drawn and expected, and decoded observations `[M, H, I]`."""
    world = agent.networks.world
    count, length = observations.shape[:2]
    watch_key, dream_key, reward_key = (
        rng.key(rng.derive(seed, name)) for name in ("watch", "dream", "reward")
    )

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def run(seen: tf.Tensor, taken: tf.Tensor) -> tuple[tf.Tensor, ...]:
        before = tf.concat([tf.zeros_like(taken[:, :1]), taken[:, : context - 1]], axis=1)
        first = tf.zeros((count, context), tf.bool)
        start = world.rssm.initial(count)
        watched = world.rssm.observe(start, world.encode(seen), before, first, watch_key)
        last = Latent(*(part[:, -1] for part in watched.latent))
        ahead = tf.transpose(taken[:, context - 1 : -1], (1, 0, 2))  # [H, M, A]
        noise = world.rssm.noise(dream_key, length - context, count)
        dreamt = world.rssm.imagine(last, lambda _, step: ahead[step], noise)
        features = feature(dreamt.latent)[1:]  # [H, M, F]
        head = world.reward(features)
        drawn = world.reward.sample(head, rng.uniform(reward_key, (length - context, count, 1)))
        return drawn, world.reward.mean(head), scalars.symexp(world.decoder(features))

    drawn, expected, decoded = run(observations[:, :context].astype(np.float32), taken)
    return drawn.numpy().T, expected.numpy().T, decoded.numpy().transpose(1, 0, 2)


def calibration(loop: OpenLoop) -> Calibration:
    """How far the fan can be trusted, by horizon."""
    low, first_quarter, _, last_quarter, high = loop.fan
    error = loop.rewards - loop.mean
    size = np.sqrt(np.mean(np.square(loop.rewards), axis=0))
    return Calibration(
        inside_half=np.mean((first_quarter <= loop.rewards) & (loop.rewards <= last_quarter), axis=0),
        inside_ninety=np.mean((low <= loop.rewards) & (loop.rewards <= high), axis=0),
        correlation=_correlation(loop.mean, loop.rewards),
        volatility_correlation=_correlation(loop.deviation, np.abs(error)),
        relative_error=_ratio(np.sqrt(np.mean(np.square(error), axis=0)), size),
    )


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    quotient: np.ndarray = np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)
    return quotient


def _correlation(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Of columns: `[N, H]` twice to `[H]`."""
    one, two = one - one.mean(axis=0), two - two.mean(axis=0)
    return _ratio(np.sum(one * two, axis=0), np.sqrt(np.sum(one**2, axis=0) * np.sum(two**2, axis=0)))
