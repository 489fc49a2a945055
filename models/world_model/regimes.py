"""Regimes: states of a hidden Markov chain over a path, found without being told.

First a Gaussian mixture by expectation maximisation (Bishop 2006, section 9.2.2) gives the states a place;
then the chain learns how long they last (Baum and Welch; Bishop 2006, section 13.2). A mixture alone
judges each bar by itself, and flickers. `filtered` uses the past only, and is what an agent may act on;
`smoothed` is for looking back.

Two things keep the chain from spending its states on something else. Its emissions have the tails of
Student's t (EM by Peel and McLachlan 2000, eq. 13 and 20), or a state would collect the outliers; and a visit
lasts some time on average, or states would take turns bar by bar to draw the shape of one law.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from models import rng

_RIDGE = 1e-3  # added to every variance of standardised data: a state must not shrink to a point
_FREEDOM = 5.0  # of the emissions' tails
_RATIO_STEPS = 12  # over which a regime's trend or reversion is measured


class Chain(NamedTuple):
    """R states over `[Z]`, in order of their size: the widest last."""

    start: np.ndarray  # [R]
    change: np.ndarray  # [R, R] from row to column
    mean: np.ndarray  # [R, Z]
    covariance: np.ndarray  # [R, Z, Z] the scale matrices of the tails' law

    @property
    def stay(self) -> np.ndarray:
        """Expected length of a visit to each state, in steps: `[R]`."""
        return 1.0 / np.maximum(1.0 - np.diag(self.change), 1e-12)


def _distances(chain: Chain, path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared Mahalanobis distances `[T, R]` and log determinants `[R]`."""
    found, size = np.empty((len(path), len(chain.mean))), np.empty(len(chain.mean))
    for state, (mean, covariance) in enumerate(zip(chain.mean, chain.covariance, strict=True)):
        factor = np.linalg.cholesky(covariance)
        found[:, state] = (np.linalg.solve(factor, (path - mean).T) ** 2).sum(axis=0)
        size[state] = 2.0 * np.log(np.diag(factor)).sum()
    return found, size


def log_densities(chain: Chain, path: np.ndarray, freedom: float = _FREEDOM) -> np.ndarray:
    """log p(z_t | state) of the multivariate t, or of the normal if `freedom` is infinite: `[T, R]`."""
    distance, size = _distances(chain, path)
    width = path.shape[1]
    if math.isinf(freedom):
        return np.asarray(-0.5 * (distance + size + width * np.log(2.0 * np.pi)))
    half = 0.5 * (freedom + width)
    constant = math.lgamma(half) - math.lgamma(0.5 * freedom) - 0.5 * width * math.log(freedom * math.pi)
    return np.asarray(constant - 0.5 * size - half * np.log1p(distance / freedom))


def _moments(
    path: np.ndarray, weight: np.ndarray, tails: np.ndarray | None = None, *, centred: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means `[R, Z]` and covariances `[R, Z, Z]` for `weight [T, R]`; `tails [T, R]` weigh outliers
    down, `centred` holds every mean at zero."""
    pull = weight if tails is None else weight * tails
    mean = (pull.T @ path) / np.maximum(pull.sum(axis=0), 1e-9)[:, None]
    if centred:
        mean = np.zeros_like(mean)
    total, width = np.maximum(weight.sum(axis=0), 1e-9), path.shape[1]
    covariance = np.empty((weight.shape[1], width, width))
    for state in range(weight.shape[1]):
        away = path - mean[state]
        covariance[state] = (pull[:, state, None] * away).T @ away / total[state]
    return mean, covariance + _RIDGE * np.eye(width)


def fit_mixture(
    path: np.ndarray, states: int, *, seed: int, tries: int = 4, steps: int = 60, centred: bool = False
) -> Chain:
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
            mean, covariance = _moments(path, weight, centred=centred)
            share = weight.mean(axis=0)
            chain = Chain(share, np.tile(share, (states, 1)), mean, covariance)
            joint = log_densities(chain, path, math.inf) + np.log(np.maximum(share, 1e-300))
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


def _depths(first: np.ndarray) -> list[np.ndarray]:
    """The rows that are the k-th of their stretch, for each k: stretches are walked side by side."""
    starts = np.flatnonzero(first)
    lengths = np.diff(np.append(starts, len(first)))
    return [starts[lengths > k] + k for k in range(int(lengths.max()))]


def _forward(chain: Chain, density: np.ndarray, depths: list[np.ndarray]) -> np.ndarray:
    alpha = np.empty_like(density)
    for k, rows in enumerate(depths):
        ahead = alpha[rows - 1] @ chain.change if k else chain.start
        belief = ahead * density[rows]
        alpha[rows] = belief / belief.sum(axis=1, keepdims=True)
    return alpha


def _densities(chain: Chain, path: np.ndarray) -> np.ndarray:
    logs = log_densities(chain, np.asarray(path, np.float64))
    # Relative to the best state; the floor keeps a row that no state explains from dividing by zero.
    return np.asarray(np.maximum(np.exp(logs - logs.max(axis=1, keepdims=True)), 1e-200))


def _begins(first: np.ndarray | None, rows: int) -> np.ndarray:
    """Where stretches begin `[T]`; the first row always does."""
    begins = np.zeros(rows, bool) if first is None else np.array(first, bool)
    begins[:1] = True
    return begins


def filtered(chain: Chain, path: np.ndarray, first: np.ndarray | None = None) -> np.ndarray:
    """p(state_t | z_1..z_t): `[T, R]`; `first [T]` marks rows before which nothing is known."""
    return _forward(chain, _densities(chain, path), _depths(_begins(first, len(path))))


def update(chain: Chain, belief: np.ndarray, z: np.ndarray) -> np.ndarray:
    """One step of `filtered` for a batch: belief `[B, R]` and rows `[B, Z]` to belief `[B, R]`."""
    ahead = (belief @ chain.change) * _densities(chain, z)
    return np.asarray(ahead / ahead.sum(axis=1, keepdims=True))


def smoothed(chain: Chain, path: np.ndarray, first: np.ndarray | None = None) -> np.ndarray:
    """p(state_t | z_1..z_T): `[T, R]`. Looks ahead: for people, never for decisions."""
    return _smooth(chain, _densities(chain, path), _depths(_begins(first, len(path))))[0]


def _smooth(chain: Chain, density: np.ndarray, depths: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed beliefs `[T, R]` and expected numbers of changes `[R, R]`."""
    alpha = _forward(chain, density, depths)
    gamma, changes = alpha.copy(), np.zeros_like(chain.change)
    for later in depths[:0:-1]:
        rows = later - 1
        ahead = np.maximum(alpha[rows] @ chain.change, 1e-300)
        pair = alpha[rows, :, None] * chain.change * (gamma[later] / ahead)[:, None, :]
        gamma[rows] = pair.sum(axis=2)
        changes += pair.sum(axis=0)
    return gamma, changes


def fit(
    path: np.ndarray,
    states: int,
    *,
    seed: int,
    first: np.ndarray | None = None,
    stay: float = 1.0,
    centred: bool = False,
    steps: int = 30,
) -> Chain:
    """The chain of `states` that explains `path [T, Z]`, from narrow to wide.

    Args:
        first: `[T]`, where the path begins anew.
        stay: steps that a visit lasts at least, in expectation.
        centred: states differ in how wide they are, and all have their mean at zero.
    """
    path = np.asarray(path, np.float64)
    depths = _depths(_begins(first, len(path)))
    keep = max(0.95, 1.0 - 1.0 / stay)
    sticky = np.full((states, states), (1.0 - keep) / max(1, states - 1))
    np.fill_diagonal(sticky, keep if states > 1 else 1.0)
    chain = fit_mixture(path, states, seed=seed, centred=centred)._replace(change=sticky)
    for _ in range(steps):
        gamma, changes = _smooth(chain, _densities(chain, path), depths)
        tails = (_FREEDOM + path.shape[1]) / (_FREEDOM + _distances(chain, path)[0])
        mean, covariance = _moments(path, gamma, tails, centred=centred)
        start = np.maximum(gamma.mean(axis=0), 1e-6)
        chain = Chain(start / start.sum(), _staying(changes + 1e-6, 1.0 - 1.0 / stay), mean, covariance)
    order = np.argsort([np.linalg.slogdet(each)[1] for each in chain.covariance], kind="stable")
    return Chain(
        chain.start[order], chain.change[np.ix_(order, order)], chain.mean[order], chain.covariance[order]
    )


def _staying(changes: np.ndarray, least: float) -> np.ndarray:
    """Transition probabilities from numbers of `changes [R, R]`, each state kept with at least `least`.

    Where the likeliest probability is below the limit, the limit is the likeliest that is allowed.
    """
    change = changes / changes.sum(axis=1, keepdims=True)
    kept = np.diag(change)
    away = np.where(kept < least, (1.0 - least) / np.maximum(1.0 - kept, 1e-300), 1.0)
    scaled = change * away[:, None]
    np.fill_diagonal(scaled, np.maximum(kept, least))
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True))


def traits(
    chain: Chain, path: np.ndarray, first: np.ndarray | None = None, *, unit: Any = 1.0
) -> list[dict[str, Any]]:
    """What tells the regimes apart on `path [T, Z]`, in their order, and a name made of that.

    `share` of the time, `stay` in steps, `deviation` (root mean square, times `unit [Z]`) and `ratio`, the
    variance of sums over 12 steps against 12 variances of one step: above 1 moves go on, below they are taken
    back. The name says so where the ratio is more than two standard errors away from 1.
    """
    path = np.asarray(path, np.float64)
    begins = _begins(first, len(path))
    label = smoothed(chain, path, begins).argmax(axis=1)
    runs = np.cumsum(begins | np.append(True, np.diff(label) != 0))
    moved, states = path * unit, len(chain.mean)
    sizes = ["calm", *(["middle"] if states == 3 else [f"middle {i}" for i in range(1, states - 1)]), "wild"]
    found = []
    for state in range(states):
        mine = label == state
        if not mine.any():
            found.append({"name": "never seen", "share": 0.0, "stay": float(chain.stay[state])})
            continue
        deviation = float(np.sqrt(np.mean(moved[mine] ** 2)))
        sums = _block_sums(moved[mine], runs[mine])
        squares = (sums**2).mean(axis=1) / (_RATIO_STEPS * deviation**2)
        ratio = float(squares.mean()) if len(squares) else 1.0
        error = float(squares.std() / np.sqrt(len(squares))) if len(squares) else np.inf
        moves = "" if abs(ratio - 1.0) <= 2.0 * error else ", trending" if ratio > 1.0 else ", reverting"
        found.append(
            {
                "name": (sizes[state] if states > 1 else "all") + moves,
                "share": float(mine.mean()),
                "stay": float(chain.stay[state]),
                "deviation": deviation,
                "ratio": ratio,
            }
        )
    return found


def _block_sums(rows: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Sums `[K, Z]` of the whole blocks of steps that lie within one run each."""
    ends = np.arange(_RATIO_STEPS, len(rows) + 1, _RATIO_STEPS)
    whole = [end for end in ends if runs[end - 1] == runs[end - _RATIO_STEPS]]
    blocks = [rows[end - _RATIO_STEPS : end].sum(axis=0) for end in whole]
    return np.array(blocks).reshape(len(blocks), rows.shape[1])


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
