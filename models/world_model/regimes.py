"""Regimes: states of a hidden Markov chain over the latent path, found without being told.

First a Gaussian mixture by expectation maximisation (Bishop 2006, section 9.2.2) gives the states a place;
then the chain learns how long they last (Baum and Welch; Bishop 2006, section 13.2). A mixture alone
judges each bar by itself, and flickers. `filtered` uses the past only, and is what an agent may act on;
`smoothed` is for looking back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from models import rng

_RIDGE = 1e-3  # added to every variance of standardised data: a state must not shrink to a point


class Chain(NamedTuple):
    """R states over `[Z]`, in order of their size: the widest last."""

    start: np.ndarray  # [R]
    change: np.ndarray  # [R, R] from row to column
    mean: np.ndarray  # [R, Z]
    covariance: np.ndarray  # [R, Z, Z]

    @property
    def stay(self) -> np.ndarray:
        """Expected length of a visit to each state, in steps: `[R]`."""
        return 1.0 / np.maximum(1.0 - np.diag(self.change), 1e-12)


def log_densities(chain: Chain, path: np.ndarray) -> np.ndarray:
    """log N(z_t; mean_r, covariance_r): `[T, R]` of `path [T, Z]`."""
    found = np.empty((len(path), len(chain.mean)))
    for state, (mean, covariance) in enumerate(zip(chain.mean, chain.covariance, strict=True)):
        factor = np.linalg.cholesky(covariance)
        scaled = np.linalg.solve(factor, (path - mean).T)  # [Z, T]
        size = 2.0 * np.log(np.diag(factor)).sum() + len(mean) * np.log(2.0 * np.pi)
        found[:, state] = -0.5 * ((scaled**2).sum(axis=0) + size)
    return found


def _moments(path: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means `[R, Z]` and covariances `[R, Z, Z]` for `weight [T, R]`."""
    total = np.maximum(weight.sum(axis=0), 1e-9)
    mean = (weight.T @ path) / total[:, None]
    width = path.shape[1]
    covariance = np.empty((weight.shape[1], width, width))
    for state in range(weight.shape[1]):
        centred = path - mean[state]
        covariance[state] = (weight[:, state, None] * centred).T @ centred / total[state]
    return mean, covariance + _RIDGE * np.eye(width)


def fit_mixture(path: np.ndarray, states: int, *, seed: int, tries: int = 4, steps: int = 60) -> Chain:
    """The likeliest of `tries` Gaussian mixtures of `path [T, Z]`, as a chain that forgets at every step."""
    path = np.asarray(path, np.float64)
    if len(path) <= states:
        raise ValueError(f"{len(path)} rows for {states} states")
    best, best_score = None, -np.inf
    for attempt in range(tries):
        draw = rng.generator(seed, attempt)
        centres = path[draw.choice(len(path), states, replace=False)]
        nearest = ((path[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        weight = np.eye(states)[nearest] * 0.9 + 0.1 / states
        score = -np.inf
        for _ in range(steps):
            mean, covariance = _moments(path, weight)
            share = weight.mean(axis=0)
            chain = Chain(share, np.tile(share, (states, 1)), mean, covariance)
            joint = log_densities(chain, path) + np.log(np.maximum(share, 1e-300))
            top = joint.max(axis=1, keepdims=True)
            each = top[:, 0] + np.log(np.exp(joint - top).sum(axis=1))
            weight = np.exp(joint - each[:, None])
            before, score = score, float(each.mean())
            if score - before < 1e-7:
                break
        if score > best_score:
            best, best_score = chain, score
    assert best is not None
    return best


def _forward(chain: Chain, density: np.ndarray, first: np.ndarray) -> np.ndarray:
    alpha = np.empty_like(density)
    belief = chain.start
    for t in range(len(density)):
        ahead = chain.start if first[t] else belief @ chain.change
        belief = ahead * density[t]
        belief = belief / belief.sum()
        alpha[t] = belief
    return alpha


def _densities(chain: Chain, path: np.ndarray) -> np.ndarray:
    logs = log_densities(chain, np.asarray(path, np.float64))
    # Relative to the best state; the floor keeps a row that no state explains from dividing by zero.
    return np.asarray(np.maximum(np.exp(logs - logs.max(axis=1, keepdims=True)), 1e-200))


def filtered(chain: Chain, path: np.ndarray, first: np.ndarray | None = None) -> np.ndarray:
    """p(state_t | z_1..z_t): `[T, R]`; `first [T]` marks rows before which nothing is known."""
    begins = np.arange(len(path)) == 0 if first is None else first
    return _forward(chain, _densities(chain, path), begins)


def update(chain: Chain, belief: np.ndarray, z: np.ndarray) -> np.ndarray:
    """One step of `filtered` for a batch: belief `[B, R]` and latents `[B, Z]` to belief `[B, R]`."""
    ahead = (belief @ chain.change) * _densities(chain, z)
    return np.asarray(ahead / ahead.sum(axis=1, keepdims=True))


def smoothed(chain: Chain, path: np.ndarray, first: np.ndarray | None = None) -> np.ndarray:
    """p(state_t | z_1..z_T): `[T, R]`. Looks ahead: for people, never for decisions."""
    begins = np.arange(len(path)) == 0 if first is None else first
    return _smooth(chain, _densities(chain, path), begins)[0]


def _smooth(chain: Chain, density: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed beliefs `[T, R]` and expected numbers of changes `[R, R]`."""
    alpha = _forward(chain, density, first)
    gamma, changes = alpha.copy(), np.zeros_like(chain.change)
    for t in range(len(density) - 2, -1, -1):
        if first[t + 1]:
            continue
        ahead = np.maximum(alpha[t] @ chain.change, 1e-300)
        pair = alpha[t][:, None] * chain.change * (gamma[t + 1] / ahead)
        gamma[t] = pair.sum(axis=1)
        changes += pair
    return gamma, changes


def fit(
    path: np.ndarray, states: int, *, seed: int, first: np.ndarray | None = None, steps: int = 15
) -> Chain:
    """The chain of `states` that explains `path [T, Z]`; `first [T]` marks where it begins anew."""
    path = np.asarray(path, np.float64)
    begins = np.arange(len(path)) == 0 if first is None else np.asarray(first, bool)
    chain = fit_mixture(path, states, seed=seed)
    sticky = np.full((states, states), 0.05 / max(1, states - 1))
    np.fill_diagonal(sticky, 0.95 if states > 1 else 1.0)
    chain = chain._replace(change=sticky)
    for _ in range(steps):
        gamma, changes = _smooth(chain, _densities(chain, path), begins)
        mean, covariance = _moments(path, gamma)
        start = np.maximum(gamma.mean(axis=0), 1e-6)
        changes = changes + 1e-6
        chain = Chain(start / start.sum(), changes / changes.sum(axis=1, keepdims=True), mean, covariance)
    order = np.argsort([np.linalg.slogdet(each)[1] for each in chain.covariance], kind="stable")
    return Chain(
        chain.start[order], chain.change[np.ix_(order, order)], chain.mean[order], chain.covariance[order]
    )


def arrays(chain: Chain) -> dict[str, np.ndarray]:
    """The chain as named arrays."""
    return {name: np.asarray(value) for name, value in chain._asdict().items()}


def of(saved: Mapping[str, np.ndarray]) -> Chain:
    """The chain of `arrays`."""
    return Chain(**{name: saved[name] for name in Chain._fields})


def adjusted_rand(a: np.ndarray, b: np.ndarray) -> float:
    """How far two labellings agree, 1 at best and 0 by chance (Hubert and Arabie 1985, eq. 5)."""
    _, left = np.unique(a, return_inverse=True)
    _, right = np.unique(b, return_inverse=True)
    table = np.zeros((left.max() + 1, right.max() + 1))
    np.add.at(table, (left, right), 1)

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, rows, columns = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    chance = rows * columns / max(1.0, len(a) * (len(a) - 1) / 2)
    most = (rows + columns) / 2
    return 1.0 if most == chance else (both - chance) / (most - chance)
