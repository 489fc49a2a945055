"""A Prefect server of our own, for as long as the block lasts; none where the user names another one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from pipelines.errors import UserError
from pipelines.stage import end_with_parent

START_SECONDS = 120.0
PORT = 4200


@contextlib.contextmanager
def running(log: Path) -> Iterator[str]:
    """The address of the API: the user's `PREFECT_API_URL`, or of a server that ends with the block.

    Prefect reads the address when it is first imported, so this comes before that.
    """
    named = os.environ.get("PREFECT_API_URL")
    if named:
        yield named
        return
    port = int(os.environ.get("PREFECT_SERVER_API_PORT", PORT))
    url = f"http://127.0.0.1:{port}/api"
    if _answers(url):
        raise UserError(
            f"something answers at {url} already; to use that server: export PREFECT_API_URL={url}"
        )
    # The port by its setting and not by an option, or the pages ask for the API at another one.
    settings = {
        **os.environ,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start"],
            env=settings, stdout=file, stderr=file, preexec_fn=end_with_parent,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _answers(url):
                if child.poll() is not None or time.monotonic() > deadline:
                    raise UserError(f"the Prefect server did not start; see {log}")
                time.sleep(0.5)
            os.environ["PREFECT_API_URL"] = url
            yield url
        finally:
            os.environ.pop("PREFECT_API_URL", None)
            child.terminate()
            child.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False  # not yet
