"""What an environment whose actions are exposures to assets may tell of itself.

A family that could use it reads the attribute `exposures_shown` of the environment that it is given; one
without the attribute, or with None there, is an environment like any other. So a family that follows
accounts needs no settings for it, and still knows arrays only.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple


class Exposures(NamedTuple):
    """The reward of a step is log(1 + exposures . returns - costs), the costs in proportion to turnover.

    account: number of trailing components of an observation that belong to the account; the first of them
        are the exposures held, one an asset.
    returns: the components that show each asset's last return, in any unit and with any scaling.
    levels: what the discrete choices of one asset stand for; empty where actions are a Box.
    unit: exposure of an action of 1, where actions are a Box.
    gross: exposures whose absolute values add up to more are scaled down to this sum.
    """

    account: int
    returns: tuple[int, ...]
    levels: tuple[float, ...] = ()
    unit: float = 1.0
    gross: float = math.inf


def exposures_of(env: Any) -> Exposures | None:
    """What `env` says of itself, if it says anything."""
    found: Exposures | None = getattr(env, "exposures_shown", None)
    return found
