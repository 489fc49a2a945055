"""What the tests let other processes do, to kill them at it.

Kept free of work at import: these processes are forked from one that has only imported this module, and a
fork of a process whose thread pool is running would hang.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.sources.download import download, plan
from pipelines.store import CandleStore
from tests.pipelines.bars import LENGTH, START, MemorySource, make_bars, tree, with_holes

DAYS = 3 * 1440


def forks() -> Any:
    """Processes forked from one that has done its imports, so that each costs milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def append_and_die(root: Path, strike: int) -> None:
    """The second half of an append's life, with SIGKILL at the `strike`-th system call before or after."""
    bars = make_bars(DAYS)
    seen = 0

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            for moment in ("before", "after"):
                if seen == strike:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1
                if moment == "before":
                    result = call(*args, **kwargs)
            return result

        return wrapped

    for owner, name in ((os, "replace"), (os, "fsync"), (os, "ftruncate"), (Path, "open"), (Path, "unlink")):
        setattr(owner, name, deadly(getattr(owner, name)))
    CandleStore(root).append("BTCUSDT", "1m", bars[1000:])


def hold(root: Path, ready: Path, seconds: float) -> None:
    with CandleStore(root).writing("BTCUSDT", "1m"):
        ready.touch()
        time.sleep(seconds)


def append_pieces(root: Path, offset: int) -> None:
    store, bars = CandleStore(root, lock_timeout=60), make_bars(DAYS)
    for begin in range(offset, bars.height, 480):
        store.append("BTCUSDT", "1m", bars[begin : begin + 300])


def run_session(root: Path, log: Path, ready: Path, pause: float) -> None:
    """One process of a download that is likely to be killed before its end."""
    bars = make_bars(LENGTH)
    store = CandleStore(root, lock_timeout=0)
    requests = plan(store, ["BTCUSDT"], "1m", START, START + LENGTH * 60_000)
    source = MemorySource(with_holes(bars), window=50, pause=pause, log=log)
    ready.touch()
    download(source, store, requests, flush_rows=150)


def wait_for(path: Path) -> None:
    """Until another process has made the file; a file, because a killed process leaks nothing with it."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name} within a minute"
        time.sleep(0.002)


class Outcome(NamedTuple):
    """Of the kills, `landed` hit a session that was still at work."""

    kills: int
    landed: int
    rows: int
    rows_before_the_last_session: int


def kill_and_resume(folder: Path, *, kills: int, seed: int, pause: float) -> Outcome:
    """Kills a download at random moments and lets the last session finish.

    Raises AssertionError when the store is not, byte for byte, the one of an unbroken download, or when a bar
    that was stored is asked for again.
    """
    end = START + LENGTH * 60_000
    bars = with_holes(make_bars(LENGTH))
    unbroken = CandleStore(folder / "unbroken")
    download(MemorySource(bars), unbroken, plan(unbroken, ["BTCUSDT"], "1m", START, end))
    random = np.random.default_rng(seed)
    store = CandleStore(folder / "killed", lock_timeout=0)
    context = forks()
    landed = rows = 0
    for session in range(kills + 1):
        log = folder / f"session{session}.log"
        log.touch()
        left = store.missing_ranges("BTCUSDT", "1m", START, end)
        rows = store.manifest("BTCUSDT", "1m").rows
        ready = folder / f"session{session}.ready"
        process = context.Process(target=run_session, args=(folder / "killed", log, ready, pause))
        process.start()
        wait_for(ready)
        if session < kills:
            time.sleep(random.uniform(0, 0.2))
            process.kill()
        process.join()
        landed += process.exitcode == -signal.SIGKILL
        assert process.exitcode == 0 or session < kills
        for line in log.read_text().splitlines():
            begin, stop = map(int, line.split())
            assert any(a <= begin and stop <= b for a, b in left), "a stored bar was asked for again"
        assert store.verify() == []
    with store.writing("BTCUSDT", "1m"):  # sweeps what a kill after the last append may have left behind
        pass
    assert tree(folder / "killed") == tree(folder / "unbroken"), "the bytes differ from an unbroken download"
    return Outcome(kills, landed, store.manifest("BTCUSDT", "1m").rows, rows)
