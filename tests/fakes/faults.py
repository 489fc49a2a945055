"""Ways in which an exchange misbehaves, one row each: what happens, how often, and how it must end."""

from __future__ import annotations

import gzip
import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.fakes.exchange import Fault

ALWAYS = math.inf
TRUTH = "truth"

HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
CLOUDFRONT = (
    b"<HTML><BODY><H1>403 ERROR</H1>The Amazon CloudFront distribution is configured to block access from "
    b"your country.</BODY></HTML>"
)
BANNED = b'{"retCode":10018,"retMsg":"access too frequent"}'


class Row(NamedTuple):
    """`expected` is `TRUTH` or the kind of the error; `times` how many requests in a row meet the fault."""

    name: str
    fault: Fault
    times: float
    expected: str


def field(row: int, column: int, value: object) -> Callable[[dict[str, Any]], object]:
    """Changes one field of one row (a negative column counts from the end)."""

    def edit(envelope: dict[str, Any]) -> None:
        envelope["result"]["list"][row][column] = value

    return edit


def rows(change: Callable[[list[Any]], list[Any]]) -> Callable[[dict[str, Any]], object]:
    """Replaces the list of rows."""

    def edit(envelope: dict[str, Any]) -> None:
        envelope["result"]["list"] = change(envelope["result"]["list"])

    return edit


def top(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    """Sets a field of the envelope; None removes it."""

    def edit(envelope: dict[str, Any]) -> None:
        envelope.pop(key, None)
        if value is not None:
            envelope[key] = value

    return edit


def result(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    """Sets a field of the result."""
    return lambda envelope: envelope["result"].__setitem__(key, value)


def later(milliseconds: int) -> Callable[[dict[str, Any]], object]:
    """Moves the clock of the answer."""
    return lambda envelope: envelope.__setitem__("time", envelope["time"] + milliseconds)


def _shuffled(list_of_rows: list[Any]) -> list[Any]:
    random.Random(1).shuffle(list_of_rows)
    return list_of_rows


def _twice(position: int, close: str | None = None) -> Callable[[list[Any]], list[Any]]:
    def change(list_of_rows: list[Any]) -> list[Any]:
        again = list(list_of_rows[position])
        if close is not None:
            again[5] = close
        return [*list_of_rows, again]

    return change


def _moved(milliseconds: int, position: int) -> Callable[[list[Any]], list[Any]]:
    def change(list_of_rows: list[Any]) -> list[Any]:
        list_of_rows[position][0] = str(int(list_of_rows[position][0]) + milliseconds)
        return list_of_rows

    return change


def _extra(milliseconds: int, position: int) -> Callable[[list[Any]], list[Any]]:
    """One more row, so much later than the one at the position."""

    def change(list_of_rows: list[Any]) -> list[Any]:
        row = list_of_rows[position]
        return [*list_of_rows, [str(int(row[0]) + milliseconds), *row[1:]]]

    return change


def _seconds(list_of_rows: list[Any]) -> list[Any]:
    return [[str(int(row[0]) // 1000), *row[1:]] for row in list_of_rows]


def header(name: str, value: str, **fault: Any) -> Fault:
    """A fault with one more header."""
    return Fault(headers=((name, value),), **fault)


def limited(reset: str) -> Fault:
    """A hit limit with its reset header."""
    return header("X-Bapi-Limit-Reset-Timestamp", reset, code=10006, message="Too many visits!")


def _redirect(location: str, status: int = 302) -> Fault:
    return header("Location", location, status=status)


def fault_table(now: int) -> list[Row]:
    """Every row; `now` is the exchange's clock."""
    kinds = {
        "status": _statuses(),
        "code": _codes(),
        "limit": _limit_headers(now),
        "transport": _transport(),
        "body": _bodies(),
        "envelope": _envelopes(),
        "row": _rows(),
        "time": _times(),
    }
    return [row._replace(name=f"{kind}: {row.name}") for kind, table in kinds.items() for row in table]


def _statuses() -> list[Row]:
    return [
        Row("400", Fault(status=400), ALWAYS, "bad_request"),
        Row("401", Fault(status=401), ALWAYS, "bad_request"),
        Row("403 too frequent", Fault(status=403, body=BANNED), ALWAYS, "banned"),
        Row("403 without a word", Fault(status=403, body=b""), ALWAYS, "banned"),
        Row("403 cut short", Fault(status=403, body=BANNED, wire="truncate"), ALWAYS, "banned"),
        Row("403 in an unknown encoding", header("Content-Encoding", "br", status=403), ALWAYS, "banned"),
        Row("403 CloudFront", Fault(status=403, body=CLOUDFRONT), ALWAYS, "region_blocked"),
        Row("404", Fault(status=404, body=b"404 page not found"), ALWAYS, "bad_request"),
        Row("405", Fault(status=405), ALWAYS, "bad_request"),
        Row("408 once", Fault(status=408), 1, TRUTH),
        Row("429 twice", Fault(status=429), 2, TRUTH),
        Row("429 always", Fault(status=429), ALWAYS, "rate_limited"),
        Row("451", Fault(status=451), ALWAYS, "region_blocked"),
        Row("500 once", Fault(status=500, body=HTML), 1, TRUTH),
        Row("500 always", Fault(status=500, body=HTML), ALWAYS, "unavailable"),
        Row("502 three times", Fault(status=502, body=HTML), 3, TRUTH),
        Row("503 always", Fault(status=503), ALWAYS, "unavailable"),
        Row("504 once", Fault(status=504), 1, TRUTH),
        Row("520 once", Fault(status=520), 1, TRUTH),
        Row("204", Fault(status=204, body=b""), ALWAYS, "bad_answer"),
        Row("206", Fault(status=206), ALWAYS, "bad_answer"),
        Row("redirect in circles", _redirect("/v5/market/kline?x=1"), ALWAYS, "bad_answer"),
        Row("redirect to another host", _redirect("http://localhost:1/"), ALWAYS, "bad_answer"),
        Row("redirect to another scheme", _redirect("https://127.0.0.1/", 308), ALWAYS, "bad_answer"),
        Row("redirect to a user", _redirect("//me:secret@127.0.0.1/", 307), ALWAYS, "bad_answer"),
        Row("redirect to nonsense", _redirect("http://[::1"), ALWAYS, "bad_answer"),
        Row("redirect to nowhere", Fault(status=301), ALWAYS, "bad_answer"),
    ]


def _codes() -> list[Row]:
    return [
        Row("10000 once", Fault(code=10000, message="Server Timeout"), 1, TRUTH),
        Row("10000 always", Fault(code=10000, message="Server Timeout"), ALWAYS, "unavailable"),
        Row("10001", Fault(code=10001, message="Not supported symbols"), ALWAYS, "bad_request"),
        Row("10006 twice, no header", Fault(code=10006, message="Too many visits!"), 2, TRUTH),
        Row("10006 always", Fault(code=10006, message="Too many visits!"), ALWAYS, "rate_limited"),
        Row("10009", Fault(code=10009), ALWAYS, "region_blocked"),
        Row("10016 once", Fault(code=10016, message="Server error"), 1, TRUTH),
        Row("10016 always", Fault(code=10016, message="Server error"), ALWAYS, "unavailable"),
        Row("10017", Fault(code=10017), ALWAYS, "bad_request"),
        Row("10018", Fault(code=10018), ALWAYS, "banned"),
        Row("10024", Fault(code=10024), ALWAYS, "region_blocked"),
        Row("10029", Fault(code=10029), ALWAYS, "bad_request"),
        Row("429 once", Fault(code=429), 1, TRUTH),
        Row("429 always", Fault(code=429), ALWAYS, "unavailable"),
        Row("unknown", Fault(code=77777), ALWAYS, "bad_answer"),
    ]


def _limit_headers(now: int) -> list[Row]:
    gone, far_off = "Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"
    return [
        Row("reset in 2 s", limited(str(now + 2_000)), 1, TRUTH),
        Row("reset in the past", limited(str(now - 5_000)), 2, TRUTH),
        Row("reset in a year", limited(str(now + 365 * 86_400_000)), 1, TRUTH),
        Row("reset in a year, always", limited(str(now + 365 * 86_400_000)), ALWAYS, "rate_limited"),
        Row("reset is garbage", limited("soon"), 1, TRUTH),
        Row("reset is negative", limited("-1"), 1, TRUTH),
        Row("reset is empty", limited(""), 1, TRUTH),
        Row("Retry-After 3", header("Retry-After", "3", status=429), 1, TRUTH),
        Row("Retry-After of an age", header("Retry-After", "9" * 18, status=503), 1, TRUTH),
        Row("Retry-After negative", header("Retry-After", "-7", status=429), 1, TRUTH),
        Row("Retry-After garbage", header("Retry-After", "later", status=429), 1, TRUTH),
        Row("Retry-After a date gone by", header("Retry-After", gone, status=429), 1, TRUTH),
        Row("Retry-After a date far off", header("Retry-After", far_off, status=429), 1, TRUTH),
    ]


def _transport() -> list[Row]:
    return [
        Row("reset once", Fault(wire="reset"), 1, TRUTH),
        Row("reset always", Fault(wire="reset"), ALWAYS, "unavailable"),
        Row("closed without an answer", Fault(wire="close"), 1, TRUTH),
        Row("closed always", Fault(wire="close"), ALWAYS, "unavailable"),
        Row("hangs once", Fault(wire="hang"), 1, TRUTH),
        Row("hangs always", Fault(wire="hang"), ALWAYS, "unavailable"),
        Row("drips its body", Fault(wire="drip"), ALWAYS, "unavailable"),
        Row("drips its headers", Fault(wire="drip_headers"), ALWAYS, "unavailable"),
        Row("truncated once", Fault(wire="truncate"), 1, TRUTH),
        Row("truncated always", Fault(wire="truncate"), ALWAYS, "unavailable"),
        Row("length too long", Fault(content_length=10**6), ALWAYS, "unavailable"),
        Row("length too short", Fault(content_length=300), ALWAYS, "bad_answer"),
        Row("length too short once", Fault(content_length=300), 1, TRUTH),
        Row("not HTTP once", Fault(wire="not_http"), 1, TRUTH),
        Row("not HTTP always", Fault(wire="not_http"), ALWAYS, "unavailable"),
        Row("endless body", Fault(wire="endless"), ALWAYS, "bad_answer"),
    ]


def _bodies() -> list[Row]:
    bomb = gzip.compress(b" " * (64 * 2**20), 1)
    return [
        Row("gzip", header("Content-Encoding", "gzip", encode=gzip.compress), ALWAYS, TRUTH),
        Row("gzip bomb", header("Content-Encoding", "gzip", body=bomb), ALWAYS, "bad_answer"),
        Row("gzip in name only", header("Content-Encoding", "gzip"), ALWAYS, "unavailable"),
        Row("unknown encoding", header("Content-Encoding", "br"), ALWAYS, "bad_answer"),
        Row("too long", Fault(body=b" " * (9 * 2**20)), ALWAYS, "bad_answer"),
        Row("HTML once", Fault(body=HTML), 1, TRUTH),
        Row("HTML always", Fault(body=HTML), ALWAYS, "bad_answer"),
        Row("cut JSON once", Fault(encode=lambda data: data[: len(data) // 2]), 1, TRUTH),
        Row("cut JSON always", Fault(encode=lambda data: data[: len(data) // 2]), ALWAYS, "bad_answer"),
        Row("empty", Fault(body=b""), ALWAYS, "bad_answer"),
        Row("null", Fault(body=b"null"), ALWAYS, "bad_answer"),
        Row("a list", Fault(body=b"[]"), ALWAYS, "bad_answer"),
        Row("NaN beside the data", Fault(edit=top("extra", math.nan)), ALWAYS, "bad_answer"),
        Row("nested deeply", Fault(body=b"[" * 200_000), ALWAYS, "bad_answer"),
        Row("a number of 5000 digits", Fault(body=b'{"retCode":' + b"9" * 5000 + b"}"), ALWAYS, "bad_answer"),
        Row("not UTF-8", Fault(body=b'{"retCode":0,"x":"\xff\xfe"}'), ALWAYS, "bad_answer"),
    ]


def _envelopes() -> list[Row]:
    return [
        Row("retCode in a string", Fault(edit=top("retCode", "0")), ALWAYS, TRUTH),
        Row("retCode missing", Fault(edit=top("retCode", None)), ALWAYS, "bad_answer"),
        Row("retCode true", Fault(edit=top("retCode", True)), ALWAYS, "bad_answer"),
        Row("retMsg SUCCESS", Fault(edit=top("retMsg", "SUCCESS")), ALWAYS, TRUTH),
        Row("retMsg missing", Fault(edit=top("retMsg", None)), ALWAYS, TRUTH),
        Row("result missing", Fault(edit=top("result", None)), ALWAYS, "bad_answer"),
        Row("result a list", Fault(edit=top("result", [])), ALWAYS, "bad_answer"),
        Row("list missing", Fault(edit=lambda e: e["result"].pop("list")), ALWAYS, "bad_answer"),
        Row("list an object", Fault(edit=result("list", {})), ALWAYS, "bad_answer"),
        Row("another symbol", Fault(edit=result("symbol", "ETHUSDT")), ALWAYS, "bad_data"),
        Row("no symbol", Fault(edit=lambda e: e["result"].pop("symbol")), ALWAYS, "bad_data"),
        Row("another category", Fault(edit=result("category", "inverse")), ALWAYS, "bad_data"),
    ]


def _rows() -> list[Row]:
    table: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
        ("numbers instead of strings", rows(lambda r: [[row[0], *map(float, row[1:])] for row in r])),
        ("null", field(3, 4, None)),
        ("nan", field(3, 4, "NaN")),
        ("infinity", field(3, 2, "Infinity")),
        ("too large", field(3, 2, "1e999")),
        ("an empty field", field(3, 5, "")),
        ("underscores", field(3, 5, "1_000")),
        ("blanks", field(3, 5, " 1")),
        ("letters", field(3, 1, "abc")),
        ("a negative price", field(3, 3, "-1")),
        ("a price of zero", field(3, 3, "0")),
        ("a negative volume", field(3, 5, "-0.5")),
        ("a negative turnover", field(3, 6, "-0.5")),
        ("high below low", field(3, 2, "1")),
        ("low above the open", field(3, 3, "99999")),
        ("a close above the high", field(3, 4, "99999")),
        ("a short row", rows(lambda r: [*r[:3], r[3][:6], *r[4:]])),
        ("a long row", rows(lambda r: [*r[:3], [*r[3], "1"], *r[4:]])),
        ("five columns", rows(lambda r: [row[:5] for row in r])),
        ("an object as a row", rows(lambda r: [*r[:3], {"t": 1}, *r[4:]])),
        ("a string as a row", rows(lambda r: [*r[:3], "1234567", *r[4:]])),
        ("null as a row", rows(lambda r: [*r[:3], None, *r[4:]])),
        ("off the grid", rows(_moved(1, 3))),
        ("a conflicting duplicate", rows(_twice(3, "0.001"))),
        ("before the window", rows(_extra(-60_000, -1))),
        ("after the window", rows(_extra(60_000, 0))),
        ("long before the window", rows(_extra(-(10**10), -1))),
        ("of the future", rows(_extra(10**11, 0))),
        ("the page after the one asked for", rows(lambda r: [_extra(60_000_000, 0)([row])[1] for row in r])),
        ("of another interval", rows(lambda r: r[::5])),
        ("times in seconds", rows(_seconds)),
        ("a fractional time", rows(lambda r: [[f"{r[0][0]}.0", *r[0][1:]], *r[1:]])),
        ("a time in other digits", field(3, 0, "١٦٧٠٦٠٨٨٠٠٠٠٠")),
        ("a time of 30 digits", field(3, 0, "9" * 30)),
    ]
    wrong = [Row(name, Fault(edit=edit), 1, "bad_data") for name, edit in table]
    harmless: list[tuple[str, Callable[[dict[str, Any]], object], float]] = [
        ("an identical duplicate", rows(_twice(3)), ALWAYS),
        ("every row twice", rows(lambda r: r + r), ALWAYS),
        ("shuffled", rows(_shuffled), ALWAYS),
        ("oldest first", rows(lambda r: r[::-1]), ALWAYS),
        ("empty page once", rows(lambda r: []), 1),
        ("first half lost once", rows(lambda r: r[len(r) // 2 :]), 1),
        ("some rows lost once", rows(lambda r: [*r[:10], *r[13:500], *r[600:]]), 1),
        ("only the newest row, once", rows(lambda r: r[:1]), 1),
    ]
    return wrong + [Row(name, Fault(edit=edit), times, TRUTH) for name, edit, times in harmless]


def _times() -> list[Row]:
    day = 86_400_000
    return [
        Row("in a string", Fault(edit=lambda e: e.__setitem__("time", str(e["time"]))), ALWAYS, TRUTH),
        Row("missing", Fault(edit=top("time", None)), ALWAYS, "bad_answer"),
        Row(
            "in seconds", Fault(edit=lambda e: e.__setitem__("time", e["time"] // 1000)), ALWAYS, "bad_answer"
        ),
        Row("null", Fault(edit=lambda e: e.__setitem__("time", None)), ALWAYS, "bad_answer"),
        Row("a day ahead once", Fault(edit=later(day)), 1, TRUTH),
        Row("a day behind once", Fault(edit=later(-day)), 1, TRUTH),
        Row("a day ahead always", Fault(edit=later(day)), ALWAYS, "bad_answer"),
        Row("an hour behind always", Fault(edit=later(-day // 24)), ALWAYS, "bad_answer"),
        Row("a minute ahead", Fault(edit=later(60_000)), ALWAYS, TRUTH),
    ]
