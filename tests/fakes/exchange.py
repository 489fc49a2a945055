"""A fake exchange: a real HTTP server on loopback that behaves as Bybit's v5 market API is documented to.

    with FakeExchange() as exchange:
        exchange.fail(Fault(status=503), times=2)
        client = BybitClient(exchange.url)

Windows are anchored at their end, `start` is floored to its bar, rows come newest first, the open candle
is among them, an empty list is no error. `holes` are outages; `now` is its clock and can be set; `fail`
makes it misbehave (tests/fakes/faults.py names many ways). Alone: `python -m tests.fakes.exchange`.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from tests.fakes.prices import DAY, STEPS, Instrument, after, bars_of, bucket, funding_of, rows_json

KLINE = "/v5/market/kline"
MARK = "/v5/market/mark-price-kline"
FUNDING = "/v5/market/funding/history"
INSTRUMENTS = "/v5/market/instruments-info"
TIME = "/v5/market/time"

MARCH_2020 = 1_585_132_560_000  # 2020-03-25 10:36, the first minute of BTCUSDT
NOW = 1_717_200_020_000  # 2024-06-01 00:00:20: minute 00:00 is the open one

INSTRUMENTS_LISTED = (
    Instrument("linear", "BTCUSDT", "BTC", "USDT", MARCH_2020, 1_585_526_400_000),
    Instrument("linear", "ETHUSDT", "ETH", "USDT", 1_603_324_800_000, 1_603_324_800_000),
    Instrument(
        "linear", "SOLUSDT", "SOL", "USDT", 1_634_256_000_000, 1_634_256_000_000,
        funding=((0, 480), (1_700_006_400_000, 240), (1_704_067_200_000, 60)),
    ),
    Instrument(
        "linear", "OLDUSDT", "OLD", "USDT", 1_640_995_200_000, 1_640_995_200_000,
        delivery=1_672_531_200_000, status="Closed",
    ),
    Instrument("inverse", "BTCUSD", "BTC", "USD", 1_542_211_200_000, 1_542_211_200_000),
    Instrument("spot", "BTCUSDT", "BTC", "USDT", 1_625_486_400_000, 1_625_486_400_000),
)  # fmt: skip

Wire = Literal["reset", "close", "hang", "drip", "drip_headers", "truncate", "not_http", "endless"]


@dataclass(frozen=True)
class Fault:
    """One way to misbehave. What is not set stays as it should be.

    `code` and `message` make an error answer with HTTP 200; `edit` changes the envelope of the right
    answer in place; `body` replaces the bytes; `wire` spoils the transport itself.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    code: int | None = None
    message: str = ""
    edit: Callable[[dict[str, Any]], object] | None = None
    encode: Callable[[bytes], bytes] | None = None
    body: bytes | None = None
    wire: Wire | None = None
    content_length: int | None = None


class Seen(NamedTuple):
    """A request that arrived."""

    path: str
    params: dict[str, str]
    at: float  # time.monotonic()
    headers: dict[str, str]


@dataclass
class _Plan:
    fault: Fault
    left: float
    skip: int
    path: str | None


@dataclass
class FakeExchange:
    """The server; start it with `with`. `delay` (seconds) is added to every answer."""

    now: int = NOW
    listed: tuple[Instrument, ...] = INSTRUMENTS_LISTED
    holes: tuple[tuple[int, int], ...] = ()
    delay: float = 0.0
    clamps_start: bool = True  # whether `start` alone before the first bar gives the first bars
    requests: list[Seen] = field(default_factory=list)
    _plans: list[_Plan] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    stopping: threading.Event = field(default_factory=threading.Event)
    _server: ThreadingHTTPServer | None = None

    def __enter__(self) -> FakeExchange:
        handler = type("Handler", (_Handler,), {"exchange": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stopping.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def url(self) -> str:
        assert self._server is not None, "the exchange is not started"
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fail(self, fault: Fault, *, times: float = 1, skip: int = 0, path: str | None = KLINE) -> None:
        """The next `times` requests to `path` (None: any), after `skip` good ones, meet the fault."""
        self._plans.append(_Plan(fault, times, skip, path))

    def mend(self) -> None:
        """No fault that was planned is met any more."""
        with self._lock:
            self._plans.clear()

    def asked(self, path: str = KLINE) -> list[dict[str, str]]:
        """The parameters of every request to the path."""
        return [request.params for request in self.requests if request.path == path]

    def seen(self, request: Seen) -> Fault | None:
        """Notes the request; the fault that it is to meet."""
        with self._lock:
            self.requests.append(request)
            for plan in self._plans:
                if plan.path not in (None, request.path) or plan.left <= 0:
                    continue
                if plan.skip > 0:
                    plan.skip -= 1
                    continue
                plan.left -= 1
                return plan.fault
        return None

    def answer(self, path: str, params: dict[str, str]) -> tuple[int, str]:
        """Status and body of the right answer."""
        routes = {
            KLINE: self._klines,
            MARK: self._klines,
            FUNDING: self._funding,
            INSTRUMENTS: self._instruments,
            TIME: self._time,
        }
        if path not in routes:
            return 404, "404 page not found"
        try:
            code, message, result = 0, "OK", routes[path]({**params, "path": path})
        except ValueError as error:
            code, message, result = 10001, str(error), "{}"
        return 200, (
            f'{{"retCode":{code},"retMsg":{json.dumps(message)},"result":{result},'
            f'"retExtInfo":{{}},"time":{self.now}}}'
        )

    def _find(self, params: dict[str, str], categories: tuple[str, ...]) -> Instrument:
        category, symbol = params.get("category", "linear"), params.get("symbol", "")
        if category not in categories:
            raise ValueError("params error: Category is invalid")
        for wanted in (category, "linear" if category == "inverse" else category):
            # The second round: USDT symbols under inverse were seen to be answered with linear data.
            for instrument in self.listed:
                if (instrument.category, instrument.symbol) == (wanted, symbol):
                    return instrument
        raise ValueError("Not supported symbols")

    def _klines(self, params: dict[str, str]) -> str:
        mark = params["path"] == MARK
        instrument = self._find(params, ("linear", "inverse") if mark else ("linear", "inverse", "spot"))
        interval = params.get("interval", "")
        if interval not in STEPS:
            raise ValueError("Invalid period!")
        start, end = _integer(params, "start"), _integer(params, "end")
        limit = min(_integer(params, "limit") or 200, 1000)
        if limit < 1 or (start is not None and end is not None and start > end):
            raise ValueError("params error")
        if start is not None and end is None and start < instrument.first and not self.clamps_start:
            rows = ""
        else:
            window = (start, end, limit)
            rows = _rows(instrument, interval, window, self.now, self.holes, mark)
        category = json.dumps(params.get("category", "linear"))
        return f'{{"symbol":"{instrument.symbol}","category":{category},"list":[{rows}]}}'

    def _funding(self, params: dict[str, str]) -> str:
        instrument = self._find(params, ("linear", "inverse"))
        start, end = _integer(params, "startTime"), _integer(params, "endTime")
        if start is not None and end is None:
            raise ValueError("params error: endTime is required with startTime")
        limit = min(_integer(params, "limit") or 200, 200)
        first, last = start or 0, self.now if end is None else end
        records = funding_of(instrument, first, last, self.now)[-limit:][::-1]
        rows = [
            {"symbol": instrument.symbol, "fundingRate": rate, "fundingRateTimestamp": str(at)}
            for at, rate in records
        ]
        return json.dumps({"category": instrument.category, "list": rows})

    def _instruments(self, params: dict[str, str]) -> str:
        category = params.get("category")
        if category not in ("linear", "inverse", "spot", "option"):
            raise ValueError("params error: Category is invalid")
        status, symbol = params.get("status", "Trading"), params.get("symbol")
        if symbol is not None and symbol not in {one.symbol for one in self.listed}:
            raise ValueError("params error: symbol invalid")
        chosen = [
            _described(one)
            for one in self.listed
            if one.category == category and one.status == status and symbol in (None, one.symbol)
        ]
        if category == "spot":
            return json.dumps({"category": category, "list": chosen})
        limit = min(_integer(params, "limit") or 500, 1000)
        begin = int(params.get("cursor") or 0)
        following = str(begin + limit) if begin + limit < len(chosen) else ""
        page = {"category": category, "list": chosen[begin : begin + limit], "nextPageCursor": following}
        return json.dumps(page)

    def _time(self, params: dict[str, str]) -> str:
        return json.dumps({"timeSecond": str(self.now // 1000), "timeNano": str(self.now * 10**6)})


def _integer(params: dict[str, str], name: str) -> int | None:
    value = params.get(name)
    if value is None:
        return None
    if not value.lstrip("-").isdigit():
        raise ValueError(f"params error: {name} invalid")
    return int(value)


@lru_cache(maxsize=512)
def _rows(
    instrument: Instrument,
    interval: str,
    window: tuple[int | None, int | None, int],
    now: int,
    holes: tuple[tuple[int, int], ...],
    mark: bool,
) -> str:
    """The rows of a window, newest first: the newest of it, or the oldest if it has a start alone."""
    start, end, limit = window
    step = STEPS[interval] or 31 * DAY
    margin = (limit + 1) * step + sum(stop - begin for begin, stop in holes)
    alive_from, alive_to = instrument.first, min(now, (instrument.delivery or now + 1) - 1)
    first = int(bucket(max(start or 0, alive_from), interval)) if start is not None else alive_from
    last = min(alive_to if end is None else end, alive_to)
    if start is not None and end is None:
        last = min(last, first + margin)
    else:
        first = max(first, last - margin)
    if first > last:
        return ""
    first = int(bucket(first, interval))
    table = bars_of(instrument, interval, first, after(last, interval), now, holes)
    keep = slice(None, limit) if start is not None and end is None else slice(-limit, None)
    return rows_json(instrument, type(table)(*(column[keep] for column in table)), mark=mark)


def _described(one: Instrument) -> dict[str, Any]:
    """The instrument as the exchange describes it."""
    spot = one.category == "spot"
    lot = {"minOrderQty": "0.001", "maxOrderQty": "1190"}
    lot |= {"basePrecision": "0.001", "quotePrecision": "0.0000001", "minOrderAmt": "5"} if spot else {
        "qtyStep": "0.001", "minNotionalValue": "5"
    }  # fmt: skip
    described: dict[str, Any] = {
        "symbol": one.symbol,
        "baseCoin": one.base,
        "quoteCoin": one.quote,
        "status": one.status,
        "lotSizeFilter": lot,
        "priceFilter": {"tickSize": "0.1", "minPrice": "0.1", "maxPrice": "1999999.8"},
    }
    if not spot:
        described |= {
            "contractType": one.category.capitalize() + "Perpetual",
            "settleCoin": one.quote if one.category == "linear" else one.base,
            "launchTime": str(one.launch),
            "deliveryTime": str(one.delivery),
            "fundingInterval": one.funding[-1][1],
            "leverageFilter": {"minLeverage": "1", "maxLeverage": "100.00", "leverageStep": "0.01"},
        }
    return described


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the game."""


class _Handler(BaseHTTPRequestHandler):
    exchange: FakeExchange
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one packet an answer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        params = dict(parse_qsl(parts.query, keep_blank_values=True))
        seen = Seen(parts.path, params, time.monotonic(), dict(self.headers.items()))
        fault = self.exchange.seen(seen) or Fault()
        if self.exchange.delay:
            time.sleep(self.exchange.delay)
        status, body = self.exchange.answer(parts.path, params)
        if fault.code is not None:
            body = json.dumps(
                {"retCode": fault.code, "retMsg": fault.message, "result": {}, "time": self.exchange.now}
            )
        if fault.edit is not None:
            envelope = json.loads(body)
            fault.edit(envelope)
            body = json.dumps(envelope)
        data = body.encode() if fault.body is None else fault.body
        if fault.encode is not None:
            data = fault.encode(data)
        self._reply(fault, status if fault.status == 200 else fault.status, data)

    def _reply(self, fault: Fault, status: int, data: bytes) -> None:
        if fault.wire == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault.wire == "hang":
            self.exchange.stopping.wait(20)
        if fault.wire == "not_http":
            self.wfile.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        if fault.wire in ("reset", "close", "hang", "not_http"):
            self.close_connection = True
            return
        if fault.wire == "drip_headers":
            self._drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 10_000)
            return
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), *fault.headers):
            self.send_header(name, value)
        if fault.wire == "endless":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while not self.exchange.stopping.is_set():
                self.wfile.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
            return
        length = len(data) if fault.content_length is None else fault.content_length
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if fault.wire == "drip":
            self._drip(data)
        elif fault.wire == "truncate":
            self.wfile.write(data[: len(data) // 2])
        else:
            self.wfile.write(data)
        if fault.wire is not None or fault.content_length is not None:
            self.close_connection = True

    def _drip(self, data: bytes) -> None:
        for position in range(len(data)):
            self.wfile.write(data[position : position + 1])
            self.wfile.flush()
            if self.exchange.stopping.wait(0.02):
                return
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Serves the fake exchange until its input ends.")
    parser.add_argument("--now", type=int, default=NOW, help="its clock, epoch ms")
    with FakeExchange(now=parser.parse_args().now) as exchange:
        print(exchange.url, flush=True)
        while input_line := _read_line():
            exchange.now = int(input_line)


def _read_line() -> str:
    """A new time for the clock; empty when whoever started us is gone."""
    try:
        return input()
    except EOFError:
        return ""


if __name__ == "__main__":
    main()
