"""The night as a Prefect flow: the stages as tasks, the page of the night as an artifact."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.task_runners import ThreadPoolTaskRunner

from flows import graph, night, repro
from flows import nightly as schedule
from pipelines import params
from pipelines.errors import UserError


class NightFailed(UserError):
    """The night changed nothing; the run is shown as failed, so that automations see it."""


@flow(name="nightly", task_runner=ThreadPoolTaskRunner(max_workers=repro.SIDE_BY_SIDE))  # type: ignore[arg-type]
def nightly() -> None:
    """The night that closes at the last midnight, in the repository of the current folder."""
    logger = get_run_logger()
    root = Path.cwd()
    settings = params.load(root / params.FILE, root / params.PRESETS).nightly
    means = night.Means(
        say=logger.info,
        reproduce=lambda clone, say: repro.run_stages(graph.read(clone), clone),
    )
    outcome = night.run(root, datetime.now(UTC), means)
    schedule.announce(outcome, settings.webhook_url, logger.info)
    page = outcome.page or f"# Night {outcome.day}: {outcome.state}\n\n{outcome.reason}\n"
    create_markdown_artifact(page, key="nightly", description=outcome.reason)
    if outcome.undelivered is not None:
        logger.warning("not delivered yet, the next night will: %s", outcome.undelivered)
    if outcome.state == "failed":
        raise NightFailed(outcome.reason)
