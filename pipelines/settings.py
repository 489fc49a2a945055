"""The typed sections of `params.yaml`: their defaults, units and limits. `pipelines.params` reads them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipelines.candles import INTERVALS_MS, interval_ms
from pipelines.features.definitions import DEFAULT_FEATURES


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Simulator(Section):
    """The embedded market; see `pipelines/sources/simulator.py`."""

    market: Literal["regimes", "martingale"] = "regimes"
    correlation: Annotated[float, Field(ge=0, lt=1)] = 0.6  # between the symbols' returns


class Bybit(Section):
    """Public market data of the exchange; no key is needed."""

    base_url: str = "https://api.bybit.com"
    category: Literal["linear", "spot", "inverse"] = "linear"
    requests_per_second: Annotated[float, Field(gt=0, le=100)] = 60.0  # the documented limit is 120


class Files(Section):
    """Your own candles; `{symbol}` and `{interval}` in the path are filled in."""

    path: str = "candles/{symbol}_{interval}.csv"
    columns: dict[str, str] = {}  # ours: theirs, where the headers are not understood by themselves
    time_unit: Literal["auto", "s", "ms", "us"] = "auto"


class Data(Section):
    source: Literal["simulator", "bybit", "files"] = "simulator"
    symbols: Annotated[list[str], Field(min_length=1)] = ["SIM"]
    interval: str = "1h"
    also: list[str] = []  # further intervals that are fetched only to hold the candles against them
    start: date = date(2022, 1, 1)  # UTC, first day of the window
    end: date = date(2024, 9, 27)  # UTC, the day after the last one; only closed days
    simulator: Simulator = Simulator()
    bybit: Bybit = Bybit()
    files: Files = Files()

    @field_validator("interval")
    @classmethod
    def _known_interval(cls, value: str) -> str:
        if value not in INTERVALS_MS:
            raise ValueError(f"must be one of {', '.join(INTERVALS_MS)}")
        return value

    @field_validator("also")
    @classmethod
    def _known_intervals(cls, value: list[str]) -> list[str]:
        unknown = [name for name in value if name not in INTERVALS_MS]
        if unknown:
            raise ValueError(f"must be intervals: {', '.join(INTERVALS_MS)} (got {unknown[0]!r})")
        return value

    @field_validator("symbols")
    @classmethod
    def _distinct_symbols(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("must name every symbol once")
        for symbol in value:
            if not symbol or not symbol.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"must be letters, digits, '-' and '_' (got {symbol!r})")
        return value

    @model_validator(mode="after")
    def _others_differ(self) -> Self:
        if self.interval in self.also:
            raise ValueError(f"data.also must not name data.interval itself ({self.interval})")
        if self.also and self.source == "simulator":
            raise ValueError("data.also needs a source with candles of its own: the simulator has none")
        return self

    @model_validator(mode="after")
    def _start_before_end(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"data.end ({self.end}) must be after data.start ({self.start})")
        return self

    @property
    def window(self) -> tuple[datetime, datetime]:
        """First open time, and the instant at which the last bar has closed (exclusive)."""
        return _midnight(self.start), _midnight(self.end)

    @property
    def bars(self) -> int:
        start, end = self.window
        return int((end - start) / timedelta(milliseconds=interval_ms(self.interval)))


class Checks(Section):
    max_gap_bars: Annotated[int, Field(ge=0)] = 3  # longer holes split the history into segments
    max_gap_share: Annotated[float, Field(ge=0, le=1)] = 0.01  # of the window's bars; more is an error
    jump_sigmas: Annotated[float, Field(gt=0)] = 15.0  # robust; flagged, never repaired
    stale_bars: Annotated[int, Field(ge=1)] = 24  # unchanged closes without volume
    force_leaks: bool = False  # go on although a feature looks ahead; the report then says so in red


class Features(Section):
    names: Annotated[list[str], Field(min_length=1)] = list(DEFAULT_FEATURES)
    scaling: Literal["robust", "standard"] = "robust"  # fitted on each fold's training rows alone
    clip: Annotated[float, Field(gt=0)] = 5.0  # scaled features are cut at +- this many units


class Split(Section):
    """How the history is cut into training and test.

    Walk-forward: the test windows are contiguous and end with the data. Combinatorial purged
    cross-validation: every choice of `test_blocks` out of `blocks` is tested by agents trained on the rest.
    """

    method: Literal["walk_forward", "combinatorial"] = "walk_forward"
    blocks: Annotated[int, Field(ge=2, le=16)] = 6  # of the history (combinatorial)
    test_blocks: Annotated[int, Field(ge=1)] = 2  # tested together (combinatorial)
    folds: Annotated[int, Field(ge=1)] = 2  # (walk-forward, as train_bars, test_bars and anchored)
    seeds: Annotated[int, Field(ge=1)] = 2  # agents trained per fold and family
    train_bars: Annotated[int, Field(ge=1)] = 12_000
    test_bars: Annotated[int, Field(ge=2)] = 4_500
    purge_bars: Annotated[int, Field(ge=0)] = 24  # dropped between training and test
    embargo_bars: Annotated[int, Field(ge=0)] = 24  # dropped after a test window (combinatorial splits)
    anchored: bool = False  # true: every fold trains from the first bar on

    @model_validator(mode="after")
    def _some_blocks_train(self) -> Self:
        if self.test_blocks >= self.blocks:
            raise ValueError(
                f"split.test_blocks ({self.test_blocks}) must be below split.blocks ({self.blocks})"
            )
        return self


class Account(Section):
    """Costs are in basis points of the traded notional; see `pipelines/market/costs.py`."""

    initial_equity: Annotated[float, Field(gt=0)] = 1_000_000.0
    fee_bps: Annotated[float, Field(ge=0, le=1000)] = 5.5
    half_spread_bps: Annotated[float, Field(ge=0, le=1000)] = 0.5
    slippage_bps: Annotated[float, Field(ge=0, le=1000)] = 0.5
    impact: Annotated[float, Field(ge=0)] = 0.0  # Y of the square-root law; 0 switches it off
    leverage: Annotated[float, Field(gt=0, le=100)] = 1.0  # cap on the sum of absolute weights
    maintenance_margin: Annotated[float, Field(ge=0, lt=1)] = 0.005
    liquidation_fee_bps: Annotated[float, Field(ge=0, le=1000)] = 25.0
    min_order: Annotated[float, Field(ge=0)] = 0.0  # money; smaller orders are not sent
    no_trade_band: Annotated[float, Field(ge=0, lt=1)] = 0.01  # of equity; smaller differences stay
    allow_short: bool = True
    funding: bool = True  # exchange funding where the data have it
    actions: Literal["grid", "box"] = "grid"
    grid: Annotated[list[float], Field(min_length=2)] = [-1.0, -0.5, 0.0, 0.5, 1.0]
    episode_bars: Annotated[int, Field(ge=2)] = 256  # length of a training episode
    drawdown_penalty: Annotated[float, Field(ge=0)] = 0.0  # on the reward, per unit of new drawdown

    @field_validator("grid")
    @classmethod
    def _ascending(cls, value: list[float]) -> list[float]:
        if sorted(set(value)) != value:
            raise ValueError("must be distinct exposures in ascending order")
        return value


class Baselines(Section):
    sma_fast: Annotated[int, Field(ge=1)] = 24  # bars
    sma_slow: Annotated[int, Field(ge=2)] = 96  # bars
    reversion_window: Annotated[int, Field(ge=2)] = 48  # bars of the mean it bets on
    reversion_sigmas: Annotated[float, Field(gt=0)] = 1.0  # distance at which it is fully invested
    random_hold: Annotated[int, Field(ge=1)] = 24  # bars between the random agent's decisions


class Forecast(Section):
    """What is asked of the families that predict; see `pipelines/forecasts.py`."""

    horizon: Annotated[int, Field(ge=1, le=1000)] = 10  # bars ahead
    samples: Annotated[int, Field(ge=1, le=4096)] = 64  # paths, of a model that draws them
    probes: Annotated[int, Field(ge=2)] = 300  # moments of a test window, at most


class Evaluation(Section):
    baselines: Baselines = Baselines()
    forecast: Forecast = Forecast()
    replications: Annotated[int, Field(ge=100)] = 1000  # of every bootstrap
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95


class Behaviour(Section):
    """What families learn from that do not trade while they learn; see `pipelines/behaviour.py`."""

    steps: Annotated[int, Field(ge=1)] = 24_000  # recorded a fold, by rules with and without noise
    path: str = ""  # a data set of your own instead: a folder, or one with a folder fold-<i> a fold


class Report(Section):
    title: str = "Rehearsal"
    points: Annotated[int, Field(ge=100)] = 400  # at most this many a line in a chart


class Hallucinate(Section):
    """A dreamed market; see `pipelines/stages/hallucinate.py`."""

    fold: Annotated[int, Field(ge=0)] = 0  # of the world_model that dreams
    seed: Annotated[int, Field(ge=0)] = 0
    bars: Annotated[int, Field(ge=0)] = 0  # of the dream; 0 is as many as the data have
    stress: Annotated[float, Field(gt=0)] = 1.0  # temperature: above 1 the tails are wilder than learned


class Training(Section):
    """Where training starts. Written by the nightly flow, which keeps the agents under `origins/`."""

    init_from: dict[str, str] = {}  # family: content hash of origins/<family>; none starts from scratch


class Promotion(Section):
    """What a newcomer must show to replace the champion; see `flows/promotion.py`."""

    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.9  # that it earns more, after all its rivals
    max_drawdown: Annotated[float, Field(gt=0, le=1)] = 0.35  # on the window of the comparison
    max_optimism: Annotated[float, Field(gt=0)] = 0.5  # claimed less realised, standard deviations a bar
    replications: Annotated[int, Field(ge=100)] = 2000  # of the paired bootstrap
    vacant: Literal["flat", "anyone"] = "flat"  # whom the first champion must beat: cash, or nobody


class Nightly(Section):
    """The nightly run. Nothing here decides a number of `dvc repro`."""

    cron: str = "30 0 * * *"
    timezone: str = "UTC"
    follow: str = "main"  # the branch whose code and parameters are run
    work_folder: str = ".nightly"  # the clone, its lock and its log
    remote: str = ".nightly/remote"  # a folder, or anything `dvc remote add` takes
    webhook_url: str = ""  # a failure or a refusal is posted there as JSON
    from_scratch_every: Annotated[int, Field(ge=1)] = 7  # nights; all others start from the champion
    fetch_patience_minutes: Annotated[float, Field(ge=0)] = 240.0  # of retries while the source is away
    max_age_bars: Annotated[int, Field(ge=1)] = 3  # older prices are too stale to decide on
    promotion: Promotion = Promotion()


class Cluster(Section):
    """Where `python -m flows.sweep` runs its jobs. Nothing here decides a number."""

    address: str = ""  # of a Dask scheduler; empty starts workers on this machine
    workers: Annotated[int, Field(ge=0)] = 0  # of one's own; 0 is one a processor
    job_minutes: Annotated[float, Field(gt=0)] = 60.0  # a job that takes longer is given up
    memory: str = "4GiB"  # a worker
    retries: Annotated[int, Field(ge=0)] = 2  # of a job whose worker died, on another one


class Params(Section):
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 7
    preset: str = "default"
    data: Data = Data()
    checks: Checks = Checks()
    features: Features = Features()
    split: Split = Split()
    account: Account = Account()
    behaviour: Behaviour = Behaviour()
    agents: dict[str, Any] = {}  # family -> the family's own frozen config
    evaluation: Evaluation = Evaluation()
    report: Report = Report()
    hallucinate: Hallucinate = Hallucinate()
    training: Training = Training()
    nightly: Nightly = Nightly()
    cluster: Cluster = Cluster()


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
