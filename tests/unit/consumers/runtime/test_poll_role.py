"""A poller: when it polls again, and how it outlives a store that is unavailable."""

from __future__ import annotations

import asyncio

import pytest

from consumers.runtime import poll_role, role
from consumers.runtime.activity import REST_AFTER_S, Activity
from consumers.runtime.poll_role import Polled, PollRole
from seckill.backoff import Backoff
from seckill.errors import Unavailable

#: A pause that no test outlives: what happens in a test happened without it.
HOUR_S = 3600


class Script:
    """Returns or raises these results in turn, and stops the role with the last one."""

    def __init__(self, *results: Polled | Exception) -> None:
        self.left = list(results)
        self._stop = asyncio.Event()

    async def run_once(self) -> Polled:
        result = self.left.pop(0)
        if not self.left:
            self._stop.set()
        if isinstance(result, Exception):
            raise result
        return result

    async def play(
        self, *, idle_s: float, busy_s: float | None = None, rest_s: float | None = None
    ) -> None:
        async with asyncio.timeout(30):
            role = PollRole("test", self.run_once, idle_s=idle_s, busy_s=busy_s, rest_s=rest_s)
            await role.run(self._stop)
        assert self.left == []


async def test_a_poller_polls_at_once_while_there_is_more() -> None:
    await Script(*[Polled(1, more=True)] * 3, Polled(1, more=False)).play(idle_s=HOUR_S)


async def test_a_poller_polls_again_after_its_pause() -> None:
    await Script(*[Polled(0, more=False)] * 4).play(idle_s=0.001)


async def test_a_poller_that_did_something_polls_again_sooner() -> None:
    await Script(*[Polled(1, more=False)] * 4).play(idle_s=HOUR_S, busy_s=0.001)


async def test_a_process_is_at_rest_some_time_after_its_last_work() -> None:
    now = 0.0
    activity = Activity(lambda: now)
    now = REST_AFTER_S
    assert not activity.is_at_rest()
    now += 1
    assert activity.is_at_rest()
    activity.worked()
    assert not activity.is_at_rest()


@pytest.mark.parametrize("at_rest", [False, True])
async def test_a_poller_rests_only_while_the_whole_process_does(
    monkeypatch: pytest.MonkeyPatch, at_rest: bool
) -> None:
    now = 0.0
    activity = Activity(lambda: now)
    monkeypatch.setattr(poll_role, "ACTIVITY", activity)
    now = REST_AFTER_S + 1 if at_rest else 0.0
    idle_s, rest_s = (HOUR_S, 0.001) if at_rest else (0.001, HOUR_S)
    await Script(*[Polled(0, more=False)] * 4).play(idle_s=idle_s, rest_s=rest_s)


async def test_a_poller_outlives_an_unavailable_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(role, "HOLD", Backoff(0.001, 0.001))
    await Script(Unavailable(), Unavailable(), Polled(0, more=False)).play(idle_s=HOUR_S)


async def test_a_poller_that_fails_stops_loudly() -> None:
    with pytest.raises(ZeroDivisionError):
        await Script(ZeroDivisionError(), Polled(0, more=False)).play(idle_s=HOUR_S)
