"""A real browser for pages: what it draws, and what its console complains about."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # a page that wants the network fails loudly
]  # fmt: skip


def run(page: Path, *arguments: str, dark: bool = False) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    theme = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
    with tempfile.TemporaryDirectory() as profile:
        return subprocess.run(
            [CHROMIUM, *QUIET, *theme, "--enable-logging=stderr", "--virtual-time-budget=20000",
             f"--user-data-dir={profile}", *arguments, page.resolve().as_uri()],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip


def console(page: Path, width: int, *, dark: bool = False) -> list[str]:
    """What the console said while the page was drawn at this width."""
    done = run(page, f"--window-size={width},1600", "--screenshot=/dev/null", dark=dark)
    return re.findall(r"CONSOLE[^\"]*\"(.*)\", source", done.stderr)


def dom(page: Path, width: int) -> str:
    """The document after its scripts have run."""
    return run(page, f"--window-size={width},1600", "--dump-dom").stdout
