"""A child process whose lines are passed on as they come, and which never outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipelines.stage import end_with_parent

KEPT_LINES = 20


class ProcessFailed(RuntimeError):
    """The command ended with an error; the message carries its last lines."""

    def __init__(self, command: Sequence[str], status: int, tail: Sequence[str]) -> None:
        self.status = status
        self.tail = tuple(tail)
        super().__init__(f"{' '.join(command)} ended with status {status}:\n" + "\n".join(tail))


def environment() -> dict[str, str]:
    """Ours, with this interpreter's folder first on the path, so that `python` in a stage is this one."""
    folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": folder + os.pathsep + os.environ.get("PATH", "")}


def run(
    command: Sequence[str],
    *,
    say: Callable[[str], None],
    timeout: float,
    folder: Path | None = None,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Runs `command`, hands every line it prints to `say`, raises `ProcessFailed` unless it ends with 0.

    The timeout (seconds) is kept here because Prefect cannot interrupt a task in a worker thread; what is
    still running then is ended with its whole process group.
    """
    child = subprocess.Popen(
        list(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=folder,
        env={**environment(), **(extra or {})},
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    tail: deque[str] = deque(maxlen=KEPT_LINES)
    late = threading.Event()

    def end() -> None:
        late.set()
        _end_group(child)

    timer = threading.Timer(timeout, end)
    timer.start()
    try:
        assert child.stdout is not None
        for line in child.stdout:
            tail.append(line.rstrip())
            say(line.rstrip())
        status = child.wait()
    finally:
        timer.cancel()
        if child.poll() is None:
            _end_group(child)
            child.wait()
    if late.is_set():
        tail.append(f"ended after the time limit of {timeout:g} s")
    if status != 0:
        raise ProcessFailed(command, status, tail)


def _end_group(child: subprocess.Popen[str]) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself in the meantime
