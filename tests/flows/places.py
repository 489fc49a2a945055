"""Repositories for the nights: the real project with a tiny preset, and a toy that takes a second."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tests.end_to_end.conftest import GIT_NAME, ROOT, clone

TINY = """\
data:
  end: "2022-01-20"
checks: {}
features: {}
split:
  folds: 1
  seeds: 1
  train_bars: 200
  test_bars: 100
  purge_bars: 4
  embargo_bars: 0
account:
  episode_bars: 32
agents:
  dqn:
    env_steps: 128
    warmup_steps: 64
    replay_capacity: 256
    updates_per_call: 4
    batch_size: 8
    hidden:
      - 8
    checkpoint_steps: 64
    log_steps: 64
    compile: false
evaluation:
  replications: 100
report: {}
training: {}
nightly:
  promotion:
    confidence: 0.5
    max_drawdown: 0.9
    max_optimism: 1000.0
    replications: 200
    vacant: anyone
  from_scratch_every: 3
cluster: {}
"""


def at(day: str, hour: int = 1) -> datetime:
    """A moment of that day, UTC."""
    return datetime.fromisoformat(day).replace(hour=hour, tzinfo=UTC)


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *GIT_NAME, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def real(target: Path, preset: str = TINY) -> Path:
    """The project as it stands, on branch main, with a preset `tiny` in force."""
    folder = clone(target)
    git(folder, "branch", "-M", "main")
    (folder / "presets/tiny.yaml").write_text(preset, "utf-8")
    text = (folder / "params.yaml").read_text("utf-8")
    lines = ["preset: tiny" if line.startswith("preset:") else line for line in text.splitlines()]
    (folder / "params.yaml").write_text("\n".join(lines) + "\n", "utf-8")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "tiny")
    return folder


@contextlib.contextmanager
def started(*command: str, **environment: str) -> Iterator[None]:
    """A Python process in this checkout, for as long as the block lasts."""
    child = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, **environment}, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        child.terminate()
        child.wait(30)
