"""Typed parameters: the only reader of `params.yaml`; an unknown key is an error.

Three layers, the later one wins: the defaults stated here, the preset that `preset:` names
(`presets/<name>.yaml`), and whatever `params.yaml` sets differently from the defaults. So a preset
shrinks or grows a run without hiding an edit: a value that you change in `params.yaml` (or with
`dvc exp run -S`) always counts.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

import models
from models import configuration
from pipelines.errors import UserError
from pipelines.settings import Params

FILE = Path("params.yaml")
PRESETS = Path("presets")


def default_tree() -> dict[str, Any]:
    """All defaults as plain nested values, in the order of `params.yaml`."""
    tree = Params().model_dump(mode="json")
    tree["agents"] = {
        family: configuration.resolved(models.config_class(family)()) for family in models.FAMILIES
    }
    return tree


def plain(params: Params) -> dict[str, Any]:
    """The effective parameters that decide a number, as plain nested values for people to read."""
    tree = params.model_dump(mode="json", exclude={"agents", "nightly", "cluster"})
    tree["agents"] = {family: configuration.resolved(config) for family, config in params.agents.items()}
    return tree


def load(file: Path = FILE, presets: Path = PRESETS) -> Params:
    """Reads, layers and checks the parameters; raises `UserError` with one line at the first mistake."""
    edits = _read(file)
    preset = edits.get("preset", "default")
    if not isinstance(preset, str) or not (presets / f"{preset}.yaml").is_file():
        known = ", ".join(sorted(path.stem for path in presets.glob("*.yaml")))
        raise UserError(f"{file}: preset = {preset!r}: must be one of {known}")
    named = edits.get("agents")
    if not isinstance(named, dict) or not named:
        raise UserError(f"{file}: agents = {named!r}: must be a mapping of family: settings")
    # A family without settings of its own (`dqn:`) is one with its defaults.
    edits["agents"] = {family: {} if settings is None else settings for family, settings in named.items()}
    defaults = default_tree()
    # The file is checked by itself first: a mistake must be named even where a preset would hide it.
    _validate(_layer(defaults, edits), edits, file)
    base = _layer(defaults, _read(presets / f"{preset}.yaml"))
    _validate(base, _read(presets / f"{preset}.yaml"), presets / f"{preset}.yaml")
    whole = _validate(_layer(base, _changes(edits, defaults)), edits, file)
    # Defaults and presets know all families; a run has those that the file names.
    return whole.model_copy(update={"agents": {family: whole.agents[family] for family in named}})


def _read(file: Path) -> dict[str, Any]:
    try:
        tree = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except YAMLError as error:
        raise UserError(f"{file}: is not YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{file}: must be a mapping of sections, not {type(tree).__name__}")
    return _as_text(tree)


def _as_text(tree: dict[str, Any]) -> dict[str, Any]:
    """Dates that stand without quotes are the text that they were."""
    return {
        key: _as_text(value)
        if isinstance(value, dict)
        else value.isoformat()
        if isinstance(value, date)
        else value
        for key, value in tree.items()
    }


def _layer(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` on top, section by section; anything but a mapping replaces what it covers."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _layer(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _changes(edits: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What `edits` says differently from `defaults`."""
    changed: dict[str, Any] = {}
    for key, value in edits.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            below = _changes(value, default)
            if below:
                changed[key] = below
        elif value != (list(default) if isinstance(default, tuple) else default) or key == "preset":
            changed[key] = value
    return changed


def _validate(tree: dict[str, Any], said: Mapping[str, Any], file: Path) -> Params:
    """`said` is what the file itself holds: only families that it or the defaults name can be wrong."""
    if said.get("data", {}) and isinstance(said["data"], dict) and said["data"].get("end", "") is None:
        raise UserError(
            f"{file}: data.end = null: must be a date: a run that ends 'now' cannot be reproduced "
            "(the nightly flow writes an explicit date)"
        )
    try:
        params = Params.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{file}: {_one_line(error)}") from error
    configs: dict[str, Any] = {}
    for family, settings in params.agents.items():
        if family not in models.FAMILIES:
            raise UserError(
                f"{file}: agents.{family}: unknown key; allowed: {', '.join(sorted(models.FAMILIES))}"
            )
        try:
            configs[family] = configuration.parse(
                models.config_class(family), settings, where=f"agents.{family}"
            )
        except ValueError as error:
            raise UserError(f"{file}: {error}") from error
    return params.model_copy(update={"agents": configs})


def _one_line(error: ValidationError) -> str:
    """The first mistake: key = value: what is allowed."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        section = _section(first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), section, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"{key}: unknown key{hint}; allowed here: {', '.join(section)}{more}"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    value = first["input"]
    shown = repr(value) if not isinstance(value, dict) else "{...}"
    return f"{key} = {shown}: {message}{more}"


def _section(path: tuple[int | str, ...]) -> list[str]:
    """The keys allowed in the section at `path`."""
    section: type[BaseModel] = Params
    for part in path:
        annotation = section.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        section = annotation
    return list(section.model_fields)


def set_preset(name: str, file: Path = FILE) -> None:
    """Writes `preset: name` into the file and leaves every other byte of it alone."""
    if not (PRESETS / f"{name}.yaml").is_file():
        known = ", ".join(sorted(path.stem for path in PRESETS.glob("*.yaml")))
        raise UserError(f"preset = {name!r}: must be one of {known}")
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    changed = [f"preset: {name}{_comment(line)}\n" if line.startswith("preset:") else line for line in lines]
    if changed != lines:
        scratch = file.with_name(file.name + ".partial")
        scratch.write_text("".join(changed), encoding="utf-8")
        scratch.replace(file)


def _comment(line: str) -> str:
    body = line.rstrip("\n")
    return "  #" + body.split("#", 1)[1] if "#" in body else ""


def main(argv: list[str] | None = None) -> int:
    """`python -m pipelines.params [--preset NAME]`: checks the parameters, or switches the preset."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.params", description=main.__doc__)
    parser.add_argument("--preset", help="write `preset: NAME` into params.yaml first")
    arguments = parser.parse_args(argv)
    try:
        if arguments.preset:
            set_preset(arguments.preset)
        params = load()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folds, seeds = params.split.folds, params.split.seeds
    print(
        f"params: preset {params.preset}; {params.data.source}, {', '.join(params.data.symbols)}, "
        f"{params.data.bars} bars of {params.data.interval}; {folds} folds x {seeds} seeds; "
        f"learning: {', '.join(params.agents)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
