"""Who reigns: the rule by which a newcomer replaces the champion, and the way back.

The rule is a pure function of returns over one and the same recent window, on which neither has been
trained. A newcomer is promoted only if the data passed their checks, it was not ruined, its drawdown and
the optimism of its own forecasts are within limits, and a paired block bootstrap of the return difference
says that it earns more. Several newcomers are several tries: the best of n must be n times as sure
(Bonferroni). The champion was itself chosen on days that are partly in the window: that favours it, so
the rule errs on the side of leaving things as they are.

    python -m flows.promotion --show | --rollback
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.dependence import automatic_block_length
from pipelines.evaluation.metrics import drawdown
from pipelines.evaluation.resampling import resampled_means
from pipelines.settings import Promotion

Floats = NDArray[np.float64]


class Contender(NamedTuple):
    """An agent on the window of the comparison.

    times: [T] of the bars.
    returns: [T] simple, net of every cost; after a ruin they are 0.
    optimism: mean return a bar that its own forecasts claimed, less the realised one, in standard
        deviations of a bar; None for an agent that forecasts nothing.
    """

    name: str
    times: NDArray[np.datetime64]
    returns: Floats
    ruined: bool = False
    optimism: float | None = None

    @property
    def max_drawdown(self) -> float:
        """Deepest fall from a peak as a positive share of it."""
        return -drawdown(np.cumprod(1.0 + self.returns), 1.0).depth


class Comparison(NamedTuple):
    """The paired bootstrap of `mean(newcomer) - mean(champion)`, a bar."""

    difference: float
    p: float  # of so large a difference where there is none
    block: float  # expected block length, bars


class Judgement(NamedTuple):
    """What was decided and why; `evidence` is plain values for JSON."""

    promoted: str | None
    reason: str
    evidence: dict[str, Any]


def judge(
    newcomers: Sequence[Contender],
    champion: Contender | None,
    *,
    failed_checks: int,
    rule: Promotion,
    seed: int,
) -> Judgement:
    """Applies the rule. Consumes `seed`; the same arguments give the same judgement."""
    evidence: dict[str, Any] = {
        "failed_checks": failed_checks,
        "newcomers": {newcomer.name: _figures(newcomer) for newcomer in newcomers},
        "champion": None if champion is None else {"name": champion.name, **_figures(champion)},
    }
    if failed_checks > 0:
        return Judgement(None, f"refused: {failed_checks} data check(s) failed", evidence)
    objections = {newcomer.name: objection(newcomer, rule) for newcomer in newcomers}
    evidence["objections"] = {name: text for name, text in objections.items() if text is not None}
    eligible = [newcomer for newcomer in newcomers if objections[newcomer.name] is None]
    if not eligible:
        said = "; ".join(f"{name} {text}" for name, text in evidence["objections"].items())
        return Judgement(None, f"refused: {said or 'no newcomer'}", evidence)
    best = max(eligible, key=lambda newcomer: float(newcomer.returns.mean()))
    if champion is None and rule.vacant == "anyone":
        return Judgement(best.name, f"promoted: {best.name} takes a vacant place", evidence)
    rival = champion or Contender("cash", best.times, np.zeros_like(best.returns))
    found = compare(best, rival, replications=rule.replications, seed=seed)
    needed = (1.0 - rule.confidence) / len(newcomers)
    evidence["comparison"] = {
        "newcomer": best.name,
        "rival": rival.name,
        "difference_bps": found.difference * 1e4,
        "p": found.p,
        "p_needed": needed,
        "block_bars": found.block,
        "bars": len(best.returns),
    }
    words = (
        f"{best.name} earns {found.difference * 1e4:+.3g} bps a bar more than {rival.name}, "
        f"p {found.p:.3g} (needed: {needed:.3g})"
    )
    if found.p <= needed:
        return Judgement(best.name, f"promoted: {words}", evidence)
    return Judgement(None, f"refused: {words}", evidence)


def objection(newcomer: Contender, rule: Promotion) -> str | None:
    """What speaks against a newcomer whatever it earned; None where nothing does."""
    if newcomer.ruined:
        return "was ruined"
    if not np.isfinite(newcomer.returns).all():
        return "has returns that are not numbers"
    if newcomer.max_drawdown > rule.max_drawdown:
        return f"fell by {newcomer.max_drawdown:.1%} (limit: {rule.max_drawdown:.1%})"
    if newcomer.optimism is not None and newcomer.optimism > rule.max_optimism:
        return f"promised {newcomer.optimism:.2g} deviations a bar too much (limit: {rule.max_optimism:g})"
    return None


def compare(newcomer: Contender, rival: Contender, *, replications: int, seed: int) -> Comparison:
    """One-sided p of the mean difference under the stationary bootstrap, centred on no difference.

    Bars are drawn in pairs, so what both owe to the market cancels. Consumes `seed`.
    """
    if not np.array_equal(newcomer.times, rival.times):
        raise ValueError(f"{newcomer.name} and {rival.name} were not tested on the same bars")
    difference = newcomer.returns - rival.returns  # [T]
    block = automatic_block_length(difference).stationary
    means = resampled_means(difference, block=block, replications=replications, seed=seed)[:, 0]  # [R]
    mean = float(difference.mean())
    exceeding = int(np.sum(means - mean >= mean))
    return Comparison(mean, (1 + exceeding) / (replications + 1), block)


def optimism(values: Floats, log_returns: Floats, discount: float) -> float | None:
    """Mean claimed less mean realised log return a bar, in standard deviations of a bar.

    A value is a discounted sum, so a stationary agent that claims V claims V (1 - discount) a bar. None
    without a discount, or where nothing was ever at stake.
    """
    spread = float(log_returns.std())
    if discount >= 1.0 or spread == 0.0:
        return None
    return (float(values.mean()) * (1.0 - discount) - float(log_returns.mean())) / spread


def _figures(contender: Contender) -> dict[str, Any]:
    finite = bool(np.isfinite(contender.returns).all())
    return {
        "total_return": float(np.prod(1.0 + contender.returns) - 1.0) if finite else None,
        "max_drawdown": contender.max_drawdown if finite else None,
        "ruined": contender.ruined,
        "optimism": contender.optimism,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """`--show` says who reigns; `--rollback` restores the one before, as a commit of its own."""
    from flows import champion

    parser = argparse.ArgumentParser(prog="python -m flows.promotion", description=main.__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--show", action="store_true")
    action.add_argument("--rollback", action="store_true")
    return champion.command(Path.cwd(), rollback=parser.parse_args(argv).rollback)


if __name__ == "__main__":
    sys.exit(main())
