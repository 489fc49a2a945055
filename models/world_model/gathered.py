"""How steps are gathered, and what they become: standardised and split, all that the models are fitted to."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np

from models import configuration, rng
from models.agent import State
from models.collect import Choice, Policy
from models.world_model import account, actions, timeline
from models.world_model.actions import Acts
from models.world_model.agent import Design
from models.world_model.config import Config
from models.world_model.timeline import Timeline


class Gathered(NamedTuple):
    """The gathered steps and what follows from them alone."""

    rows: Timeline
    fitted: np.ndarray  # [M] rows to learn from
    judged: np.ndarray  # [M] rows held out
    world: np.ndarray  # [M, I] the world's part of the observation, standardised
    centre: np.ndarray  # [I]
    scale: np.ndarray  # [I]
    value: np.ndarray  # [M, A] what the actions mean
    held: np.ndarray  # [M, S]
    payoff: np.ndarray  # [M, R] arrived with the row, in its own unit
    payoff_scale: np.ndarray  # [R]
    terms: np.ndarray  # see `Learned.terms`
    return_unit: (
        np.ndarray
    )  # [S] returns in the unit of what is shown of them, standardised; 1 without assets


def wanderer(space: gymnasium.Space[Any], acts: Acts, config: Config, *, seed: int) -> Policy:
    """Uniformly random actions that are held for a while: costs and holding must both be seen."""

    def wander(observation: np.ndarray, state: State, first: np.ndarray, step: int) -> Choice:
        draw = rng.generator(seed, "wander", step)
        count = len(observation)
        shape = (count, int(np.prod(space.shape, dtype=int)))
        if acts.kind == "box":
            fresh = draw.uniform(np.array(acts.low), np.array(acts.high), shape)
        else:
            fresh = draw.integers(0, acts.choices, shape) + np.array(acts.first)
        hold = (draw.random(count) < config.hold_probability) & ~first
        if isinstance(state, np.ndarray):
            fresh = np.where(hold[:, None], state, fresh)
        return Choice(fresh.reshape(count, *space.shape).astype(space.dtype), fresh.astype(np.float64))

    return wander


def digest(rows: Timeline, config: Config, design: Design) -> Gathered:
    """What the models are fitted to."""
    inputs = design.vision.inputs
    part = rows.observation[:, :inputs]
    fitted, judged = timeline.hold_out(part, config.held_out)
    if not fitted[rows.steps].any():
        raise configuration.Misfit(
            "world_model.held_out: every gathered row equals one that is held out; gather more, or less of it"
        )
    centre = part[fitted].mean(axis=0, dtype=np.float64)
    scale = part[fitted].std(axis=0, dtype=np.float64)
    scale = np.where(scale > 1e-6, scale, 1.0)
    value = actions.value_of(rows.action, design.world.acts)
    held = rows.observation[:, inputs : inputs + design.assets]
    payoff, terms, unit = rows.reward[:, None].astype(np.float32), np.zeros(0), np.ones(1)
    if design.world.exposure:
        steps = rows.steps[fitted[rows.steps] & fitted[rows.steps + 1]]
        shown = rows.observation[:, list(config.return_columns)]
        found = account.fit(rows.reward[steps + 1], value[steps], held[steps], shown[steps + 1])
        payoff, every = found.returns(shown), rows.steps
        missing = np.zeros_like(payoff)
        missing[every + 1] = account.beyond(
            found, rows.reward[every + 1], value[every], held[every], shown[every + 1]
        )
        payoff += _shared(missing, timeline.names(part))
        unit = found.slope * scale[list(config.return_columns)]
        terms = np.array([*found.slope, *found.offset, found.cost, found.r2])
    arrived = payoff[rows.steps + 1][fitted[rows.steps + 1]].astype(np.float64)
    size = np.sqrt(np.mean(arrived**2, axis=0))
    payoff_scale = np.where(size > 0, size, 1.0).astype(np.float32)
    standard = ((part - centre) / scale).astype(np.float32)
    return Gathered(
        rows, fitted, judged, standard, centre, scale, value, held, payoff, payoff_scale, terms, unit
    )


def _shared(missing: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """What any of the rows with the same key `[M]` tells, for all: `missing [M, S]` points one way."""
    _, group = np.unique(keys, return_inverse=True)
    up, down = (np.zeros((group.max() + 1, missing.shape[1]), np.float32) for _ in range(2))
    np.maximum.at(up, group, missing)
    np.minimum.at(down, group, missing)
    return np.asarray((up + down)[group])
