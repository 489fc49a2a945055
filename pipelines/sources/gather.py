"""The candles of the window, from whichever source the parameters name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import polars as pl

from pipelines import layout
from pipelines.candles import conform
from pipelines.errors import UserError
from pipelines.manifest import StoreError
from pipelines.settings import Params
from pipelines.sources.bybit import BybitClient, BybitError
from pipelines.sources.download import Request, download, plan
from pipelines.sources.files import read_file
from pipelines.sources.tabular import FileError
from pipelines.store import Store
from pipelines.tables import EVENTS, INSTRUMENTS

FAR_FUTURE_MS = 4_102_444_800_000  # the year 2100

_FUNDING: dict[str, pl.DataType | type[pl.DataType]] = {
    "symbol": pl.String,
    "open_time": pl.Datetime("ms", "UTC"),
    "rate": pl.Float64,
}
FUNDING_SCHEMA = pl.Schema(_FUNDING)


class Gathered(NamedTuple):
    """What a source gave for the window.

    candles: in our schema, exactly the window.
    funding: rates by stamp (`FUNDING_SCHEMA`), empty where the source has none.
    min_notional: the smallest order that the venue takes in any of the symbols, in money; 0 if unknown.
    truth: the planted truth of a simulated market, else None.
    note: one line for the summary.
    """

    candles: pl.DataFrame
    funding: pl.DataFrame
    min_notional: float
    truth: pl.DataFrame | None
    note: str


def gather(params: Params) -> Gathered:
    """Fetches, reads or simulates; `UserError` for what the user can put right."""
    return {"simulator": _simulated, "files": _from_files, "bybit": _from_exchange}[params.data.source](
        params
    )


def preview(params: Params) -> str:
    """What `gather` would fetch, without fetching."""
    data = params.data
    if data.source != "bybit":
        return f"nothing to fetch: {data.source} gives {data.bars} bars of {', '.join(data.symbols)}"
    requests = _missing(params)
    if not requests:
        return "nothing to fetch: the store has the whole window"
    total = sum(request.bars for request in requests)
    return "\n".join([f"would fetch {total} bars:", *(f"  {request}" for request in requests)])


def _simulated(params: Params) -> Gathered:
    from pipelines.sources.simulator import simulate_market

    data = params.data
    simulated = simulate_market(
        kind=data.simulator.market,
        symbols=data.symbols,
        interval=data.interval,
        start=data.window[0],
        bars=data.bars,
        seed=params.seed,
        correlation=data.simulator.correlation,
    )
    note = f"simulated market '{data.simulator.market}'"
    return Gathered(simulated.candles, FUNDING_SCHEMA.to_frame(), 0.0, simulated.truth, note)


def _from_files(params: Params) -> Gathered:
    data = params.data
    start, end = data.window
    frames, notes = [], []
    for symbol in data.symbols:
        path = data.files.path.format(symbol=symbol, interval=data.interval)
        unit = None if data.files.time_unit == "auto" else data.files.time_unit
        try:
            read = read_file(
                Path(path),
                symbol=symbol,
                interval=data.interval,
                mapping=data.files.columns,
                time_unit=unit,
            )
        except FileError as error:
            raise UserError(str(error)) from error
        frames.append(read.frame.filter(pl.col("open_time") >= start, pl.col("open_time") < end))
        if frames[-1].is_empty():
            raise UserError(
                f"{path}: holds no candle of {symbol} between {start:%Y-%m-%d} and {end:%Y-%m-%d}"
            )
        notes += [f"{path}: {note}" for note in read.notes]
    for note in notes:
        print(f"fetch: {note}", file=sys.stderr)
    # Not sorted and not deduplicated here: what the files have is for the checks to judge.
    return Gathered(pl.concat(frames), FUNDING_SCHEMA.to_frame(), 0.0, None, f"{len(frames)} file(s)")


def _from_exchange(params: Params) -> Gathered:
    data = params.data
    start, end = data.window
    try:
        with BybitClient(data.bybit.base_url, requests_per_second=data.bybit.requests_per_second) as client:
            done = download(client, _store(params), _missing(params))
            _fetch_funding(client, params)
            _fetch_instruments(client, params)
        candles = _store(params).scan(data.symbols, data.interval, start, end).collect()
        funding = _stored_funding(params)
    except (BybitError, StoreError) as error:
        raise UserError(str(error)) from error
    note = str(done) if done.requests else "all of it was in the store"
    return Gathered(conform(candles), funding, _min_notional(params), None, note)


def _store(params: Params, kind: str = "candles") -> Store:
    return Store(layout.STORE, kind=kind, category=params.data.bybit.category)


def _missing(params: Params) -> list[Request]:
    start, end = params.data.window
    return plan(_store(params), params.data.symbols, params.data.interval, start, end)


def _has_funding(params: Params) -> bool:
    return params.data.bybit.category != "spot" and params.account.funding


def _fetch_funding(client: BybitClient, params: Params) -> None:
    """Brings the store's funding rates up to the window; spot markets have none."""
    if not _has_funding(params):
        return
    data, store = params.data, _store(params, "funding")
    start, end = data.window
    for symbol in data.symbols:
        for first, stop in store.missing_ranges(symbol, EVENTS, start, end):
            rates = client.funding_history(data.bybit.category, symbol, first, stop - 1)
            store.append(symbol, EVENTS, rates, fetched=(first, stop))


def _stored_funding(params: Params) -> pl.DataFrame:
    if not _has_funding(params):
        return FUNDING_SCHEMA.to_frame()
    start, end = params.data.window
    rates = _store(params, "funding").scan(params.data.symbols, EVENTS, start, end).collect()
    return (
        rates.select("symbol", "rate", open_time="funding_time")
        .select(list(FUNDING_SCHEMA))
        .cast(FUNDING_SCHEMA)
    )


def _fetch_instruments(client: BybitClient, params: Params) -> None:
    """Notes the terms of every symbol (tick, lot, smallest order) when they are new or have changed."""
    data, store = params.data, _store(params, "instruments")
    for symbol in data.symbols:
        terms = client.instruments(data.bybit.category, symbol=symbol)
        if terms.is_empty():
            continue  # no longer traded: what was noted before stays
        noted = _terms(store, symbol)
        if noted is None or not noted.drop("time").equals(terms):
            now = pl.lit(client.server_time()).cast(pl.Datetime("ms", "UTC"))
            stamped = terms.with_columns(time=now).select(list(INSTRUMENTS.schema))
            store.append(symbol, EVENTS, stamped)


def _min_notional(params: Params) -> float:
    """By the newest terms: the exchange does not tell what they were before."""
    terms = [_terms(_store(params, "instruments"), symbol) for symbol in params.data.symbols]
    known = [found["min_notional"][0] for found in terms if found is not None]
    return max((float(value) for value in known if value is not None), default=0.0)


def _terms(store: Store, symbol: str) -> pl.DataFrame | None:
    """The newest terms of a symbol in the store."""
    if (symbol, EVENTS) not in store.series():
        return None
    return store.scan([symbol], EVENTS, 0, FAR_FUTURE_MS).sort("time").tail(1).collect()
