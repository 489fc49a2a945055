"""Parameters: three layers, and every mistake is one line that names key, value and what is allowed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipelines import params
from pipelines.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets/default.yaml").write_text("{}\n", "utf-8")
    (tmp_path / "presets/small.yaml").write_text("split: {folds: 5}\naccount: {fee_bps: 1.0}\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str) -> None:
    Path("params.yaml").write_text(text, "utf-8")


def keys(tree: object, path: str = "") -> set[str]:
    """The dotted paths of all leaves."""
    if not isinstance(tree, dict) or not tree:
        return {path}
    return {leaf for key, value in tree.items() for leaf in keys(value, f"{path}.{key}")}


def test_the_file_shows_every_parameter_there_is() -> None:
    """Its values may be edited; a parameter that is not in the file would be hidden from its reader."""
    stated = YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8"))
    assert keys(stated) >= keys(params.default_tree())
    params.load(ROOT / "params.yaml", ROOT / "presets")


@pytest.mark.parametrize("preset", [path.stem for path in (ROOT / "presets").glob("*.yaml")])
def test_every_preset_is_sound_and_has_every_section(preset: str, project: Path) -> None:
    """DVC tracks the presets by section and family, so none may be missing."""
    stated = YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8"))
    tree = YAML(typ="safe").load((ROOT / f"presets/{preset}.yaml").read_text("utf-8"))
    assert set(tree) == set(params.default_tree()) - {"seed", "preset"}
    assert set(tree["agents"]) >= set(stated["agents"])
    write(f"preset: {preset}\nagents: {{dqn: {{}}}}\n")
    assert params.load(Path("params.yaml"), ROOT / "presets").preset == preset


def test_an_empty_file_gives_the_defaults(project: Path) -> None:
    write("agents: {dqn: {}}\n")
    assert params.load().split.folds == 2
    assert params.load().account.fee_bps == 5.5


def test_a_preset_replaces_defaults_and_an_edit_counts_over_both(project: Path) -> None:
    write("preset: small\nsplit: {folds: 2, seeds: 4}\naccount: {fee_bps: 9.0}\nagents: {dqn: {}}\n")
    found = params.load()
    assert found.split.folds == 5  # the file states the default: the preset counts
    assert found.split.seeds == 4
    assert found.account.fee_bps == 9.0  # the file differs from the default: it counts


def test_a_run_has_the_families_that_the_file_names_and_no_other(project: Path) -> None:
    """Presets know all of them; that must not bring one in."""
    Path("presets/small.yaml").write_text("agents: {dqn: {n_step: 7}, dyna: {}, muzero: {}}\n", "utf-8")
    write("preset: small\nagents:\n  dyna:\n  dqn:\n")
    found = params.load()
    assert list(found.agents) == ["dyna", "dqn"]
    assert found.agents["dqn"].n_step == 7  # named without settings, it has the preset's


MISTAKES = {
    "acount: {}\n": "acount: unknown key (did you mean 'account'?)",
    "account: {fee: 1}\n": "account.fee: unknown key",
    "account: {fee_bps: -1}\n": "account.fee_bps = -1: should be greater than or equal to 0",
    "account: {fee_bps: much}\n": "account.fee_bps = 'much': should be a valid number",
    "account: {leverage: 0}\n": "account.leverage = 0",
    "account: {grid: [1, 0]}\n": "account.grid = [1, 0]: must be distinct exposures in ascending order",
    "data: {symbols: []}\n": "data.symbols = []: List should have at least 1 item",
    "data: {symbols: [A, A]}\n": "data.symbols = ['A', 'A']: must name every symbol once",
    "data: {symbols: [../x]}\n": "must be letters, digits",
    "data: {interval: 7m}\n": "data.interval = '7m': must be one of 1m, 3m",
    "data: {start: 2024-01-02, end: 2024-01-01}\n": "data.end (2024-01-01) must be after data.start",
    "data: {end: null}\n": "data.end = null: must be a date",
    "data: {start: yesterday}\n": "data.start = 'yesterday'",
    "split: {folds: 1.5}\n": "split.folds = 1.5",
    "seed: -1\n": "seed = -1",
    "preset: huge\n": "preset = 'huge': must be one of default, small",
    "agents: {ppo: {}}\n": "agents.ppo: unknown key; allowed: ",
    "agents: {dqn: {depth: 3}}\n": "agents.dqn.depth: unknown key",
    "agents: {dqn: {batch_size: 0}}\n": "agents.dqn.batch_size: 0 is not allowed; it must be at least 1",
    "agents: []\n": "agents = []: must be a mapping",
    "agents: {}\n": "agents = {}: must be a mapping",
    "agents: {dqn: 3}\n": "agents.dqn: 3 is not a mapping",
    "- a\n- b\n": "must be a mapping of sections, not list",
    "data: {a: [\n": "is not YAML",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_one_line_that_says_what_is_allowed(project: Path, text: str) -> None:
    write(text if "agents" in text or text.startswith("-") else text + "agents: {dqn: {}}\n")
    with pytest.raises(UserError) as caught:
        params.load()
    message = str(caught.value)
    assert MISTAKES[text] in message
    assert message.startswith("params.yaml: ")
    assert "\n" not in message


def test_a_mistake_that_a_preset_would_hide_is_still_named(project: Path) -> None:
    write("preset: small\nsplit: {folds: -3}\nagents: {dqn: {}}\n")
    with pytest.raises(UserError, match=r"split\.folds = -3"):
        params.load()


def test_a_stage_ends_with_status_2_one_line_and_nothing_written(project: Path) -> None:
    write("account: {fee_bps: -1}\nagents: {dqn: {}}\n")
    before = sorted(project.rglob("*"))
    ended = subprocess.run(
        [sys.executable, "-m", "pipelines.stages.fetch"],
        capture_output=True,
        text=True,
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    complaint = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert complaint == ["error: params.yaml: account.fee_bps = -1: should be greater than or equal to 0"]
    assert "Traceback" not in ended.stderr
    assert sorted(project.rglob("*")) == before


def test_the_preset_is_switched_without_touching_another_byte(project: Path) -> None:
    write("# a comment\npreset: default  # which one\nagents: {dqn: {}}\n")
    assert params.main(["--preset", "small"]) == 0
    assert Path("params.yaml").read_text() == "# a comment\npreset: small  # which one\nagents: {dqn: {}}\n"
    assert params.main(["--preset", "huge"]) == 2
