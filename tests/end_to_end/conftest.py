"""A clone of the project as it stands in the working tree, and how to run things in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GIT_NAME = ["-c", "user.name=test", "-c", "user.email=test@localhost"]

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(**extra: str) -> dict[str, str]:
    """Ours, with this interpreter first on the path and nothing that reports home."""
    path = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1", **extra}


def clone(target: Path) -> Path:
    """A fresh repository with every tracked or not ignored file of the working tree, all committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    target.mkdir(parents=True)
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(source.read_bytes())
            (target / name).chmod(source.stat().st_mode)
    for command in (["init", "-q"], ["add", "-A"], [*GIT_NAME, "commit", "-q", "-m", "clone"]):
        subprocess.run(["git", *command], cwd=target, check=True, capture_output=True)
    return target


def run(*command: str, folder: Path, check: bool = True, **extra: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a clone; a failure shows what it printed."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment(**extra), timeout=1200
    )
    if check and done.returncode != 0:
        pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def keep_agents(folder: Path, *families: str) -> None:
    """Leaves only these families in the clone's parameters, whose last section is `agents:`."""
    file = folder / "params.yaml"
    head, agents = re.split(r"(?m)^agents:.*\n", file.read_text("utf-8"))
    sections = re.findall(r"(?m)^  (\w+):\n((?:    .*\n)*)", agents)
    kept = "".join(f"  {family}:\n{lines}" for family, lines in sections if family in families)
    file.write_text(f"{head}agents:\n{kept}", "utf-8")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the smoke preset has run once, with one family: enough for most tests."""
    folder = clone(tmp_path_factory.mktemp("smoke") / "clone")
    keep_agents(folder, "dqn")
    run("python", "-m", "pipelines.params", "--preset", "smoke", folder=folder)
    run("dvc", "repro", folder=folder)
    return folder
