"""A trouble counts if the crowd was there for half of it."""

from __future__ import annotations

import pytest

from loadtest.drills.clusters.frame import LATE_MAX, longest_gap, until_seen
from seckill.errors import SeckillError


async def test_that_what_came_too_late_is_played_once_more() -> None:
    seen, lines = iter([True, False, True]), list[str]()

    async def play() -> bool:
        return next(seen)

    await until_seen(2, play, lines.append)
    assert lines == ["1 of 2", "2 of 2", "too late for the crowd; once more", "2 of 2"]


async def test_that_troubles_which_always_come_too_late_end() -> None:
    played = list[int]()

    async def play() -> bool:
        played.append(1)
        return False

    with pytest.raises(SeckillError, match="after the crowd"):
        await until_seen(2, play, lambda _line: None)
    assert len(played) == LATE_MAX + 1


def test_that_a_gap_lasts_from_the_break_to_the_end_at_most() -> None:
    assert longest_gap([1.0, 5.0, 5.5, 9.0], 4.0, 7.0) == 1.5
    assert longest_gap([], 4.0, 7.0) == 3.0
