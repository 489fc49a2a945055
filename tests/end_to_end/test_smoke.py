"""From a clean clone to a finished report, twice, to the same bytes; an edit runs what it concerns."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

import models
from tests.end_to_end.conftest import clone, environment, keep_agents, run
from tests.pipelines.browser import console, needs_chromium

pytestmark = [pytest.mark.serial, pytest.mark.timeout(1200)]


def test_two_clean_clones_give_the_same_lock_whatever_the_number_of_workers(
    smoke: Path, tmp_path: Path
) -> None:
    other = clone(tmp_path / "other")
    keep_agents(other, "dqn")
    run("python", "-m", "pipelines.params", "--preset", "smoke", folder=other)
    run("dvc", "repro", folder=other, REHEARSAL_WORKERS="1")
    assert (smoke / "dvc.lock").read_bytes() == (other / "dvc.lock").read_bytes()
    for tracked in ("metrics", "plots"):
        for file in sorted((smoke / tracked).rglob("*")):
            if file.is_file():
                assert file.read_bytes() == (other / file.relative_to(smoke)).read_bytes(), file


def test_a_second_run_has_nothing_to_do(smoke: Path) -> None:
    before = (smoke / "metrics/trials.jsonl").read_bytes()
    assert "Data and pipelines are up to date" in run("dvc", "repro", folder=smoke).stdout
    assert (smoke / "metrics/trials.jsonl").read_bytes() == before


def test_nothing_is_left_aside_and_git_sees_only_what_people_review(smoke: Path) -> None:
    assert not list((smoke / "work").rglob("*.partial"))
    assert not any((smoke / "work/scratch").iterdir())
    changed = run("git", "status", "--porcelain", folder=smoke).stdout.split("\n")
    named = {line[3:].split("/")[0] for line in changed if line}
    assert named <= {"dvc.lock", "metrics", "plots", "params.yaml"}


def test_every_agent_is_in_the_comparison_with_a_verdict(smoke: Path) -> None:
    found = json.loads((smoke / "metrics/comparison.json").read_text())
    agents = found["agents"]
    assert {"flat", "buy_and_hold", "sma_cross", "mean_reversion", "random", "oracle", "dqn"} <= set(agents)
    assert agents["flat"]["total_return"] == 0.0
    assert agents["dqn"]["words"]
    assert found["trials"]["problems"] == []


@needs_chromium
def test_the_plots_of_dvc_need_no_network(smoke: Path) -> None:
    run("dvc", "plots", "show", "--out", "shown", folder=smoke)
    page = (smoke / "shown/index.html").read_text("utf-8")
    for name in ("equity", "drawdown", "exposures", "training"):
        assert f"'#{name}" in page, name
    assert "cdn." not in page
    assert not re.findall(r"<script[^>]* src=", page)
    assert console(smoke / "shown/index.html", 1200) == []
    shutil.rmtree(smoke / "shown")


def test_no_tracked_output_knows_when_or_where_it_was_made(smoke: Path) -> None:
    for folder in ("metrics", "plots", "reports"):
        for file in (smoke / folder).rglob("*"):
            if file.is_file():
                text = file.read_text("utf-8", errors="replace")
                assert str(smoke) not in text, file
                assert os.uname().nodename not in text or len(os.uname().nodename) < 5, file


def test_one_agents_parameter_runs_that_agent_compare_and_report(smoke: Path) -> None:
    edit(smoke / "params.yaml", "    discount: 0.99 ", "    discount: 0.9 ")
    printed = run("dvc", "repro", folder=smoke).stdout
    ran = [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")]
    assert ran == ["train@dqn", "backtest@dqn", "compare", "report"]
    diff = run("dvc", "params", "diff", folder=smoke).stdout
    assert "discount" in diff
    edit(smoke / "params.yaml", "    discount: 0.9 ", "    discount: 0.99 ")
    run("dvc", "repro", folder=smoke)


def test_settings_that_do_not_fit_the_market_are_one_line(smoke: Path) -> None:
    edit(smoke / "params.yaml", "  actions: grid ", "  actions: box ")
    refused = run("python", "-m", "pipelines.stages.train", "dqn", folder=smoke, check=False)
    edit(smoke / "params.yaml", "  actions: box ", "  actions: grid ")
    assert refused.returncode == 2
    assert "error: params.yaml: agents.dqn: " in refused.stderr
    assert "Traceback" not in refused.stderr
    shutil.rmtree(smoke / "work/checkpoints/dqn")  # kept until the next training that ends


def test_an_experiment_changes_a_parameter_by_its_name(tmp_path: Path) -> None:
    folder = clone(tmp_path / "experiment")
    run("dvc", "exp", "run", "--queue", "-S", "preset=smoke", "-S", "agents.dqn.discount=0.9", folder=folder)
    asked = run("dvc", "queue", "status", folder=folder).stdout
    assert "Queued" in asked
    failed = run("dvc", "exp", "run", "--queue", "-S", "agents.dqn.depth=3", folder=folder, check=False)
    assert "depth" in failed.stderr


def test_every_family_of_the_default_run_comes_to_a_verdict(tmp_path: Path) -> None:
    folder = clone(tmp_path / "all")
    run("python", "-m", "pipelines.params", "--preset", "smoke", folder=folder)
    run("dvc", "repro", folder=folder)
    agents = json.loads((folder / "metrics/comparison.json").read_text())["agents"]
    assert set(models.FAMILIES) <= set(agents)
    foretelling = {
        family
        for family in models.FAMILIES
        if "model" in json.loads((folder / f"metrics/{family}.json").read_text())[family]
    }
    assert foretelling == set(models.FAMILIES) - {"dqn"}


@pytest.mark.parametrize("stage", ["features", "train@dqn", "report"])
def test_a_killed_stage_ends_in_the_same_bytes(smoke: Path, stage: str) -> None:
    lock = (smoke / "dvc.lock").read_bytes()
    moment = random.Random(stage)
    for _ in range(2):
        kill_in_the_middle(smoke, stage, moment.uniform(0.5, 6.0))
    run("dvc", "repro", folder=smoke)
    assert (smoke / "dvc.lock").read_bytes() == lock
    assert not any((smoke / "work/scratch").iterdir())
    assert not (smoke / "work/checkpoints/dqn").exists()


def kill_in_the_middle(folder: Path, stage: str, seconds: float) -> None:
    """Forces the stage to run and kills its whole process group after a while."""
    process = subprocess.Popen(
        ["dvc", "repro", "--single-item", "--force", stage],
        cwd=folder, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_failed_candles_stop_the_run_with_a_list(tmp_path: Path) -> None:
    folder = clone(tmp_path / "bad")
    rows = ["open_time,open,high,low,close,volume,turnover"]
    rows += [f"2022-01-01T{hour:02d}:00:00Z,100,101,99,100,5,500" for hour in range(24)]
    rows[5] = "2022-01-01T04:00:00Z,100,90,99,100,5,500"  # high below low
    (folder / "candles").mkdir()
    (folder / "candles/BAD_1h.csv").write_text("\n".join(rows) + "\n")
    edit(folder / "params.yaml", "source: simulator", "source: files")
    edit(folder / "params.yaml", "    - SIM\n", "    - BAD\n")
    edit(folder / "params.yaml", 'end: "2024-09-27"', 'end: "2022-01-02"')
    failed = run("dvc", "repro", "validate", folder=folder, check=False)
    assert failed.returncode != 0
    assert "failed: " in failed.stderr
    assert "high" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (folder / "work/validation/index.html").is_file()
    assert (
        not (folder / "metrics/data.json").exists() or "BAD" not in (folder / "metrics/data.json").read_text()
    )


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new), "utf-8")
