"""What the networks are to say: K + 1 positions of an episode with rewards, returns and policies.

Indices, once and for all: position k is the k-th row after the sampled one. `action[k]` was taken there,
`reward[k]` came of it (it arrived with position k + 1), and

    return[k] = r_{k+1} + g r_{k+2} + ... + g^(m-1) r_{k+m} + g^m v(k + m)

with m = n, or what the episode has left, and v from the newest target network at position k + m
(Schrittwieser et al. 2020, appendix G and H). A terminated episode goes on for ever in an absorbing state:
reward 0, value 0, a uniform policy, actions at random. A truncated one, or one still running, does not:
positions beyond its last row have no weight, and its last observation is bootstrapped from.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from models.muzero import actions as arms
from models.muzero.actions import Actions
from models.replay import Replay


class Unrolled(NamedTuple):
    """B stretches to learn from; float32."""

    window: np.ndarray  # [B, H, D] observations up to position 0
    later: np.ndarray  # [B, K, H, D] up to positions 1 to K
    later_weight: np.ndarray  # [B, K] the position was really observed
    code: np.ndarray  # [B, K, W] actions
    reward: np.ndarray  # [B, K] scaled
    reward_weight: np.ndarray  # [B, K]
    policy: np.ndarray  # [B, K + 1, A]
    codes: np.ndarray  # [B, K + 1, A, W] the arms the policy is about (drawn ones; else A = W = 0)
    policy_weight: np.ndarray  # [B, K + 1]
    partial_return: np.ndarray  # [B, K + 1] the rewards of the n-step return, scaled
    bootstrap: np.ndarray  # [B, K + 1, H, D] observations up to position k + m
    bootstrap_discount: np.ndarray  # [B, K + 1] g^m, 0 after a termination
    value_weight: np.ndarray  # [B, K + 1]
    importance: np.ndarray  # [B]


def windows(
    replay: Replay, rows: np.ndarray, history: int, shift: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """The `history` observations up to each of `rows [...]`, normalised: float32 `[..., H, D]`.

    What lies before the episode, or is no longer in the buffer, is zero, as in an agent's first state.
    """
    found = replay.history(rows.ravel(), history)
    shown = normalise(replay.read("observation", found.rows), shift, scale)
    shown = np.where(found.mask[..., None], shown, np.float32(0.0))
    found_windows: np.ndarray = shown.reshape(*rows.shape, *shown.shape[1:])
    return found_windows


def normalise(observation: np.ndarray, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Observations `[..., D]` with about unit variance, clipped at ten deviations."""
    shown: np.ndarray = np.clip((observation - shift) * scale, -10.0, 10.0).astype(np.float32)
    return shown


def unroll(
    replay: Replay,
    rows: np.ndarray,
    importance: np.ndarray,
    *,
    unroll_steps: int,
    n_step: int,
    discount: float,
    reward_scale: float,
    history: int,
    shift: np.ndarray,
    scale: np.ndarray,
    actions: Actions,
    space: Any,
    draw: np.random.Generator,
) -> Unrolled:
    """The targets of the stretches that begin at `rows [B]` (flat rows of transitions)."""
    k = unroll_steps
    reached, exists = replay.window(rows, k + n_step)  # [B, K + n + 1]
    here = reached[:, : k + 1]
    taken = replay.read("complete", here) & exists[:, : k + 1]
    absorbing = replay.read("terminated", here)  # the last row itself, and its repetitions after the end
    rewards = np.where(exists[:, 1:], replay.read("reward", reached[:, 1:]), 0.0) * reward_scale  # [B, K + n]

    spans = np.arange(k + 1)[:, None] + np.arange(n_step)[None, :]  # [K + 1, n]
    powers = discount ** np.arange(n_step)
    partial = (rewards[:, spans] * powers).sum(axis=-1)
    steps = exists[:, 1:][:, spans].sum(axis=-1)  # [B, K + 1]
    end = reached[:, n_step:]  # [B, K + 1] the row m steps on
    live = ~replay.read("terminated", end)

    moves = random_codes(actions, (len(rows), k), draw)  # [B, K, W], where no action was taken
    moves[taken[:, :k]] = arms.encode(actions, space, replay.read("action", here[:, :k][taken[:, :k]]))
    policy = np.where(taken[..., None], replay.read("extra.policy", here), np.float32(1.0 / actions.arms))
    searched = taken & (replay.read("extra.searched", here) > 0)
    uniform = absorbing & (not actions.drawn)  # arms that were never drawn have no uniform policy
    codes = replay.read("extra.codes", here) if actions.drawn else np.zeros((*here.shape, 0, 0))
    parts = (
        windows(replay, rows, history, shift, scale),
        windows(replay, here[:, 1:], history, shift, scale),
        exists[:, 1 : k + 1],
        moves,
        rewards[:, :k],
        exists[:, 1 : k + 1] | absorbing[:, :k],
        policy,
        codes,
        searched | uniform,
        partial,
        windows(replay, end, history, shift, scale),
        discount**steps * live,
        taken | absorbing,
        importance,
    )
    return Unrolled(*(np.asarray(part, np.float32) for part in parts))


def random_codes(actions: Actions, shape: tuple[int, ...], draw: np.random.Generator) -> np.ndarray:
    """Codes `[*shape, W]` of uniformly random actions."""
    if actions.kind == "box":
        return draw.uniform(-1.0, 1.0, (*shape, actions.width)).astype(np.float32)
    sizes = actions.choices if actions.drawn else (actions.width,)
    parts = [np.eye(size, dtype=np.float32)[draw.integers(0, size, shape)] for size in sizes]
    return np.concatenate(parts, axis=-1)


def importance_weights(probability: np.ndarray, transitions: int, exponent: float) -> np.ndarray:
    """(1 / (N P))^exponent over the largest, of draws with `probability [B]`   (Schaul et al. 2016)."""
    weight = (probability * transitions) ** -exponent
    scaled: np.ndarray = (weight / weight.max()).astype(np.float32)
    return scaled
