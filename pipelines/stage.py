"""What every stage shares: how it starts, how it fails, how it writes.

A stage is `python -m pipelines.stages.<name> [family]`. It reads files, writes files, and nothing else
connects two stages. Everything is written aside first and renamed into place, so that a killed stage
leaves the last good output; what it left aside is cleared by the next start of the same stage.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipelines.errors import UserError

SCRATCH = Path("work/scratch")
CODE = ("models", "pipelines")

# Before TensorFlow or Great Expectations are first imported, here and in every worker.
QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "0",  # other summation orders on other processors
    "CUDA_VISIBLE_DEVICES": "-1",
    "GX_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


def run(name: str, body: Callable[[], str]) -> int:
    """Runs a stage: `body` does the work and returns the summary that is printed at the end."""
    prepare_process()
    shutil.rmtree(SCRATCH / name, ignore_errors=True)
    started = time.monotonic()
    print(f"{name}: started", file=sys.stderr, flush=True)
    try:
        summary = body()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(SCRATCH / name, ignore_errors=True)
    print(f"{name}: {summary} [{time.monotonic() - started:.1f} s]", flush=True)
    return 0


def prepare_process() -> None:
    """Quiet libraries, and a process that ends with its parent (a killed run leaves no orphans)."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    end_with_parent()


def end_with_parent(signal_number: int = signal.SIGTERM) -> None:
    """Linux only: the kernel sends us `signal_number` when our parent dies; elsewhere a no-op."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal_number)


@contextmanager
def replacing(target: Path, stage: str) -> Iterator[Path]:
    """A path to write to (file or directory) that takes the place of `target` when the block ends well."""
    aside = SCRATCH / stage / target.name
    _remove(aside)
    aside.parent.mkdir(parents=True, exist_ok=True)
    yield aside
    target.parent.mkdir(parents=True, exist_ok=True)
    if aside.is_dir():
        _remove(target)
    aside.replace(target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(tree: Mapping[str, Any], target: Path, stage: str) -> None:
    """Sorted keys, rounded figures, no NaN: the same result is the same bytes."""
    with replacing(target, stage) as path:
        path.write_text(json.dumps(rounded(tree), indent=2, sort_keys=True, allow_nan=False) + "\n", "utf-8")


def write_table(frame: pl.DataFrame, target: Path, stage: str) -> None:
    """Parquet, or CSV where people and `dvc plots` read it."""
    with replacing(target, stage) as path:
        if target.suffix == ".csv":
            frame.write_csv(path, float_precision=6)
        else:
            frame.write_parquet(path, compression="zstd")


def rounded(value: Any, digits: int = 6) -> Any:
    """Every float of a nested value to `digits` significant digits; numpy scalars become plain ones."""
    if isinstance(value, Mapping):
        return {str(key): rounded(below, digits) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(below, digits) for below in value]
    if isinstance(value, np.ndarray):
        return rounded(value.tolist(), digits)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    return value


def file_hash(*paths: Path) -> str:
    """Content hash of files and directories, independent of where they lie."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(file.relative_to(path.parent).as_posix().encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def hash_text(text: str) -> str:
    """Hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def code_hash() -> str:
    """What decided the numbers: our code and the locked dependencies."""
    return file_hash(*(Path(room) for room in CODE), Path("uv.lock"))
