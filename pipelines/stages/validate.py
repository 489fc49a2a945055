"""validate: Great Expectations over the candles; a failed expectation stops the run.

Writes `metrics/data.json`, the holes and outliers (`data/checked`) and the Data Docs. On a failure the
docs go to `work/validation`, so that they can be read although the stage has no output.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from pipelines import candles, layout, params, stage
from pipelines.checks.expectations import CheckSettings, check_candles, summary
from pipelines.errors import UserError

NAME = "validate"
FAILED = Path("work/validation")


def validate() -> str:
    settings = params.load()
    start, end = settings.data.window
    checks = settings.checks
    with stage.replacing(layout.DOCS, NAME) as docs:
        report = check_candles(
            candles.scan(layout.CANDLES),
            interval=settings.data.interval,
            start=start,
            end=end,
            symbols=settings.data.symbols,
            settings=CheckSettings(
                max_gap_bars=checks.max_gap_bars,
                max_gap_share=checks.max_gap_share,
                jump_sigmas=checks.jump_sigmas,
                stale_bars=checks.stale_bars,
            ),
            others={name: candles.scan(layout.OTHERS / name) for name in settings.data.also},
            docs=docs,
        )
        if not report.passed:
            shutil.rmtree(FAILED, ignore_errors=True)
            FAILED.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(docs, FAILED)
            for failure in report.failures:
                print(f"failed: {failure.name}: {failure.text}", file=sys.stderr)
            names = ", ".join(failure.name for failure in report.failures)
            raise UserError(
                f"the candles failed {len(report.failures)} check(s): {names}; see {FAILED}/index.html"
            )
    with stage.replacing(layout.CHECKED, NAME) as checked:
        checked.mkdir()
        report.gaps.write_parquet(checked / "gaps.parquet")
        report.outliers.write_parquet(checked / "outliers.parquet")
    stage.write_json(summary(report), layout.DATA_METRICS, NAME)
    for warning in report.warnings:
        print(f"warning: {warning.name}: {warning.text}", file=sys.stderr)
    return f"{len(report.expectations)} expectations hold, {len(report.warnings)} warning(s)"


if __name__ == "__main__":
    sys.exit(stage.run(NAME, validate))
