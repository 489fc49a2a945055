"""An agent on disk: the same bytes, whole or not at all, and no foreign weights."""

import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from gymnasium import spaces

import models
from models import agent, configuration


@dataclass(frozen=True)
class Tiny(configuration.Config):
    units: tuple[int, ...] = (4,)


SPACES = agent.Spaces(
    spaces.Box(np.array([-np.inf, 0.0], np.float32), np.array([np.inf, 1.5], np.float32)),
    spaces.MultiDiscrete([2, 3], start=[0, -1]),
)
WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([True, False])}


def _save(directory, **changes):
    arguments = {"family": "tiny", "config": Tiny(), "spaces": SPACES, "counters": {"env_steps": 3}}
    agent.save(directory, **{**arguments, "weights": WEIGHTS, **changes})


def test_an_agent_round_trips(tmp_path):
    _save(tmp_path / "x")
    found = agent.read(tmp_path / "x")
    assert (found.family, found.config, found.counters) == ("tiny", {"units": [4]}, {"env_steps": 3})
    assert found.spaces == SPACES
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(found.weights[name], array)
    assert "Infinity" not in (tmp_path / "x" / "agent.json").read_text()


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(5, start=-2),
        spaces.MultiDiscrete([2, 5]),
        spaces.Box(-1.0, 2.5, (3,), np.float32),
        spaces.Box(np.array([[0.1, -np.inf]]), np.array([[0.7, 3.0]]), dtype=np.float64),
    ],
)
def test_spaces_round_trip(tmp_path, space):
    _save(tmp_path / "x", spaces=agent.Spaces(SPACES.observation, space))
    assert agent.read(tmp_path / "x").spaces.action == space


def test_saving_twice_gives_the_same_bytes_and_leaves_no_debris(tmp_path):
    _save(tmp_path / "x")
    before = {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()}
    _save(tmp_path / "x")
    assert {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_mixed_up_or_missing_files_are_refused(tmp_path):
    _save(tmp_path / "x")
    _save(tmp_path / "y", weights={"a": np.zeros(3, np.float32)})
    (tmp_path / "y" / "weights.safetensors").replace(tmp_path / "x" / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights\.safetensors is not the one"):
        agent.read(tmp_path / "x")
    with pytest.raises(FileNotFoundError, match=r"weights\.safetensors is missing"):
        agent.read(tmp_path / "y")
    with pytest.raises(FileNotFoundError, match=r"agent\.json is missing"):
        models.load(tmp_path / "nowhere")


def test_an_unknown_family_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"'chess' is unknown; allowed: .*dqn"):
        models.config_class("chess")
    _save(tmp_path / "x", family="chess")
    assert json.loads((tmp_path / "x" / "agent.json").read_text())["family"] == "chess"
    with pytest.raises(ValueError, match="'chess' is unknown"):
        models.load(tmp_path / "x")


def test_importing_models_and_every_config_needs_no_tensorflow():
    code = (
        "import sys, models; [models.config_class(name) for name in models.FAMILIES]; "
        "sys.exit(any(name.split('.')[0] in ('tensorflow', 'keras') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
