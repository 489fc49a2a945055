"""The whole state of a training in one file, written at once, so that a killed run can carry on.

One safetensors file holds named arrays and, in its header, JSON values. It replaces the previous one in
a single rename: whenever the process dies, the file is the old one or the new one.

A checkpoint belongs to one run, named by its *identity*: family, configuration, seed, spaces, what it
started from. Another run finding it is refused, since it could not end in the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import numpy as safetensors
from safetensors import safe_open

FILE = "checkpoint.safetensors"


class Checkpoint(NamedTuple):
    """What was saved."""

    arrays: dict[str, np.ndarray]
    values: dict[str, Any]


def save(
    directory: Path,
    identity: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    values: Mapping[str, Any],
) -> None:
    """Replaces the checkpoint in `directory`. `identity` and `values` are JSON; floats come back exactly."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    # One metadata key only: the library writes several in no fixed order.
    header = {"json": json.dumps({"identity": identity, "values": values}, sort_keys=True)}
    partial = directory / f"{FILE}.partial"
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with partial.open("wb") as file:
        file.write(safetensors.save(whole, metadata=header))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, directory / FILE)


def load(directory: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint of this very run, or None where there is none yet."""
    path = Path(directory) / FILE
    if not path.exists():
        return None
    with safe_open(path, "np") as file:
        header = json.loads(file.metadata()["json"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
    ours, theirs = json.loads(json.dumps(identity)), header["identity"]
    differing = _differences(ours, theirs, "")
    if differing:
        raise ValueError(f"{path} belongs to another run: {'; '.join(differing)}; remove it to start anew")
    return Checkpoint(arrays, header["values"])


def _differences(ours: Any, theirs: Any, where: str) -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        names = sorted(set(ours) | set(theirs))
        return [
            line
            for name in names
            for line in _differences(ours.get(name), theirs.get(name), f"{where}.{name}".lstrip("."))
        ]
    return [] if ours == theirs else [f"{where} is {theirs!r} there and {ours!r} here"]


def nest(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays under `prefix.`."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def unnest(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays that `nest` put under `prefix.`."""
    return {
        name.removeprefix(f"{prefix}."): array
        for name, array in arrays.items()
        if name.startswith(f"{prefix}.")
    }


def read_variables(variables: Any) -> dict[str, np.ndarray]:
    """The values of Keras variables (of a model or an optimiser) in their order.

    Named by place, since Keras numbers its automatic names by all that the process made before.
    """
    return {f"{place:03d}": np.asarray(variable.numpy()) for place, variable in enumerate(variables)}


def write_variables(variables: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Gives Keras variables the values of `read_variables`; other numbers or shapes are an error."""
    if len(variables) != len(arrays):
        raise ValueError(f"{len(arrays)} saved arrays for {len(variables)} variables")
    for place, variable in enumerate(variables):
        array = arrays[f"{place:03d}"]
        if tuple(variable.shape) != array.shape:
            raise ValueError(f"variable {place} has shape {tuple(variable.shape)}, saved was {array.shape}")
        variable.assign(array)
