"""One writer at a time, over processes: a lock that dies with its holder and says who holds it."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.manifest import StoreError

_HAS_FCNTL = importlib.util.find_spec("fcntl") is not None
_POLL_SECONDS = 0.02


class StoreLocked(StoreError):
    """Another process writes here; the text names it."""


Release = Callable[[], None]


@contextmanager
def exclusive(path: Path, *, timeout: float) -> Iterator[None]:
    """Holds the lock file `path`; `StoreLocked` if it is not free within `timeout` seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    take = take_with_flock if _HAS_FCNTL else take_with_file
    deadline = time.monotonic() + timeout
    while (release := take(path)) is None:
        if time.monotonic() >= deadline:
            advice = "" if _HAS_FCNTL else f"; if that process is gone, delete {path}"
            raise StoreLocked(
                f"{path.stem} is being written by process {_holder(path)}; wait for it to finish{advice}"
            )
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        release()


def take_with_flock(path: Path) -> Release | None:
    """A kernel lock: it goes when the process goes, however it goes. None when somebody else has it."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())

    def release() -> None:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)

    return release


def take_with_file(path: Path) -> Release | None:
    """Where the kernel has no such lock: the existence of the file is the lock. None when it exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return None
    os.write(descriptor, str(os.getpid()).encode())
    os.close(descriptor)
    return path.unlink


def _holder(path: Path) -> str:
    """The pid its holder wrote; it may have let go between our attempt and this look."""
    try:
        return path.read_text(encoding="ascii").strip() or "(just released)"
    except FileNotFoundError:
        return "(just released)"
