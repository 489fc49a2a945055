"""The table of recorded policies."""

from pipelines import behaviour
from pipelines.report.behaviour import table
from tests.pipelines.test_behaviour import recorded


def test_all_first_then_the_best() -> None:
    made = table({"policies": behaviour.returns([recorded(3000)])})
    names = [row.cells[0] for row in made.rows]
    assert names[0] == "all"
    assert {"flat", "momentum", "random with 0.4 noise"} <= set(names)
    means = [float(row.cells[2].rstrip("%")) for row in made.rows[1:]]
    assert means == sorted(means, reverse=True)
    flat = made.rows[names.index("flat")].cells
    assert flat[2:] == ["+0.00%"] * 6
    assert all(len(row.cells) == len(made.columns) for row in made.rows)
