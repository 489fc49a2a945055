"""The series that people plot: small tables, for the page and for `dvc plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from pipelines.backtest import MONEY
from pipelines.evaluation import aggregate, forecasts
from pipelines.evaluation.aggregate import Record
from pipelines.evaluation.intervals import equity_bands
from pipelines.evaluation.metrics import exposure_histogram, net_exposure
from pipelines.settings import Params

EDGES = np.linspace(-1.05, 1.05, 22)  # bins of a tenth, centred on -1.0, -0.9, ..., 1.0
BASIS_POINTS = 1e4


def equity_curves(
    found: Mapping[str, Record], frames: Mapping[str, pl.DataFrame], *, learned: Sequence[str], params: Params
) -> pl.DataFrame:
    """Growth of 1 of every record with bootstrap bands for the learned ones, drawdown and exposure."""
    tables = []
    for name, record in found.items():
        returns = record.returns.mean(axis=1)
        growth = np.cumprod(1.0 + returns)  # [T]
        rows = np.unique(np.linspace(0, len(growth) - 1, params.report.points).astype(np.int64))
        low = high = growth[rows]
        if name in learned and not record.ruined:
            bands = equity_bands(
                returns,
                points=params.report.points,
                replications=params.evaluation.replications,
                level=params.evaluation.confidence,
                seed=params.seed,
            )
            rows, low, high = bands.rows, bands.low, bands.high
        net = frames[name].with_columns(net=pl.Series(net_exposure(frames[name])))
        exposure = net.group_by("open_time").agg(pl.col("net").mean()).sort("open_time")["net"].to_numpy()
        peak = np.maximum.accumulate(np.maximum(growth, 1.0))
        tables.append(
            pl.DataFrame(
                {
                    "agent": [name] * len(rows),
                    "time": record.open_time.gather(rows).dt.strftime("%Y-%m-%dT%H:%M"),
                    "equity": growth[rows],
                    "low": low,
                    "high": high,
                    "drawdown": (growth / peak - 1.0)[rows],
                    "exposure": exposure[rows],
                }
            )
        )
    return pl.concat(tables)


def exposure_shares(frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Share of the time that every agent spent at each net exposure, in bins of a tenth."""
    centres = np.round((EDGES[1:] + EDGES[:-1]) / 2, 1)
    tables = [
        pl.DataFrame(
            {
                "agent": [name] * len(centres),
                "exposure": centres,
                "share": exposure_histogram(net_exposure(frame), EDGES),
            }
        )
        for name, frame in frames.items()
    ]
    return pl.concat(tables).filter(pl.col("share") > 0)


def cost_shares(frames: Mapping[str, pl.DataFrame], initial_equity: float) -> pl.DataFrame:
    """Each ledger item summed over a path, as a share of the start equity; mean over folds and seeds."""
    return (
        pl.concat(frame.select("agent", "fold", "seed", *MONEY) for frame in frames.values())
        .group_by("agent", "fold", "seed", maintain_order=True)
        .agg(pl.col(MONEY).sum() / initial_equity)
        .group_by("agent", maintain_order=True)
        .agg(pl.col(MONEY).mean())
        .unpivot(MONEY, index="agent", variable_name="item", value_name="share")
        .sort("agent", "item")
    )


def performance_profile(found: Mapping[str, Record]) -> pl.DataFrame:
    """Share of the runs (folds and seeds) of each agent whose Sharpe ratio is above each value."""
    matrices = {name: aggregate.figure_matrix(record, "sharpe") for name, record in found.items()}
    known = np.concatenate([matrix[np.isfinite(matrix)] for matrix in matrices.values()])
    if known.size == 0:
        return pl.DataFrame(schema={"agent": pl.String, "sharpe": pl.Float64, "share": pl.Float64})
    levels = np.round(np.linspace(known.min() - 0.5, known.max() + 0.5, 101), 3)
    tables = [
        pl.DataFrame(
            {
                "agent": [name] * len(levels),
                "sharpe": levels,
                "share": aggregate.performance_profile(matrix, levels),
            }
        )
        for name, matrix in matrices.items()
        if np.isfinite(matrix).any()
    ]
    return pl.concat(tables)


def coverage(models: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """How often each range held the truth, by bars ahead, beside what it claims."""
    rows = [
        {"agent": name, "bars_ahead": step, "claimed": float(share) / 100.0, "covered": covered}
        for name, model in models.items()
        for share, by_step in model[forecasts.HELD].get("coverage", {}).items()
        for step, covered in enumerate(by_step, start=1)
    ]
    schema = {"agent": pl.String, "bars_ahead": pl.Int32, "claimed": pl.Float64, "covered": pl.Float64}
    return pl.DataFrame(rows, schema=schema)


def transforms(models: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """Where in its forecast the truth fell: share of the bars in each tenth of the probability."""
    rows = [
        {"agent": name, "tenth": f"{place / forecasts.PIT_BINS:.1f}", "share": share}
        for name, model in models.items()
        for place, share in enumerate(model[forecasts.HELD].get("pit", []))
    ]
    return pl.DataFrame(rows, schema={"agent": pl.String, "tenth": pl.String, "share": pl.Float64})


def planned(models: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """Reward by bars ahead that was foreseen, and what came, in basis points; `error` is of what came."""
    rows = [
        {
            "agent": name,
            "kind": kind,
            "bars_ahead": step,
            "line": line,
            "reward": BASIS_POINTS * float(value),
            "error": BASIS_POINTS * float(error) if line == "realised" else 0.0,
        }
        for name, model in models.items()
        for kind in (forecasts.HELD, forecasts.OWN)
        for line in ("planned", "realised")
        for step, (value, error) in enumerate(
            zip(
                model[kind][line],
                model[kind].get("bias_error", np.zeros(len(model[kind][line]))),
                strict=True,
            ),
            start=1,
        )
    ]
    schema = {"agent": pl.String, "kind": pl.String, "bars_ahead": pl.Int32, "line": pl.String,
              "reward": pl.Float64, "error": pl.Float64}  # fmt: skip
    return pl.DataFrame(rows, schema=schema)


def fans(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """One forecast an agent (the middle of the last fold, first seed): ranges of the sum, in basis points."""
    names = ["mean", *(name for name in forecasts.SCHEMA if name.startswith("q")), "realised"]
    parts = []
    for table in tables.values():
        path = table.filter((pl.col("scope") == forecasts.PATH) & (pl.col("seed") == 0))
        path = path.filter(pl.col("fold") == pl.col("fold").max())
        probes = path["probe"].unique().sort()
        if len(probes):
            parts.append(path.filter(pl.col("probe") == probes[len(probes) // 2]))
    rows = pl.concat(parts) if parts else forecasts.empty()
    return rows.select(
        "agent", "kind", pl.col("step").alias("bars_ahead"), pl.col(names).cast(pl.Float64) * BASIS_POINTS
    )


def training(curves: Mapping[str, pl.DataFrame], points: int) -> pl.DataFrame:
    """Training curves, the mean over folds and seeds; `agent` names the family and the metric.

    Args:
        curves: family -> [job, step, metric, value].
        points: at most this many a line.
    """
    tables = []
    for family, curve in curves.items():
        mean = curve.group_by("metric", "step").agg(mean=pl.col("value").mean()).sort("metric", "step")
        rank, length = pl.int_range(pl.len()).over("metric"), pl.len().over("metric")
        thin = mean.filter(rank % pl.max_horizontal(length // points, pl.lit(1)) == 0)
        tables.append(thin.select(agent=pl.lit(f"{family}: ") + pl.col("metric"), step="step", mean="mean"))
    schema = {"agent": pl.String, "step": pl.Int64, "mean": pl.Float64}
    return pl.concat(tables) if tables else pl.DataFrame(schema=schema)
