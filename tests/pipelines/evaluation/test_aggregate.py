import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.evaluation import aggregate as a
from tests.pipelines.evaluation.examples import result_frame

HOURS = 8760.0


def table(
    agent: str = "dqn", folds: int = 3, seeds: int = 2, bars: int = 30
) -> tuple[pl.DataFrame, np.ndarray]:
    """A result table and its returns [folds, bars, seeds]."""
    steps = np.random.default_rng(len(agent)).normal(0.001, 0.01, (folds, bars, seeds))
    frames = [
        result_frame(1e6 * np.cumprod(1 + steps[f, :, s]), agent=agent, fold=f, seed=s, first_bar=bars * f)
        for f in range(folds)
        for s in range(seeds)
    ]
    return pl.concat(frames).sample(fraction=1.0, shuffle=True, seed=0), steps


def test_a_record_holds_every_run():
    frame, steps = table()
    record = a.record_of(frame, HOURS)
    np.testing.assert_allclose(record.returns, steps.reshape(90, 2), atol=1e-12)
    assert {(run.fold, run.seed) for run in record.runs} == {(f, s) for f in range(3) for s in range(2)}
    assert record.open_time.is_sorted()
    sharpes = a.figure_matrix(record, "sharpe")
    expected = steps.mean(axis=1) / steps.std(axis=1, ddof=1) * np.sqrt(HOURS)
    np.testing.assert_allclose(sharpes, expected, rtol=1e-5)
    runs = a.runs_table([record])
    assert runs.height == 6
    assert runs["sharpe"].null_count() == 0


def test_the_agent_is_the_mean_of_its_seeds():
    frame, steps = table()
    record = a.record_of(frame, HOURS)
    found = a.agent_returns([record])
    np.testing.assert_allclose(found["dqn"], steps.mean(axis=2).ravel(), atol=1e-12)


def test_after_a_ruin_the_money_is_gone():
    frames = [
        result_frame(np.array([1.1e6, 1.2e6]), fold=0),
        result_frame(np.array([0.5e6, -0.1e6, np.nan]), fold=1, first_bar=2),
        result_frame(np.array([1.5e6, 1.6e6]), fold=2, first_bar=5),
    ]
    record = a.record_of(pl.concat(frames), HOURS)
    assert record.ruined
    assert record.returns[:, 0] == pytest.approx([0.1, 1.2 / 1.1 - 1, -0.5, -1.0, 0.0, 0.0, 0.0])
    assert np.isnan(a.figure_matrix(record, "sharpe")[1, 0])


def test_tables_that_do_not_fit_are_refused():
    frame, _ = table()
    with pytest.raises(ValueError, match="one agent"):
        a.record_of(pl.concat([frame, table("dyna")[0]]), HOURS)
    with pytest.raises(ValueError, match="same bars"):
        a.record_of(frame.filter((pl.col("seed") == 0) | (pl.col("fold") > 0)), HOURS)
    with pytest.raises(ValueError, match="one agent"):
        a.record_of(frame.head(0), HOURS)
    other = a.record_of(table("dyna", bars=29)[0], HOURS)
    with pytest.raises(ValueError, match="dyna does not cover"):
        a.agent_returns([a.record_of(frame, HOURS), other])


def test_distribution_by_hand():
    found = a.distribution([[1.0, 2.0], [3.0, np.nan]], seed=0)
    assert (found.median, found.lower_quartile, found.upper_quartile) == (2.0, 1.5, 2.5)
    assert (found.runs, found.undefined) == (4, 1)
    assert 1.0 <= found.interval.low <= 2.0 <= found.interval.high <= 3.0
    one = a.distribution([[0.7]], seed=0)
    assert one.interval == (0.7, 0.7)
    none = a.distribution([[np.nan, np.nan]], seed=0)
    assert none == (None, None, None, None, 2, 2)


def test_runs_of_one_fold_or_seed_are_not_independent():
    """Folds differ, seeds do not: twenty seeds more must not narrow the interval; nor the reverse."""
    luck = np.random.default_rng(0).normal(size=(6, 1))
    few = a.distribution(luck, seed=0).interval
    for many in (np.repeat(luck, 20, axis=1), np.repeat(luck, 20, axis=1).T):
        found = a.distribution(many, seed=0).interval
        assert found.high - found.low > 0.8 * (few.high - few.low)


def test_performance_profile():
    found = a.performance_profile([[1.0, 2.0], [np.nan, 3.0]], [-5.0, 1.0, 2.5, 3.0])
    assert found == pytest.approx([0.75, 0.5, 0.25, 0.0])


@given(arrays(np.float64, (3, 4), elements=st.floats(-5, 5)))
def test_a_profile_never_rises(matrix):
    assert np.all(np.diff(a.performance_profile(matrix, np.linspace(-6, 6, 30))) <= 0)


def test_ranks():
    found = a.ranks(
        {
            "best": [[3.0, 3.0, 0.0], [2.0, 2.0, 2.0]],
            "tied": [[1.0], [2.0]],
            "ruined": [[np.nan], [np.nan]],
        }
    )
    assert found["best"] == (1.25, 0.75)
    assert found["tied"] == (1.75, 0.25)
    assert found["ruined"] == (3.0, 0.0)


def test_pairwise_differences():
    rng = np.random.default_rng(0)
    common = rng.normal(0, 0.01, 2000)
    agents = {"a": common + 0.0005, "b": common, "c": rng.normal(0, 0.01, 2000)}
    found = {(d.first, d.second): d for d in a.pairwise_differences(agents, HOURS, block=1.0, seed=0)}
    assert set(found) == {("a", "b"), ("a", "c"), ("b", "c")}
    # The same bars are drawn for both, so what they share cancels.
    assert found["a", "b"].interval == pytest.approx((0.0005 * HOURS, 0.0005 * HOURS))
    apart = found["b", "c"]
    assert apart.interval.low < apart.mean < apart.interval.high
    assert apart.interval.high - apart.interval.low == pytest.approx(
        2 * 1.96 * np.std(agents["b"] - agents["c"]) / np.sqrt(2000) * HOURS, rel=0.1
    )
