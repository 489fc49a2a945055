"""The nights' data in an object store: pushed, pulled by someone else, and late when the store was away."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import night
from tests.fakes.s3 import FakeS3
from tests.flows import toy
from tests.flows.places import at, git

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("dvc_s3") is None, reason="needs the extra: uv sync --extra s3"
)
QUIET = night.Means(say=lambda line: None, walk_champion=toy.walk_champion)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    with FakeS3() as running:
        for name, value in {
            "AWS_ENDPOINT_URL": running.url,
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(name, value)
        yield running
        assert running.puzzling == []


def test_a_night_lies_in_the_object_store_and_comes_back(tmp_path: Path, store: FakeS3) -> None:
    root = toy.made(
        tmp_path / "root", params=toy.PARAMS.replace("nightly:\n", "nightly:\n  remote: s3://nights/dvc\n")
    )
    first = night.run(root, at("2022-01-21"), QUIET)
    assert (first.state, first.undelivered) == ("promoted", None)
    assert store.objects
    assert all(name.startswith("nights/dvc/files/md5/") for name in store.objects)

    store.down = True
    kept = dict(store.objects)
    second = night.run(root, at("2022-01-22"), QUIET)
    assert second.state in ("promoted", "refused")
    assert "s3://nights/dvc was not reached" in str(second.undelivered)
    store.down = False
    third = night.run(root, at("2022-01-23"), QUIET)
    assert third.undelivered is None
    assert set(kept) < set(store.objects)

    for day in ("2022-01-22", "2022-01-23"):  # also what came late is there for someone who has nothing else
        pulled = tmp_path / day
        git(tmp_path, "clone", "-q", "-b", f"nightly-{day}", str(root), str(pulled))
        for command in (
            ["dvc", "remote", "add", "-q", "-d", "--local", "ours", "s3://nights/dvc"],
            ["dvc", "pull", "-q"],
        ):
            subprocess.run(command, cwd=pulled, check=True)
        assert (pulled / "data/raw/window").read_text() == day
