"""The nights: what they commit, what they leave alone, and what no fault can make of them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import champion as reign
from flows import night, nightly, process, workspace
from flows.night import Outcome
from pipelines import locks
from tests.fakes.exchange import FakeExchange, Fault
from tests.fakes.prices import DAY
from tests.flows import toy
from tests.flows.places import at, git

ROOT = Path(__file__).parents[2]
QUIET = night.Means(say=lambda line: None, walk_champion=toy.walk_champion)


@pytest.fixture(autouse=True)
def interpreter_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", process.environment()["PATH"])
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")


def sleepless(root: Path, day: str) -> Outcome:
    return night.run(root, at(day), QUIET)


def clone_of(root: Path) -> Path:
    return root / ".nightly/clone"


def test_a_week_of_nights(tmp_path: Path) -> None:
    """One commit each, promotions and refusals, what people do in between, and the way back."""
    root = toy.made(tmp_path / "root")
    before = git(root, "rev-parse", "HEAD")
    first = sleepless(root, "2022-01-21")  # skill 0, a vacant place
    assert (first.state, first.undelivered) == ("promoted", None)
    assert git(root, "rev-parse", "nightly") == git(root, "rev-parse", "nightly-2022-01-21") == first.commit
    assert git(root, "rev-parse", "nightly^") == before
    assert git(root, "status", "--porcelain") == ""  # nobody's files were touched
    assert 'end: "2022-01-21"  # a comment that stays' in git(root, "show", "nightly:params.yaml").replace(
        "'", '"'
    )

    again = sleepless(root, "2022-01-21")  # never twice
    assert (again.state, again.commit) == ("done", first.commit)
    assert [nightly.overdue(root / ".nightly", at(f"2022-01-{day}")) for day in (21, 22)] == [False, True]
    assert not nightly.overdue(tmp_path, at("2022-01-22"))  # where none has been, none is missed

    second = sleepless(root, "2022-01-22")  # skill 1: better than 0
    assert second.state == "promoted"
    assert "dqn: a toy" in git(root, "log", "-1", "--format=%B", "nightly")
    assert second.page.count("metrics/comparison.json") >= 1
    printed = subprocess.run(
        ["dvc", "metrics", "diff", "--md", str(first.commit), str(second.commit)],
        cwd=root, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert printed
    assert printed in second.page

    (root / "README.md").write_text("people work here\n")  # meanwhile, on main
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "People")
    (root / "params.yaml").write_text((root / "params.yaml").read_text() + "# being edited\n")
    fourth = sleepless(root, "2022-01-24")  # the 23rd was missed; skill 0: worse than 1
    assert fourth.state == "refused"
    assert git(root, "rev-parse", "nightly^1", "nightly^2").split() == [
        second.commit,
        git(root, "rev-parse", "main"),
    ]
    assert git(root, "show", "nightly:README.md") == "people work here"
    assert "being edited" not in git(root, "show", "nightly:params.yaml")
    champion = json.loads(git(root, "show", "nightly:champion.json"))
    assert champion["night"] == "nightly-2022-01-22"

    starts = [json.loads(line)["start"] for line in git(root, "show", "nightly:nights.jsonl").splitlines()]
    assert starts == ["scratch", "warm", "scratch"]  # from scratch every 2
    known = json.loads(git(root, "show", "nightly:metrics/nights.json"))  # to the report of the last night
    assert [entry["night"] for entry in known["nights"]] == ["2022-01-21", "2022-01-22"]
    assert known["starts"]["warm"]["promoted"] == known["starts"]["warm"]["newcomers"] == 1
    planted = git(root, "ls-tree", "-r", "--name-only", "nightly-2022-01-22").split()
    assert "origins/dqn/agent.json" in planted
    assert not [
        path for path in git(root, "ls-tree", "-r", "--name-only", "nightly").split() if "origins" in path
    ]

    git(root, "checkout", "-q", "--", "params.yaml")
    assert reign.command(root, rollback=True) == 0
    champion = json.loads(git(root, "show", "nightly:champion.json"))
    assert champion["night"] == "nightly-2022-01-21"
    assert reign.read(clone_of(root)) is not None  # the folder is the one of the file
    assert reign.command(root, rollback=True) == 0
    assert "champion.json" not in git(root, "ls-tree", "--name-only", "nightly").split()
    assert reign.command(root, rollback=True) == 2  # nobody is left


def test_faults_of_the_world(tmp_path: Path) -> None:
    """The remote away, bad candles, another night at work: nothing lost, nothing half done."""
    root = toy.made(tmp_path / "root")
    assert sleepless(root, "2022-01-21").undelivered is None
    remote = root / ".nightly/remote"
    remote.rename(root / ".nightly/away")
    remote.write_text("not a folder")
    second = sleepless(root, "2022-01-22")
    assert second.state in ("promoted", "refused")
    assert "remote" in str(second.undelivered)
    assert git(clone_of(root), "rev-parse", "nightly") == second.commit  # it stays, in the clone
    assert git(root, "rev-parse", "nightly") != second.commit

    break_fetch = clone_of(root) / "broken"  # bad candles on the 23rd
    (root / "broken").write_text("")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "Break")
    failed = sleepless(root, "2022-01-23")
    assert failed.state == "failed"
    assert "high_at_least_low" in failed.reason
    assert git(clone_of(root), "rev-parse", "nightly") == second.commit
    assert "nightly-2022-01-23" not in git(clone_of(root), "tag")
    git(root, "rm", "-q", "broken")
    git(root, "commit", "-q", "-m", "Mend")

    with locks.exclusive(root / ".nightly" / workspace.LOCK, timeout=0.0):
        assert sleepless(root, "2022-01-24").state == "yielded"

    remote.unlink()
    (root / ".nightly/away").rename(remote)
    fourth = sleepless(root, "2022-01-24")  # recovers, and takes the late one along
    assert fourth.state in ("promoted", "refused")
    assert fourth.undelivered is None
    assert not break_fetch.exists()
    assert git(root, "rev-parse", "nightly") == fourth.commit
    assert git(root, "rev-parse", "nightly-2022-01-22") == second.commit

    shutil.rmtree(clone_of(root))  # a lost work folder ends no reign
    fifth = sleepless(root, "2022-01-25")
    assert fifth.undelivered is None
    assert git(root, "rev-parse", "nightly^") == fourth.commit
    assert len(git(root, "show", "nightly:nights.jsonl").splitlines()) == 4

    pulled = tmp_path / "pulled"  # the data of the night that came late are in the remote
    git(tmp_path, "clone", "-q", "-b", "nightly", str(root), str(pulled))
    git(pulled, "checkout", "-q", "nightly-2022-01-22")
    for command in (
        ["dvc", "remote", "add", "-q", "-d", "--local", "r", str(remote)],
        ["dvc", "pull", "-q"],
    ):
        subprocess.run(command, cwd=pulled, check=True)
    assert (pulled / "data/raw/window").read_text() == "2022-01-22"


def test_two_at_once_one_yields_and_the_commit_is_the_same(tmp_path: Path) -> None:
    root = toy.made(tmp_path / "root")
    twins = [start(root, "2022-01-21") for _ in range(2)]
    said = sorted(twin.communicate(timeout=200)[0] for twin in twins)
    assert sum("state='yielded'" in text for text in said) == 1
    assert sum("state='promoted'" in text for text in said) == 1


def test_a_night_that_is_killed_again_and_again_ends_in_the_same_commit(tmp_path: Path) -> None:
    """Three kills here; `benchmarks/nightly_kills.py` makes thirty."""
    unbroken = toy.made(tmp_path / "unbroken")
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-a", str(unbroken), str(broken)], check=True)  # the same first commit
    began = time.monotonic()
    wanted = finish(start(unbroken, "2022-01-21"))
    seconds = time.monotonic() - began
    moment = random.Random(5)
    for _ in range(3):
        victim = start(broken, "2022-01-21")
        time.sleep(moment.uniform(0.1, 1.0) * seconds)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        half = git(broken, "for-each-ref", "--format=%(objectname)", "refs/heads/nightly")
        assert half in ("", wanted)
    found = finish(start(broken, "2022-01-21"))
    assert found == wanted
    assert git(broken, "rev-parse", "nightly") == wanted


def start(root: Path, day: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.flows.toy_night", str(root), day],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(child: subprocess.Popen[str]) -> str:
    """The commit that the night's branch ends at."""
    said, _ = child.communicate(timeout=200)
    assert "commit='" in said, said
    return said.split("commit='")[1].split("'")[0]


def test_the_fetch_waits_longer_and_longer_until_its_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits double up to a quarter of an hour, and end; a wrong question is not asked again."""
    said = "error: unavailable: connection refused"

    def refuse(command: list[str], **_: object) -> None:
        raise process.ProcessFailed(command, 1, [said])

    monkeypatch.setattr(process, "run", refuse)
    waits: list[float] = []
    means = QUIET._replace(sleep=waits.append)
    with pytest.raises(process.ProcessFailed):
        night.fetch_patiently(Path(), 4 * 3600.0, means)
    assert sum(waits) == pytest.approx(4 * 3600.0)
    for number, wait in enumerate(waits[:-1]):
        longest = min(5.0 * 2**number, 900.0)
        assert longest / 2 <= wait <= longest
    assert len({round(wait / 900.0, 6) for wait in waits[8:-1]}) > 5  # jitter
    waits.clear()
    said = "error: bad_request: symbol invalid"
    with pytest.raises(process.ProcessFailed):
        night.fetch_patiently(Path(), 4 * 3600.0, means)
    assert waits == []


def test_an_exchange_that_is_away_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: tuple[str, list[dict[str, object]]]
) -> None:
    """The real fetch stage against a real server: patience that ends, and patience that is rewarded."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with FakeExchange(now=1_704_848_400_000) as exchange:  # 2024-01-10 01:00
        root = toy.with_exchange(tmp_path / "root", exchange.url)
        exchange.fail(Fault(status=403), times=1e9, path=None)
        waits: list[float] = []
        failed = night.run(root, at("2024-01-10"), QUIET._replace(sleep=waits.append))
        assert failed.state == "failed"
        assert failed.reason.startswith("error: banned")
        assert sum(waits) == pytest.approx(6.0)  # the patience of `with_exchange`
        url, told = hook
        nightly.announce(failed, url, print)
        assert told[0]["reason"] == failed.reason

        exchange.mend()
        exchange.fail(Fault(status=403), times=1, path=None)
        waits.clear()
        done = night.run(root, at("2024-01-10"), QUIET._replace(sleep=waits.append))
        assert (done.state, len(waits)) == ("promoted", 1)
        asked = len(exchange.asked())
        exchange.now += DAY
        assert night.run(root, at("2024-01-11"), QUIET).state in ("promoted", "refused")
        assert len(exchange.asked()) == asked + 1  # only what is new


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="a small file system needs Linux and root"
)
def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    root = toy.made(tmp_path / "root")
    small = root / ".nightly"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(small)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no file system may be mounted here")
    try:
        first = sleepless(root, "2022-01-21")
        assert first.state == "promoted"
        free = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
        (small / "ballast").write_bytes(b"x" * (free - 8192))
        failed = sleepless(root, "2022-01-22")
        assert failed.state == "failed"
        assert "space" in failed.reason.lower()
        assert git(clone_of(root), "rev-parse", "nightly") == first.commit
        (small / "ballast").unlink()
        assert sleepless(root, "2022-01-22").state in ("promoted", "refused")
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_failures_and_refusals_reach_the_web_hook(hook: tuple[str, list[dict[str, object]]]) -> None:
    url, told = hook
    day = at("2022-01-21").date()
    for state in ("promoted", "done", "yielded", "refused", "failed"):
        nightly.announce(Outcome(state, "why", day), url, print)  # type: ignore[arg-type]
    assert [entry["state"] for entry in told] == ["refused", "failed"]
    nightly.announce(Outcome("promoted", "why", day, undelivered="remote away"), url, print)
    assert told[-1]["undelivered"] == "remote away"
    said: list[str] = []
    nightly.announce(Outcome("failed", "why", day), "http://127.0.0.1:9/", said.append)
    assert "not reached" in said[0]  # and nothing is raised
