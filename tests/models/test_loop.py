"""Saved at the multiples, resumed from the last of them, and the same in the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import loop


class Sum:
    """Adds up 3, 3, 3, ... and remembers when it was saved."""

    def __init__(self) -> None:
        self.progress = 0
        self.saved: list[int] = []

    def advance(self) -> None:
        self.progress += 3

    def save(self, directory: Path) -> None:
        self.saved.append(self.progress)
        (directory / "progress").write_text(str(self.progress))

    def restore(self, directory: Path) -> None:
        if (directory / "progress").exists():
            self.progress = int((directory / "progress").read_text())


def test_advances_to_the_goal_and_saves_after_each_multiple(tmp_path: Path) -> None:
    run = loop.complete(Sum(), 20, every=5, directory=tmp_path)
    assert run.progress == 21
    assert run.saved == [6, 12, 15, 21]


def test_a_killed_run_goes_on_from_its_last_save(tmp_path: Path) -> None:
    class Killed(Sum):
        def advance(self) -> None:
            if self.progress == 9:
                raise KeyboardInterrupt
            super().advance()

    with pytest.raises(KeyboardInterrupt):
        loop.complete(Killed(), 20, every=5, directory=tmp_path)
    run = loop.complete(Sum(), 20, every=5, directory=tmp_path)
    assert run.progress == 21
    assert run.saved == [12, 15, 21]


def test_without_a_directory_nothing_is_saved() -> None:
    assert loop.complete(Sum(), 20, every=5, directory=None).saved == []
