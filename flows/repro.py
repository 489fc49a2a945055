"""The whole experiment as a Prefect flow: one task a DVC stage, independent stages side by side.

DVC stays the judge of what is up to date; Prefect adds live logs, retries for the fetch and a record of
the run. The graph comes from `dvc dag`.

    python -m flows.repro [--single]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff

from flows import graph, process

STAGE_SECONDS = 6 * 3600.0
FETCH_RETRIES = 4
SIDE_BY_SIDE = 2


@task(cache_policy=NO_CACHE)
def stage(name: str, folder: Path | None = None) -> None:
    """Brings one DVC stage up to date, in `folder` or the current one."""
    process.run(
        ["dvc", "--wait-for-lock", "repro", "--single-item", name],
        say=get_run_logger().info,
        timeout=STAGE_SECONDS,
        folder=folder,
    )


@task(cache_policy=NO_CACHE)
def everything() -> None:
    """`dvc repro` in one task: the cheapest way where most stages are up to date."""
    process.run(["dvc", "repro"], say=get_run_logger().info, timeout=STAGE_SECONDS)


@flow(name="repro", task_runner=ThreadPoolTaskRunner(max_workers=SIDE_BY_SIDE))  # type: ignore[arg-type]
def repro(mode: Literal["stages", "single"] = "stages") -> None:
    """Reproduces the pipeline of the current folder and publishes what it found as an artifact."""
    if mode == "single":
        everything()
    else:
        run_stages(graph.read())
    create_markdown_artifact(summary(Path("metrics")), key="repro", description="What the agents earned")


def run_stages(stages: Mapping[str, set[str]], folder: Path | None = None) -> None:
    """Submits every stage below the ones it waits for; a failed stage stops only what hangs on it."""
    futures: dict[str, PrefectFuture[Any]] = {}
    for name in TopologicalSorter(stages).static_order():
        runnable = stage.with_options(name=name, task_run_name=name)
        if name.startswith("fetch"):  # the only stage that meets a network
            runnable = runnable.with_options(
                retries=FETCH_RETRIES,
                retry_delay_seconds=exponential_backoff(backoff_factor=5),
                retry_jitter_factor=0.5,
            )
        futures[name] = runnable.submit(
            name,
            folder,
            wait_for=[futures[above] for above in sorted(stages[name])],
            return_state=False,
        )
    wait(list(futures.values()))
    for future in futures.values():
        future.result()  # a failure of any stage is a failure of the run


def summary(metrics: Path) -> str:
    """A markdown table of the comparison, for the artifact."""
    file = metrics / "comparison.json"
    if not file.is_file():
        return "No comparison was written."
    agents: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["agents"]
    columns = ["total_return", "sharpe", "max_drawdown", "turnover_per_year", "verdict"]
    rows = [
        "| " + " | ".join([name, *(_cell(figures.get(column)) for column in columns)]) + " |"
        for name, figures in agents.items()
    ]
    head = "| agent | " + " | ".join(column.replace("_", " ") for column in columns) + " |"
    return "\n".join([head, "|" + " --- |" * (len(columns) + 1), *rows])


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flows.repro", description="The pipeline as a Prefect flow."
    )
    parser.add_argument("--single", action="store_true", help="one task for all stages: less overhead")
    repro(mode="single" if parser.parse_args().single else "stages")


if __name__ == "__main__":
    main()
