"""Where the stages write and read: every path of the pipeline, once.

`data/` and `artifacts/` are large and lie in the DVC cache; `metrics/` and `plots/` are small and lie in
git, because people review them.
"""

from __future__ import annotations

from pathlib import Path

RAW = Path("data/raw")  # what the source had, exactly the window
TRUTH = Path("data/truth")  # of a simulated market; for the oracle and nobody else
CHECKED = Path("data/checked")  # the holes and outliers that were found
FEATURES = Path("data/features")
DREAM = Path("data/dream")  # a hallucinated market: <symbol>/<month>.parquet
BEHAVIOUR = Path("data/behaviour")  # recorded trades, for families that learn from them
ARTIFACTS = Path("artifacts")  # trained agents: <family>/fold-<i>/seed-<j>
RESULTS = Path("results")  # ledgers of the backtests: <agent>.parquet
METRICS = Path("metrics")
PLOTS = Path("plots")
REPORTS = Path("reports")

CANDLES = RAW / "candles"
OTHERS = RAW / "others"  # the same symbols at further intervals: <interval>/<symbol>/<month>.parquet
FUNDING = RAW / "funding.parquet"
TERMS = RAW / "terms.json"
MARKET_TERMS = FEATURES / "terms.json"
TRUTH_TABLE = TRUTH / "truth.parquet"
DOCS = REPORTS / "data_docs"
PAGE = REPORTS / "index.html"
PLOTS_PAGE = REPORTS / "plots.html"  # what `dvc plots` fills (.dvc/config), so that it needs no network
DATA_METRICS = METRICS / "data.json"
FEATURE_METRICS = METRICS / "features.json"
BEHAVIOUR_METRICS = METRICS / "behaviour.json"
COMPARISON = METRICS / "comparison.json"
EVIDENCE = METRICS / "evidence.json"  # what stands behind the comparison, for the report
HALLUCINATED = METRICS / "hallucinated.json"  # invented markets beside the real one, where there are any
NIGHTS = METRICS / "nights.json"  # what the nights before decided, in the clone of the nights
TRIALS = METRICS / "trials.jsonl"

EXECUTION_PLANNER = Path("benchmarks/results/execution_planner.json")  # in git: the same for every run

ORIGINS = Path("origins")  # in git: the agents that training starts from, <family>, where it does

STORE = Path("store")  # fetched candles, outside of DVC: only ever grows
CHECKPOINTS = Path("work/checkpoints")


def results(name: str) -> Path:
    """The ledgers of one family, or of the baselines."""
    return RESULTS / f"{name}.parquet"


def forecasts(family: str) -> Path:
    """What a family foretold, and what came."""
    return RESULTS / "forecasts" / f"{family}.parquet"


def reasons(family: str) -> Path:
    """How a family came to one of its decisions."""
    return RESULTS / "reasons" / f"{family}.json"


def metrics(name: str) -> Path:
    """The figures of one family, or of the baselines."""
    return METRICS / f"{name}.json"


def curves(family: str) -> Path:
    """The training curves of one family."""
    return PLOTS / "training" / f"{family}.csv"


def behaviour(family: str, fold: int) -> Path:
    """The data set that a family learns a fold from."""
    return BEHAVIOUR / family / f"fold-{fold}"


def job(fold: int, seed: int) -> Path:
    """The part of a path that tells the agents of a family apart."""
    return Path(f"fold-{fold}") / f"seed-{seed}"
