import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation import trials as t
from pipelines.evaluation.trials import Trial


def trial(number: int, family: str = "dqn", data: str = "d0", seed: int = 0, fold: int = 0) -> Trial:
    return Trial(family, t.fingerprint({"rate": number}), data, seed, fold)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "metrics" / "trials.jsonl"
    for number in range(5):
        assert t.record(path, [trial(number)]) == 1
    return path


def test_recording_twice_changes_no_byte(ledger):
    before = ledger.read_bytes()
    assert t.record(ledger, [trial(3), trial(0), trial(3)]) == 0
    assert ledger.read_bytes() == before
    assert t.verify(ledger) == []


def test_appending_keeps_the_lines_before(ledger):
    before = ledger.read_text()
    t.record(ledger, [trial(9), trial(8)])
    assert ledger.read_text().startswith(before)
    assert len(t.tips(t.read(ledger))) == 1


def test_the_order_of_entries_does_not_matter(tmp_path):
    entries = [trial(n, seed=n % 3) for n in range(6)]
    t.record(tmp_path / "a", entries)
    t.record(tmp_path / "b", entries[::-1])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_counting(tmp_path):
    path = tmp_path / "trials.jsonl"
    assert t.count(t.read(path)) == (0, 0)
    entries = [trial(n, seed=seed, fold=fold) for n in range(2) for seed in range(3) for fold in range(4)]
    t.record(path, [*entries, trial(0, family="dyna"), trial(0, data="d1")])
    assert t.count(t.read(path)) == (3, 26)
    assert t.count(t.read(path), families=["dqn"]) == (2, 25)


def test_fingerprint_ignores_the_order_of_keys():
    assert t.fingerprint({"a": 1, "b": [1, 2.5]}) == t.fingerprint({"b": [1, 2.5], "a": 1})
    assert t.fingerprint({"a": 1}) != t.fingerprint({"a": 2})
    with pytest.raises(ValueError):
        t.fingerprint({"a": float("nan")})


@pytest.mark.parametrize("gone", [0, 1, 2, 3])
def test_a_removed_line_is_seen(ledger, gone):
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:gone] + lines[gone + 1 :]))
    problems = t.verify(ledger)
    assert len(problems) == 1
    assert f"line {gone + 1}" in problems[0]
    assert "removed" in problems[0]


def test_a_removed_tip_is_seen_with_the_seal_only(ledger):
    seal = t.tips(t.read(ledger))
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:-1]))
    assert t.verify(ledger) == []
    assert "removed" in t.verify(ledger, sealed=seal)[0]
    t.record(ledger, [trial(77)])  # growing on does not hide it
    assert len(t.verify(ledger, sealed=seal)) == 1


def test_a_removed_file_is_seen_with_the_seal(ledger):
    seal = t.tips(t.read(ledger))
    ledger.unlink()
    assert t.verify(ledger) == []
    assert "missing" in t.verify(ledger, sealed=seal)[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [("family", "muzero"), ("seed", 7), ("data", "x"), ("parents", []), ("hash", "0" * 32)],
)
def test_an_edited_line_is_seen(ledger, field, value):
    lines = ledger.read_text().splitlines()
    edited = json.loads(lines[2]) | {field: value}
    ledger.write_text("\n".join([*lines[:2], json.dumps(edited), *lines[3:]]) + "\n")
    assert any("line 3: was edited" in problem for problem in t.verify(ledger))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<<<<<<< HEAD", "no JSON"),
        ('{"family": "dqn", "par', "no JSON"),
        ("[]", "fields"),
        ("{}", "fields"),
        ('{"data":"d","family":"f","fold":0,"hash":"h","parameters":"p","parents":"x","seed":0}', "parents"),
        ('{"data":"d","family":"f","fold":"0","hash":"h","parameters":"p","parents":[],"seed":0}', "type"),
    ],
)
def test_a_line_that_is_no_trial(ledger, text, words):
    with ledger.open("a") as file:
        file.write(text + "\n")
    before = ledger.read_bytes()
    assert words in t.verify(ledger)[0]
    with pytest.raises(t.LedgerError, match="line 6"):
        t.record(ledger, [trial(50)])
    assert ledger.read_bytes() == before


def test_a_missing_newline_is_mended(ledger):
    ledger.write_text(ledger.read_text().rstrip("\n"))
    t.record(ledger, [trial(60)])
    assert t.verify(ledger) == []
    assert t.count(t.read(ledger)).configurations == 6


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_branches_that_both_append_merge_into_a_sound_ledger(tmp_path):
    (tmp_path / ".gitattributes").write_text("trials.jsonl merge=union\n")
    path = tmp_path / "trials.jsonl"
    git(tmp_path, "init")
    t.record(path, [trial(0), trial(1)])
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "base")
    git(tmp_path, "checkout", "-b", "side")
    t.record(path, [trial(2), trial(3)])
    t.record(path, [trial(4)])
    git(tmp_path, "commit", "-am", "side")
    git(tmp_path, "checkout", "main")
    t.record(path, [trial(5), trial(4)])  # 4 is tried on both sides
    git(tmp_path, "commit", "-am", "main")
    git(tmp_path, "merge", "side")

    assert t.verify(path) == []
    assert t.count(t.read(path)).configurations == 6
    assert len(t.tips(t.read(path))) == 2
    t.record(path, [trial(6)])
    assert len(t.tips(t.read(path))) == 1  # the next append ties the two ends together
    assert t.verify(path) == []
    lines = path.read_text().splitlines(keepends=True)
    for gone in range(len(lines) - 1):
        path.write_text("".join(lines[:gone] + lines[gone + 1 :]))
        assert t.verify(path), f"line {gone + 1} vanished unseen"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_branches_that_append_the_same_trial(tmp_path):
    (tmp_path / ".gitattributes").write_text("trials.jsonl merge=union\n")
    path = tmp_path / "trials.jsonl"
    git(tmp_path, "init")
    t.record(path, [trial(0)])
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "base")
    git(tmp_path, "checkout", "-b", "side")
    t.record(path, [trial(1), trial(2)])
    git(tmp_path, "commit", "-am", "side")
    git(tmp_path, "checkout", "main")
    t.record(path, [trial(1), trial(3)])
    git(tmp_path, "commit", "-am", "main")
    git(tmp_path, "merge", "side")
    assert t.verify(path) == []
    assert t.count(t.read(path)) == (4, 4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=5), min_size=1, max_size=6), st.data())
def test_any_history_verifies_and_any_inner_deletion_shows(tmp_path_factory, batches, data):
    path = tmp_path_factory.mktemp("ledger") / "trials.jsonl"
    for batch in batches:
        t.record(path, [trial(number) for number in batch])
    assert t.verify(path) == []
    assert t.count(t.read(path)).runs == len({number for batch in batches for number in batch})
    lines = path.read_text().splitlines(keepends=True)
    if len(lines) > 1:
        gone = data.draw(st.integers(0, len(lines) - 2))
        path.write_text("".join(lines[:gone] + lines[gone + 1 :]))
        assert t.verify(path)
