"""The nights on a schedule: a thin Prefect flow around `flows.night.run`.

    python -m flows.nightly --serve     # a schedule (cron and time zone in params.yaml)
    python -m flows.nightly             # the night of now, once
    python -m flows.nightly --plain     # the same without Prefect

One run at a time: a run that meets another one is cancelled by the server, and by the lock in the work
folder where the two do not share a server. The window follows the clock and not the time a run was
scheduled for, so that nights missed while the machine was off are caught up by one run, at the start.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flows import night, notify, server, workspace
from flows.night import Outcome
from pipelines import params
from pipelines.errors import UserError

if TYPE_CHECKING:
    from prefect.flows import Flow

ANNOUNCED = ("failed", "refused")


def announce(outcome: Outcome, url: str, say: night.Say) -> None:
    """Posts a failure, a refusal or a night that was not delivered, if there is somewhere to post to."""
    if url and (outcome.state in ANNOUNCED or outcome.undelivered is not None):
        problem = notify.post(
            url,
            {
                "night": outcome.day.isoformat(),
                "state": outcome.state,
                "reason": outcome.reason,
                "commit": outcome.commit,
                "undelivered": outcome.undelivered,
            },
        )
        if problem is not None:
            say(f"warning: {problem}")


def once(root: Path, now: datetime) -> int:
    """One night without Prefect."""
    settings = params.load(root / params.FILE, root / params.PRESETS)
    outcome = night.run(root, now)
    announce(outcome, settings.nightly.webhook_url, print)
    return report(outcome)


def report(outcome: Outcome) -> int:
    """Prints how the night ended; the exit status."""
    print(f"night of {outcome.day}: {outcome.state}: {outcome.reason}")
    if outcome.undelivered is not None:
        print(f"warning: not delivered yet, the next night will: {outcome.undelivered}", file=sys.stderr)
    if outcome.state == "failed":
        print(f"error: the night of {outcome.day} changed nothing: {outcome.reason}", file=sys.stderr)
        return 1
    return 0


def make_flow() -> Flow[[], None]:
    """The Prefect flow. Imported here, because Prefect costs seconds that a plain night need not pay."""
    from flows.nightly_flow import nightly

    return nightly


def overdue(folder: Path, now: datetime) -> bool:
    """Whether nights have been in this work folder, and another could have been since the last of them."""
    clone = folder / workspace.CLONE
    done = workspace.nights(clone) if clone.is_dir() else []
    return bool(done) and done[-1] < now.astimezone(UTC).date()


def serve(root: Path) -> None:
    """Keeps a schedule until it is ended; one run at a time, the later one is cancelled."""
    settings = params.load(root / params.FILE, root / params.PRESETS).nightly
    folder = (root / settings.work_folder).absolute()
    with server.running(folder / "server.log") as url:
        from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
        from prefect.schedules import Cron
        from prefect.types.entrypoint import EntrypointType

        print(f"nights at {settings.cron!r} ({settings.timezone}); pages: {url.removesuffix('/api')}")
        if overdue(folder, datetime.now(UTC)):
            try:
                make_flow()()
            except UserError as error:  # it was announced; the next one tries again
                print(f"error: {error}", file=sys.stderr)
        make_flow().serve(
            name="nightly",
            schedule=Cron(settings.cron, timezone=settings.timezone),
            global_limit=ConcurrencyLimitConfig(
                limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
            ),
            description="Moves the window, retrains, compares with the champion, commits.",
            entrypoint_type=EntrypointType.MODULE_PATH,
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.nightly", description=__doc__.split("\n")[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--serve", action="store_true", help="on the schedule of params.yaml, until ended")
    mode.add_argument("--plain", action="store_true", help="now, without Prefect")
    parser.add_argument("--now", help="the time to take for now (ISO, UTC); for rehearsals; with --plain")
    arguments = parser.parse_args(argv)
    try:
        if arguments.serve:
            serve(Path.cwd())
            return 0
        if arguments.plain:
            moment = datetime.fromisoformat(arguments.now) if arguments.now else datetime.now(UTC)
            return once(Path.cwd(), moment if moment.tzinfo else moment.replace(tzinfo=UTC))
        make_flow()()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
