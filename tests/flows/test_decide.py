"""When a decision is refused, and what it is taken from. The champion itself acts in `test_real_nights`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows import decide
from pipelines import origins
from pipelines.errors import UserError
from tests.flows.places import git

START = datetime(2022, 1, 1, tzinfo=UTC)
PARAMS = """\
preset: default
data:
  source: files
  symbols: [AAA, BBB]
  start: "2022-01-01"
  end: "2022-01-05"
agents:
  dqn: {}
features:
  names: [log_return]
"""


def candle(hour: int, close: float = 100.0) -> str:
    opened = (START + timedelta(hours=hour)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{opened},100,101,99,{close},5,500"


def write(root: Path, symbol: str, rows: list[str]) -> None:
    (root / "candles").mkdir(exist_ok=True)
    text = "\n".join(["open_time,open,high,low,close,volume,turnover", *rows])
    (root / f"candles/{symbol}_1h.csv").write_text(text + "\n", "utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a champion and four days of candles of two symbols."""
    folder = tmp_path / "root"
    (folder / "presets").mkdir(parents=True)
    (folder / "presets/default.yaml").write_text("{}\n")
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "champion").mkdir()
    (folder / "champion/agent.json").write_text("{}")
    champion = {
        "agent": {"family": "dqn", "fold": 0, "seed": 0, "hash": origins.content_hash(folder / "champion")},
        "night": "nightly-2022-01-04", "parent": "", "data": "", "trained": {}, "evidence": {},
        "previous": None,
    }  # fmt: skip
    (folder / "champion.json").write_text(json.dumps(champion))
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "a champion")
    for symbol in ("AAA", "BBB"):
        write(folder, symbol, [candle(hour) for hour in range(96)])
    return folder


def ask(root: Path, hours: float) -> dict[str, object]:
    return decide.decide(root, START + timedelta(hours=hours), held={}, drawdown=0.0)


def test_old_prices_are_refused(root: Path) -> None:
    with pytest.raises(decide.Refusal, match="AAA: the newest bar opened at 2022-01-04 23:00"):
        ask(root, 99.5)  # three bars old is the limit, this is three and a half


def test_the_open_bar_is_not_seen(root: Path) -> None:
    settings = decide.params.load(root / "params.yaml", root / "presets")
    table = decide.newest(root, settings, START + timedelta(hours=50, minutes=59))
    assert table["open_time"].max() == START + timedelta(hours=49)
    on_the_close = decide.newest(root, settings, START + timedelta(hours=51))
    assert on_the_close["open_time"].max() == START + timedelta(hours=50)


def test_a_later_now_does_not_change_what_was_known(root: Path) -> None:
    settings = decide.params.load(root / "params.yaml", root / "presets")
    write(root, "AAA", [candle(hour, 100.0 + (hour * 7 % 5) / 10) for hour in range(96)])
    early = decide.newest(root, settings, START + timedelta(hours=50))
    late = decide.newest(root, settings, START + timedelta(hours=80))
    assert late.join(early.select("symbol", "open_time"), on=["symbol", "open_time"]).equals(early)


def test_broken_candles_are_refused(root: Path) -> None:
    write(root, "BBB", [*(candle(hour) for hour in range(95)), candle(95, close=500.0)])  # above its high
    with pytest.raises(decide.Refusal, match="close above high"):
        ask(root, 96)


def test_symbols_that_end_apart_are_refused(root: Path) -> None:
    write(root, "BBB", [candle(hour) for hour in range(95)])
    with pytest.raises(decide.Refusal, match="do not end with the same bar"):
        ask(root, 96)


def test_without_a_champion_the_answer_is_cash(root: Path) -> None:
    git(root, "rm", "-rq", "champion", "champion.json")
    git(root, "commit", "-q", "-m", "nobody")
    answer = ask(root, 96)
    assert (answer["state"], answer["target"]) == ("vacant", {"AAA": 0.0, "BBB": 0.0})


def test_a_champion_whose_files_were_changed_is_an_error(root: Path) -> None:
    (root / "champion/agent.json").write_text('{"other": 1}')
    git(root, "commit", "-qam", "tampered")
    with pytest.raises(UserError, match="not the agent"):
        ask(root, 96)


def test_a_symbol_that_is_not_traded_is_an_error(root: Path) -> None:
    with pytest.raises(UserError, match="--held CCC: the champion trades AAA, BBB"):
        decide.decide(root, START + timedelta(hours=96), held={"CCC": 1.0}, drawdown=0.0)


def test_the_refusal_is_written_and_has_a_status_of_its_own(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    assert decide.main(["--now", "2022-01-09T00:00"]) == decide.REFUSED
    written = json.loads((root / "work/decision.json").read_text())
    assert written == json.loads(capsys.readouterr().out)
    assert written["state"] == "refused"
    assert decide.main(["--now", "2022-01-05T00:00", "--held", "CCC=1"]) == 2
