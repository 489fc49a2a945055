"""Impact functions against published figures (Almgren et al. 2005, table of IBM and DRI)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.market import impact

POSITIVE = st.floats(1e-6, 1e6)


@pytest.mark.parametrize(("share", "basis_points"), [(0.01, 30.0), (0.0001, 3.0)])
def test_square_root(share: float, basis_points: float) -> None:
    assert impact.square_root(share, 1.0, 0.03, 1.0) * 1e4 == pytest.approx(basis_points, rel=1e-12)


@given(POSITIVE, POSITIVE, POSITIVE, st.integers(1, 500))
def test_square_root_does_not_depend_on_the_period(
    quantity: float, volume: float, sigma: float, parts: int
) -> None:
    day = impact.square_root(quantity, volume, sigma, 0.8)
    bar = impact.square_root(quantity, volume / parts, sigma / np.sqrt(parts), 0.8)
    assert bar == pytest.approx(float(day), rel=1e-12)
    assert impact.square_root(-quantity, volume, sigma, 0.8) == -day


@pytest.mark.parametrize(
    ("volume", "outstanding", "sigma", "lasting", "table"),
    [
        (
            6.561e6,
            1728e6,
            0.0157,
            19.860,
            {0.1: (22.294, 32.224), 0.2: (14.709, 24.638), 0.5: (8.488, 18.418)},
        ),
        (
            1.929e6,
            168e6,
            0.0226,
            21.679,
            {0.1: (32.092, 42.931), 0.2: (21.173, 32.012), 0.5: (12.218, 23.058)},
        ),
    ],
)
def test_almgren_2005(
    volume: float, outstanding: float, sigma: float, lasting: float, table: dict[float, tuple[float, float]]
) -> None:
    shares = 0.1 * volume
    whole = impact.almgren_permanent(shares, volume, outstanding, sigma)
    assert whole * 1e4 == pytest.approx(lasting, abs=5e-4)
    for days, (passing, cost) in table.items():
        part = impact.almgren_temporary(shares, volume, days, sigma)
        assert part * 1e4 == pytest.approx(passing, abs=5e-4)
        assert (whole / 2 + part) * 1e4 == pytest.approx(cost, abs=5e-4)
    assert impact.almgren_permanent(-shares, volume, outstanding, sigma) == -whole
    assert impact.almgren_temporary(-shares, volume, 0.1, sigma) == -impact.almgren_temporary(
        shares, volume, 0.1, sigma
    )


def test_linear() -> None:
    assert impact.permanent([2e5, -2e5], 2.5e-7).tolist() == pytest.approx([0.05, -0.05])
    assert impact.temporary([2e5, 0, -2e5], 0.0625, 2.5e-6).tolist() == pytest.approx([0.5625, 0, -0.5625])


def test_decay_halves_and_composes() -> None:
    assert impact.decay(8.0, np.log(2), [0, 1, 3]).tolist() == pytest.approx([8, 4, 1])
    assert impact.decay(impact.decay(5.0, 0.3, 1.2), 0.3, 0.8) == pytest.approx(
        float(impact.decay(5.0, 0.3, 2.0))
    )
