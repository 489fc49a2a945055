"""Data Docs that open without a network and are the same bytes for the same data.

Great Expectations draws pages that load their style from half a dozen hosts, carry 4 MB of images and
name every element by a fresh random id. Here its two pages (what was expected, what was found) lose
all that, get one small style sheet and stand behind a front page that says in plain words what holds,
what does not, and where.
"""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Iterable
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from pipelines.checks.expectations import Report

_ROWS = 200  # of a table; a page that nobody can scroll through helps nobody
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_STAMP = re.compile(r"\d{8}T\d{6}\.\d{6}Z")
_VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
_DROPPED_TAGS = {
    "script",
    "style",
    "link",
    "img",
    "footer",
    "button",
    "form",
    "iframe",
    "input",
    "title",
    "hr",
}
# The sidebar and the bar on top work through scripts; the "cooltip" hides its text behind a hover.
_DROPPED_CLASSES = {"navbar", "sticky", "modal", "cooltip", "carousel"}

_STYLE = """
:root { --line: #d9dee5; --soft: #f5f7f9; --ink: #1d2733; --faint: #5d6b7a;
  --good: #17753f; --bad: #b3261e; --warn: #8a5a00; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--ink);
  background: #fff; margin: 0 auto; padding: 32px 24px 64px; max-width: 1080px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2, h4, h5 { font-size: 18px; margin: 32px 0 8px; }
h6, .h6 { font-size: 15px; font-weight: 600; margin: 16px 0 4px; }
p { margin: 4px 0 12px; }
a { color: #0b5cad; }
nav a { margin-right: 16px; }
.faint, .lead { color: var(--faint); }
.verdict { display: block; border-left: 5px solid; background: var(--soft); padding: 12px 16px;
  margin: 20px 0;
  font-weight: 600; }
.good, .text-success { color: var(--good); } .bad, .text-danger { color: var(--bad); }
.warn, .text-warning { color: var(--warn); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 4px 0 12px; font-size: 14px; }
th, td { border-bottom: 1px solid var(--line); padding: 6px 10px 6px 0; text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--faint); font-weight: 600; border-bottom-width: 2px; white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.name, td.when { white-space: nowrap; }
td p { margin: 0; } td ul, td ol { margin: 0; padding-left: 18px; }
code { background: var(--soft); padding: 1px 5px; border-radius: 3px; overflow-wrap: anywhere; }
.ge-section { border-top: 1px solid var(--line); margin-top: 12px; }
.ge-section .alert h5 { margin: 12px 0 0; }
.badge { background: var(--soft); border: 1px solid var(--line); border-radius: 3px; padding: 0 5px; }
.fa-check-circle::before, .fa-check::before { content: "\\2713"; }
.fa-times::before, .fa-times-circle::before { content: "\\2717"; }
.fa-exclamation-triangle::before { content: "!"; font-weight: 700; }
i { font-style: normal; }
"""


def site_config(site: Path) -> dict[str, Any]:
    """The settings of a Great Expectations site that is built into `site`."""
    return {
        "class_name": "SiteBuilder",
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }


def write(report: Report, site: Path, directory: Path) -> None:
    """Replaces `directory` by three pages: ours, and the two of the site that was built into `site`."""
    (found,) = (site / "validations").rglob("*.html")
    (suite,) = (site / "expectations").rglob("*.html")
    scratch = directory.with_name(directory.name + ".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    (scratch / "index.html").write_text(_overview(report), encoding="utf-8")
    (scratch / "results.html").write_text(localise(found.read_text(encoding="utf-8"), report.end, "Results"))
    (scratch / "suite.html").write_text(
        localise(suite.read_text(encoding="utf-8"), report.end, "Expectations")
    )
    shutil.rmtree(directory, ignore_errors=True)
    scratch.rename(directory)


def localise(page: str, run_time: datetime, title: str) -> str:
    """The body of a Great Expectations page without scripts, images, links to hosts and chance."""
    cleaner = _Cleaner()
    cleaner.feed(page)
    cleaner.close()
    body = "".join(cleaner.parts)
    numbers: dict[str, str] = {}
    body = _UUID.sub(lambda match: numbers.setdefault(match[0], f"id-{len(numbers) + 1}"), body)
    stamp = f"{run_time:%Y%m%dT%H%M%S.%f}Z"
    body = _STAMP.sub(lambda match: match[0] if match[0] == stamp else "not recorded", body)
    body = re.sub(r"<li[^>]*>\s*</li>", "", body)  # held a ruler
    body = re.sub(r"[ \t]*\n\s*", "\n", body)
    return _page(title, f"{_links('results.html', 'suite.html', 'index.html')}\n{body}")


class _Cleaner(HTMLParser):
    """Re-emits the body of a page, leaving out what does not work offline."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.parts: list[str] = []
        self._inside_body = False
        self._dropping: str | None = None  # the tag whose subtree is being left out
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._dropping:
            self._depth += tag == self._dropping
            return
        if tag == "body":
            self._inside_body = True
            return
        values = {name: value or "" for name, value in attrs}
        if tag in _DROPPED_TAGS or _DROPPED_CLASSES & set(values.get("class", "").split()):
            if tag not in _VOID:
                self._dropping, self._depth = tag, 1
            return
        kept = {
            name: value
            for name, value in values.items()
            if name in {"class", "id", "colspan", "rowspan"} or (name == "href" and value.startswith("#"))
        }
        if values.get("href", "").endswith("expectations/candles.html"):
            kept["href"] = "suite.html"
        if tag == "a" and "data-toggle" in values:
            kept.pop("href", None)
        self._emit(f"<{tag}" + "".join(f' {name}="{html.escape(kept[name])}"' for name in kept) + ">")

    def handle_endtag(self, tag: str) -> None:
        if self._dropping:
            self._depth -= tag == self._dropping
            if not self._depth:
                self._dropping = None
        elif tag == "body":
            self._inside_body = False
        elif tag not in _VOID:
            self._emit(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        # Fold-outs need a script; here everything lies open.
        self._emit("" if data.strip() == "Show more info..." else data)

    def handle_entityref(self, name: str) -> None:
        self._emit(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self._emit(f"&#{name};")

    def _emit(self, text: str) -> None:
        if self._inside_body and not self._dropping:
            self.parts.append(text)


def _overview(report: Report) -> str:
    """The front page."""
    errors, warnings = len(report.failures), len(report.warnings)
    verdict, colour = f"All {len(report.expectations)} expectations hold.", "good"
    if errors:
        verdict, colour = f"{_plural(errors, 'error')} and {_plural(warnings, 'warning')}: do not use.", "bad"
    elif warnings:
        verdict, colour = f"Fit for use, with {_plural(warnings, 'warning')}.", "warn"
    marks = {True: '<span class="good">✓ holds</span>'}
    order = sorted(report.expectations, key=lambda one: (one.passed, one.severity))
    rows = [
        [
            marks.get(
                one.passed,
                f'<span class="{"bad" if one.severity == "error" else "warn"}">✗ {one.severity}</span>',
            ),
            f"<code>{html.escape(one.name)}</code>",
            html.escape(one.text),
        ]
        for one in order
    ]
    parts = [
        "<h1>Candle checks</h1>",
        f'<p class="faint">{report.interval} bars, {_time(report.start)} to {_time(report.end)} UTC</p>',
        f'<span class="verdict {colour}">{verdict}</span>',
        _links("results.html", "suite.html"),
        "<h2>Expectations</h2>",
        '<p class="faint">An error stops the run; a warning is reported and the run goes on.</p>',
        _html_table(["", "name", "what holds, or what was found"], rows, ["name", "name", ""]),
    ]
    for title, says, table in (
        ("Symbols", "What there is.", report.counts),
        ("Holes", "Bars that are missing between two bars. They stay holes.", report.gaps),
        ("Outliers", "Bars that stray far from the close before them. They may be real.", report.outliers),
        ("Stale runs", "One close, again and again, without volume.", report.stale),
        (
            "Disagreements",
            "Bars of two intervals that tell different stories; often one was saved before it closed.",
            report.disagreements.drop("bar", strict=False),
        ),
    ):
        if table.height:
            parts += [f"<h2>{title}</h2>", f'<p class="faint">{says}</p>', _frame_table(table)]
    return _page("Candle checks", "\n".join(parts))


def _page(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _links(*targets: str) -> str:
    names = {"index.html": "Overview", "results.html": "All results", "suite.html": "All expectations"}
    return (
        "<nav>" + "".join(f'<a href="{target}">{names[target]}</a>' for target in sorted(targets)) + "</nav>"
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _time(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M}"


def _frame_table(frame: pl.DataFrame) -> str:
    """The first rows of a polars table."""
    classes = ["number" if dtype.is_numeric() else "when" for dtype in frame.dtypes]
    rows = [[html.escape(_cell(value)) for value in row] for row in frame.head(_ROWS).iter_rows()]
    more = f'<p class="faint">and {frame.height - _ROWS:,} more</p>' if frame.height > _ROWS else ""
    return _html_table([name.replace("_", " ") for name in frame.columns], rows, classes) + more


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return _time(value)
    if isinstance(value, float):
        return f"{value:.8g}"
    return "" if value is None else str(value)


def _html_table(head: Iterable[str], rows: Iterable[list[str]], classes: list[str]) -> str:
    """A table of ready HTML cells."""
    top = "".join(f'<th class="{css}">{name}</th>' for name, css in zip(head, classes, strict=True))
    body = "\n".join(
        "<tr>"
        + "".join(f'<td class="{css}">{cell}</td>' for cell, css in zip(row, classes, strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )
