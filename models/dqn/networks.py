"""The Q-network: a dense stack whose weights are one flat vector.

One vector makes clipping, Adam and the target's average a single operation each, and lets the compiled
update be a pure function that every training of the same sizes shares. Acting is NumPy: for networks
this small a compiled TensorFlow call costs ten times the arithmetic.

An action has D branches of at most K choices (Discrete: one branch), and the network gives a value for
each choice of each branch: MultiDiscrete spaces grow by sum, not by product (Tavakoli et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import keras
import numpy as np
import tensorflow as tf

from models import configuration, networks


class Shape(NamedTuple):
    """All that is static about a Q-network; hashable."""

    inputs: int
    hidden: tuple[int, ...]
    activation: str
    choices: tuple[int, ...]  # of each of the D branches

    @property
    def widths(self) -> tuple[int, ...]:
        """Layer widths from the observation to the D * K outputs."""
        return (self.inputs, *self.hidden, len(self.choices) * max(self.choices))

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum((i + 1) * o for i, o in zip(self.widths, self.widths[1:], strict=False))

    @property
    def valid(self) -> np.ndarray:
        """Which of the K choices each branch has: bool `[D, K]`."""
        return np.arange(max(self.choices)) < np.array(self.choices)[:, None]


def choices_of(space: gymnasium.Space[Any]) -> tuple[int, ...]:
    """The number of choices of each branch of an action space; a Box is refused."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, gymnasium.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return tuple(int(n) for n in space.nvec)
    raise configuration.Misfit(
        f"dqn: the action space {space} has no finite list of choices; allowed: Discrete, MultiDiscrete "
        "(for a Box give the environment a grid of actions, or take another family)"
    )


def initial(shape: Shape, seed: int) -> np.ndarray:
    """Fresh weights `[P]`, a function of the seed; outputs start near zero."""
    stack = networks.MLP(shape.hidden, shape.widths[-1], seed=seed, output_scale=0.01)
    stack.build((None, shape.inputs))
    return np.concatenate([variable.numpy().ravel() for variable in stack.trainable_variables])


def _layers(flat: Any, shape: Shape) -> list[tuple[Any, Any]]:
    """Kernel `[I, O]` and bias `[O]` of each layer, as slices of `flat [P]`."""
    layers, at = [], 0
    reshape = np.reshape if isinstance(flat, np.ndarray) else tf.reshape
    for i, o in zip(shape.widths, shape.widths[1:], strict=False):
        layers.append((reshape(flat[at : at + i * o], (i, o)), flat[at + i * o : at + (i + 1) * o]))
        at += (i + 1) * o
    return layers


def q_values(flat: tf.Tensor, observation: tf.Tensor, shape: Shape) -> tf.Tensor:
    """`observation [B, I]` to `[B, D, K]`; choices a branch does not have hold nothing of use."""
    activation = keras.activations.get(shape.activation)
    *hidden, (kernel, bias) = _layers(flat, shape)
    x = observation
    for weight, offset in hidden:
        x = activation(x @ weight + offset)
    return tf.reshape(x @ kernel + bias, (-1, len(shape.choices), max(shape.choices)))


_NUMPY_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, np.float32(0.0)),
    "tanh": np.tanh,
    "silu": lambda x: x / (np.float32(1.0) + np.exp(-x)),
}


def q_values_numpy(flat: np.ndarray, observation: np.ndarray, shape: Shape) -> np.ndarray:
    """`q_values` in NumPy, with minus infinity for choices a branch does not have."""
    activation = _NUMPY_ACTIVATIONS[shape.activation]
    *hidden, (kernel, bias) = _layers(flat, shape)
    x = observation.astype(np.float32)
    with np.errstate(over="ignore"):  # silu of a large negative number is 0, as it should be
        for weight, offset in hidden:
            x = activation(x @ weight + offset)
    values = (x @ kernel + bias).reshape(len(x), len(shape.choices), -1)
    return np.where(shape.valid, values, np.float32(-math.inf))
