"""Grabs without room: the newest goes on first, the oldest is refused first."""

import asyncio

import pytest

from gateway.overload import overflow
from gateway.overload.lateness import LATE_S
from gateway.overload.overflow import OverflowQueue
from tests.processes import eventually

pytestmark = pytest.mark.asyncio


class Waiting:
    """A connection that notes what becomes of its grab."""

    def __init__(self, name: str, ends: list[str], since: float) -> None:
        self.came_at = since
        self._name, self._ends = name, ends
        self.went_on = lambda: None

    def go_on(self) -> None:
        self._ends.append(f"{self._name} served")
        self.went_on()

    def turn_away(self) -> None:
        self._ends.append(f"{self._name} refused")


async def until(ends: list[str], count: int) -> None:
    async def ended() -> bool:
        return len(ends) >= count

    await eventually(ended, f"{count} of them have ended")


async def test_the_newest_is_served_first_while_there_is_room() -> None:
    now, ends = asyncio.get_running_loop().time(), []
    rooms = [True]
    queue = OverflowQueue(lambda: not rooms)
    for name in "ab":
        queue.put(waiting := Waiting(name, ends, now + 3600))  # never too old
        waiting.went_on = rooms.clear
    await until(ends, 1)
    assert ends == ["b served"]
    rooms.append(True)
    await until(ends, 2)
    assert ends == ["b served", "a served"]


async def test_what_waited_too_long_is_refused_oldest_first_although_there_is_no_room() -> None:
    now, ends = asyncio.get_running_loop().time(), []
    queue = OverflowQueue(lambda: True)
    for name, since in (("a", now - 1), ("b", now - LATE_S), ("c", now + 3600)):
        queue.put(Waiting(name, ends, since))
    await until(ends, 2)
    assert ends == ["a refused", "b refused"]


async def test_with_room_what_waited_too_long_is_refused_all_the_same() -> None:
    now, ends = asyncio.get_running_loop().time(), []
    queue = OverflowQueue(lambda: False)
    queue.put(Waiting("a", ends, now - 1))
    await until(ends, 1)
    assert ends == ["a refused"]


async def test_refusals_take_a_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, ends = asyncio.get_running_loop().time(), []
    queue = OverflowQueue(lambda: True)
    monkeypatch.setattr(overflow, "REFUSING_SHARE", 0.0)
    monkeypatch.setattr(overflow, "LOOK_S", 3600)
    for name in "abc":
        queue.put(Waiting(name, ends, now - 1))
    queue._look()
    assert ends == ["a refused"], "one a look at least, and here no more"
    queue._look()
    assert ends == ["a refused", "b refused"]


async def test_who_is_gone_is_forgotten_and_a_stop_refuses_the_rest() -> None:
    now, ends = asyncio.get_running_loop().time(), []
    queue = OverflowQueue(lambda: True)
    gone, stays = Waiting("a", ends, now + 3600), Waiting("b", ends, now + 3600)
    queue.put(gone)
    queue.put(stays)
    queue.discard(gone)
    queue.turn_all_away()
    assert ends == ["b refused"]
    assert not queue
