"""The ledger of trials is held against git: deleted last lines are seen, experiments count."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import history, layout
from pipelines.evaluation import trials
from pipelines.evaluation.trials import Trial

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
ROOT = Path(__file__).parents[2]
STAGE = """
stages:
  compare:
    cmd: python evaluate.py
    params: [rate]
    outs:
      - metrics/trials.jsonl: {cache: false, persist: true}
"""
EVALUATE = """
from pathlib import Path
from pipelines.evaluation import trials
rate = Path("params.yaml").read_text().split()[1]
trials.record(Path("metrics/trials.jsonl"), [trials.Trial("dqn", rate, "d0", 0, 0)])
"""


def trial(number: int) -> Trial:
    return Trial("dqn", trials.fingerprint(number), "d0", 0, 0)


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    trials.record(layout.TRIALS, [trial(n) for n in range(4)])
    commit()
    return tmp_path


def commit() -> None:
    tips = list(trials.tips(trials.read(layout.TRIALS)))
    layout.COMPARISON.write_text(json.dumps({"trials": {"tips": tips}}))
    git("add", "-A")
    git("commit", "-q", "-m", "a comparison")


def test_a_deleted_end_of_the_ledger_is_seen(repository: Path) -> None:
    assert trials.verify(layout.TRIALS, history.sealed_tips(layout.COMPARISON)) == []
    lines = layout.TRIALS.read_text().splitlines(keepends=True)
    layout.TRIALS.write_text("".join(lines[:-2]))
    layout.COMPARISON.unlink()  # as DVC does before it runs the stage
    assert trials.verify(layout.TRIALS) == []
    (problem,) = trials.verify(layout.TRIALS, history.sealed_tips(layout.COMPARISON))
    assert "known from an earlier comparison, was removed" in problem
    layout.TRIALS.unlink()
    assert "is missing" in trials.verify(layout.TRIALS, history.sealed_tips(layout.COMPARISON))[0]


def test_an_experiment_that_ran_aside_counts(repository: Path) -> None:
    assert history.tried_in_experiments(layout.TRIALS) == set()
    git("checkout", "-q", "-b", "aside")
    trials.record(layout.TRIALS, [trial(77)])
    commit()
    git("update-ref", "refs/exps/ab/cdef/warm-owl", git("rev-parse", "HEAD"))
    git("checkout", "-q", "main")
    git("branch", "-q", "-D", "aside")
    found = history.tried_in_experiments(layout.TRIALS)
    assert trial(77) in found
    trials.record(layout.TRIALS, found)
    assert trials.count(trials.read(layout.TRIALS)).configurations == 5
    assert trials.verify(layout.TRIALS, history.sealed_tips(layout.COMPARISON)) == []


@pytest.mark.parametrize("text", ["no json", "{}", "[]", '{"trials": null}'])
def test_a_comparison_that_wrote_no_tips_seals_nothing(repository: Path, text: str) -> None:
    layout.COMPARISON.write_text(text)
    git("commit", "-q", "-am", "another version")
    assert history.sealed_tips(layout.COMPARISON) == []


def test_without_a_repository_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert history.sealed_tips(layout.COMPARISON) == []
    assert history.tried_in_experiments(layout.TRIALS) == set()
    monkeypatch.setenv("PATH", "")
    assert history.sealed_tips(layout.COMPARISON) == []


@pytest.mark.serial
def test_a_real_dvc_experiment_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    for key in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{key}_NAME", "t")
        monkeypatch.setenv(f"GIT_{key}_EMAIL", "t@example.org")

    def dvc(*arguments: str) -> None:
        done = subprocess.run(["dvc", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    git("init", "-q")
    dvc("init", "-q")
    (tmp_path / "dvc.yaml").write_text(STAGE)
    (tmp_path / "evaluate.py").write_text(EVALUATE)
    (tmp_path / "params.yaml").write_text("rate: 1\n")
    (tmp_path / "metrics").mkdir()
    dvc("repro", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "first")
    dvc("exp", "run", "-q", "--temp", "-S", "rate=2")
    assert trials.count(trials.read(layout.TRIALS)).configurations == 1  # it left the workspace alone
    assert {found.parameters for found in history.tried_in_experiments(layout.TRIALS)} == {"1", "2"}
