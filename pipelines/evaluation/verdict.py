"""The verdict: what may be said about an agent, in words, from rules that were fixed beforehand.

The claims "better than zero" and "better than buy and hold" are tested for all agents at once. Their
excesses over both benchmarks are resampled together, and the step-down maximum of Romano and Wolf
(2005) gives p-values under which ANY false claim, about whichever agent and benchmark, has at most the
stated probability (5 %). That covers the agents in front of us. The tries that are no longer in front of
us, all earlier configurations in the ledger, are paid for by a second condition: the best of that many
trials without skill would have reached this PSR with at most 5 %, which is 1 − PSR^N for N (effective)
trials. Measured error and power: `benchmarks/calibration.py`.

Two departures from Bailey and López de Prado (2014). The verdict rests on the law of the maximum, 1 − PSR^N,
and shows the deflated Sharpe ratio beside it: asking DSR ≥ 95 % as well would demand 95 % certainty of
beating what is already the EXPECTED maximum, which costs power (measured: 84 % in place of 92 %) and buys
error below the promised 5 %. And their V is the variance across the Sharpe ratios of the trials: among
trials that differ in true quality (a random trader, an agent eaten by costs) it measures how bad the
bad ones are, and deflates the good one for that. Here V is the variance of the Sharpe ratio of a trial
without skill on a record of this length, 1 / (n − 1): what luck alone can do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.evaluation.dependence import common_block_length
from pipelines.evaluation.resampling import (
    Interval,
    percentile_interval,
    resampled_means,
    resampled_variance,
)
from pipelines.evaluation.significance import (
    Moments,
    deflated_sharpe_ratio,
    effective_trials,
    minimum_track_record_length,
    moments,
    probabilistic_sharpe_ratio,
)
from pipelines.evaluation.superiority import (
    Superiority,
    critical_value,
    excess_from_means,
    spa_test,
    stepwise_p_values,
)

Floats = NDArray[np.float64]

FAMILY_ERROR = 0.05
FEWEST_BARS = 30  # below, neither a block bootstrap nor a moment says anything


class Evidence(NamedTuple):
    """What a verdict rests on. Sharpe figures are annual; p-values are adjusted for all agents."""

    observations: int
    ruined: bool
    sharpe: float | None = None  # None: the returns do not vary
    interval: Interval | None = None  # 95 %, of the annual Sharpe ratio
    psr: float | None = None  # probability that the Sharpe ratio is above zero, for this agent alone
    dsr: float | None = None  # the same against the best of the effective number of trials
    dsr_all_trials: float | None = None  # the same with every trial counted as independent
    trials: int = 1
    effective_trials: float = 1.0
    p_luck: float | None = None  # that the best of all trials, without skill, reaches this PSR
    p_zero: float | None = None  # of "earns more than zero"
    p_hold: float | None = None  # of "earns more than buy and hold"
    p_worse: float | None = None  # of "earns less than zero"
    bars_needed: int | None = None  # further bars at this Sharpe ratio until "better than zero" holds


class Verdict(NamedTuple):
    """A rule's name, the sentence for this agent, and the evidence."""

    name: str
    words: str
    evidence: Evidence


class Rule(NamedTuple):
    """A verdict and when it applies; the first rule that applies is the verdict."""

    name: str
    when: str  # for the method section of the report
    applies: Callable[[Evidence], bool]


class Judgement(NamedTuple):
    """Verdicts of all agents, and the tests of the whole family."""

    verdicts: dict[str, Verdict]
    spa_zero: Superiority | None  # "no agent earns more than zero"; None where nothing could be tested
    spa_hold: Superiority | None  # "no agent earns more than buy and hold"
    block: float
    replications: int


def _beats_zero(evidence: Evidence) -> bool:
    return (
        evidence.p_zero is not None
        and evidence.p_luck is not None
        and evidence.p_zero <= FAMILY_ERROR
        and evidence.p_luck <= FAMILY_ERROR
    )


RULES: tuple[Rule, ...] = (
    Rule("ruined", "the equity of at least one path fell to zero", lambda e: e.ruined),
    Rule(
        "cannot be judged",
        f"the record has fewer than {FEWEST_BARS} bars, or its returns do not vary",
        lambda e: e.sharpe is None,
    ),
    Rule(
        "better than buy and hold",
        "better than zero (below), and the adjusted p-value of the excess over buy and hold is at most 5 %",
        lambda e: _beats_zero(e) and e.p_hold is not None and e.p_hold <= FAMILY_ERROR,
    ),
    Rule(
        "better than zero",
        "the p-value of a positive mean return, adjusted for all agents and both benchmarks, is at most "
        "5 %, and so is the chance 1 − PSR^N that the best of the N (effective) trials in the ledger, all "
        "without skill, reaches this PSR",
        _beats_zero,
    ),
    Rule(
        "worse than doing nothing",
        "the p-value of a negative mean return, adjusted for all agents, is at most 5 %",
        lambda e: e.p_worse is not None and e.p_worse <= FAMILY_ERROR,
    ),
    Rule("not distinguishable from zero", "everything else", lambda _: True),
)


def judge(
    returns: Mapping[str, ArrayLike],
    *,
    buy_and_hold: ArrayLike | None,
    periods_per_year: float,
    trials: int,
    ruined: Collection[str] = (),
    block: float | None = None,
    replications: int = 1000,
    seed: int,
) -> Judgement:
    """A verdict for each agent. Consumes `seed`.

    Args:
        returns: simple returns [T] of each agent on the same bars (the mean over its seeds: capital
            split evenly between them). Baselines do not belong here: each one judged costs power.
        buy_and_hold: returns [T] of holding; without it that claim is not tested.
        trials: number of configurations ever tried (`trials.count`), at least the agents shown.
        ruined: agents of which at least one path ended in ruin; they enter no test.
        block: expected block length; automatic (the median over the agents) when not given.
    """
    series = {name: np.asarray(values, dtype=np.float64) for name, values in returns.items()}
    shapes = {values.shape for values in series.values()}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise ValueError(f"agents need returns on the same bars, got shapes {sorted(shapes)}")
    facts: dict[str, Moments] = {}
    for name, values in series.items():
        found = moments(values) if name not in ruined and values.size >= FEWEST_BARS else None
        if found is not None:
            facts[name] = found
    evidence = {
        name: Evidence(observations=values.size, ruined=name in ruined, trials=trials)
        for name, values in series.items()
    }
    spa_zero = spa_hold = None
    if facts:
        table = np.column_stack([series[name] for name in facts])  # [T, N]
        hold = None if buy_and_hold is None else np.asarray(buy_and_hold, dtype=np.float64)
        if hold is not None and hold.shape != (len(table),):
            raise ValueError(f"buy and hold has shape {hold.shape}, the agents {len(table)} bars")
        block = common_block_length(table) if block is None else block
        tested, spa_zero, spa_hold = _test(
            table, hold, list(facts.values()), periods_per_year, trials, block, replications, seed
        )
        evidence |= dict(zip(facts, tested, strict=True))
    verdicts = {name: _decide(found, periods_per_year) for name, found in evidence.items()}
    return Judgement(verdicts, spa_zero, spa_hold, block or 1.0, replications)


def _test(
    table: Floats, hold: Floats | None, facts: list[Moments], periods_per_year: float,
    trials: int, block: float, replications: int, seed: int,
) -> tuple[list[Evidence], Superiority, Superiority | None]:  # fmt: skip
    """Evidence of each column of `table` [T, N], from one bootstrap of everything at once."""
    length, agents = table.shape
    drawn = [table, table**2] + ([] if hold is None else [hold[:, None]])
    means = resampled_means(
        np.concatenate(drawn, axis=1), block=block, replications=replications, seed=seed
    )  # [R, 2 N + 1]
    zero = excess_from_means(table, means[:, :agents], block=block)
    t_values, draws, spa_hold = zero.t_values, zero.draws, None
    if hold is not None:
        over = excess_from_means(table - hold[:, None], means[:, :agents] - means[:, -1:], block=block)
        t_values, draws = np.append(t_values, over.t_values), np.append(draws, over.draws, axis=1)
        spa_hold = spa_test(over)
    better = stepwise_p_values(t_values, draws)  # [N] or [2 N]
    worse = stepwise_p_values(-zero.t_values, -zero.draws)
    critical = critical_value(draws, FAMILY_ERROR)

    variance = resampled_variance(means[:, :agents], means[:, agents : 2 * agents], table)  # [R, N]
    sharpes = means[:, :agents] / np.sqrt(np.where(variance > 0.0, variance, np.inf))
    effective = effective_trials(
        np.corrcoef(table, rowvar=False).reshape(agents, agents), max(trials, agents)
    )
    annual = math.sqrt(periods_per_year)
    luck = 1.0 / (length - 1)
    tested = []
    for n, fact in enumerate(facts):
        interval = percentile_interval(sharpes[:, n])
        psr = probabilistic_sharpe_ratio(fact.sharpe, length, fact.skew, fact.kurtosis)
        tested.append(
            Evidence(
                observations=length,
                ruined=False,
                sharpe=fact.sharpe * annual,
                interval=Interval(interval.low * annual, interval.high * annual),
                psr=psr,
                p_luck=1.0 - psr**effective,
                dsr=_deflated(fact, effective, luck),
                dsr_all_trials=_deflated(fact, float(max(trials, agents)), luck),
                trials=max(trials, agents),
                effective_trials=effective,
                p_zero=float(better[n]),
                p_hold=None if hold is None else float(better[agents + n]),
                p_worse=float(worse[n]),
                bars_needed=_bars_needed(fact, float(zero.t_values[n]), critical, effective),
            )
        )
    return tested, spa_test(zero), spa_hold


def _deflated(fact: Moments, trials: float, variance: float) -> float:
    return deflated_sharpe_ratio(fact.sharpe, fact.observations, fact.skew, fact.kurtosis, trials, variance)


def _bars_needed(fact: Moments, t_value: float, critical: float, trials: float) -> int | None:
    """Further bars at this Sharpe ratio until both conditions of "better than zero" hold.

    Both statistics grow with √n: the t value has to reach `critical`, and the Sharpe ratio the multiple
    of its standard error at which 1 − PSR^N is the allowed error.
    None where the mean is not positive: no record is long enough.
    """
    if fact.sharpe <= 0.0:
        return None
    by_test = fact.observations * (critical / t_value) ** 2 if critical > 0.0 else 0.0
    confidence = (1.0 - FAMILY_ERROR) ** (1.0 / trials)
    by_luck = minimum_track_record_length(fact.sharpe, fact.skew, fact.kurtosis, confidence=confidence)
    return max(0, math.ceil(max(by_test, by_luck or 0.0)) - fact.observations)


def _decide(evidence: Evidence, periods_per_year: float) -> Verdict:
    rule = next(rule for rule in RULES if rule.applies(evidence))
    words = rule.name
    if rule.name == "cannot be judged":
        few = evidence.observations < FEWEST_BARS
        words += f": fewer than {FEWEST_BARS} bars" if few else ": its returns do not vary"
    elif rule.name == "not distinguishable from zero":
        if evidence.bars_needed is None:
            words += ": it lost money, and no record is long enough at this Sharpe ratio"
        else:
            bars = max(1, evidence.bars_needed)
            words += f": needs {bars:,} more bars (about {_years(bars / periods_per_year)})"
    return Verdict(rule.name, words, evidence)


def _years(years: float) -> str:
    if years < 0.5:
        return f"{max(1, round(years * 365.0)):,} days"
    return f"{years:,.0f} years" if years >= 10.0 else f"{years:.1f} years"
