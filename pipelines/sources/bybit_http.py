"""Talking to the exchange: polite, bounded, and with one family of errors.

One `Transport.get` is one question to the exchange. It waits for its turn (token bucket), asks again
after failures that pass by themselves, and ends within a stated time and a stated number of bytes,
whatever the other side does. A ban or a region block opens a breaker: the transport then sends nothing
until the documented time is over, because asking on prolongs a ban.
"""

from __future__ import annotations

import itertools
import math
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from urllib.parse import urlencode, urljoin, urlsplit

import requests
import urllib3

from pipelines.sources.bounded import Bound, BoundedAdapter, bound
from pipelines.sources.bybit_answers import Answer, BadRequest, BybitError, bad_answer, read_answer

TIME_PATH = "/v5/market/time"
DOCUMENTED_REQUESTS_PER_SECOND = 120.0  # 600 in 5 s, all hosts of one address together
_OFFICIAL_HOSTS = re.compile(r"(^|\.)(bybit\.[a-z]+|bytick\.com|bybitgeorgia\.ge|manepa\.jp)$")
_CLOCK_TOLERANCE_MS = 5 * 60_000
_MAX_REDIRECTS = 3
_DAY = 86_400.0
_TRANSPORT_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError)


@dataclass(frozen=True)
class Limits:
    """How hard and how long to try; seconds and bytes."""

    requests_per_second: float = DOCUMENTED_REQUESTS_PER_SECOND / 2
    timeout: float = 10.0  # of one request, connection to last byte, by the wall clock
    max_retries: int = 5
    backoff: float = 0.5  # the first wait, doubled each time
    max_wait: float = 30.0  # of one wait, whatever the exchange asks for
    max_total_wait: float = 120.0  # of one question, all its tries together
    max_body_bytes: int = 8 * 2**20
    ban_seconds: float = 600.0  # documented: "at least 10 minutes"

    def __post_init__(self) -> None:
        if not self.requests_per_second > 0:
            raise BadRequest(f"requests_per_second must be positive, not {self.requests_per_second!r}")
        for name in ("timeout", "backoff", "max_wait", "max_total_wait", "ban_seconds"):
            if not 0 < getattr(self, name) <= _DAY:
                raise BadRequest(f"{name} must be in seconds, up to a day, not {getattr(self, name)!r}")
        if self.max_retries < 0 or self.max_body_bytes < 1:
            raise BadRequest("max_retries must be at least 0 and max_body_bytes at least 1")


class TokenBucket:
    """At most `rate` requests a second, shared by all threads, with little bursts (0.1 s)."""

    def __init__(self, rate: float, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._gap = 0.0 if math.isinf(rate) else 1.0 / rate
        self._slack = max(0.0, 0.1 - self._gap)
        self._clock, self._sleep = clock, sleep
        self._next = self._paused_until = -math.inf
        self._lock = threading.Lock()

    def take(self) -> None:
        """Waits until the next request may be sent."""
        with self._lock:
            turn = max(self._next, self._clock() - self._slack)
            self._next = turn + self._gap
        while (wait := max(turn, self._paused_until) - self._clock()) > 0:
            self._sleep(wait)

    def pause(self, seconds: float) -> None:
        """Nobody sends for so long: a limit that one thread hits holds for all of them."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + seconds)


class _Session(requests.Session):
    """`requests` reads a redirect's whole body, without a bound, even when told not to follow it."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class Transport:
    """Questions to one host. Safe to use from several threads; each keeps its own connection."""

    def __init__(
        self,
        base_url: str,
        limits: Limits,
        *,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._base = _checked_base(base_url, limits)
        self.limits = limits
        self._stop = threading.Event()
        self._clock = clock
        self._sleep = sleep or self._nap
        self._bucket = TokenBucket(limits.requests_per_second, clock, self._sleep)
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._ban: BybitError | None = None
        self._ban_ends = -math.inf
        self._anchor = (clock(), wall_clock() * 1e3)  # our clock; the server's at that moment, in ms
        self.heard = False  # whether the exchange's clock was read yet
        self.requests_sent = 0

    def address(self, path: str) -> str:
        """The full address of a path."""
        return self._base + path

    def server_now(self) -> int:
        """The server's clock in ms, carried on from the last answer by our own."""
        at, server_ms = self._anchor
        return int(server_ms + (self._clock() - at) * 1e3)

    def get(self, path: str, params: Mapping[str, str | int]) -> Answer:
        """The exchange's answer, or a `BybitError`, within the limits.

        The answer decides which bar is closed by its own clock. A clock that jumps from where the last
        answer left it is believed only when the exchange's time endpoint says the same.
        """
        answer = self._ask(path, params)
        if abs(answer.time_ms - self.server_now()) > _CLOCK_TOLERANCE_MS and path != TIME_PATH:
            second = self._ask(TIME_PATH, {})
            if abs(answer.time_ms - second.time_ms) > _CLOCK_TOLERANCE_MS:
                # One of the two was wrong for a moment: a third answer must agree with the second.
                answer = self._ask(path, params)
            if abs(answer.time_ms - second.time_ms) > _CLOCK_TOLERANCE_MS:
                raise BybitError(
                    "bad_answer",
                    f"the exchange's clocks disagree: {answer.time_ms} here, {second.time_ms} at {TIME_PATH}",
                    url=answer.url,
                    status=200,
                )
        self._anchor = (self._clock(), float(answer.time_ms))
        self.heard = True
        return answer

    def close(self) -> None:
        """Ends every wait and every read at once; nothing is sent afterwards."""
        self._stop.set()
        with self._lock:
            for session in self._sessions:
                session.close()

    def _nap(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise BybitError("unavailable", "the client was closed while it waited")

    def _ask(self, path: str, params: Mapping[str, str | int]) -> Answer:
        url = self._base + path + (f"?{urlencode(params)}" if params else "")
        started = self._clock()
        for attempt in itertools.count():
            try:
                return self._once(url)
            except BybitError as error:
                if not error.retry:
                    raise
                wait = self._wait(attempt, error.retry_after)
                if error.kind == "rate_limited":
                    self._bucket.pause(wait)  # for every thread, also when this question is given up
                late = self._clock() + wait - started > self.limits.max_total_wait
                if late or attempt >= self.limits.max_retries:
                    raise
            self._sleep(wait)
        raise AssertionError("unreachable")

    def _wait(self, attempt: int, asked: float | None) -> float:
        """Doubling, jittered between half and whole, never less than asked for, never above the cap."""
        backoff = self.limits.backoff * 2.0 ** min(attempt, 30) * self._random.uniform(0.5, 1.0)
        return min(max(backoff, asked or 0.0), self.limits.max_wait)

    def _once(self, url: str) -> Answer:
        target = url
        for _ in range(_MAX_REDIRECTS + 1):
            self._admit(url)
            deadline = time.monotonic() + self.limits.timeout
            response = self._send(target, deadline)
            with response:
                body = self._needed_body(response, target)
            if response.status_code not in (301, 302, 303, 307, 308):
                try:
                    return read_answer(response, body, target, self.server_now())
                except BybitError as error:
                    if error.kind in ("banned", "region_blocked"):
                        self._ban, self._ban_ends = error, self._clock() + self.limits.ban_seconds
                    raise
            target = _redirected(response, target)
        raise BybitError("bad_answer", "too many redirects", url=url, status=response.status_code)

    def _admit(self, url: str) -> None:
        self._bucket.take()
        if self._stop.is_set():
            raise BybitError("unavailable", "the client was closed; nothing was sent", url=url)
        left = self._ban_ends - self._clock()
        if self._ban is not None and left > 0:
            raise BybitError(
                self._ban.kind,
                f"nothing was sent: {self._ban.message}; the next request may go in {left:.0f} s",
                url=url,
                status=self._ban.status,
                code=self._ban.code,
            )
        with self._lock:
            self.requests_sent += 1

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = _Session()
            session.mount("https://", BoundedAdapter())
            session.mount("http://", BoundedAdapter())
            session.headers.update(
                {"User-Agent": "rehearsal", "Accept": "application/json", "Accept-Encoding": "gzip"}
            )
            session.auth = lambda request: request  # else requests would send the user's .netrc along
            self._local.session = session
            with self._lock:
                self._sessions.append(session)
        return session

    def _send(self, url: str, deadline: float) -> requests.Response:
        bound.now = Bound(deadline, self._stop)
        try:
            return self._session().get(
                url, stream=True, allow_redirects=False, timeout=max(deadline - time.monotonic(), 0.001)
            )
        except _TRANSPORT_ERRORS as error:
            raise self._broken(url, error) from error

    def _needed_body(self, response: requests.Response, url: str) -> bytes:
        if response.status_code == 200:
            return self._body(response, url)
        if response.status_code != 403:
            return b""
        try:
            return self._body(response, url)
        except BybitError:
            return b""  # a ban that cannot be read is a ban all the same, and asking again prolongs it

    def _body(self, response: requests.Response, url: str) -> bytes:
        """The decoded body, read by pieces so that neither size nor a gzip bomb can hurt."""
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity", "gzip"):
            raise bad_answer(f"the body is encoded as {encoding!r}", url, response)
        cap = self.limits.max_body_bytes
        body = bytearray()
        try:
            for piece in response.iter_content(64 * 1024):
                body += piece
                if len(body) > cap:
                    raise BybitError(
                        "bad_answer", f"the body exceeds {cap} bytes", url=url, status=response.status_code
                    )
        except _TRANSPORT_ERRORS as error:
            raise self._broken(url, error, response.status_code) from error
        return bytes(body)

    def _broken(self, url: str, error: Exception, status: int | None = None) -> BybitError:
        if self._stop.is_set():
            return BybitError("unavailable", "the client was closed in the middle of a request", url=url)
        # Only the name of the error: its text may repeat a proxy's address with its password.
        return BybitError(
            "unavailable",
            f"the connection failed: {type(error).__name__}",
            url=url,
            status=status,
            retry=True,
        )


def _checked_base(base_url: str, limits: Limits) -> str:
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise BadRequest(f"base_url is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise BadRequest("base_url must be http(s)://host")
    if parts.username is not None or parts.query or parts.fragment or parts.path not in ("", "/"):
        raise BadRequest("base_url must be scheme and host alone: no user, path, query or fragment")
    if _OFFICIAL_HOSTS.search(host) and limits.requests_per_second > DOCUMENTED_REQUESTS_PER_SECOND:
        raise BadRequest(f"{host} allows {DOCUMENTED_REQUESTS_PER_SECOND:.0f} requests a second, no more")
    return f"{parts.scheme}://{parts.netloc}"


def _redirected(response: requests.Response, url: str) -> str:
    """Where the redirect leads, if it stays on the same scheme, host and port."""
    status = response.status_code
    location = response.headers.get("Location")
    if not location:
        raise BybitError("bad_answer", "a redirect without a target", url=url, status=status)
    try:
        target = urljoin(url, location)
        old, new = urlsplit(url), urlsplit(target)
        same = (old.scheme, old.hostname, old.port) == (new.scheme, new.hostname, new.port)
    except ValueError:
        same = False
    if not same or new.username is not None:
        raise BybitError("bad_answer", "a redirect to another host is not followed", url=url, status=status)
    return target
