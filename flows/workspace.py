"""The clone that the nights work in, and how a night becomes one commit in it.

A person edits the repository; the nights have a clone of it under a work folder, with a branch of their
own (`nightly`). A night changes files of the clone only; it happens at a single point, when the branch
and the tag move together in one transaction of git. Whatever a killed night leaves behind, the next
start puts back to the last commit; finished stages come again from DVC's run cache.

Author and date are those of the night, so the same night is the same commit, to the last byte.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

from flows import process
from pipelines.errors import UserError
from pipelines.stage import end_with_parent

CLONE = "clone"  # in the work folder
LOCK = "night.lock"  # in the work folder; who holds it may change the clone
BRANCH = "nightly"
TAG = "nightly-"
DELIVERED = "refs/nightly/delivered"  # the last commit that reached the remote and the repository
TRIALS = "metrics/trials.jsonl"
# What the nights own: it is carried from night to night over whatever the followed branch says.
OWNED = ("champion.json", "champion", "origins", "nights.jsonl", "dvc.lock", "metrics", "plots")
AUTHOR = {"NAME": "Rehearsal nightly", "EMAIL": "nightly@localhost"}
TRANSFER_SECONDS = 3600.0

Say = Callable[[str], None]


class GitError(RuntimeError):
    """A git command failed; the text is what it said."""


class Workspace(NamedTuple):
    """Where a night works.

    clone: the nights' own; its `origin` is the repository that people edit.
    remote: where DVC pushes to.
    follow: the branch of that repository whose code is run.
    """

    clone: Path
    remote: str
    follow: str


def git(folder: Path, *arguments: str, stdin: str | None = None, **environment: str) -> str:
    """What `git arguments` prints; `GitError` with what it said unless it ends well."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0", **environment},
        preexec_fn=end_with_parent,
        check=False,
    )
    if done.returncode != 0:
        raise GitError(f"git {' '.join(arguments[:2])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def open_workspace(root: Path, folder: Path, *, remote: str, follow: str) -> Workspace:
    """The workspace under `folder`, made if it is not there; the caller holds the lock."""
    clone = folder / CLONE
    remote = remote if "://" in remote else str((root / remote).absolute())
    if not clone.is_dir():
        partial = folder / "clone.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            git(folder, "clone", "--quiet", "--no-tags", str(root), str(partial))
        except GitError as error:
            raise UserError(f"{root} cannot be cloned: {error}") from error
        _adopt(partial)
        partial.rename(clone)
    _clear_locks(clone)
    _point_remote(clone, remote)
    return Workspace(clone, remote, follow)


def begin(workspace: Workspace) -> list[str]:
    """Puts the clone to where the next night starts; returns the parents of its commit.

    The code and the parameters are those of the followed branch; what the nights own is carried over
    from their last commit. If people have not moved on, that commit is the only parent.
    """
    clone = workspace.clone
    git(clone, "fetch", "--quiet", "--no-tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
    theirs = _resolve(clone, f"refs/remotes/origin/{workspace.follow}")
    if theirs is None:
        raise UserError(f"params.yaml: nightly.follow = {workspace.follow!r}: there is no such branch")
    ours = _resolve(clone, f"refs/heads/{BRANCH}")
    if ours is None or _is_ancestor(clone, ours, theirs):
        put(clone, theirs)
        return [theirs]
    if _is_ancestor(clone, theirs, ours):
        put(clone, ours)
        return [ours]
    put(clone, theirs)
    _carry_over(clone, ours, theirs)
    return [ours, theirs]


def commit(workspace: Workspace, parents: Sequence[str], message: str, day: date, tag: str | None) -> str:
    """One commit of everything in the clone that git does not ignore; branch and tag move together."""
    clone = workspace.clone
    git(clone, "add", "--all")
    tree = git(clone, "write-tree")
    moment = f"{day.isoformat()}T00:00:00+00:00"
    identity = {
        f"GIT_{role}_{part}": value
        for role in ("AUTHOR", "COMMITTER")
        for part, value in {**AUTHOR, "DATE": moment}.items()
    }
    above = [word for parent in parents for word in ("-p", parent)]
    made = git(clone, "commit-tree", tree, *above, stdin=message, **identity)
    refs = [f"update refs/heads/{BRANCH} {made}"]
    if tag is not None:
        refs.append(f"create refs/tags/{tag} {made}")
    git(clone, "update-ref", "--stdin", stdin="\n".join(["start", *refs, "prepare", "commit", ""]))
    put(clone, BRANCH)
    return made


def deliver(workspace: Workspace, say: Say) -> str | None:
    """Pushes data to the remote and commits to the repository; what went wrong in words, or None.

    Nothing is lost by a failure: what could not be delivered goes with the next night.
    """
    clone = workspace.clone
    tip = _resolve(clone, f"refs/heads/{BRANCH}")
    if tip is None or tip == _resolve(clone, DELIVERED):
        return None
    last = _resolve(clone, DELIVERED)
    nights_after = f"{last}..{tip}" if last is not None else tip
    pending = git(clone, "rev-list", "--first-parent", "--reverse", nights_after, "--author", AUTHOR["EMAIL"])
    try:
        for made in pending.split():  # what DVC pushes is what the lock file of a checkout names
            put(clone, made)
            process.run(
                ["dvc", "push", "--quiet", "--remote", BRANCH],
                say=say, timeout=TRANSFER_SECONDS, folder=clone,
            )  # fmt: skip
    except process.ProcessFailed as error:
        return f"the remote {workspace.remote} was not reached: {error.tail[-1] if error.tail else error}"
    finally:
        put(clone, BRANCH)
    # The record of the nights is for the repository alone when the data behind it can be had.
    try:
        git(clone, "push", "--quiet", "--atomic", "origin",
            f"refs/heads/{BRANCH}", f"refs/tags/{TAG}*:refs/tags/{TAG}*")  # fmt: skip
    except GitError as error:
        return f"the repository did not take the branch {BRANCH}: {error}"
    git(clone, "update-ref", DELIVERED, tip)
    return None


def tagged(workspace: Workspace, tag: str) -> str | None:
    """The commit of a finished night."""
    return _resolve(workspace.clone, f"refs/tags/{tag}")


def tip(workspace: Workspace) -> str | None:
    """The last commit of the nights."""
    return _resolve(workspace.clone, f"refs/heads/{BRANCH}")


def nights(clone: Path) -> list[date]:
    """The days of all finished nights, ascending."""
    listed = git(clone, "tag", "--list", f"{TAG}*").split()
    return sorted(date.fromisoformat(name.removeprefix(TAG)) for name in listed)


def restore(clone: Path) -> None:
    """Forgets what was not committed; ignored files (store, caches, checkpoints) stay."""
    git(clone, "reset", "--quiet", "--hard")
    git(clone, "clean", "--quiet", "--force", "-d")


def put(clone: Path, target: str) -> None:
    """The files of a commit, and nothing that was not committed."""
    restore(clone)
    git(clone, "checkout", "--quiet", "--force", *(() if target == BRANCH else ("--detach",)), target)


def _adopt(clone: Path) -> None:
    """In a new clone: the nights that an earlier one delivered, so that a lost work folder ends no reign."""
    if _resolve(clone, f"refs/remotes/origin/{BRANCH}") is None:
        return
    refs = (f"refs/heads/{BRANCH}:refs/heads/{BRANCH}", f"refs/tags/{TAG}*:refs/tags/{TAG}*")
    git(clone, "fetch", "--quiet", "--update-head-ok", "origin", *refs)
    git(clone, "update-ref", DELIVERED, f"refs/heads/{BRANCH}")


def _carry_over(clone: Path, ours: str, theirs: str) -> None:
    """What the nights own, on top of the code of `theirs`; of the ledger of trials, both sides' lines."""
    lines = {line: None for side in (ours, theirs) for line in _show(clone, f"{side}:{TRIALS}").splitlines()}
    for path in OWNED:
        if git(clone, "ls-tree", ours, "--", path):
            git(clone, "checkout", "--quiet", ours, "--", path)
    if lines:
        (clone / TRIALS).write_text("".join(f"{line}\n" for line in lines), "utf-8")


def _show(clone: Path, what: str) -> str:
    try:
        return git(clone, "show", what)
    except GitError:
        return ""  # that side has no such file


def _resolve(clone: Path, ref: str) -> str | None:
    try:
        return git(clone, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    except GitError:
        return None  # there is no such ref


def _is_ancestor(clone: Path, older: str, newer: str) -> bool:
    try:
        return git(clone, "merge-base", older, newer) == older
    except GitError:
        return False  # the two have no history in common


def _point_remote(clone: Path, remote: str) -> None:
    """DVC's private configuration of the clone, written only when it says something else."""
    wanted = f"['remote \"{BRANCH}\"']\n    url = {remote}\n"
    file = clone / ".dvc/config.local"
    if not file.is_file() or file.read_text("utf-8") != wanted:
        file.write_text(wanted, "utf-8")


def _clear_locks(clone: Path) -> None:
    """What a killed git or DVC left; nobody else is at work here, since the caller holds the night's lock."""
    for lock in (clone / ".git").rglob("*.lock"):
        lock.unlink()
    for name in ("rwlock", "rwlock.lock", "lock"):
        (clone / ".dvc/tmp" / name).unlink(missing_ok=True)
