"""What must stay cheap to import, and what must stay out of the light stages."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = [
    "models",
    "models.configuration",
    "models.dqn.config",
    "pipelines.params",
    "pipelines.stages.fetch",
    "pipelines.stages.validate",
    "pipelines.stages.features",
    "pipelines.stages.compare",
    "pipelines.stages.report",
    "flows.graph",
    "flows.process",
    "flows.repro",
]


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_does_not_import_tensorflow(module: str) -> None:
    code = (
        f"import sys, {module}; sys.exit('tensorflow' in sys.modules or 'great_expectations' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, module
