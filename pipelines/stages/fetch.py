"""fetch: the candles of the window, and for a simulated market the truth behind them.

python -m pipelines.stages.fetch [--dry-run]
"""

from __future__ import annotations

import argparse
import json
import sys

import polars as pl

from pipelines import candles, layout, params, stage
from pipelines.settings import Params
from pipelines.sources.gather import gather, preview

NAME = "fetch"


def fetch() -> str:
    settings = params.load()
    found = gather(settings)
    with stage.replacing(layout.RAW, NAME) as raw:
        candles.write(found.candles, raw / layout.CANDLES.name)
        for interval, other in others(settings).items():
            candles.write(other, raw / layout.OTHERS.name / interval)
        found.funding.write_parquet(raw / layout.FUNDING.name)
        (raw / layout.TERMS.name).write_text(json.dumps({"min_notional": found.min_notional}) + "\n", "utf-8")
    with stage.replacing(layout.TRUTH, NAME) as truth:
        truth.mkdir()
        (truth / "source.txt").write_text(f"{settings.data.source}\n", "utf-8")
        if found.truth is not None:
            found.truth.write_parquet(truth / layout.TRUTH_TABLE.name)
    symbols = found.candles["symbol"].n_unique()
    return f"{len(found.candles)} candles of {symbols} symbol(s); {found.note}"


def others(settings: Params) -> dict[str, pl.DataFrame]:
    """The same window at the further intervals of `data.also`."""
    return {
        interval: gather(
            settings.model_copy(update={"data": settings.data.model_copy(update={"interval": interval})})
        ).candles
        for interval in settings.data.also
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.stages.fetch", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="say what would be fetched, fetch nothing")
    if parser.parse_args().dry_run:
        return stage.run(f"{NAME} --dry-run", lambda: preview(params.load()))
    return stage.run(NAME, fetch)


if __name__ == "__main__":
    sys.exit(main())
