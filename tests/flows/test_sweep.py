"""Jobs over workers that come and go: the same bytes, each finished one once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import cluster
from flows.cluster import Task
from pipelines.errors import UserError
from pipelines.settings import Cluster
from tests.flows import work
from tests.flows.places import started

pytestmark = pytest.mark.serial
INPUTS = {"data/shift": b"2.5"}


def tasks(folder: Path, payload: Callable[[int], Any] = lambda seed: seed, number: int = 6) -> list[Task]:
    return [
        Task(f"job {seed}", f"key-{seed}", folder / f"key-{seed}", payload(seed)) for seed in range(number)
    ]


def fan_out(folder: Path, function: cluster.Function, todo: list[Task], **settings: Any) -> int:
    chosen = Cluster(**{"workers": 2, **settings})
    with cluster.connect(chosen) as client:
        return cluster.fan_out(
            client,
            function,
            todo,
            inputs=INPUTS,
            settings=chosen,
            logs=folder / "logs",
            say=lambda line: None,
        )


def results(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "logs" not in path.parts
    }


def test_the_same_bytes_with_one_two_and_four_workers(tmp_path: Path) -> None:
    for workers in (1, 2, 4):
        folder = tmp_path / str(workers)
        assert fan_out(folder, work.draw, tasks(folder), workers=workers) == 6
    assert results(tmp_path / "1") == results(tmp_path / "2") == results(tmp_path / "4")
    assert len(results(tmp_path / "1")) == 6
    assert (tmp_path / "1/logs/key-3.log").read_text() == "drew 3\n"
    folder = tmp_path / "1"
    (folder / "key-4/nested/values").unlink()
    (folder / "key-4/nested").rmdir()
    (folder / "key-4").rmdir()
    assert fan_out(folder, work.draw, tasks(folder)) == 1  # a finished one is never run again
    assert results(folder) == results(tmp_path / "2")


def test_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    fan_out(calm, work.draw, tasks(calm))
    marker = tmp_path / "marker"
    assert fan_out(rough, work.die_once, tasks(rough, lambda seed: (seed, str(marker)))) == 6
    assert marker.exists()
    assert results(rough) == results(calm)


def test_a_job_that_never_ends_is_given_up_and_the_others_are_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 of 3 jobs failed; the first: job 1"):
        fan_out(tmp_path, work.overrun, tasks(tmp_path, number=3), job_minutes=0.1, retries=0)
    assert sorted(path.name for path in tmp_path.glob("key-*")) == ["key-0", "key-2"]


def test_a_cluster_of_ones_own_gives_the_same_bytes(tmp_path: Path, scheduler: str) -> None:
    """A scheduler and two workers in processes of their own, met by their address alone."""
    here, there = tmp_path / "here", tmp_path / "there"
    fan_out(here, work.draw, tasks(here), workers=1)
    with started("-m", "flows.cluster", scheduler, "--workers", "2"):
        assert fan_out(there, work.draw, tasks(there), address=scheduler) == 6
    assert results(there) == results(here)


def test_a_worker_whose_arithmetic_is_not_fixed_is_refused(tmp_path: Path, scheduler: str) -> None:
    plain = started(
        "-m", "distributed.cli.dask_worker", scheduler, "--no-dashboard", PYTHONPATH=".", OMP_NUM_THREADS="2"
    )
    with plain, pytest.raises(UserError, match=r"start it with python -m flows\.cluster"):
        fan_out(tmp_path, work.draw, tasks(tmp_path, number=1), address=scheduler, retries=0)


def test_a_worker_with_other_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "stage_code", lambda: "another version")
    with pytest.raises(UserError, match="another version of the code"):
        fan_out(tmp_path, work.draw, tasks(tmp_path, number=1), workers=1, retries=0)
