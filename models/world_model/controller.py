"""C: the controller, and the evolution strategy that finds its weights (CMA-ES, Hansen 2016).

A controller is linear in `[z, h]` (and the exposures held), or has one hidden layer (World Models, section
2.3). A population of P is one array `[P, D]`, so that a generation is judged in one compiled call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import cmaes
import numpy as np
import tensorflow as tf

from models import rng


class Shape(NamedTuple):
    """All that is static about a controller."""

    inputs: int  # Z + H
    held: int  # S exposures, 0 where there is no account
    hidden: int
    outputs: int

    @property
    def size(self) -> int:
        """D."""
        width = self.inputs + self.held + 1
        if self.hidden == 0:
            return width * self.outputs
        return width * self.hidden + (self.hidden + 1) * self.outputs


def _layer(flat: Any, shape: Shape) -> tuple[Any, Any, Any, Any]:
    """The first layer of `flat [P, D]`: kernels `[P, I, O]`, `[P, S, O]`, bias `[P, 1, O]`, and the rest."""
    out = shape.hidden or shape.outputs
    reshape = np.reshape if isinstance(flat, np.ndarray) else tf.reshape
    count, at, parts = flat.shape[0], 0, []
    for rows in (shape.inputs, shape.held, 1):
        parts.append(reshape(flat[:, at : at + rows * out], (count, rows, out)))
        at += rows * out
    return parts[0], parts[1], parts[2], flat[:, at:]


def scores(flat: Any, seen: Any, held: Any, shape: Shape) -> Any:
    """Outputs `[P, N, O]` of P controllers for `seen [M, N, I]` and `held [P, N, S]`.

    With M = 1 all controllers see the same thing, and the inputs' part is one product. NumPy in, NumPy out.
    """
    numpy = isinstance(seen, np.ndarray)
    inside, outside, bias, rest = _layer(flat, shape)
    count, out = flat.shape[0], shape.hidden or shape.outputs
    if numpy or seen.shape[0] == count:
        x = seen @ inside
    else:
        wide = tf.reshape(tf.transpose(inside, (1, 0, 2)), (shape.inputs, count * out))
        x = tf.transpose(tf.reshape(seen[0] @ wide, (-1, count, out)), (1, 0, 2))
    x = x + bias  # [P, N, O]
    for asset in range(shape.held):
        x = x + held[..., asset : asset + 1] * outside[:, asset : asset + 1]
    if shape.hidden == 0:
        return x
    reshape, tanh = (np.reshape, np.tanh) if numpy else (tf.reshape, tf.tanh)
    cut = shape.hidden * shape.outputs
    return tanh(x) @ reshape(rest[:, :cut], (count, shape.hidden, shape.outputs)) + rest[:, None, cut:]


Kind = Literal["full", "separable", "adaptive"]


class Evolution:
    """CMA-ES over D weights, maximising; every generation is a function of the seed and what came before.

    The library loses its random state when it is pickled, and a copy would go on differently. Here the
    generator of each generation is seeded anew from `(seed, generation)`, so there is none to lose.
    """

    def __init__(self, mean: np.ndarray, *, sigma: float, population: int, kind: Kind, seed: int) -> None:
        self.seed = seed
        if kind == "separable":
            self._search = cmaes.SepCMA(
                mean=np.array(mean, np.float64), sigma=sigma, population_size=population
            )
        else:
            self._search = cmaes.CMA(
                mean=np.array(mean, np.float64),
                sigma=sigma,
                population_size=population,
                lr_adapt=kind == "adaptive",
            )

    @property
    def generation(self) -> int:
        return int(self._search.generation)

    @property
    def mean(self) -> np.ndarray:
        return np.array(self._search.mean)

    def ask(self) -> np.ndarray:
        """The candidates of this generation, `[P, D]`; asking again gives the same ones."""
        self._search.reseed_rng(rng.derive(self.seed, "generation", self.generation))
        return np.stack([self._search.ask() for _ in range(self._search.population_size)])

    def tell(self, candidates: np.ndarray, fitness: np.ndarray) -> None:
        """The fitness `[P]` of `candidates [P, D]`, more is better. Not a number is the worst of all."""
        costs = np.where(np.isfinite(fitness), -fitness.astype(np.float64), np.inf)
        self._search.tell(
            [(candidate, float(cost)) for candidate, cost in zip(candidates, costs, strict=True)]
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything but the random state, bit by bit, for a checkpoint.

        The library's own way of saving keeps half of the covariance, which rounding has made not quite
        symmetric: a run resumed from that would differ in the last digits.
        """
        saved = {name: value for name, value in vars(self._search).items() if name != "_rng"}
        return {name: np.asarray(value) for name, value in sorted(saved.items()) if value is not None}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes back `arrays` into a search made with the same arguments."""
        for name, value in vars(self._search).items():
            if name == "_rng":
                continue
            if name not in arrays:
                setattr(self._search, name, None)
                continue
            saved = np.array(arrays[name])
            kept = saved if isinstance(value, np.ndarray) or saved.ndim else saved.item()
            setattr(self._search, name, kept)
