"""The section on the nights, from what their record writes."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows import record
from pipelines import layout
from pipelines.report.nights import section


def night(day: int, start: str, lead: float, promoted: bool = False) -> dict[str, Any]:
    newcomer = f"dyna/night-{day}"
    return {
        "night": f"2024-01-{day:02}", "state": "promoted" if promoted else "refused", "start": start,
        "reason": "because", "promoted": newcomer if promoted else None, "family": "dyna",
        "champion": {"name": "dyna/old", "total_return": 0.10},
        "comparison": {"difference_bps": 100 * lead, "p": 0.01, "p_needed": 0.05} if promoted else None,
        "newcomers": {newcomer: {"total_return": 0.10 + lead, "max_drawdown": 0.1, "start": start}},
    }  # fmt: skip


def recorded(folder: Path, *nights: dict[str, Any]) -> dict[str, Any]:
    (folder / record.FILE).write_text("".join(json.dumps(entry) + "\n" for entry in nights), "utf-8")
    record.summarise(folder)
    found: dict[str, Any] = json.loads((folder / layout.NIGHTS).read_text("utf-8"))  # where the stage looks
    return found


def test_no_night_is_no_section(tmp_path: Path) -> None:
    assert section(recorded(tmp_path)) is None
    assert section(None) is None


@pytest.mark.parametrize(("warm", "ahead"), [(0.03, "from the champion"), (0.01, "from scratch")])
def test_starts_are_compared_and_the_last_night_comes_first(tmp_path: Path, warm: float, ahead: str) -> None:
    found = section(recorded(tmp_path, night(1, "scratch", 0.02), night(2, "warm", warm, promoted=True)))
    assert found is not None
    assert found.words[0].startswith("2 night(s) came before this page; of the last 2, 1 put")
    assert found.words[1].startswith(f"Newcomers {ahead} were ahead so far: {max(warm, 0.02):+.1%} against")
    assert [row.cells for row in found.starts.rows] == [
        ["from scratch", "1", "0", "+12.0%", "+2.0%"],
        ["from the champion", "1", "1", f"{0.1 + warm:+.1%}", f"{warm:+.1%}"],
    ]
    last, first = found.last.rows
    assert (last.kind, first.kind) == ("learned", "")
    assert last.cells == ["2024-01-02", "from the champion", "dyna/night-2", f"{100 * warm:+.2f}", "0.010",
                          "0.050", "because"]  # fmt: skip
    assert first.cells == ["2024-01-01", "from scratch", "as before", "–", "–", "–", "because"]


def test_one_sort_of_start_is_no_comparison(tmp_path: Path) -> None:
    found = section(recorded(tmp_path, night(1, "warm", 0.02)))
    assert found is not None
    assert found.words[1] == (
        "Warm starts cannot be judged yet: no newcomer of the champion's family from scratch was measured."
    )
    assert found.starts.rows[0].cells == ["from scratch", "0", "0", "–", "–"]
