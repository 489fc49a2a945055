"""Jobs over processes: order kept, one thread each, failures said."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from pipelines import jobs
from pipelines.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Number(NamedTuple):
    value: int

    @property
    def name(self) -> str:
        return f"number {self.value}"


def square(job: Number) -> tuple[int, str]:
    return job.value**2, os.environ["OMP_NUM_THREADS"]


def arithmetic(job: Number) -> str:
    """The bytes of products whose rounding depends on the kernel that OpenBLAS picks."""
    draw = np.random.default_rng(job.value)
    left, right = draw.normal(size=(200, 1, 24)), draw.normal(size=(24, 64))
    products = np.stack([row.astype(np.float32) @ right.astype(np.float32) for row in left])
    return hashlib.md5(products.tobytes()).hexdigest()


def complain(job: Number) -> None:
    os.write(2, b"a library's chatter\n")
    print("a warning", file=sys.stderr)


def fail_on_two(job: Number) -> int:
    if job.value == 2:
        raise ArithmeticError("two")
    return job.value


def die(job: Number) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return job.value


def test_results_keep_the_order_and_every_job_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("REHEARSAL_WORKERS", "2")
    assert jobs.run(square, [Number(n) for n in range(5)], label="square") == [(n**2, "1") for n in range(5)]
    assert "OMP_NUM_THREADS" not in os.environ


def test_the_callers_choice_of_kernels_does_not_change_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    by_default = jobs.run(arithmetic, [Number(1)], label="arithmetic")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    assert jobs.run(arithmetic, [Number(1)], label="arithmetic") == by_default
    assert os.environ["OPENBLAS_CORETYPE"] == "Prescott"  # ours is left as it was


def test_what_libraries_say_goes_to_a_log(capfd: pytest.CaptureFixture[str]) -> None:
    jobs.run(complain, [Number(1)], label="say something")
    assert (jobs.LOGS / "say-something.log").read_text() == "a library's chatter\na warning\n"
    assert "chatter" not in capfd.readouterr().err


def test_no_jobs_start_no_process() -> None:
    assert jobs.run(square, [], label="square") == []


def test_the_exception_of_a_job_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REHEARSAL_WORKERS", "1")
    with pytest.raises(ArithmeticError, match="two"):
        jobs.run(fail_on_two, [Number(n) for n in range(4)], label="fail")


def test_a_worker_that_dies_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REHEARSAL_WORKERS", "1")
    with pytest.raises(UserError, match="a worker process died"):
        jobs.run(die, [Number(1)], label="die")


@pytest.mark.parametrize("asked", ["0", "-1", "two", "1.5"])
def test_a_wrong_number_of_workers_is_refused(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("REHEARSAL_WORKERS", asked)
    with pytest.raises(UserError, match="REHEARSAL_WORKERS"):
        jobs.workers()
