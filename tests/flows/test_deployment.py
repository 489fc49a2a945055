"""`prefect.yaml` says what `make nightly` does: the same flow, the same schedule, one run at a time."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from ruamel.yaml import YAML

from pipelines.settings import Nightly

ROOT = Path(__file__).parents[2]


def test_the_deployment_is_the_one_that_make_nightly_serves() -> None:
    described = YAML(typ="safe").load((ROOT / "prefect.yaml").read_text("utf-8"))
    assert described["prefect-version"] == importlib.metadata.version("prefect")
    (deployment,) = described["deployments"]
    (schedule,) = deployment["schedules"]
    assert schedule == {"cron": Nightly().cron, "timezone": Nightly().timezone}
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    file, name = deployment["entrypoint"].split(":")
    assert f"\ndef {name}() -> None:" in (ROOT / file).read_text("utf-8")
