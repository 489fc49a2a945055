"""What training and the backtest read: bars and features of all symbols, aligned in time, as arrays.

The features stage writes one table (`write_table`): the columns of a candle, `segment`, `filled`, perhaps
`funding`, and one column a feature, one Parquet file a symbol. `read_dataset` turns it into arrays.

Symbols are aligned on the times that **all** of them have. Where one symbol misses a bar that was not
bridged (see `features.grid`), that time is missing for all, and a new segment begins: an account that
holds several symbols cannot be marked while one of them has no price.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines.candles import interval_ms
from pipelines.features.registry import RESERVED
from pipelines.features.scaling import Scaler
from pipelines.market.bars import Bars


class Dataset(NamedTuple):
    """T bars of S symbols with F features each.

    Attributes:
      symbols: in the order of the second axis.
      names: of the features, in the order of the last axis.
      interval: length of a bar.
      times: [T] datetime64[ms], UTC, of the opens, ascending.
      bars: float64 [T, S] each.
      features: [T, S, F] float64, known at the close of their bar, unscaled.
      segment: [T] int32 from 0, ascending; times within a segment are one interval apart.
      filled: [T, S] bool, bars of a short hole in which nothing was traded.
    """

    symbols: tuple[str, ...]
    names: tuple[str, ...]
    interval: str
    times: npt.NDArray[np.datetime64]
    bars: Bars
    features: npt.NDArray[np.float64]
    segment: npt.NDArray[np.int32]
    filled: npt.NDArray[np.bool_]

    def window(self, start: int, stop: int) -> Dataset:
        """Bars `start <= t < stop`, as views; segments keep their numbers."""
        if not 0 <= start < stop <= len(self.times):
            raise ValueError(
                f"window {start}..{stop} is empty or outside the {len(self.times)} bars there are"
            )
        rows = slice(start, stop)
        return self._replace(
            times=self.times[rows],
            bars=Bars(
                open=self.bars.open[rows],
                high=self.bars.high[rows],
                low=self.bars.low[rows],
                close=self.bars.close[rows],
                volume=None if self.bars.volume is None else self.bars.volume[rows],
                funding=None if self.bars.funding is None else self.bars.funding[rows],
            ),
            features=self.features[rows],
            segment=self.segment[rows],
            filled=self.filled[rows],
        )

    def observations(self, scaler: Scaler) -> npt.NDArray[np.float32]:
        """The scaled features side by side, symbol by symbol: [T, S * F]."""
        if scaler.names != self.names:
            raise ValueError(f"the scaler is for {list(scaler.names)}, the data have {list(self.names)}")
        scaled = scaler.transform(self.features)  # [T, S, F]
        return scaled.astype(np.float32).reshape(len(self.times), -1)


def write_table(table: pl.DataFrame, directory: Path) -> None:
    """Writes `directory/<symbol>.parquet`, replacing the directory as a whole."""
    scratch = directory.with_name(directory.name + ".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for (symbol,), part in table.group_by("symbol", maintain_order=True):
        # A symbol such as BTC/USD must not become a path.
        name = str(symbol).replace("%", "%25").replace("/", "%2F").replace("\\", "%5C")
        part.write_parquet(scratch / f"{name}.parquet", compression="zstd", statistics=True)
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(scratch, directory)


def read_dataset(directory: Path, interval: str, *, symbols: Sequence[str] | None = None) -> Dataset:
    """The dataset in `directory`, of `symbols` in that order, or of all there are, sorted."""
    files = sorted(directory.glob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"no feature table in {directory}")
    return to_dataset(pl.scan_parquet(files).collect(), interval, symbols=symbols)


def to_dataset(table: pl.DataFrame, interval: str, *, symbols: Sequence[str] | None = None) -> Dataset:
    """The rows of a feature table as arrays, aligned on the times that all symbols have."""
    present = table["symbol"].unique().sort().to_list()
    chosen = present if symbols is None else list(symbols)
    unknown = sorted(set(chosen) - set(present))
    if unknown or not chosen:
        raise ValueError(f"no rows for the symbols {unknown or 'asked for'}; the table has {present}")
    names = tuple(name for name in table.columns if name not in RESERVED)
    parts = [table.filter(pl.col("symbol") == symbol).sort("open_time") for symbol in chosen]
    repeated = [
        symbol for symbol, part in zip(chosen, parts, strict=True) if part["open_time"].is_duplicated().any()
    ]
    if repeated:
        raise ValueError(f"times are repeated in the table of {repeated}")
    shared = parts[0].select("open_time")
    for part in parts[1:]:
        shared = shared.join(part.select("open_time"), on="open_time", how="semi")
    if shared.is_empty():
        raise ValueError(f"the symbols {chosen} have no bar in common")
    aligned = [part.join(shared, on="open_time", how="semi", maintain_order="left") for part in parts]

    def column(name: str) -> npt.NDArray[np.float64]:
        return np.stack([part[name].cast(pl.Float64).to_numpy() for part in aligned], axis=1)  # [T, S]

    times = aligned[0]["open_time"].dt.replace_time_zone(None).cast(pl.Datetime("ms")).to_numpy()
    segments = np.stack([part["segment"].to_numpy() for part in aligned], axis=1)  # [T, S]
    jumps = np.diff(times) != np.timedelta64(interval_ms(interval), "ms")
    breaks = jumps | (np.diff(segments, axis=0) != 0).any(axis=1)  # [T-1]
    return Dataset(
        symbols=tuple(chosen),
        names=names,
        interval=interval,
        times=times,
        bars=Bars(
            open=column("open"),
            high=column("high"),
            low=column("low"),
            close=column("close"),
            volume=column("volume"),
            funding=column("funding") if "funding" in table.columns else None,
        ),
        features=np.stack([part.select(names).to_numpy() for part in aligned], axis=1),
        segment=np.concatenate(([0], np.cumsum(breaks))).astype(np.int32),
        filled=np.stack([part["filled"].to_numpy() for part in aligned], axis=1),
    )
