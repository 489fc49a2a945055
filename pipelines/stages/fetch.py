"""fetch: the candles of the window, and for a simulated market the truth behind them.

python -m pipelines.stages.fetch [--dry-run]
"""

from __future__ import annotations

import argparse
import json
import sys

from pipelines import candles, layout, params, stage
from pipelines.sources.gather import gather, preview

NAME = "fetch"


def fetch() -> str:
    settings = params.load()
    found = gather(settings)
    with stage.replacing(layout.RAW, NAME) as raw:
        candles.write(found.candles, raw / layout.CANDLES.name)
        found.funding.write_parquet(raw / layout.FUNDING.name)
        (raw / layout.TERMS.name).write_text(json.dumps({"min_notional": found.min_notional}) + "\n", "utf-8")
    with stage.replacing(layout.TRUTH, NAME) as truth:
        truth.mkdir()
        (truth / "source.txt").write_text(f"{settings.data.source}\n", "utf-8")
        if found.truth is not None:
            found.truth.write_parquet(truth / layout.TRUTH_TABLE.name)
    symbols = found.candles["symbol"].n_unique()
    return f"{len(found.candles)} candles of {symbols} symbol(s); {found.note}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.stages.fetch", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="say what would be fetched, fetch nothing")
    if parser.parse_args().dry_run:
        return stage.run(f"{NAME} --dry-run", lambda: preview(params.load()))
    return stage.run(NAME, fetch)


if __name__ == "__main__":
    sys.exit(main())
