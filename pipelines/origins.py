"""Where training starts from: scratch, or an earlier agent that knows nothing it should not.

The nightly flow puts the reigning champion's agent under `origins/<family>` and its content hash into
`training.init_from`, so that the parameters say from which bytes a run began.

A warm start is a way for the future to leak: the champion was trained up to a day, and an earlier fold
would be tested on days before it. So only a fold whose own training reaches at least as far starts warm;
the others start from scratch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import layout, stage
from pipelines.errors import UserError
from pipelines.experiment import Job
from pipelines.settings import Params
from pipelines.splits import Window

SEEN = "training.json"
HASH_DIGITS = 16


def content_hash(folder: Path) -> str:
    """Identity of an agent's files, wherever they lie and whatever their folder is called."""
    parts = (stage.file_hash(path) for path in sorted(folder.iterdir()) if path.is_file())
    return stage.hash_text("\n".join(parts))[:HASH_DIGITS]


def require(params: Params) -> None:
    """`UserError` unless every agent that training is to start from is there, byte for byte."""
    for family, wanted in params.training.init_from.items():
        folder = layout.ORIGINS / family
        found = content_hash(folder) if folder.is_dir() else "nothing"
        if found != wanted:
            raise UserError(
                f"params.yaml: training.init_from.{family} = {wanted!r}: {folder} holds {found}; "
                "check the folder out again, or remove the entry to train from scratch"
            )


def origin_of(job: Job, *, until: np.datetime64) -> Path | None:
    """The agent that this job starts from; `until` is the last bar that the job itself trains on."""
    if job.family not in job.params.training.init_from:
        return None
    folder = layout.ORIGINS / job.family
    return folder if trained_until(folder) <= until else None


def trained_until(folder: Path) -> np.datetime64:
    """The open of the last bar that the agent in `folder`, or any agent it came from, has learned from."""
    return np.datetime64(json.loads((folder / SEEN).read_text("utf-8"))["until"], "ms")


def seen(job: Job, times: NDArray[np.datetime64], train: Window, origin: Path | None) -> dict[str, Any]:
    """What an agent has learned from; `fresh_share` is the share of bars that its origin had not seen."""
    window = times[train.rows]
    known = 0 if origin is None else int((window <= trained_until(origin)).sum())
    return {
        "from": str(window[0]),
        "until": str(window[-1]),
        "init_from": None if origin is None else job.params.training.init_from[job.family],
        "fresh_share": round(1.0 - known / len(window), 6),
    }
