"""What every stage promises: whole outputs, one-line errors, the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines import stage
from pipelines.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_output_appears_whole_or_not_at_all() -> None:
    target = Path("out/table")
    with stage.replacing(target, "test") as path:
        path.mkdir()
        (path / "a").write_text("old")

    def fail() -> None:
        with stage.replacing(target, "test") as path:
            path.mkdir()
            (path / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (target / "a").read_text() == "old"
    with stage.replacing(target, "test") as path:
        assert not path.exists()  # what the failure left aside is gone
        path.mkdir()
        (path / "b").write_text("new")
    assert [child.name for child in target.iterdir()] == ["b"]


def test_a_run_says_what_it_did_and_clears_what_it_left_aside(capsys: pytest.CaptureFixture[str]) -> None:
    (stage.SCRATCH / "test").mkdir(parents=True)
    (stage.SCRATCH / "test/debris").write_text("of a killed run")
    assert stage.run("test", lambda: "3 rows") == 0
    assert capsys.readouterr().out.startswith("test: 3 rows [")
    assert not (stage.SCRATCH / "test").exists()


def test_a_mistake_of_the_user_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> str:
        raise UserError("account.fee_bps = -1: must not be negative")

    assert stage.run("test", body) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == "error: account.fee_bps = -1: must not be negative"


def test_a_bug_of_ours_keeps_its_traceback() -> None:
    def body() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stage.run("test", body)


def test_json_is_sorted_rounded_and_refuses_what_is_no_number() -> None:
    tree = {"b": np.float64(1 / 3), "a": [np.int64(2), np.array([1e-9 / 3])], "c": {"x": True, "y": None}}
    stage.write_json(tree, Path("out.json"), "test")
    text = Path("out.json").read_text()
    assert text.index('"a"') < text.index('"b"')
    assert "0.333333," in text
    assert "3.33333e-10" in text
    with pytest.raises(ValueError, match="not JSON compliant"):
        stage.write_json({"a": float("nan")}, Path("out.json"), "test")
    assert Path("out.json").read_text() == text


def test_the_same_table_gives_the_same_bytes() -> None:
    frame = pl.DataFrame({"x": np.arange(5000) / 7, "s": ["a", "b"] * 2500})
    for name in ("one.parquet", "two.parquet"):
        stage.write_table(frame, Path(name), "test")
    assert Path("one.parquet").read_bytes() == Path("two.parquet").read_bytes()


def test_a_hash_depends_on_content_and_names_and_not_on_place_or_caches() -> None:
    for root in ("here", "there/below"):
        Path(root, "code/__pycache__").mkdir(parents=True)
        Path(root, "code/a.py").write_text("x = 1\n")
        Path(root, "code/__pycache__/a.pyc").write_text(root)
    one, two = stage.file_hash(Path("here/code")), stage.file_hash(Path("there/below/code"))
    assert one == two
    Path("here/code/a.py").write_text("x = 2\n")
    assert stage.file_hash(Path("here/code")) != one
    Path("there/below/code/a.py").rename("there/below/code/b.py")
    assert stage.file_hash(Path("there/below/code")) != two
