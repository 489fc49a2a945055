"""The validate stage on real candles: what is wrong with them is found and said; nothing is repaired."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipelines import layout, stage
from pipelines.stages import features, fetch, validate

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data"))
PATTERN = "{symbol}_{interval}.csv"
needs_data = pytest.mark.skipif(not (DATA / "bybit").is_dir(), reason=f"needs the real candles in {DATA}")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("presets").mkdir()
    Path("presets/default.yaml").write_text("{}\n")


def ask(pattern: str, interval: str, start: str, end: str, *, also: str = "[]", checks: str = "{}") -> None:
    Path("params.yaml").write_text(
        f"data:\n  source: files\n  symbols: [BTCUSDT]\n  interval: {interval}\n  also: {also}\n"
        f"  start: '{start}'\n  end: '{end}'\n  files: {{path: '{pattern}'}}\n"
        f"checks: {checks}\nagents: {{dqn: {{}}}}\n"
    )


@needs_data
def test_a_bar_that_was_stored_unfinished_is_found_by_the_finer_interval(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for ours, theirs in (("1h", "60m"), ("5m", "5m")):
        Path(f"BTCUSDT_{ours}.csv").write_bytes((DATA / f"bybit/BTCUSDT_{theirs}.csv").read_bytes())
    # The window ends with the day of the last, unfinished hour; it begins with the first whole day.
    ask(
        "{symbol}_{interval}.csv",
        "1h",
        "2025-05-31",
        "2025-06-30",
        also="[5m]",
        checks="{max_gap_share: 1.0}",
    )
    assert stage.run("fetch", fetch.fetch) == 0
    assert stage.run("validate", validate.validate) == 2
    said = capsys.readouterr().err
    assert "intervals" in said
    assert "2025-06-29 16:00" in said
    assert not layout.DATA_METRICS.exists()
    assert (validate.FAILED / "index.html").is_file()


@needs_data
def test_holes_are_kept_counted_and_cut_the_history(capsys: pytest.CaptureFixture[str]) -> None:
    Path("BTCUSDT_1m.csv").write_bytes((DATA / "defects/bybit_BTCUSDT_1m_42gaps.csv").read_bytes())
    ask(PATTERN, "1m", "2025-05-30", "2025-06-28", checks="{max_gap_bars: 0}")
    assert stage.run("fetch", fetch.fetch) == 0
    assert stage.run("validate", validate.validate) == 0
    assert stage.run("features", features.features) == 0
    assert "warning: gaps" in capsys.readouterr().err
    found = json.loads(layout.DATA_METRICS.read_text())["symbols"]["BTCUSDT"]
    assert found["gaps"] == found["missing_bars"]  # each hole is one minute
    assert found["gaps"] >= 40
    made = json.loads(layout.FEATURE_METRICS.read_text())
    # Each hole cuts; one stretch between two holes is shorter than the warm-up and has no features.
    assert made["segments"] == found["gaps"]
    assert made["filled_bars"] == 0


@needs_data
def test_short_holes_are_bridged_and_flagged() -> None:
    Path("BTCUSDT_1m.csv").write_bytes((DATA / "defects/bybit_BTCUSDT_1m_42gaps.csv").read_bytes())
    ask(PATTERN, "1m", "2025-05-30", "2025-06-28", checks="{max_gap_bars: 1}")
    for name, body in (
        ("fetch", fetch.fetch),
        ("validate", validate.validate),
        ("features", features.features),
    ):
        assert stage.run(name, body) == 0
    made = json.loads(layout.FEATURE_METRICS.read_text())
    assert made["segments"] == 1
    assert made["filled_bars"] >= 39  # but for any in the warm-up
