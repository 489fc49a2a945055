"""The pages: readable without a network, and the same bytes for the same data."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from pipelines.checks.docs import localise
from pipelines.checks.expectations import Report, check_candles
from tests.pipelines.checks.made import BARS, END, HOUR, START, SYMBOLS, clean, drop, put

PAGES = ["index.html", "results.html", "suite.html"]


def _write(directory: Path, *, table: pl.DataFrame | None = None) -> Report:
    spoilt = drop(put(clean(), 10, high=1.0, symbol="<b>&"), 50, 51, BARS - 1)
    return check_candles(
        spoilt if table is None else table,
        interval="1h",
        start=START,
        end=END,
        symbols=SYMBOLS,
        docs=directory,
    )


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path, Path]:
    one, other = (tmp_path_factory.mktemp(name) / "docs" for name in ("one", "other"))
    one.mkdir()
    (one / "stale.html").write_text("from an earlier run")
    report = _write(one)
    _write(other)
    return report, one, other


def test_two_runs_write_the_same_bytes(twice: tuple[Report, Path, Path]) -> None:
    _, one, other = twice
    assert sorted(path.name for path in one.rglob("*")) == PAGES
    assert sorted(path.name for path in other.rglob("*")) == PAGES
    for page in PAGES:
        assert (one / page).read_bytes() == (other / page).read_bytes()
    assert sum((one / page).stat().st_size for page in PAGES) < 128_000
    assert not list(one.parent.glob("*.partial"))


class _References(HTMLParser):
    """What a page asks a browser to load or to open."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.found: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in {"src", "href", "action", "data", "srcset", "style"} or name.startswith("on"):
                self.found.append(value or "")
            if name == "id":
                self.anchors.add(value or "")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_nothing_and_leads_only_to_its_neighbours(
    twice: tuple[Report, Path, Path], page: str
) -> None:
    text = (twice[1] / page).read_text(encoding="utf-8")
    references = _References()
    references.feed(text)
    assert not references.tags & {"script", "link", "img", "iframe", "object", "form"}
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text
    for target in references.found:
        assert target in PAGES or target.removeprefix("#") in references.anchors
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", text)
    assert f"{END:%Y-%m-%d}" in text or page == "suite.html"


def test_the_front_page_says_what_is_wrong_and_where(twice: tuple[Report, Path, Path]) -> None:
    report, one, _ = twice
    text = (one / "index.html").read_text(encoding="utf-8")
    for outcome in report.expectations:
        assert f"<code>{outcome.name}</code>" in text
        assert html.escape(outcome.text) in text
    assert (len(report.failures), len(report.warnings)) == (6, 1)
    assert "6 errors and 1 warning: do not use." in text
    assert f'<td class="when">{START + 49 * HOUR:%Y-%m-%d %H:%M}</td>' in text
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;" in text


def test_the_results_page_keeps_every_expectation(twice: tuple[Report, Path, Path]) -> None:
    report, one, _ = twice
    text = html.unescape((one / "results.html").read_text(encoding="utf-8"))
    expected = {rule.text for rule in report.expectations if rule.passed}
    assert expected
    assert {sentence for sentence in expected if sentence not in text} == set()
    assert f"{len(report.expectations)}" in text
    assert "not recorded" in text  # the time of the run


def test_good_news_is_told_as_such(tmp_path: Path) -> None:
    report = _write(tmp_path / "docs", table=clean())
    text = (tmp_path / "docs" / "index.html").read_text(encoding="utf-8")
    assert f"All {len(report.expectations)} expectations hold." in text
    warned = _write(tmp_path / "docs", table=drop(clean(), 50))
    assert len(warned.warnings) == 1
    assert "Fit for use, with 1 warning." in (tmp_path / "docs" / "index.html").read_text(encoding="utf-8")


def test_localise_drops_what_needs_a_network_or_changes_by_run() -> None:
    page = """<html><head><link href="https://a.example/x.css"></head><body>
    <nav class="navbar top"><nav>menu</nav> more</nav>
    <p id="p-0a1b2c3d-0000-4000-8000-000000000001" onclick="go()" style="a">kept &amp; &#233; <br>text</p>
    <a href="https://a.example/">label</a> <a href="#p-0a1b2c3d-0000-4000-8000-000000000001">jump</a>
    <script>if (1 < 2) { document.write("<p>") }</script><img src="https://a.example/x.png">
    <i>20240111T000000.000000Z</i> <i>20261120T182554.146577Z</i> ffffffff-0000-4000-8000-000000000002
    </body></html>"""
    text = localise(page, END, "Title")
    body = text[text.index("</nav>") + 6 :]
    assert body.lstrip() == (
        '<p id="p-id-1">kept &amp; &#233; <br>text</p>\n<a>label</a> <a href="#p-id-1">jump</a>\n'
        "<i>20240111T000000.000000Z</i> <i>not recorded</i> id-2\n\n</body>\n</html>\n"
    )
    assert "20240111T000000.000000Z" not in localise(page, END + timedelta(hours=1), "Title")
