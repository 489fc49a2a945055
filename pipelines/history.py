"""What git remembers of earlier runs: the committed comparison, and the ledgers of DVC experiments.

The stages read files and write files. The ledger of trials is the one thing that a file alone cannot vouch
for: its last lines can be deleted without a trace in it, and an experiment that ran aside (`dvc exp run
--temp` or `--queue`) leaves its lines in a reference of its own. Where there is no git, nothing is known.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from pipelines.evaluation import trials
from pipelines.evaluation.trials import Trial

EXPERIMENTS = "refs/exps"


def sealed_tips(comparison: Path) -> list[str]:
    """The tips of the ledger that the committed comparison has written down."""
    text = _git("show", f"HEAD:./{comparison.as_posix()}")
    if text is None:
        return []
    try:
        tips = json.loads(text)["trials"]["tips"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return []  # of a version of the project that wrote none
    return [tip for tip in tips if isinstance(tip, str)]


def tried_in_experiments(ledger: Path) -> set[Trial]:
    """Every trial in the ledgers of the DVC experiments that this repository has."""
    names = _git("for-each-ref", "--format=%(refname)", EXPERIMENTS)
    found: set[Trial] = set()
    for name in (names or "").split():
        text = _git("show", f"{name}:./{ledger.as_posix()}")
        if text is not None:
            found |= {line.trial for line in trials.parse(text, f"{ledger.name} of {name}")}
    return found


def _git(*arguments: str) -> str | None:
    """What git says, None where there is no git, no repository, or no such thing in it."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
