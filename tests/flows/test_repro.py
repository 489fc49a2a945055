"""The flow over a small pipeline: DVC's order, independent stages go on, nothing below a failure runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows import repro

ROOT = Path(__file__).parents[2]
DVC_YAML = """
stages:
  fetch:
    cmd: python -c "open('raw', 'w').write('x')"
    outs: [raw]
  good:
    cmd: python -c "open('good', 'w').write('x')"
    deps: [raw]
    outs: [good]
  bad:
    cmd: python -c "import pathlib, sys; sys.exit(3) if pathlib.Path('break').exists() else open('bad', 'w').write('x')"
    deps: [raw]
    outs: [bad]
  report:
    cmd: python -c "open('page', 'w').write('x')"
    deps: [good, bad]
    outs: [page]
"""  # noqa: E501


def flow(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder / ".prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "DVC_NO_ANALYTICS": "1",
    }
    environment.pop("PREFECT_API_URL", None)
    return subprocess.run(
        [sys.executable, "-m", "flows.repro", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip


@pytest.mark.serial
def test_a_failure_stops_what_hangs_on_it_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(DVC_YAML, "utf-8")
    subprocess.run(["dvc", "init", "--no-scm", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "break").touch()
    failed = flow(tmp_path)
    said = failed.stdout + failed.stderr
    assert failed.returncode != 0
    assert (tmp_path / "good").exists()
    assert not (tmp_path / "page").exists()
    assert "exited with 3" in said  # what DVC said of the stage is in the log
    (tmp_path / "break").unlink()
    mended = flow(tmp_path)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert (tmp_path / "page").exists()
    assert "Stage 'good' didn't change" in mended.stdout + mended.stderr


def test_the_summary_is_a_table_of_the_comparison(tmp_path: Path) -> None:
    assert repro.summary(tmp_path) == "No comparison was written."
    agents = {
        "dqn": {"total_return": -0.1234567, "sharpe": None, "verdict": "a|b"},
        "flat": {"total_return": 0.0, "sharpe": None},
    }
    (tmp_path / "comparison.json").write_text(json.dumps({"agents": agents}))
    lines = repro.summary(tmp_path).splitlines()
    assert lines[0] == "| agent | total return | sharpe | max drawdown | turnover per year | verdict |"
    assert lines[2] == "| dqn | -0.1235 | – | – | – | a/b |"
    assert lines[3].startswith("| flat | 0 |")
