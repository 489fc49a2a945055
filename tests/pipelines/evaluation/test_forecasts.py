"""Scores of forecasts whose quality is known: calibrated, overconfident, biased, and one without a spread."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import integrate, stats

from pipelines.evaluation import forecasts as f

PROBES, HORIZON, SAMPLES = 600, 4, 64
SIGMA = 0.005


def table(*, width: float = 1.0, bias: float = 0.0, samples: int = SAMPLES, seed: int = 0) -> pl.DataFrame:
    """Outcomes N(mean, SIGMA²); the forecaster knows the mean, and says N(mean + bias, (width SIGMA)²)."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(0.0, SIGMA, (PROBES, HORIZON))
    came = mean + rng.normal(0.0, SIGMA, mean.shape)
    drawn = mean[:, None] + bias + width * SIGMA * rng.standard_normal((PROBES, samples, HORIZON))
    past = rng.normal(0.0, np.sqrt(2) * SIGMA, 4000)
    against = f.references(came, np.zeros_like(came), rng.normal(0, SIGMA, PROBES), past)
    parts = [
        f.scored(drawn, came, kind=f.HELD, seed=seed, against=against),
        f.scored(drawn, came, kind=f.OWN, seed=seed + 9),
    ]
    whole = pl.concat(parts, how="diagonal").rename({"forecast": "probe"})
    named = whole.with_columns(agent=pl.lit("a"), fold=pl.lit(0), seed=pl.lit(0))
    return named.select(pl.col(name).cast(kind) for name, kind in f.SCHEMA.items())


def figures(**how: Any) -> dict[str, Any]:
    found = f.figures(table(**how), replications=400, level=0.95, seed=1)
    assert found is not None
    return found


def test_a_model_that_is_right_is_called_right() -> None:
    found = figures()
    held = found["held"]
    assert found["probes"] == PROBES
    assert held["calibration_error"] < 0.03
    assert np.abs(np.asarray(held["pit"]) - 0.1).max() < 0.025
    for share, covered in held["coverage"].items():
        np.testing.assert_allclose(covered, float(share) / 100, atol=0.045)
        assert abs(np.mean(covered) - float(share) / 100) < 0.025
    # The entropy of the truth, and what the kernel estimate from 64 samples adds to it.
    entropy = stats.norm.entropy(scale=SIGMA)
    assert entropy - 0.02 < held["nll"] < entropy + 0.08
    # The Gaussian does not know the mean: log sqrt 2 nats worse.
    assert held["nll_gaussian"] == pytest.approx(entropy + 0.5 * np.log(2), abs=0.03)
    assert held["gain_over_gaussian"] == pytest.approx(held["nll_gaussian"] - held["nll"])
    assert 0.2 < held["gain_over_gaussian_low"] < held["gain_over_gaussian"] < held["gain_over_gaussian_high"]
    assert held["gain_over_persistence_low"] > held["gain_over_gaussian_high"]
    assert held["crps"] == pytest.approx(SIGMA / np.sqrt(np.pi), rel=0.05)
    assert found["own"]["dream_gap_low"] < 0 < found["own"]["dream_gap_high"]


def test_one_that_is_too_sure_is_called_too_sure() -> None:
    held = figures(width=0.5)["held"]
    # An interval of half the width holds the truth 2 Phi(z / 2) - 1 of the time.
    for share, covered in held["coverage"].items():
        true = 2 * stats.norm.cdf(0.5 * stats.norm.ppf(0.5 + float(share) / 200)) - 1
        np.testing.assert_allclose(covered, true, atol=0.06)
    assert held["pit"][0] > 0.2 < held["pit"][-1]
    assert held["calibration_error"] > 0.1
    assert held["nll"] > figures()["held"]["nll"] + 0.5


def test_one_that_promises_too_much_is_called_optimistic() -> None:
    own = figures(bias=0.004)["own"]
    np.testing.assert_allclose(own["bias"], 0.004, atol=4 * max(own["bias_error"]))
    np.testing.assert_allclose(
        own["bias_error"], SIGMA * np.sqrt(1 + 1 / SAMPLES) / np.sqrt(PROBES), rtol=0.15
    )
    assert own["dream_gap_low"] < 0.004 < own["dream_gap_high"]
    assert own["dream_gap_low"] > 0.003
    assert own["dreamed"] - own["earned"] == pytest.approx(own["dream_gap"], abs=1e-9)


def test_one_path_has_a_mean_and_nothing_else() -> None:
    found = table(samples=1)
    assert found.filter(pl.col("pit").is_not_null()).is_empty()
    assert found["mean"].null_count() == 0
    held = figures(samples=1)["held"]
    assert "nll" not in held
    assert "coverage" not in held
    assert len(held["bias"]) == HORIZON


def test_a_path_adds_its_bars_up() -> None:
    found = table().filter(pl.col("kind") == "own")
    bars, paths = (found.filter(pl.col("scope") == scope).sort("probe", "step") for scope in ("bar", "path"))
    summed = bars["realised"].to_numpy().reshape(-1, HORIZON).cumsum(axis=1)
    np.testing.assert_allclose(paths["realised"].to_numpy().reshape(-1, HORIZON), summed, atol=1e-6)
    # Independent bars: the spread grows with the root of their number.
    spread = paths.group_by("step").agg(pl.col("deviation").mean()).sort("step")["deviation"].to_numpy()
    np.testing.assert_allclose(spread / SIGMA, np.sqrt([1, 2, 3, 4]), rtol=0.03)


def test_the_kernel_estimate_is_a_density_with_the_moments_of_its_samples() -> None:
    draws = np.random.default_rng(3).standard_t(4, 50)

    def density(x: float) -> float:
        return float(np.exp(-f.kernel_nll(x, draws)))

    moments = [integrate.quad(lambda x, k=k: x**k * density(x), -40, 40, limit=400)[0] for k in range(3)]
    assert moments[0] == pytest.approx(1.0, abs=1e-6)
    assert moments[1] == pytest.approx(draws.mean(), abs=1e-5)
    assert moments[2] - moments[1] ** 2 == pytest.approx(draws.var(ddof=1), rel=0.02)
    assert np.isfinite(f.kernel_nll(0.01, np.zeros(8)))  # no spread at all is wrong, not infinitely wrong


def test_the_references_are_told_the_costs_and_know_the_past_alone() -> None:
    past = np.random.default_rng(0).normal(0.001, 0.01, 5000)
    came, paid = np.full((1, 2), -0.0007), np.array([[0.0007, 0.0]])
    found = f.references(came, paid, np.zeros(1), past)
    expected = -stats.norm.logpdf([0.0, -0.0007], past.mean(), past.std())
    np.testing.assert_allclose(found.nll_gaussian[0], expected, atol=1e-12)
    lagged = np.sqrt(np.mean((past[2:] - past[:-2]) ** 2))
    assert found.nll_persistence[0, 1] == pytest.approx(-stats.norm.logpdf(-0.0007, 0.0, lagged))
    with pytest.raises(ValueError, match="too few"):
        f.references(came, paid, np.zeros(1), past[:4])


def test_seeds_of_a_fold_are_no_further_evidence() -> None:
    once = table()
    twice = pl.concat([once, once.with_columns(seed=pl.lit(1, pl.Int32))])
    one, two = (f.figures(each, replications=400, level=0.95, seed=1) for each in (once, twice))
    assert one is not None
    assert two is not None
    assert two["held"]["gain_over_gaussian_low"] == pytest.approx(one["held"]["gain_over_gaussian_low"])
    assert two["own"]["bias_error"] == pytest.approx(one["own"]["bias_error"])


def test_no_forecasts_no_figures() -> None:
    assert f.figures(f.empty(), replications=100, level=0.95, seed=0) is None
    with pytest.raises(ValueError, match="do not foretell"):
        f.scored(np.zeros((2, 3, 4)), np.zeros((2, 3)), kind=f.OWN, seed=0)
    with pytest.raises(ValueError, match="not a number"):
        f.scored(np.full((1, 2, 1), np.nan), np.zeros((1, 1)), kind=f.OWN, seed=0)
