"""The contract of an agent, and how one lies on disk.

An agent's directory holds `agent.json` (family, resolved configuration, spaces, counters) and
`weights.safetensors` (named arrays). Nothing in it is a pickle, and nothing depends on when or where it
was written: the same training gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import gymnasium
import numpy as np
from safetensors import numpy as safetensors

from models import configuration

State: TypeAlias = "np.ndarray | tuple[State, ...] | dict[str, State]"
"""What an agent carries from step to step: nested arrays, batch first; `()` for a memoryless one."""

DESCRIPTION = "agent.json"
WEIGHTS = "weights.safetensors"


class Decision(NamedTuple):
    """What an agent decides for a batch of B observations."""

    action: np.ndarray  # [B, *action], of the action space's own type
    state: State
    info: dict[str, np.ndarray]  # for people: value [B], q_values, uncertainty, plan, ...


class Agent(Protocol):
    """A trained agent. `act` adds no exploration noise and depends on nothing but its arguments."""

    def initial_state(self, batch_size: int) -> State:
        """The state of `batch_size` independent episodes before their first observation."""
        ...

    def act(self, observation: np.ndarray, state: State, *, seed: int) -> Decision:
        """Decides for `observation [B, D]`; elements of the batch do not influence each other."""
        ...

    def save(self, directory: Path) -> None:
        """Writes the agent so that `models.load(directory)` gives it back."""
        ...


class Forecaster(Agent, Protocol):
    """An agent whose model foretells rewards, so that forecasts can be held against what came."""

    def forecast(
        self,
        observation: np.ndarray,
        state: State,
        actions: np.ndarray | None,
        *,
        horizon: int,
        samples: int,
        seed: int,
    ) -> np.ndarray:
        """Rewards that the model expects from here on, as sampled paths `[B, M, H]`.

        Args:
            observation: `[B, D]`, and `state` as `act` would be given them: before this decision.
            actions: `[B, H, *action]` of the action space, to be taken whatever comes; `None` is what the
                agent itself would do (its plan, or its policy inside the model).
            horizon, samples: H, and M for a model that draws; one that does not gives M = 1.
        """
        ...


class Explainer(Agent, Protocol):
    """An agent that can show how it came to one decision."""

    def explain(
        self, observation: np.ndarray, state: State, *, seed: int
    ) -> dict[str, dict[str, np.ndarray]]:
        """For one observation `[1, D]`: pictures by kind, each as named arrays (`tree`, `beams`, ...)."""
        ...


class Spaces(NamedTuple):
    """What one environment of a vector shows and accepts."""

    observation: gymnasium.spaces.Box
    action: gymnasium.Space[Any]


class Saved(NamedTuple):
    """An agent's directory, read."""

    family: str
    config: dict[str, Any]
    spaces: Spaces
    counters: dict[str, Any]
    weights: dict[str, np.ndarray]


def spaces_of(env: gymnasium.vector.VectorEnv[Any, Any, Any]) -> Spaces:
    """The spaces of one sub-environment; refuses observations that are not a flat box."""
    observation = env.single_observation_space
    if not isinstance(observation, gymnasium.spaces.Box) or len(observation.shape) != 1:
        raise ValueError(f"the observation space is {observation}; a flat Box is needed")
    return Spaces(observation, env.single_action_space)


def save(
    directory: Path,
    *,
    family: str,
    config: configuration.Config,
    spaces: Spaces,
    counters: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    parts: Mapping[str, Agent] = types.MappingProxyType({}),
) -> None:
    """Writes an agent's directory as a whole: readers see the old one or the new one.

    `parts` are agents that this one consists of; each gets a folder of its own inside, which
    `models.load` reads.
    """
    tensors = safetensors.save({name: np.asarray(array, order="C") for name, array in weights.items()})
    description = {
        "family": family,
        "config": configuration.resolved(config),
        "spaces": {name: _describe(space) for name, space in spaces._asdict().items()},
        "counters": dict(counters),
        "weights_sha256": hashlib.sha256(tensors).hexdigest(),
    }
    directory = Path(directory)
    scratch = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    (scratch / WEIGHTS).write_bytes(tensors)
    for name, part in parts.items():
        part.save(scratch / name)
        # So that this description, and a hash of it, stands for the parts as well.
        description[f"{name}_sha256"] = hashlib.sha256(
            (scratch / name / DESCRIPTION).read_bytes()
        ).hexdigest()
    text = json.dumps(description, sort_keys=True, indent=1, allow_nan=False)
    (scratch / DESCRIPTION).write_text(text + "\n")
    if directory.exists():
        old = directory.with_name(f"{directory.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        directory.rename(old)
        scratch.rename(directory)
        shutil.rmtree(old)
    else:
        os.replace(scratch, directory)


def read(directory: Path) -> Saved:
    """Reads an agent's directory; a file that does not belong to the other is an error."""
    directory = Path(directory)
    try:
        description = json.loads((directory / DESCRIPTION).read_text())
        tensors = (directory / WEIGHTS).read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{directory} holds no agent: {Path(error.filename).name} is missing"
        ) from None
    if hashlib.sha256(tensors).hexdigest() != description["weights_sha256"]:
        raise ValueError(f"{directory}: {WEIGHTS} is not the one {DESCRIPTION} was written with")
    spaces = Spaces(**{name: _revive(space) for name, space in description["spaces"].items()})
    return Saved(
        description["family"],
        description["config"],
        spaces,
        description["counters"],
        safetensors.load(tensors),
    )


def _bound(values: np.ndarray) -> Any:
    """A bound of a box as JSON: one number where all are equal, infinities as text."""
    if values.size and (values == values.flat[0]).all():
        value = float(values.flat[0])
        return value if math.isfinite(value) else str(value)
    return [_bound(item) if isinstance(item, np.ndarray) else _bound(np.array([item])) for item in values]


def _describe(space: gymnasium.Space[Any]) -> dict[str, Any]:
    if isinstance(space, gymnasium.spaces.Box):
        return {
            "kind": "Box",
            "low": _bound(space.low),
            "high": _bound(space.high),
            "shape": list(space.shape),
            "dtype": str(space.dtype),
        }
    if isinstance(space, gymnasium.spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return {"kind": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    raise ValueError(f"the space {space} cannot be saved; Box, Discrete and MultiDiscrete can")


def _revive(description: Mapping[str, Any]) -> gymnasium.Space[Any]:
    arguments = {name: value for name, value in description.items() if name != "kind"}
    if description["kind"] == "Box":
        dtype = np.dtype(arguments["dtype"])
        bounds = {
            side: np.broadcast_to(np.array(arguments[side], np.float64).astype(dtype), arguments["shape"])
            for side in ("low", "high")
        }
        return gymnasium.spaces.Box(**bounds, dtype=dtype.type)
    if description["kind"] == "Discrete":
        return gymnasium.spaces.Discrete(**arguments)
    return gymnasium.spaces.MultiDiscrete(arguments["nvec"], start=arguments["start"])
