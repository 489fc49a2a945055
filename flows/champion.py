"""The reigning agent: what it is, where it came from, and how it takes and leaves its place.

`champion.json` and the folder `champion/` lie in git beside the night that crowned it, so that a clone
can decide without anything else, and so that a rollback is a change of two paths.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

from flows import workspace
from pipelines import layout, locks, origins, params
from pipelines.errors import UserError

FILE = Path("champion.json")
FOLDER = Path("champion")


class Champion(NamedTuple):
    """What `champion.json` says.

    agent: family, fold, seed, and the content hash of `champion/`.
    night: the tag of the commit that crowned it; `parent` is the commit that it was trained on top of.
    data: fingerprint of the features it was trained on.
    trained: the `training.json` of the agent.
    evidence: the judgement that crowned it.
    previous: the commit that holds the champion before it, or None.
    """

    agent: dict[str, Any]
    night: str
    parent: str
    data: str
    trained: dict[str, Any]
    evidence: dict[str, Any]
    previous: str | None

    @property
    def family(self) -> str:
        return str(self.agent["family"])

    @property
    def name(self) -> str:
        """For people: the family and the night."""
        return f"{self.family} of {self.night}"


def read(root: Path) -> Champion | None:
    """The champion of a checkout, or None; a folder that is not the one described is an error."""
    file = root / FILE
    if not file.is_file():
        return None
    try:
        champion = Champion(**json.loads(file.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    found = origins.content_hash(root / FOLDER) if (root / FOLDER).is_dir() else "nothing"
    if found != champion.agent["hash"]:
        raise UserError(
            f"{root / FOLDER} holds {found}, not the agent {champion.agent['hash']} of {file.name}"
        )
    return champion


def crown(
    root: Path, contender: str, *, night: str, parent: str, data: str, evidence: dict[str, Any]
) -> None:
    """Puts a newly trained agent ("family/fold-i/seed-j" under `artifacts`) in the champion's place."""
    source = root / layout.ARTIFACTS / contender
    family, fold, seed = Path(contender).parts
    previous = parent if read(root) is not None else None
    _replace(source, root / FOLDER)
    champion = Champion(
        agent={
            "family": family,
            "fold": int(fold.removeprefix("fold-")),
            "seed": int(seed.removeprefix("seed-")),
            "hash": origins.content_hash(root / FOLDER),
        },
        night=night,
        parent=parent,
        data=data,
        trained=json.loads((source / origins.SEEN).read_text("utf-8")),
        evidence=evidence,
        previous=previous,
    )
    text = json.dumps(champion._asdict(), indent=2, sort_keys=True, allow_nan=False)
    (root / FILE).write_text(text + "\n", "utf-8")


def plant(root: Path, champion: Champion) -> dict[str, str]:
    """Copies the champion to where training starts from; returns the entry for `training.init_from`."""
    uproot(root)
    _replace(root / FOLDER, root / layout.ORIGINS / champion.family)
    return {champion.family: str(champion.agent["hash"])}


def uproot(root: Path) -> None:
    """Training starts from scratch."""
    shutil.rmtree(root / layout.ORIGINS, ignore_errors=True)


def step_back(root: Path) -> str:
    """Restores the champion before this one in the checkout `root`; returns what was done, in words."""
    champion = read(root)
    if champion is None:
        raise UserError("there is no champion to roll back")
    shutil.rmtree(root / FOLDER)
    (root / FILE).unlink()
    if champion.previous is None:
        return f"Roll back {champion.name}: nobody reigned before it"
    workspace.git(root, "checkout", "--quiet", champion.previous, "--", str(FILE), str(FOLDER))
    before = read(root)
    assert before is not None
    return f"Roll back {champion.name} to {before.name}"


def command(root: Path, *, rollback: bool) -> int:
    """Behind `python -m flows.promotion`: prints who reigns, or puts the one before in its place again."""
    settings = params.load(root / params.FILE, root / params.PRESETS).nightly
    folder = (root / settings.work_folder).absolute()
    try:
        with locks.exclusive(folder / workspace.LOCK, timeout=0.0):
            space = workspace.open_workspace(root, folder, remote=settings.remote, follow=settings.follow)
            last = workspace.tip(space)
            if last is None:
                raise UserError("no night has been yet, so nobody reigns")
            workspace.put(space.clone, last)
            if rollback:
                done = step_back(space.clone)
                day = workspace.nights(space.clone)[-1]
                commit = workspace.commit(space, [last], done + "\n", day, None)
                print(f"{done} ({commit[:12]})")
                late = workspace.deliver(space, print)
                if late is not None:
                    print(f"warning: not delivered yet, the next night will: {late}", file=sys.stderr)
                return 0
            champion = read(space.clone)
    except (UserError, locks.StoreLocked) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("nobody reigns" if champion is None else f"{champion.name}, agent {champion.agent['hash']}")
    return 0


def _replace(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
