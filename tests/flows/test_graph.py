"""The DVC graph as the flows read it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flows import graph

DVC_YAML = """
stages:
  fetch:
    cmd: python -c "open('raw', 'w').write('x')"
    outs: [raw]
  train:
    foreach: [a, b]
    do:
      cmd: python -c "open('${item}', 'w').write('x')"
      deps: [raw]
      outs: ['${item}']
  report:
    cmd: python -c "open('page', 'w').write('x')"
    deps: [a, b]
    outs: [page]
"""


def test_nodes_without_edges_and_names_with_at_signs_are_kept() -> None:
    dot = 'strict digraph {\n"fetch";\n"train@a";\n"alone";\n"fetch" -> "train@a";\n}\n'
    assert graph.parse(dot) == {"fetch": set(), "train@a": {"fetch"}, "alone": set()}


def test_the_graph_is_the_one_dvc_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dvc.yaml").write_text(DVC_YAML, "utf-8")
    monkeypatch.chdir(tmp_path)
    subprocess.run(["dvc", "init", "--no-scm", "-q"], check=True)
    assert graph.read() == {
        "fetch": set(),
        "train@a": {"fetch"},
        "train@b": {"fetch"},
        "report": {"train@a", "train@b"},
    }


def test_a_folder_without_a_pipeline_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="dvc dag failed"):
        graph.read()
