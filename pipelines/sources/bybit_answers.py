"""What an answer of the exchange means: a believed envelope, or one `BybitError`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple

import requests

Kind = Literal[
    "rate_limited", "banned", "region_blocked", "bad_request", "unavailable", "bad_answer", "bad_data"
]


# What the documented return codes mean to a reader of market data: (kind, worth another try).
_CODES: dict[int, tuple[Kind, bool]] = {
    429: ("unavailable", True),
    10000: ("unavailable", True),
    10001: ("bad_request", False),
    10002: ("bad_request", False),
    10006: ("rate_limited", True),
    10009: ("region_blocked", False),
    10016: ("unavailable", True),
    10017: ("bad_request", False),
    10018: ("banned", False),
    10024: ("region_blocked", False),
    10029: ("bad_request", False),
    10429: ("rate_limited", True),
}
_STATUSES: dict[int, tuple[Kind, bool]] = {
    408: ("unavailable", True),
    429: ("rate_limited", True),
    451: ("region_blocked", False),
}


class BybitError(Exception):
    """Everything that can go wrong with the exchange; `kind` says what to do about it.

    `rate_limited` and `unavailable`: later; `banned`: after ten minutes; `region_blocked`: not from here;
    `bad_request`: the question was wrong; `bad_answer` and `bad_data`: the exchange's answer is not to be
    believed (its form, or its numbers). `retry` says whether the transport may ask again by itself and
    `retry_after` how many seconds the exchange asked for.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        url: str = "",
        status: int | None = None,
        code: int | None = None,
        retry: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(kind, message)
        self.kind: Kind = kind
        self.message = message
        self.url = url
        self.status = status
        self.code = code
        self.retry = retry
        self.retry_after = retry_after

    def __str__(self) -> str:
        details = [self.url] if self.url else []
        details += [f"HTTP {self.status}"] if self.status is not None else []
        details += [f"retCode {self.code}"] if self.code is not None else []
        return f"{self.kind}: {self.message}" + (f" ({', '.join(details)})" if details else "")


class BadRequest(BybitError, ValueError):
    """The caller's own mistake, found before anything was sent."""

    def __init__(self, message: str) -> None:
        super().__init__("bad_request", message)
        self.args = (message,)  # so that it survives a pickle between processes


class Answer(NamedTuple):
    """A believed envelope: `result` as sent, the server's clock, and where it came from."""

    result: dict[str, Any]
    time_ms: int
    url: str


def read_answer(response: requests.Response, body: bytes, url: str, now_ms: int) -> Answer:
    """The envelope of a complete response, or the error that it stands for."""
    status = response.status_code
    if status == 403:
        kind, message = _forbidden(body)
        raise BybitError(kind, message, url=url, status=status)
    if status >= 400:
        kind, again = _STATUSES.get(
            status, ("unavailable", True) if status >= 500 else ("bad_request", False)
        )
        raise BybitError(
            kind,
            _excerpt(response.reason) or "error",
            url=url,
            status=status,
            retry=again,
            retry_after=_asked_wait(response.headers, now_ms),
        )
    if status != 200:
        raise bad_answer(f"unexpected status {status}", url, response)
    try:
        envelope = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise bad_answer(f"the body is not JSON: {type(error).__name__}", url, response) from error
    if not isinstance(envelope, dict):
        raise bad_answer("the answer is not an object", url, response)
    code, server_ms = whole_number(envelope.get("retCode")), whole_number(envelope.get("time"))
    if code is None:
        raise bad_answer("retCode is not a number", url, response)
    if code != 0:
        kind, again = _CODES.get(code, ("bad_answer", False))
        raise BybitError(
            kind,
            _excerpt(envelope.get("retMsg")) or "no message",
            url=url,
            status=status,
            code=code,
            retry=again,
            retry_after=_asked_wait(response.headers, server_ms or now_ms),
        )
    result = envelope.get("result")
    if not isinstance(result, dict):
        raise bad_answer("result is not an object", url, response)
    if server_ms is None or not 10**12 <= server_ms < 10**13:
        raise bad_answer("time is not a time in milliseconds", url, response)
    return Answer(result, server_ms, url)


def _forbidden(body: bytes) -> tuple[Kind, str]:
    """Bans and region blocks both come as 403; only the body tells them apart."""
    text = body[:20_000].decode("utf-8", "replace").lower()
    if "too frequent" in text:
        return "banned", "the exchange says that this address asked too often"
    if "cloudfront" in text or "your country" in text or "region" in text:
        return "region_blocked", "the exchange does not serve this country or network"
    return "banned", "the exchange refuses this address without saying why"


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _excerpt(message: object) -> str:
    return " ".join(message.split())[:200] if isinstance(message, str) else ""


def whole_number(value: object) -> int | None:
    """A whole number sent as a number or as a string of digits; anything else is None."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 19:
        return int(value)
    return None


def _asked_wait(headers: Mapping[str, str], now_ms: int) -> float | None:
    """Seconds that the exchange asks us to wait, by its own clock; nonsense and the past count as nothing."""
    waits = [0.0]
    after = headers.get("Retry-After", "").strip()
    if (seconds := whole_number(after)) is not None:
        waits.append(float(seconds))
    elif (until := _http_date(after)) is not None:
        since = _http_date(headers.get("Date", "")) or datetime.fromtimestamp(now_ms / 1e3, UTC)
        waits.append((until - since).total_seconds())
    if (reset := whole_number(headers.get("X-Bapi-Limit-Reset-Timestamp", "").strip())) is not None:
        waits.append((reset - now_ms) / 1e3)
    return max(waits) or None


def _http_date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text).replace(tzinfo=UTC)  # HTTP dates are always GMT
    except (TypeError, ValueError, IndexError):
        return None


def bad_answer(message: str, url: str, response: requests.Response) -> BybitError:
    return BybitError("bad_answer", message, url=url, status=response.status_code, retry=True)
