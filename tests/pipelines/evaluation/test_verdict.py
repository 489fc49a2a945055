import json
import math

import numpy as np
import pytest

from pipelines.evaluation.verdict import FAMILY_ERROR, RULES, Evidence, judge

YEAR = 8760.0
BARS = 2 * 8760


def record(annual_sharpe: float, seed: int, bars: int = BARS) -> np.ndarray:
    """Returns whose sample Sharpe ratio is exactly the stated one."""
    noise = np.random.default_rng(seed).standard_t(5, bars) * 0.005
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    return 0.005 * (noise + annual_sharpe / math.sqrt(YEAR))


def run(returns, **changes):
    settings = {
        "buy_and_hold": None,
        "periods_per_year": YEAR,
        "trials": len(returns),
        "seed": 0,
        "replications": 500,
    }
    return judge(returns, **(settings | changes))


def test_the_words_for_each_kind_of_agent():
    agents = {
        "good": record(4.0, 1),
        "lucky": record(1.0, 2),
        "unlucky": record(-0.5, 3),
        "awful": record(-8.0, 4),
        "idle": np.zeros(BARS),
        "wrecked": record(9.0, 5),
    }
    found = run(agents, ruined={"wrecked"}).verdicts
    assert found["good"].words == "better than zero"
    assert found["lucky"].words.startswith("not distinguishable from zero: needs ")
    assert found["lucky"].words.endswith("years)")
    assert found["unlucky"].words == (
        "not distinguishable from zero: it lost money, and no record is long enough at this Sharpe ratio"
    )
    assert found["awful"].words == "worse than doing nothing"
    assert found["idle"].words == "cannot be judged: its returns do not vary"
    assert found["wrecked"].words == "ruined"
    assert found["wrecked"].evidence.sharpe is None
    assert list(found) == list(agents)


def test_better_than_buy_and_hold_needs_both():
    hold = record(0.2, 7)
    agents = {"good": record(6.0, 1), "holder": hold + 0.3 * record(0.1, 9)}
    found = run(agents, buy_and_hold=hold)
    assert found.verdicts["good"].name == "better than buy and hold"
    assert found.verdicts["good"].evidence.p_hold <= FAMILY_ERROR
    assert found.verdicts["holder"].name == "not distinguishable from zero"
    assert found.spa_hold.consistent <= 0.05
    # As good as holding in a market that rises: better than zero, not better than holding.
    rising = record(5.0, 7)
    found = run({"holder": rising + 0.1 * record(0.0, 9)}, buy_and_hold=rising)
    assert found.verdicts["holder"].name == "better than zero"


def test_the_needed_bars_are_enough_and_no_more():
    agents = {"a": record(1.2, 1), "b": record(-0.2, 2)}
    needed = run(agents).verdicts["a"].evidence.bars_needed
    repeats = 1 + needed / BARS
    assert repeats > 1.0
    longer = {
        name: record(sharpe, seed, math.ceil(BARS * repeats * 1.1))
        for name, sharpe, seed in (("a", 1.2, 1), ("b", -0.2, 2))
    }
    assert run(longer).verdicts["a"].name == "better than zero"
    shorter = {
        name: record(sharpe, seed, math.ceil(BARS * (1 + 0.8 * (repeats - 1))))
        for name, sharpe, seed in (("a", 1.2, 1), ("b", -0.2, 2))
    }
    assert run(shorter).verdicts["a"].name == "not distinguishable from zero"


def test_earlier_trials_count():
    agents = {"a": record(2.6, 1), "b": record(0.3, 2)}
    few, many = run(agents, trials=2), run(agents, trials=5000)
    assert few.verdicts["a"].name == "better than zero"
    assert many.verdicts["a"].name == "not distinguishable from zero"
    early, late = few.verdicts["a"].evidence, many.verdicts["a"].evidence
    assert early.p_zero == late.p_zero
    assert early.dsr > late.dsr
    assert early.p_luck < late.p_luck
    assert late.bars_needed > 0
    assert late.trials == 5000


def test_trials_are_never_fewer_than_the_agents_shown():
    assert run({"a": record(1, 1), "b": record(0, 2)}, trials=0).verdicts["a"].evidence.trials == 2


def test_evidence_is_finite_and_ordered():
    agents = {"a": record(1.5, 1), "b": record(-1.0, 2), "c": np.zeros(BARS)}
    found = run(agents, buy_and_hold=record(0.5, 3))
    for name in ("a", "b"):
        evidence = found.verdicts[name].evidence
        json.dumps(evidence._asdict(), allow_nan=False)
        assert evidence.interval.low < evidence.sharpe < evidence.interval.high
        assert evidence.dsr_all_trials <= evidence.dsr <= evidence.psr
        assert 0 < evidence.p_zero <= 1
        assert evidence.effective_trials <= evidence.trials
    assert found.verdicts["a"].evidence.sharpe == pytest.approx(1.5, abs=1e-9)


def test_nothing_to_test():
    only_idle = run({"idle": np.zeros(50)})
    assert only_idle.spa_zero is None
    assert only_idle.verdicts["idle"].name == "cannot be judged"
    assert run({}).verdicts == {}
    one_bar = run({"a": [0.01]})
    assert one_bar.verdicts["a"].words == "cannot be judged: fewer than 30 bars"


def test_bars_must_match():
    with pytest.raises(ValueError, match="same bars"):
        run({"a": record(1, 1, 100), "b": record(1, 1, 101)})
    with pytest.raises(ValueError, match="buy and hold"):
        run({"a": record(1, 1, 100)}, buy_and_hold=np.zeros(99))


def test_the_same_seed_gives_the_same_evidence():
    agents = {"a": record(1.5, 1), "b": record(-1.0, 2)}
    assert run(agents, seed=3).verdicts == run(agents, seed=3).verdicts


def test_rules_are_data():
    assert [rule.name for rule in RULES] == [
        "ruined",
        "cannot be judged",
        "better than buy and hold",
        "better than zero",
        "worse than doing nothing",
        "not distinguishable from zero",
    ]
    assert all(rule.when for rule in RULES)
    edge = Evidence(100, False, sharpe=1.0, p_zero=0.05, p_luck=0.05, p_hold=0.051)
    assert next(rule.name for rule in RULES if rule.applies(edge)) == "better than zero"


def test_false_claims_and_power_in_the_small():
    """The large calibration is `benchmarks/calibration.py`; this one notices a broken rule."""
    good = {"better than zero", "better than buy and hold"}
    false = found = 0
    for market in range(120):
        rng = np.random.default_rng([1, market])
        table = 0.01 * rng.standard_t(5, (700, 5))
        agents = {str(n): table[:, n] for n in range(5)}
        kwargs = {"replications": 200, "seed": market, "buy_and_hold": 0.01 * rng.standard_t(5, 700)}
        false += any(v.name in good for v in run(agents, **kwargs).verdicts.values())
        # 4.24 standard errors: an annual Sharpe ratio of 3 over two years
        agents["0"] = table[:, 0] + 4.24 / math.sqrt(700) * 0.01 * math.sqrt(5 / 3)
        found += run(agents, **kwargs).verdicts["0"].name in good
    assert false / 120 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 120)
    assert found / 120 >= 0.8
