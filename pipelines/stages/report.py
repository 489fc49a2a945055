"""report: one self-contained page for people, `reports/index.html`.

Beside it lies `reports/plots.html`, the empty page that `dvc plots` fills: with the chart library in it,
so that comparing commits needs no network either.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import polars as pl

import models
from pipelines import candles, layout, params, stage
from pipelines.report.page import Inputs, plots_page, render
from pipelines.settings import Params
from pipelines.stages.backtest import BASELINES
from pipelines.stages.train import CURVE

NAME = "report"
SERIES = (
    "equity", "exposures", "costs", "profile", "coverage", "transform", "planned", "fan", "regimes",
)  # fmt: skip
LIMIT_BYTES = 5_000_000


def report() -> str:
    settings = params.load()
    page = render(inputs(settings))
    with stage.replacing(layout.PAGE, NAME) as path:
        path.write_text(page, "utf-8")
    with stage.replacing(layout.PLOTS_PAGE, NAME) as path:
        path.write_text(plots_page(), "utf-8")
    size = len(page.encode())
    if size > LIMIT_BYTES:
        print(f"warning: the page has {size / 1e6:.1f} MB; lower report.points", file=sys.stderr)
    return f"{layout.PAGE}, {size / 1e6:.1f} MB"


def inputs(settings: Params) -> Inputs:
    """Reads what the stages before have written."""
    points = settings.report.points
    return Inputs(
        params=settings,
        comparison=_json(layout.COMPARISON),
        data=_json(layout.DATA_METRICS),
        features=_json(layout.FEATURE_METRICS),
        evidence=_json(layout.EVIDENCE),
        figures={name: _json(layout.metrics(name)) for name in [*settings.agents, BASELINES]},
        reasons={name: _json(layout.reasons(name)) for name in settings.agents},
        series={
            **{name: pl.read_csv(layout.PLOTS / f"{name}.csv", infer_schema_length=None) for name in SERIES},
            "training": _training(settings, points),
            "prices": _prices(points),
            "gaps": pl.read_parquet(layout.CHECKED / "gaps.parquet").with_columns(
                pl.col("after", "before").dt.strftime("%Y-%m-%dT%H:%M")
            ),
        },
        code=stage.code_hash(),
        **optional(settings),
    )


def optional(settings: Params) -> dict[str, dict[str, Any] | None]:
    """What the page has a section for only where it exists; the recorded trades only where a family of the
    run learns from them, since they are recorded for every run."""
    files = {
        "hallucinated": layout.HALLUCINATED,
        "nights": layout.NIGHTS,
        "execution": layout.EXECUTION_PLANNER,
    }
    if models.OFFLINE.intersection(settings.agents):
        files["behaviour"] = layout.BEHAVIOUR_METRICS
    return {name: _json(file) if file.exists() else None for name, file in files.items()}


def _training(settings: Params, points: int) -> pl.DataFrame:
    """Curves of all families."""
    tables = []
    for family in settings.agents:
        curve = pl.read_csv(layout.curves(family), schema=CURVE)
        rank = pl.int_range(pl.len()).over("job", "metric")
        step = pl.max_horizontal(pl.len().over("job", "metric") * 8 // points, pl.lit(1))
        tables.append(curve.filter(rank % step == 0).with_columns(agent=pl.lit(family)))
    return pl.concat(tables)


def _prices(points: int) -> pl.DataFrame:
    closes = candles.scan(layout.CANDLES).select("symbol", "open_time", "close").collect()
    rank, length = pl.int_range(pl.len()).over("symbol"), pl.len().over("symbol")
    return closes.filter(rank % pl.max_horizontal(length // points, pl.lit(1)) == 0).select(
        "symbol",
        "close",
        time=pl.col("open_time").dt.strftime("%Y-%m-%dT%H:%M"),
        relative=pl.col("close") / pl.col("close").first().over("symbol"),
    )


def _json(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return tree


if __name__ == "__main__":
    sys.exit(stage.run(NAME, report))
