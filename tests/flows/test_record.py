"""What is remembered of the nights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows import record


def night(
    day: int, champion: float | None, newcomers: dict[str, tuple[str, float | None]], **more: Any
) -> Any:
    return {
        "night": f"2022-01-{day:02d}",
        "state": "refused",
        "start": "warm",
        "reason": "why",
        "promoted": None,
        "comparison": None,
        "family": "dqn",
        "champion": None if champion is None else {"total_return": champion},
        "newcomers": {
            name: {"start": start, "total_return": earned} for name, (start, earned) in newcomers.items()
        },
        **more,
    }


NIGHTS = [
    night(1, None, {"dqn/fold-0/seed-0": ("scratch", 0.9)}),  # nobody to be held against
    night(2, 0.10, {"dqn/fold-0/seed-0": ("warm", 0.13), "muzero/fold-0/seed-0": ("scratch", 0.5)}),
    night(3, -0.20, {"dqn/fold-0/seed-0": ("warm", -0.19), "dqn/fold-0/seed-1": ("warm", None)}),
    night(4, 0.02, {"dqn/fold-0/seed-0": ("scratch", 0.04)}, promoted="dqn/fold-0/seed-0"),
]


def test_starts_are_compared_in_the_champions_family_on_the_champions_window() -> None:
    found = record.compare_starts(NIGHTS)
    assert found["warm"] == {
        "newcomers": 2,
        "promoted": 0,
        "mean_return": pytest.approx(-0.03),
        "mean_lead": pytest.approx(0.02),
    }
    assert found["scratch"] == {
        "newcomers": 1,
        "promoted": 1,
        "mean_return": pytest.approx(0.04),
        "mean_lead": pytest.approx(0.02),
    }
    assert record.compare_starts([])["warm"]["mean_lead"] is None


def test_the_summary_holds_the_nights_before_and_only_the_last_of_them(tmp_path: Path) -> None:
    record.summarise(tmp_path)
    empty = json.loads((tmp_path / record.SUMMARY).read_text())
    assert (empty["count"], empty["nights"]) == (0, [])
    many = [night(1 + number % 28, None, {}) for number in range(record.SHOWN + 5)]
    (tmp_path / record.FILE).write_text("".join(json.dumps(entry) + "\n" for entry in many))
    record.summarise(tmp_path)
    full = json.loads((tmp_path / record.SUMMARY).read_text())
    assert full["count"] == record.SHOWN + 5
    assert len(full["nights"]) == record.SHOWN
    assert full["nights"][-1]["night"] == many[-1]["night"]
