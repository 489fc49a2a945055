"""What the cluster tests run on workers: importable, small, without TensorFlow."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np


def draw(seed: int) -> None:
    """Bytes that depend on the seed and on the inputs, and a line for the log."""
    shift = float(Path("data/shift").read_text())
    values = np.random.default_rng(seed).normal(shift, 1.0, 100)
    Path("out/nested").mkdir()
    Path("out/nested/values").write_bytes(values.tobytes())
    print(f"drew {seed}")


def die_once(payload: Any) -> None:
    """Kills its own worker the first time, as an out-of-memory killer would."""
    seed, marker = payload
    if seed == 3 and not Path(marker).exists():
        Path(marker).write_text("died")
        os.kill(os.getpid(), signal.SIGKILL)
    draw(seed)


def overrun(seed: int) -> None:
    """One of the jobs never ends."""
    if seed == 1:
        time.sleep(600)
    draw(seed)


def rest(seconds: float) -> None:
    """Takes its time and no processor: what remains is the price of handing it out."""
    time.sleep(seconds)
    Path("out/done").write_bytes(b"")
