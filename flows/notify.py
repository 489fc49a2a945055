"""A word to the user when a night failed or refused: one JSON document to a web hook."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

SECONDS = 20.0


def post(url: str, document: Mapping[str, Any]) -> str | None:
    """Posts the document; what went wrong in words, or None. Never raises for a hook that is away."""
    body = json.dumps(document, sort_keys=True).encode()
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=SECONDS):
            return None
    except (urllib.error.URLError, OSError, ValueError) as error:
        return f"the web hook {url} was not reached: {error}"
