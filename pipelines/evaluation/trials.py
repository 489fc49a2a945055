"""The ledger of trials: every configuration that was ever evaluated, counted and not confessed.

One line of JSON a trial, append-only, versioned with the project (`metrics/trials.jsonl`). Each line
carries the hashes of the lines it was appended after (`parents`) and its own (`hash`, over content and
parents). Two branches that append side by side give two lines with the same parent; git's union merge
(`metrics/trials.jsonl merge=union` in .gitattributes) keeps both, and the next append takes both ends
as its parents. So the lines form a directed graph without cycles, and their order does not matter.

What `verify` can see: a line that was edited, a line removed that others stand on, a line that is no
JSON. What the file alone cannot show: the removal of its last lines (nothing stands on them), of the
whole file, or a rewriting of every later line. For these, `tips` of an earlier moment, kept in another
tracked file (the comparison writes them down), are given to `verify` as `sealed`: a known tip that is
gone, is reported. `compare` takes them from the last commit, where whoever edits the ledger cannot reach.

A ledger holds no time, host or path: the same evaluations give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

HASH_DIGITS = 32  # 128 bits


class LedgerError(ValueError):
    """The ledger cannot be read, so nothing may be appended to it."""


class Trial(NamedTuple):
    """One evaluated configuration; two equal ones are one trial."""

    family: str
    parameters: str  # hash of the family's parameters
    data: str  # hash of the data
    seed: int
    fold: int


class Line(NamedTuple):
    """A trial as it stands in the ledger."""

    trial: Trial
    parents: tuple[str, ...]
    hash: str


class TrialCount(NamedTuple):
    """How often something was tried."""

    configurations: int  # distinct (family, parameters): what a choice was made among
    runs: int  # distinct trials: configurations x data x seeds x folds


def fingerprint(parameters: Any) -> str:
    """Hash of anything that JSON can say, independent of the order of keys."""
    return _digest(_canonical(parameters))


def record(path: Path, entries: Iterable[Trial]) -> int:
    """Appends those `entries` that the ledger lacks; returns how many. Twice the same is a no-op.

    Written as a whole to a temporary file and renamed, so that a kill leaves the ledger as it was.
    """
    lines = read(path)
    known = {line.trial for line in lines}
    fresh = sorted(set(entries) - known)
    if not fresh:
        return 0
    parents = tips(lines)
    added: list[Line] = []
    for trial in fresh:
        added.append(Line(trial, parents, _hash(trial, parents)))
        parents = (added[-1].hash,)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The bytes that are there stay as they are: merges then see appended lines only.
    before = path.read_text() if path.exists() else ""
    if before and not before.endswith("\n"):
        before += "\n"
    scratch = path.with_name(path.name + ".partial")
    scratch.write_text(before + "".join(_text(line) + "\n" for line in added))
    scratch.replace(path)
    return len(added)


def read(path: Path) -> list[Line]:
    """All lines of the ledger, none for a missing file; raises `LedgerError` for one that is no trial."""
    return parse(path.read_text(), path.name) if path.exists() else []


def parse(ledger: str, name: str) -> list[Line]:
    """All lines of a ledger's text; raises `LedgerError`, with the `name`, for one that is no trial."""
    lines = []
    for number, text in enumerate(ledger.splitlines(), start=1):
        line = _parse(text)
        if isinstance(line, str):
            raise LedgerError(f"{name} line {number}: {line}")
        lines.append(line)
    return lines


def verify(path: Path, sealed: Iterable[str] = ()) -> list[str]:
    """What is wrong with the ledger, in words; empty when nothing is.

    Args:
        sealed: hashes that were in the ledger before (`tips` of an earlier moment).
    """
    sealed = tuple(sealed)
    if not path.exists():
        return [f"{path.name} is missing, and it held trials"] if sealed else []
    problems = []
    lines: list[tuple[int, Line]] = []
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        line = _parse(text)
        if isinstance(line, str):
            problems.append(f"line {number}: {line}")
        else:
            lines.append((number, line))
    present = {line.hash for _, line in lines}
    for number, line in lines:
        if _hash(line.trial, line.parents) != line.hash:
            problems.append(f"line {number}: was edited (its hash does not match its content)")
        for parent in line.parents:
            if parent not in present:
                problems.append(f"line {number}: the line before it ({parent[:8]}) was removed")
    problems += [
        f"the trial {tip[:8]}, known from an earlier comparison, was removed"
        for tip in sealed
        if tip not in present
    ]
    return problems


def tips(lines: Iterable[Line]) -> tuple[str, ...]:
    """Hashes of the lines on which no other stands, sorted: one, or one for each merged branch."""
    lines = list(lines)
    stood_on = {parent for line in lines for parent in line.parents}
    return tuple(sorted({line.hash for line in lines} - stood_on))


def count(lines: Iterable[Line], families: Iterable[str] | None = None) -> TrialCount:
    """Trials in the ledger, of all families or of those named.

    A configuration recorded on both sides of a merge is one. New data, seeds and folds are new runs
    of a configuration, not new configurations: nothing was chosen among them.
    """
    wanted = None if families is None else set(families)
    trials = {line.trial for line in lines if wanted is None or line.trial.family in wanted}
    configurations = {(trial.family, trial.parameters) for trial in trials}
    return TrialCount(configurations=len(configurations), runs=len(trials))


def _parse(text: str) -> Line | str:
    """A line of the ledger, or what is wrong with it."""
    try:
        fields = json.loads(text)
    except json.JSONDecodeError:
        return "is no JSON (a conflict marker or half a line?)"
    kinds = {"family": str, "parameters": str, "data": str, "seed": int, "fold": int}
    if not isinstance(fields, dict) or set(fields) != {*kinds, "parents", "hash"}:
        return "has not the fields of a trial"
    parents = fields["parents"]
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        return "has parents that are no list of hashes"
    if any(type(fields[name]) is not kind for name, kind in kinds.items()) or type(fields["hash"]) is not str:
        return "has a field of the wrong type"
    trial = Trial(*(fields[name] for name in Trial._fields))
    return Line(trial, tuple(parents), fields["hash"])


def _text(line: Line) -> str:
    return _canonical({**line.trial._asdict(), "parents": list(line.parents), "hash": line.hash})


def _hash(trial: Trial, parents: tuple[str, ...]) -> str:
    return _digest(_canonical({**trial._asdict(), "parents": sorted(parents)}))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]
