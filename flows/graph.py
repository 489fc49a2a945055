"""The graph of stages as DVC prints it. Nothing about the order of stages is written a second time."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from flows import process

_NODE = re.compile(r'^\s*"(?P<stage>[^"]+)";', re.MULTILINE)
_EDGE = re.compile(r'^\s*"(?P<upstream>[^"]+)"\s*->\s*"(?P<stage>[^"]+)";', re.MULTILINE)


def parse(dot: str) -> dict[str, set[str]]:
    """Stage -> the stages it waits for, from the text of `dvc dag --dot`."""
    graph: dict[str, set[str]] = {match["stage"]: set() for match in _NODE.finditer(dot)}
    for match in _EDGE.finditer(dot):
        graph.setdefault(match["upstream"], set())
        graph.setdefault(match["stage"], set()).add(match["upstream"])
    return graph


def read(folder: Path | None = None) -> dict[str, set[str]]:
    """The graph of the pipeline in `folder`, by default the current one."""
    answer = subprocess.run(
        ["dvc", "dag", "--dot"],
        cwd=folder,
        env=process.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise RuntimeError(f"dvc dag failed: {answer.stderr.strip() or answer.stdout.strip()}")
    return parse(answer.stdout)
