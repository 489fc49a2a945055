"""Independent jobs over many machines with Dask: results do not depend on who computed them, or how often.

A job is a pure function that writes files into an empty folder. It is known by the hash of everything
that decides its result; a finished one is never run again. Workers keep nothing: inputs travel with the
job, results come back as bytes, and the driver alone writes them, whole folders at a time. So a worker may
die at any moment, and a job that runs twice writes the same bytes.

A job that exceeds its time takes its worker process with it: arithmetic in compiled code cannot be
interrupted otherwise. The nanny starts a new one, and the scheduler gives the job to another worker, as
often as `retries` allows.

The last digits depend on threads and kernels, which libraries choose when they are imported. So workers
on other machines are started with the right environment, in a checkout of the same code:

    python -m flows.cluster tcp://scheduler:8786 [--workers 4]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import itertools
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pipelines
from pipelines import jobs, stage
from pipelines.errors import UserError
from pipelines.settings import Cluster

AHEAD = 8  # jobs handed out per worker
OVERTIME = 75  # exit status of a worker whose job took too long
Function = Callable[[Any], None]
"""Called with a task's payload in a folder that holds the inputs; writes into `out/` below it."""


class Task(NamedTuple):
    """One job: what it is called, what identifies its result, where that goes, and its argument."""

    name: str
    key: str
    target: Path
    payload: Any


class Done(NamedTuple):
    """What comes back from a worker: files by path below `out/`, and what was printed."""

    files: dict[str, bytes]
    log: bytes
    seconds: float


@contextlib.contextmanager
def connect(settings: Cluster) -> Iterator[Any]:
    """A client of the cluster in the parameters, or of workers on this machine that end with the block."""
    import dask
    from distributed import Client, LocalCluster

    limits = {
        "distributed.scheduler.allowed-failures": settings.retries,
        # One job a worker at a time: those that wait on a worker would be blamed for its death too.
        "distributed.scheduler.worker-saturation": 1.0,
        # Set before a worker process starts: inside it, NumPy may be there already.
        "distributed.nanny.pre-spawn-environ": environment(),
    }
    with dask.config.set(limits):
        if settings.address:
            with Client(settings.address, timeout="30s", set_as_default=False) as client:
                yield client
            return
        with (
            LocalCluster(
                n_workers=settings.workers or os.cpu_count() or 1,
                threads_per_worker=1,
                memory_limit=settings.memory,
                dashboard_address="127.0.0.1:0",
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client


def fan_out(
    client: Any,
    function: Function,
    tasks: Sequence[Task],
    *,
    inputs: Mapping[str, bytes],
    settings: Cluster,
    logs: Path,
    say: Callable[[str], None] = print,
) -> int:
    """Runs the tasks whose target is not there yet; returns how many were run.

    The first failure is raised after all others have ended, so that what could be finished is finished.
    """
    from distributed import as_completed

    todo = {task.key: task for task in tasks if not task.target.exists()}
    say(f"{len(tasks)} jobs, {len(tasks) - len(todo)} of them finished before")
    if not todo:
        return 0
    # As a task, not as scattered data: the scheduler can make it again when the worker that held it dies.
    shipped = client.submit(dict, dict(inputs), key=f"inputs-{_hash(inputs)}")

    def submit(task: Task) -> Any:
        return client.submit(
            perform,
            function,
            task.payload,
            shipped,
            stage_code(),
            settings.job_minutes * 60.0,
            key=task.key,
            retries=settings.retries,
        )

    # Only some jobs ahead of the workers: ten thousand at once would be memory and chatter for nothing.
    waiting = iter(todo.values())
    ahead = AHEAD * max(1, sum(client.nthreads().values()))
    futures = {submit(task): task for task in itertools.islice(waiting, ahead)}
    failures: list[str] = []
    flying = as_completed(futures, loop=client.loop)
    for number, future in enumerate(flying, start=1):
        task = futures.pop(future)
        if future.status == "finished":
            done: Done = future.result()
            _store(done, task, logs)
            say(f"{task.name} [{done.seconds:.1f} s] ({number}/{len(todo)})")
        else:
            failures.append(f"{task.name}: {future.exception() or 'the scheduler was lost'}")
            say(f"failed: {failures[-1]}")
        future.release()
        for following in itertools.islice(waiting, 1):
            added = submit(following)
            futures[added] = following
            flying.add(added)
    if failures:
        raise UserError(f"{len(failures)} of {len(todo)} jobs failed; the first: {failures[0]}")
    return len(todo)


def perform(function: Function, payload: Any, inputs: Mapping[str, bytes], code: str, seconds: float) -> Done:
    """On a worker: one job in a folder of its own, in at most `seconds`."""
    if stage_code() != code:
        raise RuntimeError("this worker runs another version of the code than the driver")
    if any(os.environ.get(name) != value for name, value in environment().items()):
        raise RuntimeError("this worker's arithmetic is not fixed: start it with python -m flows.cluster")
    began = time.monotonic()
    clock = threading.Timer(seconds, os._exit, (OVERTIME,))
    clock.daemon = True
    clock.start()
    try:
        with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
            for name, content in inputs.items():
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                Path(name).write_bytes(content)
            Path("out").mkdir()
            with _into(Path("log")):
                function(payload)
            files = {
                path.relative_to("out").as_posix(): path.read_bytes()
                for path in sorted(Path("out").rglob("*"))
                if path.is_file()
            }
            return Done(files, Path("log").read_bytes(), time.monotonic() - began)
    finally:
        clock.cancel()


def environment() -> dict[str, str]:
    """What a worker process must be started with."""
    return {**stage.QUIET, **jobs.arithmetic()}


@functools.cache
def stage_code() -> str:
    """Hash of the code and the lock file that this process runs, as they were when it first asked."""
    with contextlib.chdir(Path(pipelines.__file__).parents[1]):
        return stage.code_hash()


def _store(done: Done, task: Task, logs: Path) -> None:
    """The whole folder or nothing."""
    aside = task.target.with_name(f"{task.target.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    for name, content in done.files.items():
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        (aside / name).write_bytes(content)
    logs.mkdir(parents=True, exist_ok=True)
    (logs / f"{task.key}.log").write_bytes(done.log)
    aside.rename(task.target)


@contextlib.contextmanager
def _into(log: Path) -> Iterator[None]:
    """Everything this process prints, also past Python, goes to the file."""
    kept = [os.dup(stream) for stream in (1, 2)]
    with log.open("wb") as file:
        try:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
            yield
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            for stream, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, stream)
                os.close(copy)


def _hash(inputs: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(inputs):
        digest.update(name.encode() + b"\0" + hashlib.sha256(inputs[name]).digest())
    return digest.hexdigest()[:16]


def main(argv: Sequence[str] | None = None) -> None:
    """Becomes workers of the scheduler at an address, one thread each."""
    parser = argparse.ArgumentParser(prog="python -m flows.cluster", description=main.__doc__)
    parser.add_argument("scheduler", help="its address, as in tcp://10.0.0.1:8786")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; one a processor")
    parser.add_argument("--memory", default=Cluster().memory, help="limit of a process")
    arguments = parser.parse_args(argv)
    command = [sys.executable, "-m", "distributed.cli.dask_worker", arguments.scheduler, "--nthreads", "1"]
    command += ["--nworkers", str(arguments.workers), "--memory-limit", arguments.memory, "--no-dashboard"]
    here = str(Path(pipelines.__file__).parents[1])  # where the workers find this code
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    os.execve(sys.executable, command, {**os.environ, **environment(), "PYTHONPATH": path})


if __name__ == "__main__":
    main()
