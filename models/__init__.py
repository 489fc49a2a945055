"""What learns and what plans: families of agents over arrays and gymnasium spaces.

A family is a folder with three modules: `config` (the class `Config`, free of TensorFlow), `train` (the
function `train`) and `agent` (the function `load`). It is imported when it is used: importing `models`
costs nothing.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import configuration
from models.curve import Log

if TYPE_CHECKING:
    from models.agent import Agent

__all__ = ["FAMILIES", "OFFLINE", "config_class", "load", "train"]

FAMILIES: dict[str, str] = {
    "dqn": "models.dqn",
    "dreamer": "models.dreamer",
    "dyna": "models.dyna",
    "ensemble": "models.ensemble",
    "muzero": "models.muzero",
    "trajectory": "models.trajectory",
    "world_model": "models.world_model",
}

OFFLINE = frozenset({"trajectory"})
"""Families that learn from recorded steps alone: those that the environment brings along as `recorded`."""


def _module(family: str, name: str) -> Any:
    if family not in FAMILIES:
        raise ValueError(f"family: {family!r} is unknown; allowed: {', '.join(sorted(FAMILIES))}")
    return importlib.import_module(f"{FAMILIES[family]}.{name}")


def config_class(family: str) -> type[configuration.Config]:
    """The family's `Config`; imports no TensorFlow."""
    kind: type[configuration.Config] = _module(family, "config").Config
    return kind


def train(
    family: str,
    env: Any,
    config: Mapping[str, Any] | configuration.Config,
    *,
    seed: int,
    checkpoint_dir: Path | None = None,
    init_from: Path | None = None,
    log: Log | None = None,
) -> Agent:
    """Trains an agent for `config.env_steps` real steps of a gymnasium vector environment.

    `config` may be a mapping, which is checked. With `checkpoint_dir` the whole state of the training is
    kept there as it goes, and a call with the same arguments carries on from it to the same bytes as an
    unbroken run. `init_from` is the directory of an earlier agent to start from. `log` is called as
    `log(env_step, {"group/metric": value, ...})`; a resumed run repeats the lines of the killed one first.
    """
    checked = configuration.parse(config_class(family), config, where=family)
    agent: Agent = _module(family, "train").train(
        env, checked, seed=seed, checkpoint_dir=checkpoint_dir, init_from=init_from, log=log
    )
    return agent


def load(directory: Path) -> Agent:
    """The agent saved in `directory`, whatever its family."""
    description = Path(directory) / "agent.json"
    if not description.exists():
        raise FileNotFoundError(f"{directory} holds no agent: agent.json is missing")
    agent: Agent = _module(json.loads(description.read_text())["family"], "agent").load(Path(directory))
    return agent
