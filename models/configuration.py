"""Typed configuration from a mapping: frozen dataclasses, every value checked, unknown keys refused.

A family's `Config` derives from `Config` here. Its fields carry their limits as annotations:

    @dataclass(frozen=True)
    class Config(configuration.Config):
        env_steps: Annotated[int, AtLeast(1)] = 20_000
        activation: Literal["relu", "tanh"] = "relu"

Fields may be int, float, bool, str, a `Literal`, a tuple of one of these, another such dataclass, or any
of these `| None`. An error is a `ValueError` of one line with the key, the value and what is allowed.
This module needs neither TensorFlow nor NumPy.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Between:
    """Numbers from `low` to `high`; `open_low` and `open_high` leave the end itself out."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def allows(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'above' if self.open_low else 'at least'} {self.low:g}"
        if self.low == -math.inf:
            return f"{'below' if self.open_high else 'at most'} {self.high:g}"
        return (
            f"in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"
        )


def AtLeast(low: float) -> Between:
    """Numbers of at least `low`."""
    return Between(low=low)


def Above(low: float) -> Between:
    """Numbers greater than `low`."""
    return Between(low=low, open_low=True)


class Misfit(ValueError):
    """Settings that are sound by themselves, but not for this environment or the agent to start from.

    The message is one line that starts with the family's name.
    """


@dataclass(frozen=True)
class Config:
    """A frozen configuration whose values are checked however it is made."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            object.__setattr__(self, name, _convert(hint, getattr(self, name), name))


C = TypeVar("C", bound=Config)


def parse(kind: type[C], values: Mapping[str, Any] | C, *, where: str) -> C:
    """`values` as a `kind`; `where` names the place in messages, for instance `agents.dqn`.

    An instance of `kind` is returned as it is, so that functions can accept either.
    """
    if isinstance(values, kind):
        return values
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: {values!r} is not a mapping of the keys {_keys(kind)}")
    for name in values:
        if name not in kind.__dataclass_fields__:
            raise ValueError(f"{where}.{name}: unknown key (value {values[name]!r}); allowed: {_keys(kind)}")
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None


def resolved(config: Config) -> dict[str, Any]:
    """All values of the configuration, defaults included, as JSON-ready types."""
    listed: dict[str, Any] = _plain(dataclasses.asdict(config))
    return listed


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _keys(kind: type[Config]) -> str:
    return ", ".join(sorted(kind.__dataclass_fields__))


def _convert(hint: Any, value: Any, name: str) -> Any:
    """`value` as the annotated type `hint`, or a ValueError that starts with `name`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        converted = _convert(arguments[0], value, name)
        for limit in arguments[1:]:
            items = converted if isinstance(converted, tuple) else (converted,)
            if not all(item is None or limit.allows(item) for item in items):
                raise ValueError(f"{name}: {value!r} is not allowed; it must be {limit}")
        return converted
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        (inner,) = (choice for choice in arguments if choice is not types.NoneType)
        return _convert(inner, value, name)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool) != isinstance(arguments[0], bool):
            raise ValueError(f"{name}: {value!r} is not allowed; it must be one of {list(arguments)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name}: {value!r} is not a list")
        return tuple(_convert(arguments[0], item, f"{name}[{place}]") for place, item in enumerate(value))
    if isinstance(hint, type) and issubclass(hint, Config):
        return parse(hint, value, where=name)
    return _scalar(hint, value, name)


def _scalar(hint: Any, value: Any, name: str) -> Any:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and numeric and math.isfinite(value):
        return float(value)
    if hint is int and numeric and value == int(value):
        return int(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    words = {float: "a finite number", int: "a whole number", bool: "true or false", str: "a text"}
    if hint not in words:
        raise TypeError(f"{name}: a configuration cannot hold {hint!r}")
    raise ValueError(f"{name}: {value!r} is not allowed; it must be {words[hint]}")
