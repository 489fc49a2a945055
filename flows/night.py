"""One night: the window moves, everything is trained anew, the champion stays or falls, one commit.

A plain function of a repository and the time; `flows/nightly.py` puts it on a schedule. The order is
what makes it safe to be killed anywhere: all files of the night are made first, then one transaction of
git makes the night happen, then it is delivered; a night that has its tag is never run again.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from ruamel.yaml import YAML

from flows import champion as reign
from flows import duel, process, promotion, record, workspace
from flows.promotion import Contender, Judgement
from flows.record import Start
from flows.workspace import GitError
from pipelines import layout, locks, params, stage
from pipelines.errors import UserError
from pipelines.settings import Params
from pipelines.sources.bybit_answers import Kind

PAGES = "pages"
STAGE_SECONDS = 6 * 3600.0
FIRST_DELAY, LONGEST_DELAY = 5.0, 900.0  # seconds between two attempts to fetch
# What the exchange may get over by itself; a wrong question stays wrong.
PASSING: tuple[Kind, ...] = ("unavailable", "rate_limited", "banned", "bad_answer", "bad_data")
# What can go wrong outside; anything else is a mistake of ours and is raised.
FAULTS = (process.ProcessFailed, GitError, UserError, OSError)

Say = Callable[[str], None]


class Outcome(NamedTuple):
    """How a night ended.

    state: `promoted` and `refused` are finished nights; `done` was finished before; `yielded` left the
        night to another process; `failed` changed nothing.
    undelivered: why the remote or the repository does not have it yet, or None.
    page: the night for people, in markdown.
    """

    state: Literal["promoted", "refused", "done", "yielded", "failed"]
    reason: str
    day: date
    commit: str | None = None
    undelivered: str | None = None
    page: str = ""


def reproduce(clone: Path, say: Say) -> None:
    """All stages of the clone."""
    process.run(["dvc", "repro"], say=say, timeout=STAGE_SECONDS, folder=clone)


def walk_champion(clone: Path, say: Say) -> None:
    """The champion through the window of the night, in a process of its own."""
    process.run(["python", "-m", "flows.duel"], say=say, timeout=STAGE_SECONDS, folder=clone)


class Means(NamedTuple):
    """How a night tells what it does, runs what is expensive, and waits."""

    say: Say = print
    reproduce: Callable[[Path, Say], None] = reproduce
    walk_champion: Callable[[Path, Say], None] = walk_champion
    sleep: Callable[[float], None] = time.sleep


def run(root: Path, now: datetime, means: Means = Means()) -> Outcome:  # noqa: B008 (it is immutable)
    """The night that closes at the last midnight (UTC) before `now`; see the module for the order.

    Missed nights are caught up by this one, since the window follows the clock. Never raises for what
    can go wrong outside: that is a `failed` outcome, and the next night begins from the last commit.
    """
    day = now.astimezone(UTC).date()
    settings = params.load(root / params.FILE, root / params.PRESETS)
    folder = (root / settings.nightly.work_folder).absolute()
    try:
        with locks.exclusive(folder / workspace.LOCK, timeout=0.0):
            return _locked(root, folder, settings, day, means)
    except locks.StoreLocked as error:
        return Outcome("yielded", f"another night is at work: {error}", day)
    except FAULTS as error:
        return Outcome("failed", _why(error), day, page=f"# Night {day}: failed\n\n{_why(error)}\n")


def _locked(root: Path, folder: Path, settings: Params, day: date, means: Means) -> Outcome:
    nightly = settings.nightly
    space = workspace.open_workspace(root, folder, remote=nightly.remote, follow=nightly.follow)
    finished = workspace.nights(space.clone)
    if finished and finished[-1] >= day:
        commit = workspace.tagged(space, f"{workspace.TAG}{finished[-1]}")
        late = workspace.deliver(space, means.say)
        return Outcome("done", f"the night of {finished[-1]} is done", day, commit, late)
    parents = workspace.begin(space)
    clone = space.clone
    reigning = reign.read(clone)
    start: Start = "warm"
    if reigning is None or len(finished) % nightly.from_scratch_every == 0:
        start = "scratch"
    tonight = set_window(clone, day, reigning if start == "warm" else None)
    record.summarise(clone)
    means.say(f"night of {day}: {tonight.data.bars} bars to {day}, from {start}")
    if tonight.data.source == "bybit":
        fetch_patiently(clone, tonight.nightly.fetch_patience_minutes * 60.0, means)
    if tonight.cluster.address:
        train_elsewhere(clone, means.say)
    means.reproduce(clone, means.say)
    judgement = judge(clone, tonight, reigning, means)
    tag = f"{workspace.TAG}{day}"
    if judgement.promoted is not None:
        reign.crown(
            clone,
            judgement.promoted,
            night=tag,
            parent=parents[0],
            data=json.loads((clone / layout.COMPARISON).read_text("utf-8"))["data"],
            evidence=stage.rounded(judgement.evidence),
        )
    state: Literal["promoted", "refused"] = "refused" if judgement.promoted is None else "promoted"
    record.append(clone, day, state, start, judgement, reigning)
    told = record.facts(clone, reigning, start)
    commit = workspace.commit(space, parents, f"Night {day}: {judgement.reason}\n\n{told}\n", day, tag)
    means.say(f"night of {day}: {judgement.reason} ({commit[:12]})")
    page = ""
    try:  # the night has happened: what fails from here on undoes nothing
        page = record.page(clone, day, judgement, told, metrics_diff(clone, parents[0], commit))
        (folder / PAGES).mkdir(exist_ok=True)
        (folder / PAGES / f"{day}.md").write_text(page, "utf-8")
        late = workspace.deliver(space, means.say)
    except FAULTS as error:
        late = _why(error)
    return Outcome(state, judgement.reason, day, commit, late, page)


def set_window(clone: Path, day: date, origin: reign.Champion | None) -> Params:
    """Writes `data.end` and where training starts into the clone's parameters; returns them, checked."""
    yaml = YAML()
    yaml.width = 4096  # comments stay on their lines
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    file = clone / params.FILE
    tree = yaml.load(file.read_text("utf-8"))
    tree.setdefault("data", {})["end"] = day.isoformat()
    if origin is None:
        reign.uproot(clone)
        planted: dict[str, str] = {}
    else:
        planted = reign.plant(clone, origin)
    tree.setdefault("training", {})["init_from"] = planted
    with file.open("w", encoding="utf-8") as target:
        yaml.dump(tree, target)
    settings = params.load(file, clone / params.PRESETS)
    if settings.data.end != day:  # a value that equals its default gives way to the preset
        raise UserError(
            f"{params.FILE}: data.end = {day}: is the default, so preset {settings.preset!r} overrules it; "
            "remove data.end from the preset"
        )
    return settings


def fetch_patiently(clone: Path, patience: float, means: Means) -> None:
    """The fetch stage; while the exchange is away, again and again until `patience` (seconds) is used up.

    Waits double from 5 s to 15 min, each shortened by a random part, so that many who wait do not come
    back together.
    """
    jitter = random.Random()  # decides only when to ask, never what is learned
    delay = FIRST_DELAY
    while True:
        try:
            return process.run(
                ["dvc", "repro", "--single-item", "fetch"], say=means.say, timeout=STAGE_SECONDS, folder=clone
            )
        except process.ProcessFailed as error:
            why = _why(error)
            if patience <= 0.0 or not why.startswith(tuple(f"error: {kind}:" for kind in PASSING)):
                raise
            wait = min(delay * jitter.uniform(0.5, 1.0), patience)
            means.say(f"fetch failed ({why}); again in {wait:.0f} s")
        means.sleep(wait)
        patience -= wait
        delay = min(2.0 * delay, LONGEST_DELAY)


def train_elsewhere(clone: Path, say: Say) -> None:
    """On the user's cluster, what the train stages will then find finished."""
    process.run(["dvc", "repro", "features"], say=say, timeout=STAGE_SECONDS, folder=clone)
    process.run(["python", "-m", "flows.sweep"], say=say, timeout=STAGE_SECONDS, folder=clone)


def judge(clone: Path, settings: Params, reigning: reign.Champion | None, means: Means) -> Judgement:
    """The rule of promotion on what the stages have left."""
    challengers = duel.newcomers(clone, list(settings.agents))
    champion: Contender | None = None
    note = None
    if reigning is not None:
        try:
            means.walk_champion(clone, means.say)
            champion = duel.champion(clone, reigning, challengers[0].times)
        except process.ProcessFailed as error:
            if error.status != duel.INCOMPATIBLE:
                raise
            note = _why(error)  # the newcomers must then beat cash
    data = json.loads((clone / layout.DATA_METRICS).read_text("utf-8"))
    judgement = promotion.judge(
        challengers,
        champion,
        failed_checks=int(data["expectations"]["failed"]),
        rule=settings.nightly.promotion,
        seed=settings.seed,
    )
    if note is None:
        return judgement
    return judgement._replace(reason=f"{judgement.reason}; {note}")


def metrics_diff(clone: Path, before: str, after: str) -> str:
    """What `dvc metrics diff` prints for two commits, as markdown."""
    lines: list[str] = []
    process.run(
        ["dvc", "metrics", "diff", "--md", before, after], say=lines.append, timeout=600.0, folder=clone
    )
    return "\n".join(lines).strip()


def _why(error: Exception) -> str:
    """The lines of a failure that say what is wrong."""
    if isinstance(error, process.ProcessFailed):
        telling = [
            line for line in error.tail if line.startswith(("error:", "failed:", "the champion cannot"))
        ]
        return " ".join(telling or error.tail[-3:])
    return str(error) or type(error).__name__
