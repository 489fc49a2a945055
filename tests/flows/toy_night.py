"""`python -m tests.flows.toy_night ROOT DAY`: a night of a toy repository in a process that may be killed."""

from __future__ import annotations

import sys
from pathlib import Path

from flows import night
from tests.flows import toy
from tests.flows.places import at

if __name__ == "__main__":
    print(
        night.run(Path(sys.argv[1]), at(sys.argv[2]), night.Means(walk_champion=toy.walk_champion)),
        flush=True,
    )
