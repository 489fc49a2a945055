"""What an agent's model foretold, held against what came: scores a forecast, then few figures a family.

A forecast is M sampled paths of H rewards. It is scored bar by bar (`bar`: the reward of one bar, so many
bars ahead) and along the path (`path`: the sum of the rewards up to that bar, where errors add up).

- The likelihood of samples is that of a Gaussian kernel estimate whose centres are drawn toward their mean,
  so that it has the mean and the variance of the samples (West 1993; a plain estimate is wider than its
  samples, which would cost a model that is right). The bandwidth is Silverman's.
- Coverage is read off the probability integral transform and not off quantiles of the samples: the range
  between two of 64 samples is narrower than it claims, the rank of an outcome among them is exact.
- A model with one path (M = 1) has a mean and nothing else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from pipelines.evaluation import calibration
from pipelines.evaluation.resampling import mean_confidence_interval

Floats = NDArray[np.float64]

HELD, OWN = "held", "own"
BAR, PATH = "bar", "path"
LEVELS = (0.5, 0.8, 0.95)
QUANTILES = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
PIT_BINS = 10
SUREST = 1e-5  # no forecast counts as surer than a tenth of a basis point: its likelihood would be infinite

SCHEMA: dict[str, Any] = {
    "agent": pl.String,
    "fold": pl.Int32,
    "seed": pl.Int32,
    "probe": pl.Int32,  # bars of the test window before the forecast
    "kind": pl.String,  # held: the highest exposure, whatever comes; own: what the agent itself would do
    "scope": pl.String,  # bar: the reward of that bar; path: of all bars up to it
    "step": pl.Int32,  # bars ahead, from 1
    "samples": pl.Int32,
    "mean": pl.Float32,
    "deviation": pl.Float32,
    **{f"q{1000 * level:03.0f}": pl.Float32 for level in QUANTILES},
    "realised": pl.Float32,
    "pit": pl.Float32,
    "crps": pl.Float32,
    "nll": pl.Float32,
    # Of forecasts that need no model, for the held exposure bar by bar.
    "crps_gaussian": pl.Float32,
    "nll_gaussian": pl.Float32,
    "nll_persistence": pl.Float32,
}


class References(NamedTuple):
    """Scores of the forecasts that need no model, each [E, H]."""

    crps_gaussian: Floats
    nll_gaussian: Floats
    nll_persistence: Floats


def kernel_nll(outcome: ArrayLike, samples: ArrayLike) -> Floats:
    """−log density of `outcome` [...] under the kernel estimate of `samples` [..., M], M at least 2."""
    draws = np.asarray(samples, np.float64)
    number = draws.shape[-1]
    if number < 2:
        raise ValueError(f"a density needs at least 2 samples a forecast, got {number}")
    mean = draws.mean(axis=-1, keepdims=True)
    deviation = np.maximum(draws.std(axis=-1, ddof=1, keepdims=True), SUREST)
    low, high = np.quantile(draws, [0.25, 0.75], axis=-1, keepdims=True)
    spread = np.minimum(deviation, np.maximum((high - low) / 1.34, SUREST))
    width = 0.9 * spread * number**-0.2
    centres = mean + np.sqrt(1.0 - (width / deviation) ** 2) * (draws - mean)  # [..., M]
    equal = np.full(number, 1.0 / number)
    return calibration.mixture_nll(outcome, equal, centres, width)


def references(outcome: ArrayLike, paid: ArrayLike, last: ArrayLike, training: ArrayLike) -> References:
    """A Gaussian with the moments of the training bars, and "as the bar before" with their changes.

    Both are told what the order cost, which is no matter of forecasting: the outcome is scored before it.

    Args:
        outcome, paid: [E, H] reward of the held exposure, and the costs within it (at least 0).
        last: [E] return of the held exposure in the bar before the forecast.
        training: [N] returns of the held exposure in the training window.
    """
    past = np.asarray(training, np.float64)
    seen = np.asarray(outcome, np.float64) + np.asarray(paid, np.float64)  # [E, H]
    horizon = seen.shape[1]
    if past.size < horizon + 3:
        raise ValueError(f"{past.size} training bars are too few for references {horizon} bars ahead")
    mean, deviation = past.mean(), max(float(past.std()), SUREST)
    changes = [
        float(np.sqrt(np.mean((past[ahead:] - past[:-ahead]) ** 2))) for ahead in range(1, horizon + 1)
    ]
    before = np.asarray(last, np.float64)[:, np.newaxis]
    return References(
        crps_gaussian=calibration.crps_gaussian(seen, mean, deviation),
        nll_gaussian=calibration.gaussian_nll(seen, mean, deviation),
        nll_persistence=calibration.gaussian_nll(seen, before, np.maximum(changes, SUREST)),
    )


def scored(
    samples: ArrayLike, realised: ArrayLike, *, kind: str, seed: int, against: References | None = None
) -> pl.DataFrame:
    """The rows of E forecasts of one kind, without whose they are. Consumes `seed`.

    Args:
        samples: [E, M, H] rewards; realised: [E, H].
    """
    rewards = np.asarray(samples, np.float64)
    came = np.asarray(realised, np.float64)
    if rewards.ndim != 3 or came.shape != (rewards.shape[0], rewards.shape[2]):
        raise ValueError(f"forecasts {rewards.shape} do not foretell rewards {came.shape}")
    if not np.isfinite(rewards).all():
        raise ValueError("a forecast is not a number")
    parts = [
        _scope(rewards, came, BAR, seed, against),
        _scope(rewards.cumsum(axis=2), came.cumsum(axis=1), PATH, seed + 1, None),
    ]
    return pl.concat(parts).with_columns(kind=pl.lit(kind), samples=pl.lit(rewards.shape[1], pl.Int32))


def _scope(rewards: Floats, came: Floats, scope: str, seed: int, against: References | None) -> pl.DataFrame:
    probes, number, horizon = rewards.shape
    draws = np.moveaxis(rewards, 1, 2)  # [E, H, M]
    columns: dict[str, Floats] = {"mean": draws.mean(axis=-1), "realised": came}
    if number > 1:
        # Weibull's positions p (M + 1): unbiased, where the usual ones draw the ends of a range inward.
        quantiles = np.quantile(draws, QUANTILES, axis=-1, method="weibull")  # [Q, E, H]
        columns |= {
            "deviation": draws.std(axis=-1, ddof=1),
            **{f"q{1000 * level:03.0f}": row for level, row in zip(QUANTILES, quantiles, strict=True)},
            "pit": calibration.pit_samples(came, draws, seed=seed),
            "crps": calibration.crps_samples(came, draws),
            "nll": kernel_nll(came, draws),
            **(against._asdict() if against is not None else {}),
        }
    rows = probes * horizon
    measured = {
        name: pl.Series(columns[name].ravel() if name in columns else [None] * rows).cast(kind)
        for name, kind in SCHEMA.items()
        if kind == pl.Float32
    }
    steps = pl.Series(np.tile(np.arange(1, horizon + 1, dtype=np.int32), probes))
    return pl.DataFrame(
        {
            "forecast": np.repeat(np.arange(probes), horizon),
            "scope": [scope] * rows,
            "step": steps,
            **measured,
        }
    )


def empty() -> pl.DataFrame:
    """The table of a family that foretells nothing."""
    return pl.DataFrame(schema=SCHEMA)


def figures(table: pl.DataFrame, *, replications: int, level: float, seed: int) -> dict[str, Any] | None:
    """Few figures of one agent from its table, None for an empty one. Consumes `seed`.

    Where intervals are asked for, seeds are averaged first and the probes of all folds are one series:
    seeds of a fold share its market, so they are no further evidence.
    """
    if table.is_empty():
        return None
    found: dict[str, Any] = {
        "horizon": int(table["step"].max()),  # type: ignore[arg-type]
        "samples": int(table["samples"].max()),  # type: ignore[arg-type]
        "probes": table.select("fold", "seed", "probe").n_unique(),
    }
    for kind in (HELD, OWN):
        rows = table.filter(pl.col("kind") == kind)
        bars, paths = (rows.filter(pl.col("scope") == scope) for scope in (BAR, PATH))
        found[kind] = _by_step(bars)
        if rows["pit"].null_count() == 0:
            found[kind] |= _calibrated(bars, paths)
    bars = table.filter(pl.col("scope") == BAR)
    held = bars.filter(pl.col("kind") == HELD)
    if held["nll"].null_count() == 0:
        found[HELD] |= _skill(held, replications, level, seed)
    found[OWN] |= _dream(bars.filter(pl.col("kind") == OWN), replications, level, seed)
    return found


def _by_step(bars: pl.DataFrame) -> dict[str, Any]:
    """Planned against realised, seeds averaged, by bars ahead."""
    each = _series(bars, ["mean", "realised"])
    steps = each["step"].n_unique()
    planned, realised = (each[name].to_numpy().astype(np.float64).reshape(-1, steps) for name in
                         ("mean", "realised"))  # fmt: skip
    if len(planned) < 2:
        return {"planned": planned.mean(axis=0), "realised": realised.mean(axis=0)}
    told = calibration.planned_against_realised(planned, realised)
    return {
        "planned": planned.mean(axis=0),
        "realised": realised.mean(axis=0),
        "bias": told.bias,
        "bias_error": told.standard_error,
        "correlation": told.correlation,
    }


def _calibrated(bars: pl.DataFrame, paths: pl.DataFrame) -> dict[str, Any]:
    """The transform's histogram bar by bar, and the coverage of the path by horizon."""
    away = (paths["pit"] - 0.5).abs()
    return {
        "calibration_error": calibration.calibration_error(bars["pit"].to_numpy()),
        "pit": calibration.pit_histogram(bars["pit"].to_numpy(), PIT_BINS),
        "coverage": {
            f"{100 * share:.0f}": (
                paths.with_columns(inside=away <= share / 2.0)
                .group_by("step").agg(pl.col("inside").mean()).sort("step")["inside"].to_list()
            )
            for share in LEVELS
        },
    }  # fmt: skip


def _skill(held: pl.DataFrame, replications: int, level: float, seed: int) -> dict[str, Any]:
    """Scores over all steps beside those that need no model; a gain above zero is skill."""
    found: dict[str, Any] = {
        name: float(held[name].cast(pl.Float64).mean())  # type: ignore[arg-type]
        for name in ("nll", "nll_gaussian", "nll_persistence", "crps", "crps_gaussian")
    }
    each = _series(held, ["nll", "nll_gaussian", "nll_persistence"], by_step=False)
    for other in ("gaussian", "persistence"):
        gain = (each[f"nll_{other}"] - each["nll"]).to_numpy().astype(np.float64)
        low, high = mean_confidence_interval(gain, replications=replications, level=level, seed=seed)
        found |= {
            f"gain_over_{other}": float(gain.mean()),
            f"gain_over_{other}_low": low,
            f"gain_over_{other}_high": high,
        }
    return found


def _dream(own: pl.DataFrame, replications: int, level: float, seed: int) -> dict[str, Any]:
    """Reward a bar that the agent foresaw for what it would do, less what it earned."""
    each = _series(own, ["mean", "realised"], by_step=False)
    dreamed, real = (each[name].to_numpy().astype(np.float64) for name in ("mean", "realised"))
    gap = dreamed - real
    low, high = mean_confidence_interval(gap, replications=replications, level=level, seed=seed)
    return {
        "dreamed": float(dreamed.mean()),
        "earned": float(real.mean()),
        "dream_gap": float(gap.mean()),
        "dream_gap_low": low,
        "dream_gap_high": high,
    }


def _series(rows: pl.DataFrame, names: list[str], *, by_step: bool = True) -> pl.DataFrame:
    """`names` a probe (and step) in the order of time, the mean over seeds (and steps)."""
    keys = ["fold", "probe", "step"] if by_step else ["fold", "probe"]
    return rows.group_by(keys).agg(pl.col(names).cast(pl.Float64).mean()).sort(keys)
