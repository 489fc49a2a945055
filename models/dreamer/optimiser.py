"""LaProp with adaptive gradient clipping and a warm-up: DreamerV3's optimiser, as a Keras one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


def clipped(gradient: tf.Tensor, variable: tf.Tensor, share: float, floor: float) -> tf.Tensor:
    """The gradient, no longer than `share` of the variable (Brock et al. 2021, eq. 3, a variable a unit).

    A variable shorter than `floor` counts as that long; otherwise one that starts at zero would stay.
    """
    longest = share * tf.maximum(tf.norm(variable), floor)
    return gradient / tf.maximum(1.0, tf.norm(gradient) / longest)


class LaProp(keras.optimizers.Optimizer):  # type: ignore[misc]  # Keras is untyped here
    """Normalises each gradient first and averages afterwards (Ziyin et al. 2020, algorithm 1).

    Adam averages first: a large gradient then moves the average for long, while the normaliser has it
    in view. Here one outlier counts once, as one step of bounded size; that is why `epsilon` may be tiny.

    Args:
        learning_rate: reached after the warm-up.
        warmup_steps: updates over which it rises in a straight line; the first takes 1 / warmup_steps of
            it (in the paper's code the first update does nothing).
        total_steps, annealing: over this last share of so many updates the rate falls in a straight line to
            zero. A rate that stays up leaves the weights to the noise of the last few batches, and where one
            per cent of a reward can be foretold, that noise is larger than what was learned.
        beta_1: of the average of normalised gradients.
        beta_2: of the average of squares.
        clip: largest gradient, as a share of its variable's norm.
        clip_floor: norm that a variable is taken to have at least.
    """

    def __init__(
        self,
        learning_rate: float = 4e-5,
        *,
        warmup_steps: int = 1000,
        total_steps: int = 1,
        annealing: float = 0.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-20,
        clip: float = 0.3,
        clip_floor: float = 1e-3,
        name: str = "laprop",
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name)
        self.total_steps, self.annealing = total_steps, annealing
        self.warmup_steps, self.beta_1, self.beta_2 = warmup_steps, beta_1, beta_2
        self.epsilon, self.clip, self.clip_floor = epsilon, clip, clip_floor

    def build(self, variables: Sequence[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        self.squares = [self.add_variable_from_reference(variable, "square") for variable in variables]
        self.means = [self.add_variable_from_reference(variable, "mean") for variable in variables]

    def update_step(self, gradient: tf.Tensor, variable: Any, learning_rate: tf.Tensor) -> None:
        place = self._get_variable_index(variable)
        square, mean = self.squares[place], self.means[place]
        count = tf.cast(self.iterations, tf.float32) + 1.0
        rate = learning_rate * tf.minimum(1.0, count / float(self.warmup_steps))
        if self.annealing > 0.0:
            left = (float(self.total_steps) - count + 1.0) / (self.annealing * float(self.total_steps))
            rate = rate * tf.clip_by_value(left, 0.0, 1.0)
        value = tf.convert_to_tensor(variable)
        gradient = clipped(tf.convert_to_tensor(gradient), value, self.clip, self.clip_floor)
        squares = self.beta_2 * square.value + (1.0 - self.beta_2) * tf.square(gradient)
        size = tf.sqrt(squares / (1.0 - tf.pow(self.beta_2, count))) + self.epsilon
        means = self.beta_1 * mean.value + (1.0 - self.beta_1) * gradient / size
        self.assign(square, squares)
        self.assign(mean, means)
        self.assign_sub(variable, rate * means / (1.0 - tf.pow(self.beta_1, count)))

    def get_config(self) -> dict[str, Any]:
        names = (
            "warmup_steps",
            "total_steps",
            "annealing",
            "beta_1",
            "beta_2",
            "epsilon",
            "clip",
            "clip_floor",
        )
        return {
            "learning_rate": float(self.learning_rate),
            "name": self.name,
            **{name: getattr(self, name) for name in names},
        }
