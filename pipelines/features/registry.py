"""The registry of features: what exists, how it is asked for, and how it is computed.

A feature is a function that returns a polars expression over the candles of one symbol, in time order.
It is added in one place:

    @feature("momentum", window=24)
    def momentum(window: int) -> pl.Expr:
        '''Log return over `window` bars.'''
        return (pl.col("close") / pl.col("close").shift(window)).log()

and asked for by name, with or without its parameters: `momentum`, `momentum(96)`, `momentum(window=96)`.
The column of a feature with its default parameters carries the plain name, any other the values too
(`momentum_96`).

Features are computed for each symbol and segment alone, so that no window runs across a hole, and the
rows of the warm-up are dropped: they are never filled. After the warm-up a value that is not finite is an
error, never a number made up.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from pipelines.candles import SCHEMA

Number = int | float
Build = Callable[..., pl.Expr]

RESERVED = frozenset(SCHEMA) | {"segment", "filled", "funding"}


class FeatureError(ValueError):
    """A feature that does not exist, is asked for wrongly or does not give finite numbers."""


class Feature(NamedTuple):
    """A feature with its parameters settled.

    Attributes:
      name: its column.
      expression: over the candles of one symbol and segment, in time order.
      warm_up: leading rows of a segment on which it is not yet meaningful.
    """

    name: str
    expression: pl.Expr
    warm_up: int


class Definition(NamedTuple):
    """A feature as the registry knows it."""

    name: str
    build: Build
    defaults: Mapping[str, Number]
    warm_up: Callable[..., int]


class Registry:
    """Named features; the project's own is `REGISTRY`."""

    def __init__(self) -> None:
        self._definitions: dict[str, Definition] = {}

    def __iter__(self) -> Iterable[str]:
        return iter(self._definitions)

    def feature(
        self, name: str, *, warm_up: Callable[..., int] | None = None, **defaults: Number
    ) -> Callable[[Build], Build]:
        """Registers the decorated function under `name`, with the default parameters given.

        `warm_up` takes the same parameters and returns the number of leading rows that are dropped. Left
        out, it is the largest parameter, which is right for plain rolling windows; a feature that needs
        more says so, or its first kept row is found not to be finite.
        """
        if not name.isidentifier() or name in RESERVED:
            raise FeatureError(f"{name!r} cannot name a feature: not an identifier, or a candle's column")
        if name in self._definitions:
            raise FeatureError(f"feature {name!r} is registered twice")

        def register(build: Build) -> Build:
            self._definitions[name] = Definition(name, build, defaults, warm_up or _largest)
            return build

        return register

    def describe(self) -> dict[str, str]:
        """First line of every feature's docstring, by name, for pages and messages."""
        return {
            name: (definition.build.__doc__ or "").strip().partition("\n")[0]
            for name, definition in self._definitions.items()
        }

    def resolve(self, names: Iterable[str]) -> list[Feature]:
        """The features asked for, in that order; `FeatureError` if one is unknown, wrong or doubled."""
        features = [self._resolve(text) for text in names]
        columns = [feature.name for feature in features]
        doubled = sorted({name for name in columns if columns.count(name) > 1})
        if doubled:
            raise FeatureError(f"features asked for twice: {', '.join(doubled)}")
        if not features:
            raise FeatureError(f"no features asked for; known: {', '.join(self._definitions)}")
        return features

    def _resolve(self, text: str) -> Feature:
        name, positional, named = _parse(text)
        definition = self._definitions.get(name)
        if definition is None:
            raise FeatureError(f"feature {name!r} is unknown; known: {', '.join(self._definitions)}")
        order = list(definition.defaults)
        takes = ", ".join(order) or "no parameters"
        if len(positional) > len(order) or not set(named) <= set(order[len(positional) :]):
            raise FeatureError(f"feature {text!r}: {name} takes {takes}")
        parameters = {**definition.defaults, **dict(zip(order, positional, strict=False)), **named}
        for key, value in parameters.items():
            if value <= 0 or (isinstance(definition.defaults[key], int) and not isinstance(value, int)):
                kind = "whole number" if isinstance(definition.defaults[key], int) else "number"
                raise FeatureError(f"feature {text!r}: {key} must be a {kind} above zero")
        values = "" if parameters == definition.defaults else "_".join(["", *map(str, parameters.values())])
        return Feature(
            name=name + values,
            expression=definition.build(**parameters),
            warm_up=definition.warm_up(**parameters),
        )


def _largest(**parameters: Number) -> int:
    return int(max(parameters.values(), default=0))


def _parse(text: str) -> tuple[str, list[Number], dict[str, Number]]:
    """`name`, `name(1, 2)` or `name(window=3)` as name, positional and named parameters."""
    refusal = FeatureError(f"feature {text!r} is not understood; write name, name(24) or name(window=24)")
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if isinstance(call, ast.Name):
            return call.id, [], {}
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise refusal
        positional = [ast.literal_eval(argument) for argument in call.args]
        named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
    except (SyntaxError, ValueError) as error:
        raise refusal from error
    values = [*positional, *named.values()]
    if len(named) != len(call.keywords) or any(type(value) not in (int, float) for value in values):
        raise refusal
    return call.func.id, positional, named


REGISTRY = Registry()
feature = REGISTRY.feature
resolve = REGISTRY.resolve


def warm_up(features: Sequence[Feature]) -> int:
    """Rows dropped at the start of each segment: the longest of the features' own warm-ups."""
    return max((feature.warm_up for feature in features), default=0)


def compute(
    candles: pl.LazyFrame, features: Sequence[Feature], *, keep_warm_up: bool = False
) -> pl.LazyFrame:
    """All columns of the candles, and one Float64 column a feature, without the rows of the warm-up.

    `candles` are sorted by symbol and time; if they have a `segment` column (see `grid.to_grid`), no
    feature looks across its boundaries. With `keep_warm_up` every row stays, unchecked, whatever the
    features say there: that is for the leak gate, not for models.

    Raises `FeatureError` on collecting: a value after the warm-up that is not finite, candles out of order.
    """
    schema = candles.collect_schema()
    clashes = sorted({feature.name for feature in features} & set(schema))
    if clashes:
        raise FeatureError(f"the candles already have the columns {', '.join(clashes)}")

    def evaluate(frame: pl.DataFrame) -> pl.DataFrame:
        return _evaluate(frame, features, keep_warm_up=keep_warm_up)

    # A filter or a slice must act on the finished features: moved before them, it would change the windows.
    return candles.map_batches(
        evaluate,
        schema=pl.Schema({**schema, **{feature.name: pl.Float64() for feature in features}}),
        predicate_pushdown=False,
        projection_pushdown=False,
        slice_pushdown=False,
    )


def _evaluate(frame: pl.DataFrame, features: Sequence[Feature], *, keep_warm_up: bool) -> pl.DataFrame:
    # Slices of a sorted frame share its memory; `over` would gather every group for every feature, which
    # takes three times as long and twice the memory.
    skipped = 0 if keep_warm_up else warm_up(features)
    expressions = [feature.expression.cast(pl.Float64).alias(feature.name) for feature in features]
    parts = []
    for start, stop in _segments(frame):
        if stop - start <= skipped:
            continue
        part = frame.slice(start, stop - start)
        values = part.select(expressions).slice(skipped)
        parts.append(pl.concat([part.slice(skipped), values], how="horizontal"))
    if not parts:
        return frame.clear().with_columns(pl.lit(0.0).alias(feature.name) for feature in features)
    table = pl.concat(parts)
    if not keep_warm_up:
        _require_finite(table, features)
    return table


def _segments(frame: pl.DataFrame) -> list[tuple[int, int]]:
    """Row ranges [start, stop) of each symbol and segment."""
    keys = [name for name in ("symbol", "segment") if name in frame.columns]
    changes = pl.any_horizontal(pl.col(name) != pl.col(name).shift(1) for name in keys)
    late = pl.col("open_time") <= pl.col("open_time").shift(1)
    marks = frame.lazy().select(change=changes.fill_null(True), late=late.fill_null(False)).collect()
    if (marks["late"] & ~marks["change"]).any():
        raise FeatureError("candles are not in ascending order of time within their symbol")
    starts = marks["change"].arg_true().to_list()
    if frame[starts].select(keys).is_duplicated().any():
        raise FeatureError("candles are not sorted by symbol and segment")
    return list(zip(starts, [*starts[1:], frame.height], strict=True))


def _require_finite(table: pl.DataFrame, features: Sequence[Feature]) -> None:
    for item in features:
        column = table[item.name]
        if column.null_count() == 0 and column.is_finite().all():
            continue
        row = table.row(column.is_finite().fill_null(False).not_().arg_true()[0], named=True)
        raise FeatureError(
            f"feature {item.name} is {row[item.name]} for {row['symbol']} at {row['open_time']}, "
            f"after its warm-up of {item.warm_up} bars"
        )
