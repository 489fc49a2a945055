"""The manifest of one series on disk: what is stored, what was asked for, and how it is written whole.

A series (one symbol at one interval) is a folder of monthly Parquet files and one `manifest.json`. The
manifest is the judge: a file that it does not name does not exist for the reader. A partition carries its
content hash in its name, so a new version never overwrites the old one, and the rename of the manifest is
the single point at which an append happens. Whatever a killed writer leaves behind is either complete and
named, or nameless and swept away by the next one.

Nothing in here depends on the clock or on the number of appends: equal content has equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

Range = tuple[int, int]
"""Milliseconds since 1970, closed at the start and open at the end."""

FILE_NAME = "manifest.json"
_VERSION = 1


class StoreError(ValueError):
    """Base of everything the store refuses to do; the text is meant for the user."""


class StoreDamaged(StoreError):
    """What lies on disk is not what the manifest says."""


class Partition(NamedTuple):
    """One month of one series, as it must lie on disk."""

    file: str
    rows: int
    first: int
    last: int
    size: int
    sha256: str


class Manifest(NamedTuple):
    """All that is known of one series; `fetched` covers every stored row and every hole asked for."""

    identity: dict[str, str]
    fetched: tuple[Range, ...] = ()
    partitions: dict[str, Partition] = {}  # noqa: RUF012  (replaced as a whole, never written into)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.partitions.values())

    @property
    def first(self) -> int | None:
        return min((part.first for part in self.partitions.values()), default=None)

    @property
    def last(self) -> int | None:
        return max((part.last for part in self.partitions.values()), default=None)


def union(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same points as disjoint, sorted, maximal ranges: one form, whatever the order they came in."""
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        if start >= stop:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple(merged)


def subtract(whole: Iterable[Range], taken: Iterable[Range]) -> tuple[Range, ...]:
    """The parts of `whole` outside `taken`."""
    left: list[Range] = []
    holes = union(taken)
    for start, stop in union(whole):
        for hole_start, hole_stop in holes:
            if hole_stop <= start:
                continue
            if hole_start >= stop:
                break
            if hole_start > start:
                left.append((start, hole_start))
            start = hole_stop
        if start < stop:
            left.append((start, stop))
    return tuple(left)


def read(folder: Path, identity: dict[str, str]) -> Manifest:
    """The manifest in `folder`, or an empty one when the series was never written."""
    path = folder / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Manifest(identity)
    try:
        return _parse(json.loads(text), identity)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreDamaged(
            f"{path} is not a readable manifest ({error}); move it away to fetch anew"
        ) from error


def _parse(tree: dict[str, Any], identity: dict[str, str]) -> Manifest:
    if tree["version"] != _VERSION:
        raise ValueError(f"version {tree['version']!r}, this program writes version {_VERSION}")
    found = {name: str(tree[name]) for name in identity}
    if found != identity:
        raise ValueError(f"it describes {found}, not {identity}")
    fetched = tuple((int(start), int(stop)) for start, stop in tree["fetched"])
    partitions = {month: Partition(**fields) for month, fields in tree["partitions"].items()}
    return Manifest(identity, fetched, partitions)


def write(folder: Path, manifest: Manifest) -> None:
    """Makes `manifest` the truth, in one rename."""
    partitions = manifest.partitions
    tree: dict[str, Any] = {
        "version": _VERSION,
        **manifest.identity,
        "rows": manifest.rows,
        "first": manifest.first,
        "last": manifest.last,
        "fetched": [list(part) for part in manifest.fetched],
        "partitions": {month: partitions[month]._asdict() for month in sorted(partitions)},
    }
    text = json.dumps(tree, indent=1, sort_keys=True) + "\n"
    write_atomic(folder / FILE_NAME, text.encode())


def write_atomic(path: Path, payload: bytes) -> None:
    """Either the whole payload is at `path`, durably, or whatever was there before."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with scratch.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
    _sync_directory(path.parent)


def _sync_directory(folder: Path) -> None:
    """A rename is durable only once the directory is; platforms that cannot open one need no help."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path, manifest: Manifest) -> None:
    """Removes what the manifest does not name: half-written files and superseded partitions."""
    kept = {FILE_NAME, *(part.file for part in manifest.partitions.values())}
    for path in sorted(folder.iterdir()):
        if path.name not in kept:
            path.unlink()


def fault(folder: Path, part: Partition, *, deep: bool) -> str | None:
    """Why the partition on disk is not the manifest's; None when it is. `deep` reads and hashes it."""
    path = folder / part.file
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return "the file is gone"
    if size != part.size:
        return f"{size} bytes instead of {part.size}"
    if deep and hashlib.sha256(path.read_bytes()).hexdigest() != part.sha256:
        return "the content hash differs"
    return None
