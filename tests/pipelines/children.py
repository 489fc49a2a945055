"""What the tests let other processes do, to kill them at it.

Kept free of work at import: these processes are forked from one that has only imported this module, and a
fork of a process whose thread pool is running would hang.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

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


def run_session(root: Path, log: Path, ready: Path) -> None:
    """One process of a download that is likely to be killed before its end."""
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a kill would leak
    bars = make_bars(LENGTH)
    store = CandleStore(root, lock_timeout=0)
    requests = plan(store, ["BTCUSDT"], "1m", START, START + LENGTH * 60_000)
    source = MemorySource(with_holes(bars), window=50, pause=0.002, log=log)
    ready.touch()
    download(source, store, requests, flush_rows=150)


def wait_for(path: Path) -> None:
    """Until another process has made the file; a file, because a killed process leaks nothing with it."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name} within a minute"
        time.sleep(0.002)


class Outcome(NamedTuple):
    """`kills` landed in sessions that stored `saved` bars; `stores` downloads came to their end."""

    kills: int
    stores: int
    saved: int


def kill_and_resume(folder: Path, *, kills: int, seed: int) -> Outcome:
    """Kills a download at random moments until `kills` have landed, then lets the last session finish.

    A download that finishes in between is compared, and another begun. Raises AssertionError when a store is
    not, byte for byte, the one of an unbroken download, or when a bar that was stored is asked for again.
    """
    end = START + LENGTH * 60_000
    bars = with_holes(make_bars(LENGTH))
    unbroken = CandleStore(folder / "unbroken")
    download(MemorySource(bars), unbroken, plan(unbroken, ["BTCUSDT"], "1m", START, end))
    random = np.random.default_rng(seed)
    context = forks()
    landed = stores = saved = 0
    for session in count():
        root = folder / f"killed{stores}"
        store = CandleStore(root, lock_timeout=0)
        log, ready = folder / f"session{session}.log", folder / f"session{session}.ready"
        log.touch()
        left = store.missing_ranges("BTCUSDT", "1m", START, end)
        rows = store.manifest("BTCUSDT", "1m").rows
        last = landed == kills
        process = context.Process(target=run_session, args=(root, log, ready))
        process.start()
        wait_for(ready)
        if not last:
            time.sleep(random.uniform(0, 0.4))
            process.kill()
        process.join()
        for line in log.read_text().splitlines():
            begin, stop = map(int, line.split())
            assert any(a <= begin and stop <= b for a, b in left), "a stored bar was asked for again"
        assert store.verify() == []
        if process.exitcode == -signal.SIGKILL:
            landed += 1
            saved += store.manifest("BTCUSDT", "1m").rows - rows
            continue
        assert process.exitcode == 0
        with store.writing("BTCUSDT", "1m"):  # sweeps what a kill after the last append may have left behind
            pass
        assert tree(root) == tree(folder / "unbroken"), "not the bytes of an unbroken download"
        stores += 1
        if last:
            break
    return Outcome(landed, stores, saved)
