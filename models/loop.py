"""The loop around every training: resume, advance until the goal is reached, save now and then."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar


class Run(Protocol):
    """One training; `save` writes everything that decides how it goes on, and `restore` takes it back."""

    @property
    def progress(self) -> int:
        """How far it is: real steps, or updates."""
        ...

    def advance(self) -> None:
        """The smallest piece of training after which it may be saved."""
        ...

    def save(self, directory: Path) -> None:
        """Replaces the checkpoint in `directory`."""
        ...

    def restore(self, directory: Path) -> None:
        """Carries on from the checkpoint in `directory`, if there is one."""
        ...


RunT = TypeVar("RunT", bound=Run)


def complete(run: RunT, goal: int, *, every: int, directory: Path | None) -> RunT:
    """Advances `run` until its progress reaches `goal`, from where a killed attempt was saved.

    Saved into `directory` whenever a multiple of `every` is passed; never with no directory. Neither
    changes the result.
    """
    if directory is not None:
        run.restore(directory)
    while run.progress < goal:
        before = run.progress // every
        run.advance()
        if directory is not None and run.progress // every > before:
            run.save(directory)
    return run
