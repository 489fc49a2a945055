"""Configuration: what is accepted, and one clear line for what is not."""

import json
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from models import configuration
from models.configuration import Above, AtLeast, Between


@dataclass(frozen=True)
class Inner(configuration.Config):
    rate: Annotated[float, Above(0)] = 1e-3


@dataclass(frozen=True)
class Sample(configuration.Config):
    steps: Annotated[int, AtLeast(1)] = 10
    share: Annotated[float, Between(0, 1, open_high=True)] = 0.5
    kind: Literal["relu", "tanh"] = "relu"
    units: Annotated[tuple[int, ...], AtLeast(1)] = (64, 64)
    limit: Annotated[float, Above(0)] | None = None
    flag: bool = False
    inner: Inner = Inner()


def test_a_mapping_becomes_a_checked_config():
    found = configuration.parse(
        Sample, {"steps": 3, "share": 0, "units": [8], "limit": 2, "inner": {"rate": 1}}, where="agents.x"
    )
    assert found == Sample(steps=3, share=0.0, units=(8,), limit=2.0, inner=Inner(1.0))
    assert isinstance(found.share, float)
    assert configuration.parse(Sample, found, where="agents.x") is found


def test_resolved_config_goes_to_json_and_back():
    config = Sample(units=(3,), limit=0.5)
    values = json.loads(json.dumps(configuration.resolved(config)))
    assert configuration.parse(Sample, values, where="x") == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"stepz": 1}, ["agents.x.stepz", "unknown key", "1", "allowed: flag, inner, kind"]),
        ({"steps": 0}, ["agents.x.steps", "0", "at least 1"]),
        ({"steps": 1.5}, ["agents.x.steps", "1.5", "whole number"]),
        ({"steps": True}, ["agents.x.steps", "True", "whole number"]),
        ({"steps": "3"}, ["agents.x.steps", "'3'", "whole number"]),
        ({"share": 1}, ["agents.x.share", "1", "in [0, 1)"]),
        ({"share": float("nan")}, ["agents.x.share", "nan", "finite"]),
        ({"kind": "selu"}, ["agents.x.kind", "'selu'", "'relu', 'tanh'"]),
        ({"units": [8, 0]}, ["agents.x.units", "[8, 0]", "at least 1"]),
        ({"units": 8}, ["agents.x.units", "8", "list"]),
        ({"flag": 1}, ["agents.x.flag", "1", "true or false"]),
        ({"limit": -1}, ["agents.x.limit", "-1", "above 0"]),
        ({"inner": {"rate": 0}}, ["agents.x.inner.rate", "0", "above 0"]),
        ({"inner": {"rat": 0}}, ["agents.x.inner.rat", "unknown key"]),
        ([1], ["agents.x", "[1]", "mapping"]),
    ],
)
def test_an_error_is_one_line_with_key_value_and_what_is_allowed(values, words):
    with pytest.raises(ValueError) as caught:
        configuration.parse(Sample, values, where="agents.x")
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_direct_construction_is_checked_too():
    with pytest.raises(ValueError, match="at least 1"):
        Sample(steps=-1)
