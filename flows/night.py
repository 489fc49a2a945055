"""One night: the window moves, everything is trained anew, the champion stays or falls, one commit.

A plain function of a repository and the time; `flows/nightly.py` puts it on a schedule. The order is
what makes it safe to be killed anywhere: all files of the night are made first, then one transaction of
git makes the night happen, then it is delivered; a night that has its tag is never run again.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ruamel.yaml import YAML

from flows import champion as reign
from flows import duel, process, promotion, workspace
from flows.promotion import Contender, Judgement
from flows.workspace import GitError
from pipelines import layout, locks, params, stage
from pipelines.errors import UserError
from pipelines.params import Params

RECORD = "nights.jsonl"
PAGES = "pages"
LOCK = "night.lock"
STAGE_SECONDS = 6 * 3600.0
FIRST_DELAY, LONGEST_DELAY = 5.0, 900.0  # seconds between two attempts to fetch
SCRATCH, WARM = "scratch", "warm"

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


def run(
    root: Path,
    now: datetime,
    *,
    say: Say = print,
    reproduce: Callable[[Path, Say], None] = reproduce,
    walk_champion: Callable[[Path, Say], None] = walk_champion,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """The night that closes at the last midnight (UTC) before `now`; see the module for the order.

    Missed nights are caught up by this one, since the window follows the clock. Never raises for what
    can go wrong outside: that is a `failed` outcome, and the next night begins from the last commit.
    """
    day = now.astimezone(UTC).date()
    settings = params.load(root / params.FILE, root / params.PRESETS)
    folder = (root / settings.nightly.work_folder).absolute()
    try:
        with locks.exclusive(folder / LOCK, timeout=0.0):
            outcome = _locked(root, folder, settings, day, say, reproduce, walk_champion, sleep)
    except locks.StoreLocked as error:
        return Outcome("yielded", f"another night is at work: {error}", day)
    except (process.ProcessFailed, GitError, UserError, OSError) as error:
        outcome = Outcome("failed", _why(error), day, page=f"# Night {day}: failed\n\n{_why(error)}\n")
    return outcome


def _locked(
    root: Path,
    folder: Path,
    settings: Params,
    day: date,
    say: Say,
    reproduce: Callable[[Path, Say], None],
    walk_champion: Callable[[Path, Say], None],
    sleep: Callable[[float], None],
) -> Outcome:
    nightly = settings.nightly
    space = workspace.open_workspace(root, folder, remote=nightly.remote, follow=nightly.follow)
    finished = workspace.nights(space)
    if finished and finished[-1] >= day:
        commit = workspace.tagged(space, f"{workspace.TAG}{finished[-1]}")
        late = workspace.deliver(space, say)
        return Outcome("done", f"the night of {finished[-1]} is done", day, commit, late)
    parents = workspace.begin(space)
    clone = space.clone
    reigning = reign.read(clone)
    start = SCRATCH if reigning is None or len(finished) % nightly.from_scratch_every == 0 else WARM
    tonight = set_window(clone, day, reigning if start == WARM else None)
    say(f"night of {day}: {tonight.data.bars} bars to {day}, from {start}")
    fetch_patiently(clone, tonight, say, sleep)
    reproduce(clone, say)
    judgement = decide(clone, tonight, reigning, walk_champion, say)
    tag = f"{workspace.TAG}{day}"
    if judgement.promoted is not None:
        reign.crown(
            clone,
            judgement.promoted,
            night=tag,
            parent=parents[0],
            data=_read_json(clone / layout.COMPARISON)["data"],
            evidence=stage.rounded(judgement.evidence),
        )
    state: Literal["promoted", "refused"] = "refused" if judgement.promoted is None else "promoted"
    _record(clone, day, state, start, judgement)
    message = f"Night {day}: {judgement.reason}\n\n{_facts(clone, reigning, start)}\n"
    commit = workspace.commit(space, parents, message, day, tag)
    say(f"night of {day}: {judgement.reason} ({commit[:12]})")
    page = _page(clone, day, judgement, start, reigning, metrics_diff(clone, parents[0], commit))
    (folder / PAGES).mkdir(exist_ok=True)
    (folder / PAGES / f"{day}.md").write_text(page, "utf-8")
    late = workspace.deliver(space, say)
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


def fetch_patiently(clone: Path, settings: Params, say: Say, sleep: Callable[[float], None]) -> None:
    """The fetch stage; while an exchange is away, again and again until the patience is used up.

    Waits double from 5 s to 15 min, each shortened by a random part, so that many who wait do not come
    back together. The other sources meet no network: what fails there fails at once.
    """
    patience = settings.nightly.fetch_patience_minutes * 60.0
    if settings.data.source != "bybit":
        patience = 0.0
    jitter = random.Random()  # decides only when to ask, never what is learned
    delay = FIRST_DELAY
    while True:
        try:
            return process.run(
                ["dvc", "repro", "--single-item", "fetch"], say=say, timeout=STAGE_SECONDS, folder=clone
            )
        except process.ProcessFailed as error:
            if patience <= 0.0:
                raise
            wait = min(delay * jitter.uniform(0.5, 1.0), patience)
            say(f"fetch failed ({_why(error)}); again in {wait:.0f} s")
        sleep(wait)
        patience -= wait
        delay = min(2.0 * delay, LONGEST_DELAY)


def decide(
    clone: Path,
    settings: Params,
    reigning: reign.Champion | None,
    walk_champion: Callable[[Path, Say], None],
    say: Say,
) -> Judgement:
    """The rule of promotion on what the stages have left."""
    challengers = duel.newcomers(clone, list(settings.agents))
    champion: Contender | None = None
    note = None
    if reigning is not None:
        try:
            walk_champion(clone, say)
            champion = duel.champion(clone, reigning, challengers[0].times)
        except process.ProcessFailed as error:
            if error.status != duel.INCOMPATIBLE:
                raise
            note = _why(error)  # the newcomers must then beat cash
    failed = int(_read_json(clone / layout.DATA_METRICS)["expectations"]["failed"])
    judgement = promotion.judge(
        challengers,
        champion,
        failed_checks=failed,
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


def history(clone: Path) -> list[dict[str, Any]]:
    """All nights in the record, in order."""
    file = clone / RECORD
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []


def _record(clone: Path, day: date, state: str, start: str, judgement: Judgement) -> None:
    entry = {
        "night": day.isoformat(),
        "state": state,
        "start": start,
        "reason": judgement.reason,
        "comparison": judgement.evidence.get("comparison"),
        "newcomers": judgement.evidence["newcomers"],
    }
    text = json.dumps(stage.rounded(entry), sort_keys=True, allow_nan=False)
    with (clone / RECORD).open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def _facts(clone: Path, reigning: reign.Champion | None, start: str) -> str:
    agents = _read_json(clone / layout.COMPARISON)["agents"]
    verdicts = [f"{name}: {found['verdict']}" for name, found in agents.items() if "verdict" in found]
    after = reign.read(clone)
    return "\n".join(
        [
            f"Champion before: {reigning.name if reigning else 'nobody'}",
            f"Champion now: {after.name if after else 'nobody'}",
            f"Training from: {start}",
            *verdicts,
        ]
    )


def _page(
    clone: Path, day: date, judgement: Judgement, start: str, reigning: reign.Champion | None, diff: str
) -> str:
    rows = [
        f"| {name} | {_percent(found['total_return'])} | {_percent(found['max_drawdown'])} "
        f"| {judgement.evidence.get('objections', {}).get(name, '')} |"
        for name, found in judgement.evidence["newcomers"].items()
    ]
    found = judgement.evidence["champion"]
    if found is not None:
        rows.append(
            f"| champion: {found['name']} | {_percent(found['total_return'])} "
            f"| {_percent(found['max_drawdown'])} | |"
        )
    return "\n".join(
        [
            f"# Night {day}: {judgement.reason}",
            "",
            _facts(clone, reigning, start),
            "",
            "On the last test window, after every cost:",
            "",
            "| agent | return | drawdown | objection |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            "From scratch against warm, over the nights so far:",
            "",
            *starts_table(history(clone)),
            "",
            "What changed since the night before (`dvc metrics diff`):",
            "",
            diff,
            "",
        ]
    )


def starts_table(nights: Sequence[dict[str, Any]]) -> list[str]:
    """Nights from scratch and from the champion side by side, as markdown rows."""
    rows = [
        "| training from | nights | promoted | mean return of the best newcomer |",
        "| --- | --- | --- | --- |",
    ]
    for start in (SCRATCH, WARM):
        own = [night for night in nights if night["start"] == start]
        best = [
            max(found["total_return"] for found in night["newcomers"].values())
            for night in own
            if all(found["total_return"] is not None for found in night["newcomers"].values())
        ]
        mean = _percent(sum(best) / len(best)) if best else "–"
        promoted = sum(night["state"] == "promoted" for night in own)
        rows.append(f"| {start} | {len(own)} | {promoted} | {mean} |")
    return rows


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2%}"


def _read_json(file: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return tree


def _why(error: Exception) -> str:
    """The lines of a failure that say what is wrong."""
    if isinstance(error, process.ProcessFailed):
        telling = [
            line for line in error.tail if line.startswith(("error:", "failed:", "the champion cannot"))
        ]
        return " ".join(telling or error.tail[-3:])
    return str(error) or type(error).__name__
