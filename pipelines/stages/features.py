"""features: what an agent may know at the close of each bar, after the leak gate has passed it.

Writes `data/features/<symbol>.parquet` (candles on their grid, segments, funding, features) and
`metrics/features.json`. A feature that changes when only its future changes stops the run.
"""

from __future__ import annotations

import shutil
import sys

import polars as pl

from pipelines import candles, dataset, layout, params, stage
from pipelines.checks.leaks import LeakError, require_no_leaks
from pipelines.errors import UserError
from pipelines.features import FeatureError, compute, resolve, to_grid, warm_up

NAME = "features"


def features() -> str:
    settings = params.load()
    try:
        chosen = resolve(settings.features.names)
    except FeatureError as error:
        raise UserError(f"params.yaml: features.names: {error}") from error
    raw = candles.scan(layout.CANDLES).collect()
    grid = with_funding(
        to_grid(raw, settings.data.interval, max_gap_bars=settings.checks.max_gap_bars),
        pl.read_parquet(layout.FUNDING),
    )
    leaking: tuple[str, ...] = ()
    try:
        require_no_leaks(grid, chosen, seed=settings.seed)
    except LeakError as error:
        if not settings.checks.force_leaks:
            raise UserError(f"{error} (checks.force_leaks goes on all the same)") from error
        leaking = tuple(sorted({leak.feature for leak in error.leaks}))
        print(f"warning: {error}", file=sys.stderr)
    try:
        table = compute(grid.lazy(), chosen).collect()
    except FeatureError as error:
        raise UserError(str(error)) from error
    with stage.replacing(layout.FEATURES, NAME) as folder:
        dataset.write_table(table, folder)
        shutil.copyfile(layout.TERMS, folder / layout.MARKET_TERMS.name)
    summary = {
        "features": len(chosen),
        "rows": len(table),
        "warm_up_bars": warm_up(chosen),
        "segments": table.select("symbol", "segment").n_unique(),
        "filled_bars": int(table["filled"].sum()),
        "leaking": list(leaking),
    }
    stage.write_json(summary, layout.FEATURE_METRICS, NAME)
    gate = "was FORCED" if leaking else "passed"
    return f"{len(chosen)} features over {len(table)} bars; the leak gate {gate}"


def with_funding(grid: pl.DataFrame, funding: pl.DataFrame) -> pl.DataFrame:
    """Adds `funding`, the rate exchanged at the open of each bar; a stamp inside a bar counts at its open."""
    if funding.is_empty():
        return grid
    opens = grid.select("symbol", "open_time").sort("open_time")
    stamped = (
        funding.rename({"open_time": "stamp"})
        .sort("stamp")
        .join_asof(opens, left_on="stamp", right_on="open_time", by="symbol", strategy="backward")
        .drop_nulls("open_time")
        .group_by("symbol", "open_time")
        .agg(funding=pl.col("rate").sum())
    )
    joined = grid.join(stamped, on=["symbol", "open_time"], how="left", maintain_order="left")
    return joined.with_columns(pl.col("funding").fill_null(0.0))


if __name__ == "__main__":
    sys.exit(stage.run(NAME, features))
