"""What the page says in sentences: verdicts, forecasts and regimes for somebody who reads no statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.evaluation.verdict import RULES
from pipelines.settings import Params, Split

BASIS_POINTS = 1e4
RANGE = "80"  # per cent, the range that is spoken of
SMALLEST_MISS = 0.03  # of coverage; less is called right


def headline(agents: Mapping[str, Mapping[str, Any]]) -> str:
    """One sentence: whether any learned agent is worth trusting."""
    learned = {name: found for name, found in agents.items() if found["kind"] == "learned"}
    best = [name for name, found in learned.items() if found.get("verdict") == "better than buy and hold"]
    good = [name for name, found in learned.items() if found.get("verdict") == "better than zero"]
    if best:
        return f"{listed(best)} did better than buy and hold, beyond what luck explains."
    if good:
        return f"{listed(good)} earned more than nothing, but not provably more than buy and hold."
    if not learned:
        return "No agent was trained."
    worse = [name for name, found in learned.items() if found.get("verdict") == "worse than doing nothing"]
    if len(worse) == len(learned):
        return "Doing nothing would have been better than every agent here."
    return "No agent can be told apart from doing nothing. None of them deserves your money yet."


def answers(
    params: Params,
    comparison: Mapping[str, Any],
    models: Mapping[str, Mapping[str, Any]],
    *,
    leaking: bool,
) -> list[tuple[str, str]]:
    """What somebody asks who sees the page for the first time, and the answers.

    Args:
        models: the figures of what an agent foretold, of those that foretell.
    """
    agents = comparison["agents"]
    learned = {name: found for name, found in agents.items() if found["kind"] == "learned"}
    if not learned:
        return []
    return [
        ("Which agent should I trust?", _trust(agents, learned, leaking)),
        ("Could it have been luck?", _luck(comparison)),
        ("What did trading cost?", _cost(learned)),
        ("Do the agents know what they do not know?", _certainty(models)),
        ("Is this a real market, or real money?", _reality(params, agents)),
    ]


def _trust(agents: Mapping[str, Any], learned: Mapping[str, Any], leaking: bool) -> str:
    good = [name for name, found in learned.items() if str(found.get("verdict")).startswith("better")]
    best = max(learned, key=lambda name: learned[name]["total_return"] or 0.0)
    trust = "None: the results know the future" if leaking else listed(good) if good else "None of them"
    said = (
        f"{trust}. Of the learned ones {best} ended highest, at {learned[best]['total_return']:+.0%} after "
        "every "
        f"cost, and is {learned[best]['words']}."
    )
    hold = agents.get("buy_and_hold")
    return said if hold is None else f"{said} Holding ended at {hold['total_return']:+.0%}."


def _luck(comparison: Mapping[str, Any]) -> str:
    said = (
        f"{comparison['trials']['configurations']} configuration(s) were ever tried, and the verdicts pay "
        "for all "
        "of them."
    )
    chance = comparison["family"]["spa_zero"]
    if chance is None:
        return said
    return f"{said} If no agent had any skill, the best would look this good in {chance:.0%} of the cases."


def _cost(learned: Mapping[str, Any]) -> str:
    dear = min(learned, key=lambda name: learned[name]["cost_total"] or 0.0)
    return (
        f"{dear} paid most: {-learned[dear]['cost_total']:.0%} of the start equity, trading its equity "
        f"{learned[dear]['turnover_per_year']:,.0f} times a year. What is left of every agent under other "
        "costs, "
        "sizes and delays stands in its section."
    )


def _certainty(models: Mapping[str, Mapping[str, Any]]) -> str:
    if not models:
        return "No agent here foretells anything that could be checked."
    covered = [
        f"{name} {sum(held) / len(held):.0%}"
        for name, found in models.items()
        if (held := found["held"].get("coverage", {}).get(RANGE))
    ]
    glad = [name for name, found in models.items() if found["own"]["dream_gap_low"] > 0.0]
    ranges = f"Their {RANGE} % ranges held the truth: {', '.join(covered)}. " if covered else ""
    promises = (
        f"{listed(glad)} promised provably more than came." if glad else "None promised provably too much."
    )
    return ranges + promises


def _reality(params: Params, agents: Mapping[str, Any]) -> str:
    trade = "No money was traded: these are backtests, filled at the next open."
    if params.data.source != "simulator":
        return f"The prices are real ({params.data.source}). {trade}"
    known = f"Neither. The market is simulated ({params.data.simulator.market}), so its law is known"
    if "oracle" in agents:
        known += f": who knows it, but not the hidden regime, earns {agents['oracle']['total_return']:+,.0%}"
    return f"{known}. {trade}"


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def standing(name: str, agents: Mapping[str, Mapping[str, Any]], *, confidence: float) -> list[str]:
    """Why this agent is trusted or not: its verdict, its interval, and what holding would have brought."""
    found = agents[name]
    said = [f"{name} is {found['words']}." if found.get("words") else f"{name} has no verdict."]
    if found.get("sharpe_low") is not None:
        said.append(
            f"Its Sharpe ratio a year is {found['sharpe']:.1f}, and anything from "
            f"{found['sharpe_low']:.1f} to "
            f"{found['sharpe_high']:.1f} would fit the record ({confidence:.0%})."
        )
    hold = agents.get("buy_and_hold")
    if hold is not None and hold["total_return"] is not None and found["total_return"] is not None:
        said.append(
            f"It ended at {found['total_return']:+.0%} after costs of {-found['cost_total']:.0%} of the "
            "start "
            f"equity; holding ended at {hold['total_return']:+.0%}, doing nothing at 0 %."
        )
    if found.get("time_long") is not None:
        said.append(
            f"It was long {found['time_long']:.0%} and short {found['time_short']:.0%} of the time, and "
            "traded "
            f"its equity {found['turnover_per_year']:,.0f} times a year."
        )
    return said


def model(found: Mapping[str, Any]) -> list[str]:
    """Is the agent's model of the market any good, and does it promise what it keeps?"""
    held, own, horizon = found["held"], found["own"], found["horizon"]
    said = []
    if "coverage" in held:
        covered = held["coverage"][RANGE]
        mean, claimed = sum(covered) / len(covered), float(RANGE) / 100.0
        slack = max(SMALLEST_MISS, 2.0 * math.sqrt(claimed * (1.0 - claimed) / found["probes"]))
        word = (
            "about right"
            if abs(mean - claimed) <= slack
            else "too sure of itself"
            if mean < claimed
            else "too timid"
        )
        said.append(
            f"Its {RANGE} % range for the next {horizon} bars held the truth {mean:.0%} of the time: {word}."
        )
    else:
        said.append("It foretells one number and no range, so its certainty cannot be checked.")
    if "nll" in held:
        said.append(_skill(held))
    said.append(_promise(own))
    return said


def _skill(held: Mapping[str, Any]) -> str:
    low, high = held["gain_over_gaussian_low"], held["gain_over_gaussian_high"]
    interval = f"({held['gain_over_gaussian']:+.3f} nats a bar, {low:+.3f} … {high:+.3f})"
    if low > 0.0:
        return f"It foretells a bar better than a bell curve fitted to the training bars {interval}."
    if high < 0.0:
        return f"A bell curve fitted to the training bars foretells a bar better than it does {interval}."
    return (
        f"It foretells a bar no better and no worse than a bell curve fitted to the training bars {interval}."
    )


def _promise(own: Mapping[str, Any]) -> str:
    dreamed, earned = BASIS_POINTS * own["dreamed"], BASIS_POINTS * own["earned"]
    low, high = BASIS_POINTS * own["dream_gap_low"], BASIS_POINTS * own["dream_gap_high"]
    word = "optimistic" if low > 0.0 else "pessimistic" if high < 0.0 else "not provably wrong"
    return (
        f"For its own decisions it promised {dreamed:+.1f} bp a bar and earned {earned:+.1f}: {word} "
        f"(gap {low:+.1f} … {high:+.1f} bp)."
    )


def regimes(found: Mapping[str, Any]) -> list[str]:
    """What its regimes look like from outside, and whether they are the market's."""
    said = [
        f"“{trait['name']}”: {trait['share']:.0%} of the bars, {trait['bars_in_a_row']:.0f} in a row on "
        "average, "
        f"{BASIS_POINTS * trait['mean']:+.1f} bp a bar with a deviation of "
        f"{BASIS_POINTS * trait['deviation']:.0f} bp."
        for trait in found["labels"]
    ]
    if found["rand"] is not None:
        said.append(
            f"Agreement with the simulator's true regimes: {found['rand']:.2f} (adjusted Rand index; 1 is "
            "the "
            "same, 0 is chance)."
        )
    return said


def hallucinated(found: Mapping[str, Any]) -> list[str]:
    """Can invented markets be told from real ones?"""
    said = []
    if found.get("auc"):
        estimate, low, high = found["auc"]
        word = "hardly" if low <= 0.5 <= high or estimate < 0.6 else "easily" if estimate > 0.8 else "partly"
        said.append(
            f"A classifier can {word} tell invented stretches from real ones: it is right for "
            f"{estimate:.0%} of "
            f"the pairs ({low:.0%} … {high:.0%}; 50 % is guessing)."
        )
    if isinstance(found.get("stress"), int | float):
        said.append(f"They were drawn at stress {found['stress']:g} (1 is as learned; more is wilder).")
    return said


def method(params: Params, comparison: Mapping[str, Any], features: Mapping[str, Any]) -> list[str]:
    """The rules, the splits, the costs and the tests, one sentence each."""
    split, account, asked = params.split, params.account, params.evaluation
    rules = "; ".join(f"“{rule.name}”: {rule.when}" for rule in RULES)
    trials = comparison["trials"]
    return [
        f"{splits(params.split)} Scalers are fitted on the training bars of their own fold.",
        "A decision at the close of a bar is filled at the open of the next one, worse by half the spread, "
        "slippage and impact; fees are paid on the traded notional. Nothing is filled backwards.",
        f"Costs: fee {account.fee_bps} bp, half-spread {account.half_spread_bps} bp, slippage "
        f"{account.slippage_bps} bp of the traded notional; leverage at most {account.leverage}.",
        f"{split.seeds} seeds a fold. Every figure, test and curve is of the whole path with the equity "
        "split "
        "evenly between the seeds (of cross-validation: between all paths and seeds); intervals come from "
        "the stationary bootstrap "
        f"({asked.replications} records, blocks of {comparison['family']['block_bars']:.0f} bars on "
        "average).",
        family(comparison["family"]),
        f"Trials: {trials['configurations']} configuration(s) in {trials['runs']} runs were ever evaluated "
        "and "
        "stand in an append-only ledger (metrics/trials.jsonl); verdicts pay for all of them.",
        f"Verdicts, the first rule that applies: {rules}.",
        f"Forecasts: at up to {asked.forecast.probes} moments of each test window that share no bar, an "
        "agent "
        f"that predicts is asked for {asked.forecast.samples} paths of {asked.forecast.horizon} bars: with "
        "the "
        "highest exposure held whatever comes (coverage, likelihood; held against the real account), and "
        "with "
        "its own decisions (promise; held against what it earned).",
        "Features pass the leak gate: each is recomputed on histories that end earlier "
        f"({features['features']} features, {features['warm_up_bars']} bars of warm-up).",
    ]


def splits(split: Split) -> str:
    """How the history was cut, and what that means."""
    gap = split.purge_bars + split.embargo_bars
    if split.method == "walk_forward":
        return (
            f"Walk-forward in {split.folds} folds: train on {split.train_bars:,} bars, leave out {gap}, "
            "test on the "
            f"next {split.test_bars:,}."
        )
    ways = math.comb(split.blocks, split.test_blocks)
    paths = ways * split.test_blocks // split.blocks
    return (
        f"Combinatorial purged cross-validation: the history is cut into {split.blocks} blocks, and each "
        "of the "
        f"{ways} choices of {split.test_blocks} is tested by agents trained on the others, less "
        f"{split.purge_bars} bars before and {gap} after each tested block; the results are put together to "
        f"{paths} whole histories. Agents here were also trained on bars AFTER those that test them: this "
        "asks how "
        "much a result hangs on the stretch of history, and is no record of what could have been earned."
    )


def family(found: Mapping[str, Any]) -> str:
    """The tests of all agents at once, in words."""
    said = []
    for key, claim in (("spa_zero", "earns more than zero"), ("spa_hold", "earns more than buy and hold")):
        if found[key] is not None:
            said.append(f"no agent {claim}: p = {found[key]:.3f} (Hansen's superior predictive ability)")
    if found["overfitting"] is not None:
        said.append(
            f"probability that picking the best agent here is overfitting: {found['overfitting']:.0%}"
        )
    return "Tests of all agents at once: " + ("; ".join(said) or "none could be made") + "."
