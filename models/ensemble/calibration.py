"""What is measured on held-out transitions after a fit: the limits of the gate, and how good the model is."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from models.ensemble import dream, networks, regime
from models.ensemble.config import Config
from models.ensemble.dream import Known, Limits, Model, Settings
from models.ensemble.networks import Shape

_NINETY = 1.6449  # standard deviations: the middle 90 % of a normal


def limits(
    model: Model,
    observation: np.ndarray,
    choice: np.ndarray,
    *,
    shape: Shape,
    settings: Settings,
    known: Known,
    config: Config,
) -> Limits:
    """Limits as quantiles over held-out `observation [N, D]` and the `choice [N, A]` that was made there."""
    shown = tf.constant(observation, tf.float32)
    doubt = dream.doubt(model, shown, tf.constant(choice), shape).epistemic
    if settings.regime_rule == "off":
        noise = reverting = trending = np.float32(np.inf)
    else:
        reading = regime.read(model, shown, shape=shape, settings=settings, known=known)
        noise = _quantile(reading.noise, config.calm_quantile)
        reverting = _quantile(reading.persistence, config.trend_quantile)
        trending = _quantile(reading.persistence, 1.0 - config.trend_quantile)
    return Limits(
        _quantile(doubt, config.gate_quantile), np.float32(config.confidence), noise, reverting, trending
    )


def _quantile(values: Any, quantile: float) -> np.float32:
    return np.float32(np.quantile(values.numpy(), quantile) if quantile < 1 else np.inf)


def figures(model: Model, inputs: np.ndarray, targets: np.ndarray, shape: Shape) -> dict[str, float]:
    """Of scaled held-out transitions: whether the middle 90 % of what is predicted holds 90 % of them, and
    how much of the reward's variance is explained."""
    predicted = networks.predict(model.weights, tf.constant(inputs, tf.float32), shape)
    mean = tf.reduce_mean(predicted.mean, axis=0).numpy()
    between = tf.math.reduce_variance(predicted.mean, axis=0).numpy()
    within = tf.reduce_mean(tf.exp(predicted.log_variance), axis=0).numpy()
    inside = np.abs(targets - mean) <= _NINETY * np.sqrt(between + within)
    left = np.square(targets - mean).mean(axis=0) / np.maximum(targets.var(axis=0), 1e-12)
    return {
        "coverage_90": float(inside.mean()),
        "epistemic": float(between.mean()),
        "reward_explained": float(1.0 - left[-1]),
    }
