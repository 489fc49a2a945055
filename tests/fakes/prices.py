"""The invented market behind the fake exchange: every bar is a function of its symbol and its minute.

Bars of all intervals are sums of the same minutes, so that they agree with one another. A bar that is
still open at the time asked for differs from its final self, as it does at the real exchange.
"""

from __future__ import annotations

import zlib
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MINUTE = 60_000
DAY = 1440 * MINUTE
Ints = npt.NDArray[np.int64]

STEPS: dict[str, int] = {str(n): n * MINUTE for n in (1, 3, 5, 15, 30, 60, 120, 240, 360, 720)} | {
    "D": DAY,
    "W": 7 * DAY,
    "M": 0,
}


class Instrument(NamedTuple):
    """A symbol of the fake exchange; times in epoch ms, `delivery` 0 while it trades."""

    category: str
    symbol: str
    base: str
    quote: str
    first: int
    launch: int
    delivery: int = 0
    status: str = "Trading"
    funding: tuple[tuple[int, int], ...] = ((0, 480),)  # (from when, minutes between), ascending


class Table(NamedTuple):
    """Bars, ascending: open times in ms, prices in tenths, volumes in thousandths, values in 1e-4. [N]"""

    times: Ints
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    volume: Ints
    value: Ints


def bucket(times: Any, interval: str) -> Ints:
    """Open time of the bar that covers each time."""
    at = np.asarray(times, np.int64)
    if interval == "M":
        months: Ints = at.astype("datetime64[ms]").astype("datetime64[M]")
        return months.astype("datetime64[ms]").astype(np.int64)
    offset = 4 * DAY if interval == "W" else 0
    floored: Ints = (at - offset) // STEPS[interval] * STEPS[interval] + offset
    return floored


def after(time: int, interval: str) -> int:
    """Open time of the bar after the one that covers `time`."""
    here = int(bucket(time, interval))
    return int(bucket(here + 32 * DAY, interval)) if interval == "M" else here + STEPS[interval]


def _hashed(minutes: Ints, salt: int) -> Ints:
    """Well-mixed numbers in [0, 2^31) (the finaliser of splitmix64)."""
    z = minutes.astype(np.uint64) + np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashed: Ints = ((z ^ (z >> np.uint64(31))) >> np.uint64(33)).astype(np.int64)
    return hashed


def _level(minutes: Ints, salt: int) -> Ints:
    phase = salt % 1000
    wave = 80_000 * np.sin(2 * np.pi * (minutes + phase) / 525_600) + 9_000 * np.sin(
        2 * np.pi * (minutes + phase) / 10_080
    )
    level: Ints = 300_000 + wave.astype(np.int64) + _hashed(minutes, salt) % 400
    return level


def minutes_of(instrument: Instrument, first: int, stop: int, now: int) -> Table:
    """The one-minute bars with open times in `[first, stop)`, the open one as it stands at `now`."""
    salt = zlib.crc32(f"{instrument.category}/{instrument.symbol}".encode())
    end = min(stop, now + 1, instrument.delivery or stop)
    number = np.arange(-(-max(first, instrument.first) // MINUTE), -(-end // MINUTE))
    opened, close = _level(number, salt), _level(number + 1, salt)
    noise = _hashed(number, salt + 1)
    volume = noise % 90_000 + 1
    quiet = noise % 487 == 0  # minutes without a trade: flat, no volume
    close = np.where(quiet, opened, close)
    volume = np.where(quiet, 0, volume)
    elapsed = np.clip(now - number * MINUTE, 0, MINUTE)
    partial = elapsed < MINUTE
    close = np.where(partial, opened + (close - opened) * elapsed // MINUTE + 3, close)
    volume = np.where(partial, volume * elapsed // MINUTE, volume)
    wick = np.where(quiet & ~partial, 0, noise % 57)
    high, low = np.maximum(opened, close) + wick, np.minimum(opened, close) - wick
    return Table(number * MINUTE, opened, high, low, close, volume, volume * close)


def bars_of(
    instrument: Instrument,
    interval: str,
    first: int,
    stop: int,
    now: int,
    holes: tuple[tuple[int, int], ...] = (),
) -> Table:
    """The bars with open times in `[first, stop)`; minutes inside a hole `[from, to)` do not exist."""
    minutes = minutes_of(instrument, first, stop, now)
    present = np.ones(minutes.times.size, bool)
    for start, end in holes:
        present &= (minutes.times < start) | (minutes.times >= end)
    times, opened, high, low, close, volume, value = (column[present] for column in minutes)
    if interval == "1" or times.size == 0:
        return Table(times, opened, high, low, close, volume, value)
    keys, starts = np.unique(bucket(times, interval), return_index=True)
    ends = np.append(starts[1:], times.size) - 1
    return Table(
        keys,
        opened[starts],
        np.maximum.reduceat(high, starts),
        np.minimum.reduceat(low, starts),
        close[ends],
        np.add.reduceat(volume, starts),
        np.add.reduceat(value, starts),
    )


def rows_json(instrument: Instrument, table: Table, *, mark: bool = False) -> str:
    """The rows as the exchange writes them: strings, newest first."""
    prices = [(column[::-1] / 10).tolist() for column in table[1:5]]
    times = table.times[::-1].tolist()
    if mark:
        row = '["%d","%.1f","%.1f","%.1f","%.1f"]'
        return ",".join([row % fields for fields in zip(times, *prices, strict=True)])
    volume, value = table.volume[::-1], table.value[::-1]
    if instrument.category == "inverse":  # volume in USD, turnover in coins
        row = '["%d","%.1f","%.1f","%.1f","%.1f","%d","%.8f"]'
        amounts = [volume.tolist(), (volume / (table.close[::-1] / 10)).tolist()]
    else:
        row = '["%d","%.1f","%.1f","%.1f","%.1f","%.3f","%.4f"]'
        amounts = [(volume / 1e3).tolist(), (value / 1e4).tolist()]
    return ",".join([row % fields for fields in zip(times, *prices, *amounts, strict=True)])


def funding_of(instrument: Instrument, first: int, last: int, now: int) -> list[tuple[int, str]]:
    """(time, rate) of the funding in `[first, last]`, ascending."""
    records: list[tuple[int, str]] = []
    changes = [*instrument.funding, (2**62, 480)]
    for (since, every), (until, _) in pairwise(changes):
        step = every * MINUTE
        low = max(first, since, instrument.first)
        high = min(last, until - 1, now, (instrument.delivery or 2**62) - 1)
        times = np.arange(-(-low // step) * step, high + 1, step) if low <= high else np.empty(0, np.int64)
        salt = zlib.crc32(instrument.symbol.encode())
        rates = (_hashed(times // MINUTE, salt) % 4001 - 2000) / 1e7
        records += [(int(at), f"{rate:.8f}") for at, rate in zip(times, rates, strict=True)]
    return records
