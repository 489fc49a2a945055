"""What is remembered of the nights: a line each, the comparison of warm starts, and the page for people.

`nights.jsonl` has every night. `metrics/nights.json` is what the report of a night may know: the nights
before it. So a clone of the night holds what the night's own stages read, and reproduces their bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal

from flows import champion as reign
from flows.champion import Champion
from flows.promotion import Judgement
from pipelines import layout, origins, stage

FILE = Path("nights.jsonl")
SUMMARY = layout.METRICS / "nights.json"
SHOWN = 30  # nights in the summary

Start = Literal["scratch", "warm"]
STARTS: tuple[Start, ...] = ("scratch", "warm")


def read(clone: Path) -> list[dict[str, Any]]:
    """All nights, in order."""
    file = clone / FILE
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []


def append(
    clone: Path, day: date, state: str, start: Start, judgement: Judgement, reigning: Champion | None
) -> None:
    """Adds the line of a night whose stages have run."""
    newcomers = {
        name: {**figures, "start": _start_of(clone / layout.ARTIFACTS / name)}
        for name, figures in judgement.evidence["newcomers"].items()
    }
    entry = {
        "night": day.isoformat(),
        "state": state,
        "start": start,
        "reason": judgement.reason,
        "promoted": judgement.promoted,
        "family": None if reigning is None else reigning.family,
        "champion": judgement.evidence["champion"],
        "comparison": judgement.evidence.get("comparison"),
        "newcomers": newcomers,
    }
    text = json.dumps(stage.rounded(entry), sort_keys=True, allow_nan=False)
    with (clone / FILE).open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def summarise(clone: Path) -> None:
    """Writes what the report of the coming night may know."""
    nights = read(clone)
    last = [
        {name: night[name] for name in ("night", "state", "start", "reason", "promoted", "comparison")}
        for night in nights[-SHOWN:]
    ]
    tree = stage.rounded({"count": len(nights), "starts": compare_starts(nights), "nights": last})
    file = clone / SUMMARY
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(tree, indent=2, sort_keys=True, allow_nan=False) + "\n", "utf-8")


def compare_starts(nights: Sequence[dict[str, Any]]) -> dict[Start, dict[str, Any]]:
    """Newcomers from scratch and from the champion, side by side.

    Only those of the champion's family count, since no other can start from it, and only nights on which
    the champion walked: `mean_lead` is the newcomer's return less the champion's over the same window, so
    that what the market did on a night favours neither side.
    """
    found: dict[Start, list[tuple[float, float, bool]]] = {start: [] for start in STARTS}
    for night in nights:
        champion = night["champion"]
        for name, figures in night["newcomers"].items():
            if champion is None or figures["total_return"] is None or Path(name).parts[0] != night["family"]:
                continue
            lead = figures["total_return"] - champion["total_return"]
            found[figures["start"]].append((figures["total_return"], lead, night["promoted"] == name))
    return {
        start: {
            "newcomers": len(rows),
            "promoted": sum(row[2] for row in rows),
            "mean_return": sum(row[0] for row in rows) / len(rows) if rows else None,
            "mean_lead": sum(row[1] for row in rows) / len(rows) if rows else None,
        }
        for start, rows in found.items()
    }


def facts(clone: Path, reigning: Champion | None, start: Start) -> str:
    """Who reigned, who reigns, and every agent's verdict: the body of the commit message."""
    agents = json.loads((clone / layout.COMPARISON).read_text("utf-8"))["agents"]
    after = reign.read(clone)
    return "\n".join(
        [
            f"Champion before: {reigning.name if reigning else 'nobody'}",
            f"Champion now: {after.name if after else 'nobody'}",
            f"Training from: {start}",
            *(f"{name}: {found['verdict']}" for name, found in agents.items() if "verdict" in found),
        ]
    )


def page(clone: Path, day: date, judgement: Judgement, told: str, diff: str) -> str:
    """The night in markdown; `told` is its `facts`, `diff` what `dvc metrics diff` printed."""
    evidence = judgement.evidence
    objections = evidence.get("objections", {})
    contenders = [(name, found, objections.get(name, "")) for name, found in evidence["newcomers"].items()]
    if evidence["champion"] is not None:
        contenders.append((f"champion: {evidence['champion']['name']}", evidence["champion"], ""))
    starts = compare_starts(read(clone))
    sections = [
        [f"# Night {day}: {judgement.reason}"],
        [told],
        ["On the last test window, after every cost:"],
        _table(
            ["agent", "return", "drawdown", "objection"],
            [
                [name, _percent(found["total_return"]), _percent(found["max_drawdown"], ""), objection]
                for name, found, objection in contenders
            ],
        ),
        ["The champion's family from scratch and from the champion, over the nights so far:"],
        _table(
            ["training from", "newcomers", "promoted", "mean return", "mean lead on the champion"],
            [
                [
                    start,
                    str(found["newcomers"]),
                    str(found["promoted"]),
                    _percent(found["mean_return"]),
                    _percent(found["mean_lead"]),
                ]
                for start, found in starts.items()
            ],
        ),
        ["What changed since the night before (`dvc metrics diff`):"],
        [diff],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _start_of(agent: Path) -> Start:
    seen = json.loads((agent / origins.SEEN).read_text("utf-8"))
    return "scratch" if seen["init_from"] is None else "warm"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _percent(value: float | None, sign: str = "+") -> str:
    return "–" if value is None else f"{value:{sign}.2%}"
