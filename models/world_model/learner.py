"""Named weights, Adam, and one compiled update: what the two models of this family train with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from models import checkpoint

Weights = Mapping[str, Any]
"""Name to array (NumPy) or tensor: the parameters of a model, passed to pure functions."""

Loss = Callable[..., tuple[tf.Tensor, tf.Tensor]]
"""`loss(weights, *batch)` gives what is minimised `[]` and metrics `[M]`."""


class Learner:
    """Minimises `loss` by Adam with a clipped global norm.

    One `tf.function` a learner: batches must keep their shapes. It keeps the weights that did best in
    `judge`, because the last epoch of a small noisy data set is seldom its best.
    """

    def __init__(
        self, initial: Mapping[str, np.ndarray], loss: Loss, *, learning_rate: float, clip: float
    ) -> None:
        self._variables = {name: keras.Variable(initial[name]) for name in sorted(initial)}
        self._adam = keras.optimizers.Adam(learning_rate, global_clipnorm=clip)
        self._adam.build(list(self._variables.values()))
        self._loss = loss
        self._update = tf.function(self._step, autograph=False)
        self.best = {name: np.array(value) for name, value in sorted(initial.items())}
        self.best_score: float | None = None

    def _step(self, *batch: tf.Tensor) -> tf.Tensor:
        variables = list(self._variables.values())
        with tf.GradientTape() as tape:
            loss, metrics = self._loss({name: v.value for name, v in self._variables.items()}, *batch)
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        gradients = [
            tf.zeros_like(v.value) if g is None else g for g, v in zip(gradients, variables, strict=True)
        ]
        self._adam.apply(gradients, variables)
        return metrics

    def update(self, *batch: Any) -> np.ndarray:
        """One gradient step; returns the metrics `[M]`."""
        metrics: np.ndarray = self._update(*(tf.convert_to_tensor(part) for part in batch)).numpy()
        if not np.isfinite(metrics).all():
            raise FloatingPointError(f"the loss is no longer a number: {metrics}")
        return metrics

    def weights(self) -> dict[str, np.ndarray]:
        """The weights of now."""
        return {name: np.array(variable.numpy()) for name, variable in self._variables.items()}

    def judge(self, score: float) -> None:
        """Tells the held-out score (smaller is better) of the weights of now."""
        if self.best_score is None or score < self.best_score:
            self.best, self.best_score = self.weights(), score

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, for a checkpoint."""
        score = np.array([] if self.best_score is None else [self.best_score])
        return (
            checkpoint.nest("weights", self.weights())
            | checkpoint.nest("best", self.best)
            | checkpoint.nest("adam", checkpoint.read_variables(self._adam.variables))
            | {"score": score}
        )

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes back `arrays`."""
        for name, value in checkpoint.unnest("weights", arrays).items():
            self._variables[name].assign(value)
        self.best = checkpoint.unnest("best", arrays)
        self.best_score = float(arrays["score"][0]) if arrays["score"].size else None
        checkpoint.write_variables(self._adam.variables, checkpoint.unnest("adam", arrays))
