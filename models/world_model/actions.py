"""What a controller's outputs mean: choices, levels of exposure, or points of a box.

- `choices`: one score for each choice of each branch, and the highest wins (Discrete, MultiDiscrete);
- `levels`: one score an asset; its tanh, times the largest level, goes to the nearest level. Far fewer
  weights to evolve than one score a level, and neighbours mean neighbouring exposures;
- `box`: one score a dimension, squashed into the bounds by tanh.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
import tensorflow as tf

from models import configuration
from models.world_model.config import Config


class Acts(NamedTuple):
    """The actions of an environment; hashable."""

    kind: Literal["choices", "levels", "box"]
    choices: tuple[int, ...] = ()  # of each branch
    first: tuple[int, ...] = ()  # the space's number of each branch's first choice
    levels: tuple[float, ...] = ()  # the exposure that each choice stands for
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    unit: float = 1.0  # `box`: what a point is multiplied by to be an exposure
    gross: float = 0.0  # exposures of a larger absolute sum are scaled down to it; 0 is no limit

    @property
    def outputs(self) -> int:
        """Scores a controller gives."""
        return sum(self.choices) if self.kind == "choices" else len(self.choices or self.low)

    @property
    def code(self) -> int:
        """Length of an action as the memory sees it."""
        return len(self.low) if self.kind == "box" else sum(self.choices)


class Decided(NamedTuple):
    """Decisions read off scores `[..., O]`."""

    place: Any  # [..., D] number of the choice in each branch, or the point of the box
    value: Any  # [..., A] `choices`: one-hot; `levels`: exposures; `box`: the point, or exposures


def acts_of(space: gymnasium.Space[Any], config: Config) -> Acts:
    """The actions of `space`, or a ValueError that says what does not fit."""
    if isinstance(space, gymnasium.spaces.Box):
        if len(space.shape) != 1 or not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise configuration.Misfit(
                f"world_model: the action space {space} must be a flat Box with finite bounds"
            )
        box = Acts("box", low=tuple(space.low.tolist()), high=tuple(space.high.tolist()))
        if config.reward != "exposure":
            return box
        largest = config.exposure_unit * float(np.maximum(np.abs(space.low), np.abs(space.high)).sum())
        return box._replace(unit=config.exposure_unit, gross=_binding(config.gross_limit, largest))
    if isinstance(space, gymnasium.spaces.Discrete):
        choices, first = (int(space.n),), (int(space.start),)
    elif isinstance(space, gymnasium.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        choices, first = tuple(space.nvec.tolist()), tuple(space.start.tolist())
    else:
        raise configuration.Misfit(
            f"world_model: the action space {space} is not allowed; Discrete, MultiDiscrete and Box are"
        )
    if config.reward != "exposure":
        return Acts("choices", choices, first)
    if any(count != len(config.exposures) for count in choices):
        raise configuration.Misfit(
            f"world_model.exposures: {list(config.exposures)} must name one exposure for each of the "
            f"{max(choices)} choices of {space}"
        )
    largest = max(map(abs, config.exposures)) * len(choices)
    gross = _binding(config.gross_limit, largest)
    return Acts("levels", choices, first, config.exposures, gross=gross)


def _binding(limit: float, largest: float) -> float:
    """The limit, or none where exposures that add up to `largest` at most never meet it."""
    return limit if limit < largest else 0.0


def _limited(exposures: Any, gross: float) -> Any:
    """`exposures [..., S]`, scaled down alike where their absolute sum is above `gross`."""
    if not gross:
        return exposures
    if isinstance(exposures, np.ndarray):
        total = np.abs(exposures).sum(axis=-1, keepdims=True)
        return exposures * (gross / np.maximum(total, gross)).astype(exposures.dtype)
    total = tf.reduce_sum(tf.abs(exposures), axis=-1, keepdims=True)
    return exposures * (gross / tf.maximum(total, gross))


def decide(scores: Any, acts: Acts) -> Decided:
    """Decisions from `scores [..., O]`; the first one on a tie. NumPy in, NumPy out."""
    numpy = isinstance(scores, np.ndarray)
    if acts.kind == "choices":
        places, coded, at = [], [], 0
        for count in acts.choices:
            part = scores[..., at : at + count]
            place = part.argmax(axis=-1) if numpy else tf.argmax(part, axis=-1, output_type=tf.int32)
            places.append(place)
            coded.append(np.eye(count, dtype=np.float32)[place] if numpy else tf.one_hot(place, count))
            at += count
        if numpy:
            return Decided(np.stack(places, axis=-1), np.concatenate(coded, axis=-1))
        return Decided(tf.stack(places, axis=-1), tf.concat(coded, axis=-1))
    squashed = np.tanh(scores) if numpy else tf.tanh(scores)
    if acts.kind == "levels":
        levels = np.array(acts.levels, np.float32)
        distance = abs(squashed[..., None] * np.abs(levels).max() - levels)  # [..., S, L]
        if numpy:
            place = distance.argmin(axis=-1)
            return Decided(place, _limited(levels[place], acts.gross))
        place = tf.argmin(distance, axis=-1, output_type=tf.int32)
        value = tf.reduce_sum(tf.one_hot(place, len(levels)) * levels, axis=-1)
        return Decided(place, _limited(value, acts.gross))
    low, high = np.array(acts.low, np.float32), np.array(acts.high, np.float32)
    point = low + (high - low) * (0.5 + 0.5 * squashed)
    return Decided(point, _limited(point * acts.unit, acts.gross))


def to_space(decided: Decided, acts: Acts, space: gymnasium.Space[Any]) -> np.ndarray:
    """Decisions `[B, D]` as actions `[B, *shape]` of the space."""
    place = np.asarray(decided.place)
    shifted = place if acts.kind == "box" else place + np.array(acts.first)
    return np.asarray(shifted.reshape(len(place), *space.shape), space.dtype)


def value_of(action: np.ndarray, acts: Acts) -> np.ndarray:
    """`Decided.value` of recorded actions `[..., *shape]` of the space: `[..., A]`."""
    if acts.kind == "box":
        point = np.clip(action, np.array(acts.low), np.array(acts.high)).astype(np.float32)
        return np.asarray(_limited(point * np.float32(acts.unit), acts.gross))
    place = action.reshape(*action.shape[:1], -1) - np.array(acts.first)  # [M, D]
    if acts.kind == "levels":
        return np.asarray(_limited(np.array(acts.levels, np.float32)[place], acts.gross))
    hot = [np.eye(n, dtype=np.float32)[place[..., branch]] for branch, n in enumerate(acts.choices)]
    return np.concatenate(hot, axis=-1)
