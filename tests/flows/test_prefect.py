"""The pinned set of Prefect, FastAPI and SQLAlchemy works: a free resolver picks one that does not.

The symptoms that were seen: every flow run fails, most commands answer 422, and schedules silently never
produce a run. So a real server is started, asked, and given an every-minute schedule.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flows import toy
from tests.flows.places import git

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.serial

DEPLOYED = """
from prefect import flow

@flow
def tick() -> None:
    print("tick")

if __name__ == "__main__":
    tick.serve(name="every-minute", cron="* * * * *")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that points at a server of our own, with its database in a scratch folder."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        **os.environ,
        "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"],
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_API_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
        "DO_NOT_TRACK": "1",
    }
    log = (home / "server.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start"], env=settings, stdout=log, stderr=log
    )
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/api/health"), 120, home / "server.log")
        yield settings
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def test_commands_are_understood_by_the_server(server: dict[str, str]) -> None:
    for command in (["deployment", "ls"], ["flow-run", "ls"], ["work-pool", "ls"]):
        answer = subprocess.run(
            [sys.executable, "-m", "prefect", *command], env=server, capture_output=True, text=True
        )
        assert answer.returncode == 0, answer.stderr


def test_an_every_minute_schedule_produces_a_run(server: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "tick.py"
    script.write_text(DEPLOYED, "utf-8")
    with (tmp_path / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(script)], env=server, stdout=log, stderr=log, cwd=tmp_path
        )
        try:
            wait_until(lambda: completed_runs(server["PREFECT_API_URL"]) > 0, 150, tmp_path / "serve.log")
        finally:
            process.terminate()
            process.wait(30)


def test_a_night_is_a_run_with_a_page_and_a_failed_one_is_seen_and_told(
    server: dict[str, str], tmp_path: Path, hook: tuple[str, list[dict[str, object]]]
) -> None:
    """The flow itself on a toy repository: bad candles first, then a night that ends well."""
    url, told = hook
    root = toy.made(
        tmp_path / "root", params=toy.PARAMS.replace("nightly:\n", f"nightly:\n  webhook_url: {url}\n")
    )
    (root / "broken").touch()
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "Break")
    failed = run_night(root, server)
    assert failed.returncode == 2
    assert "high_at_least_low" in failed.stderr.splitlines()[-1]
    assert [entry["state"] for entry in told] == ["failed"]
    git(root, "rm", "-q", "broken")
    git(root, "commit", "-q", "-m", "Mend")
    mended = run_night(root, server)
    assert mended.returncode == 0, mended.stderr
    api = server["PREFECT_API_URL"]
    runs = asked(f"{api}/flow_runs/filter", flows={"name": {"any_": ["nightly"]}})
    assert sorted(run["state"]["type"] for run in runs) == ["COMPLETED", "FAILED"]
    artifacts = asked(f"{api}/artifacts/filter", artifacts={"key": {"any_": ["nightly"]}})
    assert sorted(artifact["data"].splitlines()[0].split(": ")[1] for artifact in artifacts) == [
        "failed",
        "promoted",
    ]


def run_night(root: Path, server: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.nightly"],
        cwd=root, env={**server, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip


def asked(url: str, **question: object) -> Any:
    """What the server answers to a question."""
    body = json.dumps(question).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


def completed_runs(api: str) -> int:
    state = {"type": {"any_": ["COMPLETED"]}}
    return int(
        asked(f"{api}/flow_runs/count", flow_runs={"state": state}, flows={"name": {"any_": ["tick"]}})
    )


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_until(condition, seconds: float, log: Path) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(1)
    pytest.fail(f"nothing after {seconds} s; the log ends:\n{log.read_text()[-2000:]}")
