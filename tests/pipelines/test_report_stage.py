"""What the stage finds for the sections that are not in every page."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipelines import layout
from pipelines.params import Params
from pipelines.stages import report

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("family", "told"), [("trajectory", True), ("dqn", False)])
def test_a_file_that_is_there_becomes_a_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, told: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Params.model_validate({"agents": {family: {}}})
    assert not any(report.optional(settings).values())
    files = {
        "hallucinated": layout.HALLUCINATED,
        "nights": layout.NIGHTS,
        "execution": layout.EXECUTION_PLANNER,
        "behaviour": layout.BEHAVIOUR_METRICS,
    }
    for name, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'{{"is": "{name}"}}')
    found = report.optional(settings)
    assert ("behaviour" in found) is told  # else nobody learned from the records
    assert found == {name: {"is": name} for name in files if name in found}
    assert {"hallucinated", "nights", "execution"} <= set(found)


def test_the_stage_depends_on_all_that_it_reads() -> None:
    deps = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]["report"]["deps"]
    # Nights and dreams are on the page where there are any; DVC knows no dependency that may be absent.
    for file in (layout.COMPARISON, layout.EVIDENCE, layout.BEHAVIOUR_METRICS, layout.EXECUTION_PLANNER):
        assert any(Path(dep) in (file, *file.parents) for dep in deps), file
    assert all((ROOT / dep).exists() for dep in deps if dep.startswith("benchmarks"))
