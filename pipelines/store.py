"""The store: market data on disk that only ever grows by whole, checked pieces.

    store = CandleStore(Path("data/store"), source="bybit", category="linear")
    for start, stop in store.missing_ranges("BTCUSDT", "1m", start, end):
        store.append("BTCUSDT", "1m", fetch(start, stop), fetched=(start, stop))
    store.scan(["BTCUSDT", "ETHUSDT"], "1m", start, end).filter(...).collect()

Layout: `<root>/<source>/<category>/<kind>/<symbol>/<interval>/<month>-<hash>.parquet` and a manifest beside
them. Three promises:

- **Append only.** A row that is offered again must be the row that is stored; a different one is a
  `StoreConflict` that lists both, and nothing is written.
- **All or nothing.** An append happens at the rename of the manifest. A killed writer leaves the series as it
  was before or after, and what was fetched is known to the millisecond, empty stretches included.
- **Same content, same bytes.** A month is always rewritten from its sorted rows with fixed settings, so the
  files do not tell in how many pieces, or in which order, they came.

A reader takes the manifest as it stands when it calls `scan`; a month that is rewritten between `scan` and
`collect` makes the collect fail on a vanished file, never return half of it.
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from pipelines import manifest as manifests
from pipelines.locks import exclusive
from pipelines.manifest import Manifest, Partition, Range, StoreDamaged, StoreError
from pipelines.tables import TABLES, check, check_name, step_ms

_LOG = logging.getLogger(__name__)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN = 5
# A month of minutes (44 640 rows) fits in one row group: its statistics then prune whole files.
_ROW_GROUP = 1 << 16

Time = int | datetime
"""Milliseconds since 1970, or an aware datetime."""


class Conflict(NamedTuple):
    """One row that is stored with other values than those offered now."""

    symbol: str
    time: datetime
    stored: dict[str, Any]
    offered: dict[str, Any]


class StoreConflict(StoreError):
    """A row offered again with other values; nothing of that append was written."""

    def __init__(self, where: str, conflicts: Sequence[Conflict]) -> None:
        self.conflicts = tuple(conflicts)
        shown = "; ".join(
            f"{item.time:%Y-%m-%d %H:%M:%S} stored {item.stored}, offered {item.offered}"
            for item in self.conflicts[:_SHOWN]
        )
        more = f" and {len(self.conflicts) - _SHOWN} more" if len(self.conflicts) > _SHOWN else ""
        super().__init__(f"{where}: {len(self.conflicts)} rows differ from the stored ones: {shown}{more}")


class Appended(NamedTuple):
    """What an append did: rows that are new, and rows that were there already, value for value."""

    added: int
    known: int


class Damage(NamedTuple):
    """A partition that is not what its manifest says."""

    path: Path
    reason: str


def to_ms(time: Time) -> int:
    """Milliseconds since 1970; a datetime without a zone is refused rather than guessed."""
    if isinstance(time, int):
        return time
    if time.tzinfo is None:
        raise StoreError(f"{time} has no time zone; times are UTC and say so")
    return (time - _EPOCH) // timedelta(milliseconds=1)


class Store:
    """One kind of table of one source and category; see the module's docstring for what it promises."""

    def __init__(
        self,
        root: Path,
        *,
        kind: str = "candles",
        source: str = "bybit",
        category: str = "linear",
        lock_timeout: float = 10.0,
    ) -> None:
        if kind not in TABLES:
            raise StoreError(f"kind {kind!r} is unknown; allowed: {', '.join(TABLES)}")
        self.table = TABLES[kind]
        self.source = check_name("source", source)
        self.category = check_name("category", category)
        self.folder = root / source / category / kind
        self._locks = root / "locks"
        self._lock_timeout = lock_timeout
        self._mine = threading.local()

    # -- what is there ---------------------------------------------------------------------------

    def manifest(self, symbol: str, interval: str) -> Manifest:
        """What is stored and fetched, less any month whose file is gone or cut: fetch that again."""
        step_ms(self.table, interval)
        found = manifests.read(self._series(symbol, interval), self._identity(symbol, interval))
        return self._without(found, self._faults(found, deep=False))

    def series(self) -> list[tuple[str, str]]:
        """(symbol, interval) of all that was ever written, sorted."""
        return sorted((path.parent.parent.name, path.parent.name)
                      for path in self.folder.glob(f"*/*/{manifests.FILE_NAME}"))  # fmt: skip

    def missing_ranges(self, symbol: str, interval: str, start: Time, end: Time) -> list[Range]:
        """Closed-open ranges of `[start, end)` that were never fetched, on the grid of the interval."""
        wanted = self._on_grid((to_ms(start), to_ms(end)), interval)
        return list(manifests.subtract([wanted], self.manifest(symbol, interval).fetched))

    def files(self, symbols: Sequence[str] | None, interval: str, start: Time, end: Time) -> list[Path]:
        """The partitions that can hold a row of `[start, end)`, by symbol and month."""
        wanted = to_ms(start), to_ms(end)
        if symbols is None:  # a walk over the whole store, which a handful of names need not pay for
            symbols = [symbol for symbol, stored in self.series() if stored == interval]
        unknown = [
            name for name in symbols if not (self._series(name, interval) / manifests.FILE_NAME).exists()
        ]
        if unknown:
            raise StoreError(
                f"no {self.table.kind} of {', '.join(unknown)} at {interval} below {self.folder}"
            )
        found: list[Path] = []
        for symbol in sorted(set(symbols)):
            folder = self._series(symbol, interval)
            stored = manifests.read(folder, self._identity(symbol, interval))
            for _, part in sorted(stored.partitions.items()):
                if part.first < wanted[1] and part.last >= wanted[0]:
                    reason = manifests.fault(folder, part, deep=False)
                    if reason:
                        raise StoreDamaged(f"{folder / part.file}: {reason}; fetch again to heal it")
                    found.append(folder / part.file)
        return found

    def scan(self, symbols: Sequence[str] | None, interval: str, start: Time, end: Time) -> pl.LazyFrame:
        """Rows with `start <= time < end`, lazily, by symbol and time; None stands for every symbol stored.

        Months outside the window are never opened; further predicates are pushed into the files.
        """
        files = self.files(symbols, interval, start, end)
        schema = self.table.schema
        if not files:
            return pl.LazyFrame(schema=schema)
        time = pl.col(self.table.time)
        low, high = (pl.lit(to_ms(bound)).cast(schema[self.table.time]) for bound in (start, end))
        return pl.scan_parquet(files, schema=schema, glob=False).filter(time >= low, time < high)

    def verify(self, *, drop: bool = False) -> list[Damage]:
        """Reads and hashes every partition; `drop` forgets the damaged months, to be fetched again."""
        damage: list[Damage] = []
        for symbol, interval in self.series():
            folder, identity = self._series(symbol, interval), self._identity(symbol, interval)
            faults = self._faults(manifests.read(folder, identity), deep=True)
            damage += [Damage(folder / part.file, reason) for part, reason in faults.values()]
            if faults and drop:
                with self.writing(symbol, interval):
                    now = manifests.read(folder, identity)
                    now = self._without(now, self._faults(now, deep=True))
                    manifests.write(folder, now)
                    manifests.sweep(folder, now)
        return damage

    # -- how it grows ----------------------------------------------------------------------------

    @contextmanager
    def writing(self, symbol: str, interval: str) -> Iterator[None]:
        """Keeps other writers off one series; `append` takes it itself, a download holds it throughout."""
        held: set[tuple[str, str]] = self._mine.__dict__.setdefault("held", set())
        key = (symbol, interval)
        if key in held:
            yield
            return
        identity = self._identity(symbol, interval)
        with exclusive(self._locks / f"{'-'.join(identity.values())}.lock", timeout=self._lock_timeout):
            held.add(key)
            try:
                folder = self._series(symbol, interval)
                if folder.is_dir():  # what a killed writer left behind
                    manifests.sweep(folder, manifests.read(folder, identity))
                yield
            finally:
                held.discard(key)

    def append(
        self, symbol: str, interval: str, frame: pl.DataFrame, *, fetched: tuple[Time, Time] | None = None
    ) -> Appended:
        """Adds checked rows, and marks `fetched` (closed-open) as asked for even where nothing was found.

        Without `fetched` the rows vouch for themselves only: the holes between them stay to be fetched.
        Raises `BadRows` or `StoreConflict`, and then writes nothing.
        """
        folder, identity = self._series(symbol, interval), self._identity(symbol, interval)
        rows = check(frame, self.table, symbol, interval)
        covered = self._covered(rows, interval, fetched)
        with self.writing(symbol, interval):
            before = self.manifest(symbol, interval)
            months = list(self._months(rows))
            known = self._compare(folder, before, months, symbol, interval)
            partitions = dict(before.partitions)
            folder.mkdir(parents=True, exist_ok=True)
            for month, offered in months:
                if known.get(month, 0) < offered.height:
                    partitions[month] = self._write(folder, month, before.partitions.get(month), offered)
            after = Manifest(identity, manifests.union([*before.fetched, *covered]), partitions)
            if after != before:
                manifests.write(folder, after)
            manifests.sweep(folder, after)
        same = sum(known.values())
        return Appended(rows.height - same, same)

    def _write(self, folder: Path, month: str, stored: Partition | None, offered: pl.DataFrame) -> Partition:
        """A new file for the month, beside the old one, which stays until the manifest has moved on."""
        time = self.table.time
        rows = offered
        if stored is not None:
            rows = pl.concat([self._load(folder, stored), offered])
            if int(offered[time].to_physical()[0]) <= stored.last:
                rows = rows.unique(time, keep="any").sort(time)  # doubles are equal: `_compare` saw to it
        buffer = io.BytesIO()
        rows.rechunk().write_parquet(
            buffer, compression="zstd", compression_level=3, statistics=True, row_group_size=_ROW_GROUP
        )
        payload = buffer.getvalue()
        digest = hashlib.sha256(payload).hexdigest()
        stamps = rows[time].to_physical()
        part = Partition(f"{month}-{digest[:16]}.parquet", rows.height, int(stamps[0]), int(stamps[-1]),
                         len(payload), digest)  # fmt: skip
        manifests.write_atomic(folder / part.file, payload)
        return part

    def _load(self, folder: Path, part: Partition) -> pl.DataFrame:
        """The rows of a partition, from bytes whose hash is the manifest's."""
        path = folder / part.file
        payload = path.read_bytes()
        if hashlib.sha256(payload).hexdigest() != part.sha256:
            raise StoreDamaged(
                f"{path}: the content hash differs; forget it with verify(drop=True), fetch again"
            )
        return pl.read_parquet(io.BytesIO(payload), use_statistics=False)

    def _compare(
        self,
        folder: Path,
        before: Manifest,
        months: list[tuple[str, pl.DataFrame]],
        symbol: str,
        interval: str,
    ) -> dict[str, int]:
        """How many offered rows of each month are stored already; `StoreConflict` if any differs."""
        time, values = self.table.time, list(self.table.schema)[2:]
        known: dict[str, int] = {}
        conflicts: list[Conflict] = []
        for month, offered in months:
            part = before.partitions.get(month)
            first, last = (int(offered[time].to_physical()[index]) for index in (0, -1))
            if part is None or first > part.last or last < part.first:
                continue
            both = offered.join(self._load(folder, part), on=time, suffix="_stored", maintain_order="left")
            known[month] = both.height
            differs = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name}_stored")) for name in values)
            for row in both.filter(differs).iter_rows(named=True):
                changed = [name for name in values if row[name] != row[f"{name}_stored"]]
                stored = {name: row[f"{name}_stored"] for name in changed}
                conflicts.append(Conflict(symbol, row[time], stored, {name: row[name] for name in changed}))
        if conflicts:
            raise StoreConflict(f"{self.table.kind} {symbol} {interval}", conflicts)
        return known

    def _months(self, rows: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
        """(month, its rows) in order; rows are ascending, so a month is a slice and costs no copy."""
        stamps = rows[self.table.time].to_physical()
        begin = 0
        while begin < rows.height:
            month = _month_of(int(stamps[begin]))
            end = int(stamps.search_sorted(_month_range(month)[1], side="left"))
            yield month, rows.slice(begin, end - begin)
            begin = end

    # -- helpers ---------------------------------------------------------------------------------

    def _series(self, symbol: str, interval: str) -> Path:
        return self.folder / check_name("symbol", symbol) / interval

    def _identity(self, symbol: str, interval: str) -> dict[str, str]:
        return {
            "source": self.source,
            "category": self.category,
            "kind": self.table.kind,
            "symbol": symbol,
            "interval": interval,
        }

    def _on_grid(self, wanted: Range, interval: str) -> Range:
        """The smallest range of whole bars with the same open times in it."""
        step = step_ms(self.table, interval) or 1
        return -(-wanted[0] // step) * step, -(-wanted[1] // step) * step

    def _covered(
        self, rows: pl.DataFrame, interval: str, fetched: tuple[Time, Time] | None
    ) -> tuple[Range, ...]:
        """The ranges that this append accounts for."""
        stamps = rows[self.table.time].to_physical()
        step = step_ms(self.table, interval)
        if fetched is not None:
            asked = self._on_grid((to_ms(fetched[0]), to_ms(fetched[1])), interval)
            if rows.height and not asked[0] <= int(stamps[0]) <= int(stamps[-1]) < asked[1]:
                raise StoreError(f"{rows['symbol'][0]} {interval}: rows outside the fetched range {asked}")
            return (asked,) if asked[0] < asked[1] else ()
        if not rows.height:
            return ()
        if step is None:
            return ((int(stamps[0]), int(stamps[-1]) + 1),)
        breaks = (stamps.diff() != step).fill_null(True).arg_true().to_list()
        ends = [*(index - 1 for index in breaks[1:]), rows.height - 1]
        return tuple((int(stamps[a]), int(stamps[b]) + step) for a, b in zip(breaks, ends, strict=True))

    def _faults(self, manifest: Manifest, *, deep: bool) -> dict[str, tuple[Partition, str]]:
        identity = manifest.identity
        folder = self._series(identity["symbol"], identity["interval"])
        reasons = ((month, part, manifests.fault(folder, part, deep=deep))
                   for month, part in manifest.partitions.items())  # fmt: skip
        return {month: (part, reason) for month, part, reason in reasons if reason}

    def _without(self, manifest: Manifest, faults: dict[str, tuple[Partition, str]]) -> Manifest:
        """The manifest as if the faulty months had never been fetched."""
        for part, reason in faults.values():
            _LOG.warning("%s %s: %s; the month will be fetched again", self.folder, part.file, reason)
        if not faults:
            return manifest
        kept = {month: part for month, part in manifest.partitions.items() if month not in faults}
        fetched = manifests.subtract(manifest.fetched, [_month_range(month) for month in faults])
        return Manifest(manifest.identity, fetched, kept)


class CandleStore(Store):
    """The store of candles: the one most callers want."""

    def __init__(
        self, root: Path, *, source: str = "bybit", category: str = "linear", lock_timeout: float = 10.0
    ) -> None:
        super().__init__(root, kind="candles", source=source, category=category, lock_timeout=lock_timeout)


def _month_of(stamp: int) -> str:
    return f"{_EPOCH + timedelta(milliseconds=stamp):%Y-%m}"


def _month_range(month: str) -> Range:
    """The milliseconds of a calendar month, UTC."""
    year, number = map(int, month.split("-"))
    following = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return to_ms(datetime(year, number, 1, tzinfo=UTC)), to_ms(following)
