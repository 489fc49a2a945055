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
from pipelines.params import Params
from pipelines.sources.bybit import BybitClient, BybitError
from pipelines.sources.download import Request, Summary, download, plan
from pipelines.sources.files import read_file
from pipelines.sources.tabular import FileError
from pipelines.store import Store

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
    truth: the planted truth of a simulated market, else None.
    note: one line for the summary.
    """

    candles: pl.DataFrame
    funding: pl.DataFrame
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
    return Gathered(simulated.candles, FUNDING_SCHEMA.to_frame(), simulated.truth, note)


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
    return Gathered(pl.concat(frames), FUNDING_SCHEMA.to_frame(), None, f"{len(frames)} file(s)")


def _from_exchange(params: Params) -> Gathered:
    data = params.data
    start, end = data.window
    store = _store(params)
    try:
        with BybitClient(data.bybit.base_url, requests_per_second=data.bybit.requests_per_second) as client:
            done = download(client, store, _missing(params))
            funding = _funding(client, params)
        candles = store.scan(data.symbols, data.interval, start, end).collect()
    except (BybitError, StoreError) as error:
        raise UserError(str(error)) from error
    return Gathered(conform(candles), funding, None, _note(done))


def _funding(client: BybitClient, params: Params) -> pl.DataFrame:
    """Funding rates of the window; spot markets have none."""
    data = params.data
    if data.bybit.category == "spot" or not params.account.funding:
        return FUNDING_SCHEMA.to_frame()
    start, end = data.window
    frames = [
        client.funding_history(data.bybit.category, symbol, start, end).select(
            "symbol", "rate", open_time=pl.col("funding_time")
        )
        for symbol in data.symbols
    ]
    return pl.concat(frames).cast(FUNDING_SCHEMA)


def _store(params: Params) -> Store:
    return Store(layout.STORE, category=params.data.bybit.category)


def _missing(params: Params) -> list[Request]:
    start, end = params.data.window
    return plan(_store(params), params.data.symbols, params.data.interval, start, end)


def _note(done: Summary) -> str:
    return str(done) if done.requests else "all of it was in the store"
