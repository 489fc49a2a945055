"""Two nights of the real pipeline, small: reproducible from their commit, from champion to champion."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flows import night, process
from flows.night import Outcome
from tests.end_to_end.conftest import run
from tests.flows.places import at, git, real, started

# Minutes of real runs: with `make learning`, not with `make test`.
pytestmark = [pytest.mark.learning, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Outcome]]:
    """A night from scratch, and one that starts from its champion."""
    root = real(tmp_path_factory.mktemp("nights") / "root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", process.environment()["PATH"])
        return root, [night.run(root, at(day)) for day in ("2022-01-21", "2022-01-22")]


def test_each_night_is_one_commit_with_everything_in_it(nights: tuple[Path, list[Outcome]]) -> None:
    root, (first, second) = nights
    assert first.state == "promoted"
    assert second.state in ("promoted", "refused")
    assert git(root, "rev-list", "--count", "main..nightly") == "2"
    assert git(root, "rev-parse", "nightly-2022-01-22^") == first.commit
    changed = git(root, "diff", "--name-only", "nightly^", "nightly").split()
    assert {"params.yaml", "dvc.lock", "metrics/comparison.json", "metrics/trials.jsonl"} <= set(changed)
    last = json.loads(git(root, "show", "nightly:nights.jsonl").splitlines()[-1])
    assert last["comparison"]["bars"] == 100
    assert git(root, "status", "--porcelain") == ""


def test_the_store_grows_by_exactly_one_day(nights: tuple[Path, list[Outcome]]) -> None:
    root, _ = nights
    rows = [
        json.loads(git(root, "show", f"nightly-2022-01-{day}:metrics/data.json"))["symbols"]["SIM"]["rows"]
        for day in (21, 22)
    ]
    assert rows == [480, 504]


def test_the_second_night_starts_from_the_first_champion(nights: tuple[Path, list[Outcome]]) -> None:
    root, _ = nights
    agent = json.loads((root / ".nightly/clone/artifacts/dqn/fold-0/seed-0/training.json").read_text())
    champion = json.loads(git(root, "show", "nightly-2022-01-21:champion.json"))
    assert agent["init_from"] == champion["agent"]["hash"]
    assert agent["fresh_share"] == pytest.approx(24 / 200)


def test_a_fresh_clone_of_a_night_reproduces_it_without_any_cache(
    nights: tuple[Path, list[Outcome]], tmp_path: Path
) -> None:
    root, _ = nights
    fresh = tmp_path / "fresh"
    git(tmp_path, "clone", "-q", "-b", "nightly", str(root), str(fresh))
    run("dvc", "repro", folder=fresh)
    assert git(fresh, "status", "--porcelain") == ""  # dvc.lock, metrics and plots: not a byte differs


def test_a_sweep_trains_what_the_stage_trained(nights: tuple[Path, list[Outcome]]) -> None:
    """To the byte, and from where the stage would collect it."""
    root, _ = nights
    clone = root / ".nightly/clone"
    run("python", "-m", "flows.sweep", "dqn", folder=clone)
    (swept,) = (clone / "work/checkpoints/dqn").glob("*/agent")
    trained = clone / "artifacts/dqn/fold-0/seed-0"
    names = sorted(path.name for path in trained.iterdir())
    assert names == sorted(path.name for path in swept.iterdir())
    for name in names:
        assert (swept / name).read_bytes() == (trained / name).read_bytes(), name
    again = run("python", "-m", "flows.sweep", "dqn", folder=clone)
    assert "0 trained now" in again.stdout


def test_a_night_on_a_cluster_trains_the_same_agents(
    nights: tuple[Path, list[Outcome]], tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second night again, in a repository that knows only the first, trained by two workers elsewhere."""
    root, _ = nights
    away = tmp_path / "away"
    git(tmp_path, "clone", "-q", "-b", "main", str(root), str(away))
    git(away, "branch", "-q", "nightly", "nightly-2022-01-21")
    git(away, "tag", "-d", "nightly-2022-01-22")
    text = (away / "params.yaml").read_text("utf-8")
    (away / "params.yaml").write_text(text.replace('  address: ""', f"  address: {scheduler}"), "utf-8")
    git(away, "commit", "-qam", "A cluster")
    said: list[str] = []
    monkeypatch.setenv("PATH", process.environment()["PATH"])
    with started("-m", "flows.cluster", scheduler, "--workers", "2"):
        night.run(away, at("2022-01-22"), night.Means(say=said.append))
    assert any("1 agents, 1 trained now" in line for line in said)
    for folder in ("artifacts", "results"):
        there = sorted(path for path in (away / ".nightly/clone" / folder).rglob("*") if path.is_file())
        assert there
        for path in there:
            here = root / ".nightly/clone" / path.relative_to(away / ".nightly/clone")
            assert path.read_bytes() == here.read_bytes(), path


def test_the_champion_decides_as_it_did_in_the_backtest(nights: tuple[Path, list[Outcome]]) -> None:
    """At a bar of its test window, with the account as it stood there, the target is the one it took."""
    root, _ = nights
    clone = root / ".nightly/clone"
    run("python", "-m", "flows.duel", folder=clone)
    table = pl.read_parquet(clone / "work/duel.parquet").sort("open_time")
    bar = 50
    equity = table["equity"].to_numpy()[: bar + 1]
    peak = max(1e6, float(equity.max()))
    drawdown, held = 1.0 - equity[-1] / peak, table["exposure_SIM"][bar]
    closed = table["open_time"][bar + 1]
    done = subprocess.run(
        [
            sys.executable, "-m", "flows.decide", "--now", closed.isoformat(),
            "--held", f"SIM={held}", "--drawdown", f"{drawdown}",
        ],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["state"] == "decided"
    assert answer["reasons"]["value"] == pytest.approx(table["info_value"][bar + 1], rel=1e-3)
    after = table["exposure_SIM"][bar + 1]
    assert np.abs(answer["target"]["SIM"] - after) < 0.05  # the bar that followed moved it a little
