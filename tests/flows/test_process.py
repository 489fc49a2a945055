"""Children of a flow: every line passed on, every failure said, none left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import process


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


def test_every_line_is_passed_on_from_both_streams() -> None:
    said: list[str] = []
    process.run(
        python("import sys; print('one'); print('two', file=sys.stderr)"), say=said.append, timeout=30
    )
    assert said == ["one", "two"]


def test_a_failure_carries_status_and_last_lines() -> None:
    with pytest.raises(process.ProcessFailed, match=r"ended with status 3:\n[\s\S]*line 29") as caught:
        process.run(
            python("[print('line', i) for i in range(30)]; raise SystemExit(3)"),
            say=lambda line: None,
            timeout=30,
        )
    assert caught.value.status == 3
    assert len(caught.value.tail) == process.KEPT_LINES


def test_the_time_limit_ends_the_whole_group(tmp_path: Path) -> None:
    """A grandchild that would outlive its parent is ended too."""
    note = tmp_path / "pid"
    grandchild = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    started = time.monotonic()
    with pytest.raises(process.ProcessFailed, match="time limit of 2 s"):
        process.run(python(child), say=lambda line: None, timeout=2)
    assert time.monotonic() - started < 20
    assert gone(int(note.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_a_child_ends_with_the_flow_that_was_killed(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    child = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = (
        "import sys; from flows import process;"
        f"process.run([sys.executable, '-c', {child!r}], say=print, timeout=60)"
    )
    parent = subprocess.Popen(python(code))
    deadline = time.monotonic() + 20
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    assert gone(int(note.read_text()))


def gone(pid: int) -> bool:
    """True as soon as no live process has this number (a zombie no longer runs)."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        status = Path(f"/proc/{pid}/stat")
        if status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False
