"""The mean of the payoffs, put right after the mixture was fitted.

A controller lives on the mean of what a step pays. The likelihood hardly cares about it: on a market whose
returns are predictable to one per cent of their variance the mean is worth 0.005 nats a step of several,
and maximum likelihood leaves a bias many times larger than the edge, which the controller then harvests in
its dreams (measured: docs/world_model.md). So what the mixture's mean misses is regressed on the head's own
inputs `[h, x]` by ridge regression, and added to the head. How far to shrink is not chosen but inferred
from the data (MacKay 1992, "Bayesian interpolation", eq. 4.8 to 4.10): where nothing is to be found,
nothing is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from models.world_model import mdn_rnn
from models.world_model.mdn_rnn import Shape

_ROUNDS = 200
_STIFFEST = 1e12


class Ridge(NamedTuple):
    """y = kernel . x + bias, and how many coefficients the data determine."""

    kernel: np.ndarray  # [I]
    bias: float
    effective: float


def ridge(x: np.ndarray, y: np.ndarray) -> Ridge:
    """Ridge regression of `y [N]` on `x [N, I]` with the penalty that the evidence chooses.

    The mean of y is shrunk as well, by the share of its square that chance explains (James and Stein 1961,
    positive part): a drift within its own standard error is no drift.
    """
    centre, mean = x.mean(axis=0), float(y.mean())
    x, y = x - centre, y - mean
    count, square = len(y), float(y @ y)
    values, vectors = np.linalg.eigh(x.T @ x)
    values = np.maximum(values, 0.0)
    turned = vectors.T @ (x.T @ y)
    penalty, effective, noise = float(values.mean()) + 1e-12, 0.0, square / count
    for _ in range(_ROUNDS):
        found = turned / (values + penalty)
        effective = float((values / (values + penalty)).sum())  # eq. 4.9
        left = max(square - 2.0 * float(found @ turned) + float((values * found**2).sum()), 0.0)
        noise = left / max(count - effective, 1.0)
        size = float(found @ found)
        before, penalty = penalty, effective * noise / size if size > 0 else _STIFFEST  # eq. 4.8, 4.10
        penalty = min(penalty, _STIFFEST)
        if abs(penalty - before) <= 1e-6 * before:
            break
    kernel = vectors @ (turned / (values + penalty))
    kept = max(0.0, 1.0 - noise / count / mean**2) if mean != 0.0 else 0.0
    return Ridge(kernel, kept * mean - float(kernel @ centre), effective)


def shifted(
    weights: Mapping[str, np.ndarray], shape: Shape, corrections: list[Ridge]
) -> dict[str, np.ndarray]:
    """The weights with each payoff's correction `[R]` added to the means of all its components.

    The components keep their shares and widths; only the mean of the mixture moves. `Ridge.kernel` is over
    `[h, x]`, the inputs of the head.
    """
    kernel, bias = weights["head.kernel"].copy(), weights["head.bias"].copy()
    count, width = shape.components, shape.targets
    logits = count if shape.joint else count * width
    for payoff, correction in enumerate(corrections):
        target = shape.latents + payoff
        places = np.arange(count) * width + target if shape.joint else target * count + np.arange(count)
        kernel[:, logits + places] += correction.kernel[:, None].astype(np.float32)
        bias[logits + places] += np.float32(correction.bias)
    return {**weights, "head.kernel": kernel, "head.bias": bias}


def calibrated(
    weights: Mapping[str, np.ndarray],
    h: np.ndarray,
    x: np.ndarray,
    paid: np.ndarray,
    shape: Shape,
    *,
    drift: float,
) -> dict[str, np.ndarray]:
    """The weights with the means of the payoffs put right.

    Args:
        h, x: `[N, H]`, `[N, I]` what the head sees, and `paid [N, R]` what came of it.
        drift: share of the mean payoff that is kept; what is missing from 1 is taken out.
    """
    mean = mdn_rnn.mean_payoff(mdn_rnn.outlook(weights, h, x, shape).mixture, shape)  # [N, R]
    inputs = np.concatenate([h, x], axis=1, dtype=np.float64)
    missed = (paid - mean).astype(np.float64)
    found = [ridge(inputs, missed[:, payoff]) for payoff in range(shape.payoffs)]
    left = mean.mean(axis=0) + [(inputs @ each.kernel).mean() + each.bias for each in found]  # [R]
    found = [
        each._replace(bias=each.bias - (1.0 - drift) * rest) for each, rest in zip(found, left, strict=True)
    ]
    return shifted(weights, shape, found)
