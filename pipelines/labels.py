"""The regimes that an agent said it was in (`info_regime`), laid over the market that it said it of."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.dataset import Dataset
from pipelines.evaluation.regimes import Trait, adjusted_rand_index, traits

COLUMN = "info_regime"
SPANS: dict[str, Any] = {"agent": pl.String, "start": pl.String, "end": pl.String, "regime": pl.String}


class Labels(NamedTuple):
    """What one agent's labels are.

    rand: agreement with the true regimes (adjusted Rand index), None where nobody knows them.
    spans: stretches of one label, thinned, in the columns of `SPANS`.
    """

    traits: list[Trait]
    rand: float | None
    spans: pl.DataFrame


def labels_of(
    agent: str, frame: pl.DataFrame, data: Dataset, truth: NDArray[np.float64] | None, *, points: int
) -> Labels | None:
    """The labels of the first seed over all folds; None for an agent that says nothing of regimes.

    A label is said at the close of a bar and stands in the row of the next one: it is named by what came
    in that row's bar, and held against the true regime of the bar that the agent had just seen.

    Args:
        truth: [T] the true regime of every bar of `data`.
        points: at most this many spans.
    """
    if COLUMN not in frame.columns or frame[COLUMN].null_count() == len(frame):
        return None
    one = frame.filter(pl.col("seed") == pl.col("seed").min()).sort("open_time").drop_nulls(COLUMN)
    said = one[COLUMN].round().cast(pl.Int64).to_numpy()
    times = one["open_time"].dt.replace_time_zone(None).to_numpy().astype("datetime64[ms]")
    rows = np.searchsorted(data.times, times)
    moved = np.log(data.bars.close[rows] / data.bars.close[rows - 1]).mean(axis=1)  # [T]
    found = traits(said, moved)
    names = {trait.label: trait.name for trait in found}
    spans = _spans(said, times, points)
    return Labels(
        traits=found,
        rand=None if truth is None else adjusted_rand_index(said, truth[rows - 1]),
        spans=pl.DataFrame(
            [(agent, start, end, names[label]) for start, end, label in spans], schema=SPANS, orient="row"
        ),
    )


def _spans(said: NDArray[np.int64], times: NDArray[np.datetime64], points: int) -> list[tuple[str, str, int]]:
    """Runs of one label; labels that change faster than `points` allows are outvoted within their stretch."""
    stretch = max(1, -(-len(said) // points))
    starts = np.arange(0, len(said), stretch)
    votes = [int(np.bincount(said[start : start + stretch]).argmax()) for start in starts]
    changes = [0, *(place for place in range(1, len(votes)) if votes[place] != votes[place - 1])]
    ends = [*changes[1:], len(votes)]
    text = np.datetime_as_string(times, unit="m")
    return [
        (str(text[starts[first]]), str(text[starts[last] if last < len(starts) else -1]), votes[first])
        for first, last in zip(changes, ends, strict=True)
    ]
