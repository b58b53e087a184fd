"""What a row of `make bench` says of its bound, in the table and for machines alike."""

from __future__ import annotations

import pytest

from loadtest.bench.__main__ import Row
from loadtest.bench.sides import Side


@pytest.mark.parametrize(
    ("row", "reached"),
    [
        (Row("1", "ratio", "win", "peer", 2), True),
        (Row("1", "ratio", "win", "peer", 2.1), False),
        (Row("1", "ratio", "win", "peer", 2, less=True), True),
        (Row("1", "ratio", "win", "peer", 1.9, less=True), False),
        (Row("1", "nothing is promised", "win", "peer"), None),
        (Row("1", "its peer was left out", "win", "missing", 2), None),
    ],
)
def test_a_row_is_reached_by_its_bound_alone(row: Row, reached: bool | None) -> None:
    sides = {
        "win": Side("win", figures=[9.0, 10.0, 11.0]),
        "peer": Side("peer", figures=[4.0, 5.0, 6.0]),
    }
    assert row.finding(sides).reached is reached
    assert row.plain(sides)["reached"] is reached
