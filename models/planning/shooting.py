"""Random shooting: draw sequences of actions, keep the best (Richards 2005; Chua et al. 2018, section 5)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from models.planning import plan
from models.planning.plan import ActionSpace, Evaluate, Plan


def random_shooting(
    evaluate: Evaluate,
    space: ActionSpace,
    *,
    horizon: int,
    samples: int,
    seed: Any,
    batch: int,
    initial: Any = None,
) -> Plan:
    """The best of `samples` uniform sequences for each of `batch` problems; consumes the seed.

    Args:
        evaluate: `[B, N, H, A]` to returns `[B, N]`.
        space: what an action may be.
        horizon: H.
        samples: N.
        seed: int32 `[2]`.
        batch: B.
        initial: `[B, H, A]` takes the place of the first candidate, if given.

    `info`: `lost [B]`, the share of candidates without a finite return.
    """
    drawn = plan.uniform(space, (1, samples, horizon), seed)
    actions = tf.tile(drawn, (batch, 1, 1, 1))  # [B, N, H, A]
    if initial is not None:
        given = tf.cast(tf.convert_to_tensor(initial), actions.dtype)[:, None]
        actions = tf.concat([given, actions[:, 1:]], axis=1)
    returns, lost = plan.score(evaluate, actions)
    chosen, value = plan.best(actions, returns)
    return Plan(chosen, value, {"lost": lost / samples})
