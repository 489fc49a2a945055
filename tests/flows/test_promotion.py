"""The rule of promotion on returns whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.promotion import Contender, compare, judge, objection, optimism
from pipelines.settings import Promotion

BARS = 1500
TIMES = np.datetime64("2024-01-01T00", "ms") + np.arange(BARS) * np.timedelta64(1, "h")
RULE = Promotion()


def contender(name: str, mean: float, seed: int, **more: object) -> Contender:
    """Gaussian returns of 50 bps a bar whose sample mean is exactly `mean`."""
    draw = np.random.default_rng(seed).normal(0.0, 0.005, BARS)
    return Contender(name, TIMES, draw - draw.mean() + mean, **more)  # type: ignore[arg-type]


def better(champion: Contender, edge: float, name: str = "new") -> Contender:
    """The same market, and `edge` a bar more: what pairing is for."""
    noise = np.random.default_rng(9).normal(0.0, 0.001, BARS)
    return champion._replace(name=name, returns=champion.returns + noise - noise.mean() + edge)


def test_a_newcomer_that_earns_more_is_promoted_and_the_evidence_says_by_how_much() -> None:
    champion = contender("old", 0.0002, 1)
    found = judge([better(champion, 2e-4)], champion, failed_checks=0, rule=RULE, seed=3)
    assert found.promoted == "new"
    assert found.evidence["comparison"]["difference_bps"] == pytest.approx(2.0)
    assert found.evidence["comparison"]["p"] <= 0.1


def test_pairing_finds_what_two_separate_records_could_not() -> None:
    """2 bps against 50 bps of noise in 1500 bars is nothing by itself (t = 1.5), and plain when paired."""
    champion = contender("old", 0.0002, 1)
    paired = compare(better(champion, 2e-4), champion, replications=2000, seed=3)
    apart = compare(contender("new", 4e-4, 2), champion, replications=2000, seed=3)
    assert paired.p < 0.001
    assert apart.p > 0.05


@pytest.mark.parametrize("edge", [0.0, -1e-4])
def test_the_same_or_less_is_refused(edge: float) -> None:
    champion = contender("old", 0.0002, 1)
    found = judge([better(champion, edge)], champion, failed_checks=0, rule=RULE, seed=3)
    assert found.promoted is None
    assert found.reason.startswith("refused")


def test_the_champion_itself_comes_to_nothing_against_itself() -> None:
    champion = contender("old", 0.0002, 1)
    assert compare(champion._replace(name="again"), champion, replications=200, seed=3).p == 1.0


def test_equals_are_promoted_no_more_often_than_the_rule_says() -> None:
    """200 pairs without a difference at confidence 0.9: about 20 promotions, 35 are 3.5 sigmas away."""
    promoted = 0
    for seed in range(200):
        draw = np.random.default_rng(seed).normal(0.0, 0.005, (2, 400))
        pair = [Contender(str(row), TIMES[:400], draw[row]) for row in range(2)]
        rule = Promotion(replications=200)
        promoted += judge(pair[:1], pair[1], failed_checks=0, rule=rule, seed=seed).promoted is not None
    assert 5 <= promoted <= 35


def test_the_best_of_many_must_be_surer() -> None:
    champion = contender("old", 0.0, 1)
    edge = better(champion, 4e-5)
    alone = judge([edge], champion, failed_checks=0, rule=RULE, seed=3)
    assert alone.promoted == "new"
    crowd = [edge, *(contender(f"other {seed}", -1e-4, seed) for seed in range(20, 60))]
    assert judge(crowd, champion, failed_checks=0, rule=RULE, seed=3).promoted is None


def test_broken_data_never_win() -> None:
    champion = contender("old", 0.0, 1)
    found = judge([better(champion, 1e-2)], champion, failed_checks=1, rule=RULE, seed=3)
    assert found.promoted is None
    assert "data check" in found.reason
    vacant = judge([better(champion, 1e-2)], None, failed_checks=1, rule=Promotion(vacant="anyone"), seed=3)
    assert vacant.promoted is None


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        ({"ruined": True}, "was ruined"),
        ({"optimism": 0.6}, "promised"),
        ({"returns": np.where(np.arange(BARS) == 700, -0.4, 0.002)}, "fell by"),
        ({"returns": np.where(np.arange(BARS) == 700, np.nan, 0.002)}, "not numbers"),
    ],
)
def test_limits_hold_whatever_was_earned(spoilt: dict[str, object], words: str) -> None:
    champion = contender("old", 0.0, 1)
    newcomer = better(champion, 1e-2)._replace(**spoilt)  # type: ignore[arg-type]
    found = judge([newcomer], champion, failed_checks=0, rule=RULE, seed=3)
    assert found.promoted is None
    assert words in found.reason
    sound = better(champion, 5e-4, "sound")  # the spoilt one does not stand in the way of others
    assert judge([newcomer, sound], champion, failed_checks=0, rule=RULE, seed=3).promoted == "sound"


def test_the_first_champion_must_beat_cash_unless_anyone_may_come() -> None:
    poor = contender("poor", -1e-4, 4)
    assert judge([poor], None, failed_checks=0, rule=RULE, seed=3).promoted is None
    anyone = Promotion(vacant="anyone")
    assert judge([poor], None, failed_checks=0, rule=anyone, seed=3).promoted == "poor"
    good = contender("good", 8e-4, 4)
    assert judge([good], None, failed_checks=0, rule=RULE, seed=3).promoted == "good"


def test_other_bars_are_no_comparison() -> None:
    champion = contender("old", 0.0, 1)
    shifted = better(champion, 1e-3)._replace(times=TIMES + np.timedelta64(1, "h"))
    with pytest.raises(ValueError, match="not tested on the same bars"):
        judge([shifted], champion, failed_checks=0, rule=RULE, seed=3)


def test_optimism_is_what_was_claimed_less_what_came() -> None:
    log_returns = np.array([0.01, -0.01] * 50)  # mean 0, deviation 0.01
    assert optimism(np.full(100, 0.5), log_returns, 0.99) == pytest.approx(0.5)  # 0.5 x 0.01 / 0.01
    assert optimism(np.full(100, 0.5), log_returns, 1.0) is None
    assert optimism(np.full(100, 0.5), np.zeros(100), 0.99) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(-2e-4, 1e-3))
def test_the_same_arguments_give_the_same_judgement(seed: int, edge: float) -> None:
    champion = contender("old", 5e-4, seed)
    rule = Promotion(replications=100)
    first = judge([better(champion, edge)], champion, failed_checks=0, rule=rule, seed=seed)
    second = judge([better(champion, edge)], champion, failed_checks=0, rule=rule, seed=seed)
    assert first == second
    assert (first.promoted is None) == (first.evidence["comparison"]["p"] > 0.1)


def test_an_agent_without_forecasts_is_not_held_to_them() -> None:
    assert objection(contender("silent", 0.0, 1), RULE) is None
