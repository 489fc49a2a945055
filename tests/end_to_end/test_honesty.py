"""A feature that knows tomorrow, and a cross-validation instead of a walk: through the real stages.

Both ride on one small run, because a run is what costs.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.conftest import clone, keep_agents, run

pytestmark = [pytest.mark.serial, pytest.mark.timeout(1200)]

CHEAT = '''

@feature("tomorrow", warm_up=lambda: 0)
def tomorrow() -> pl.Expr:
    """The return of the next day: what nobody can know."""
    return (_close.shift(-24) / _close).log().fill_null(0.0)
'''


@pytest.fixture(scope="module")
def cheating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the project with the cheat among its features, as far as validated candles."""
    folder = clone(tmp_path_factory.mktemp("cheat") / "clone")
    keep_agents(folder, "dqn")
    definitions = folder / "pipelines/features/definitions.py"
    definitions.write_text(definitions.read_text("utf-8") + CHEAT, "utf-8")
    edit(folder, "    - trend_strength\n", "    - trend_strength\n    - tomorrow\n")
    edit(folder, "  method: walk_forward", "  method: combinatorial")
    edit(folder, "  blocks: 6", "  blocks: 3")
    edit(folder, "preset: default", "preset: smoke")
    run("python", "-m", "pipelines.stages.fetch", folder=folder)
    run("python", "-m", "pipelines.stages.validate", folder=folder)
    return folder


@pytest.fixture(scope="module")
def forced(cheating: Path) -> Path:
    """The same, once the gate has been tried, forced open, with a page at the end."""
    refused = run("python", "-m", "pipelines.stages.features", folder=cheating, check=False)
    (cheating / "refusal.txt").write_text(f"{refused.returncode}\n{refused.stderr}")
    edit(cheating, "force_leaks: false", "force_leaks: true")
    run("python", "-m", "pipelines.stages.features", folder=cheating)
    for stage in ("train dqn", "backtest dqn", "backtest baselines", "compare", "report"):
        run("python", "-m", *f"pipelines.stages.{stage}".split(), folder=cheating)
    return cheating


def test_the_leak_gate_stops_a_feature_that_knows_tomorrow(forced: Path) -> None:
    code, said = (forced / "refusal.txt").read_text().split("\n", 1)
    assert code == "2"
    assert "tomorrow" in said
    assert "Traceback" not in said
    assert "momentum" not in said  # the honest ones are not accused


def test_when_the_gate_is_forced_the_page_says_so_in_red(forced: Path) -> None:
    page = (forced / "reports/index.html").read_text("utf-8")
    banner = page[page.index('<div class="banner" role="alert">') :][:400]
    assert "These results know the future." in banner
    assert "tomorrow" in banner
    assert json.loads((forced / "metrics/features.json").read_text())["leaking"] == ["tomorrow"]


def test_a_cross_validation_runs_through_the_real_stages(forced: Path) -> None:
    found = json.loads((forced / "metrics/comparison.json").read_text())
    assert found["agents"]["dqn"]["seeds"] == 2  # paths of C(3, 2) splits, one seed each
    assert found["agents"]["dqn"]["words"]
    runs = json.loads((forced / "metrics/dqn.json").read_text())["dqn"]["runs"]
    assert set(runs) == {f"fold-{block}-seed-{path}" for block in range(3) for path in range(2)}
    trials = [json.loads(line) for line in (forced / "metrics/trials.jsonl").read_text().splitlines()]
    assert sum(line["data"] == found["data"] for line in trials) == 3
    page = " ".join((forced / "reports/index.html").read_text("utf-8").split())
    assert "each of the 3 choices of 2 is tested by agents trained on the others" in page
    assert "cross-validated over 3 blocks" in page


def edit(folder: Path, old: str, new: str) -> None:
    file = folder / "params.yaml"
    text = file.read_text("utf-8")
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new), "utf-8")
