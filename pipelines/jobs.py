"""Independent jobs over processes: jobs, not threads, fill the machine.

Every job runs in a process of its own with one thread for the arithmetic, so that its bytes do not depend
on how many of them run side by side. How many is `REHEARSAL_WORKERS`, by default the number of processors.
What the libraries say on standard error goes to `work/logs`, so that the progress stays readable.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from tqdm import tqdm

from pipelines.errors import UserError
from pipelines.stage import prepare_process

ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


# OpenBLAS picks its kernels by the processor, and they round differently. The one that every x86 processor
# since 2013 can run gives the same bytes on all of them, whatever the caller's environment says.
BLAS_KERNELS = {"OPENBLAS_CORETYPE": "Haswell"}
LOGS = Path("work/logs")


class Named(Protocol):
    @property
    def name(self) -> str: ...


JobT = TypeVar("JobT", bound=Named)
ResultT = TypeVar("ResultT")


def workers() -> int:
    """How many jobs run at once."""
    asked = os.environ.get("REHEARSAL_WORKERS", "")
    if not asked:
        return os.cpu_count() or 1
    if not asked.isdigit() or int(asked) < 1:
        raise UserError(f"REHEARSAL_WORKERS = {asked!r}: must be a whole number from 1 on")
    return int(asked)


def run(function: Callable[[JobT], ResultT], jobs: Sequence[JobT], *, label: str) -> list[ResultT]:
    """`[function(job) for job in jobs]`, side by side; the results keep the order of the jobs.

    `function` and the jobs must be importable and picklable. The first exception of a job is raised here
    after the rest have been called off; a worker that dies (killed, out of memory) is a `UserError`.
    """
    if not jobs:
        return []
    done: dict[int, ResultT] = {}
    log = LOGS / f"{label.replace(' ', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    with (
        _fixed_arithmetic(),
        ProcessPoolExecutor(min(workers(), len(jobs)), context, _prepare_worker, (log,)) as pool,
    ):
        futures: dict[Future[ResultT], int] = {pool.submit(function, job): i for i, job in enumerate(jobs)}
        progress = tqdm(total=len(jobs), desc=label, unit="job", disable=not sys.stderr.isatty())
        try:
            for future in as_completed(futures):
                index = futures[future]
                done[index] = future.result()
                progress.update()
                if progress.disable:
                    print(
                        f"{label}: {jobs[index].name} ({len(done)}/{len(jobs)})", file=sys.stderr, flush=True
                    )
        except BrokenProcessPool as error:
            raise UserError(
                f"{label}: a worker process died (killed, or out of memory? see {log}); "
                "run again to go on where it stopped, with REHEARSAL_WORKERS=1 if memory is short"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            progress.close()
    return [done[index] for index in range(len(jobs))]


def _has_avx2() -> bool:
    """Whether this is an x86 processor with the instructions of `BLAS_KERNELS` (Linux can tell)."""
    described = Path("/proc/cpuinfo")
    return (
        platform.machine() in ("x86_64", "AMD64") and described.exists() and "avx2" in described.read_text()
    )


def _prepare_worker(log: Path) -> None:
    """TensorFlow writes past Python's `sys.stderr`, so the descriptor itself is turned to the log."""
    prepare_process()
    with log.open("ab") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())


def arithmetic() -> dict[str, str]:
    """What the environment of a worker must say; libraries read it when they are first imported."""
    return {**dict.fromkeys(ONE_THREAD, "1"), **(BLAS_KERNELS if _has_avx2() else {})}


@contextmanager
def _fixed_arithmetic() -> Iterator[None]:
    """Workers inherit it."""
    fixed = arithmetic()
    before = {name: os.environ.get(name) for name in fixed}
    os.environ.update(fixed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
