"""The supervisor with children that only pretend: what is started again, when, and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ops.processes import supervision
from ops.processes.child import StartFailed
from ops.processes.supervision import FIRST_STARTS, Supervisor
from seckill.backoff import Backoff


class FakeChild:
    """Starts at once, unless it should fail; runs until it is ended."""

    name = "fake"
    age_s = 0.0
    restarts = 0

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.starts = 0
        self.grace_s: float | None = None
        self._ended = asyncio.Event()
        self._ended.set()

    @property
    def pid(self) -> int | None:
        return None if self._ended.is_set() else self.starts

    async def start(self) -> None:
        self.starts += 1
        if self.starts <= self.failures:
            raise StartFailed("fake exited with 1; the end of the log")
        self._ended.clear()

    async def wait(self) -> None:
        await self._ended.wait()

    async def stop(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self._ended.set()

    def die(self) -> None:
        self._ended.set()

    def describe_end(self) -> str:
        return "was killed by SIGKILL"


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "BACKOFF", Backoff(0.0, 0.0))


class Watched:
    """A supervisor, and what it reported."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ended: list[object] = []
        self.changes = asyncio.Queue[None]()
        self.supervisor = Supervisor(
            self.lines.append,
            changed=lambda: self.changes.put_nowait(None),
            ended=self.ended.append,
        )


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    watched = Watched()
    async with watched.supervisor.running():
        yield watched


async def test_whatever_ends_is_started_again_and_counted(watched: Watched) -> None:
    child = FakeChild()
    await watched.supervisor.start_all([child])
    for number in (1, 2):
        child.die()
        for _ in ("ended", "started"):
            await watched.changes.get()
        assert (child.starts, child.restarts, child.pid) == (number + 1, number, number + 1)
    assert watched.ended == [child, child]
    assert watched.lines[:2] == [
        "fake was killed by SIGKILL; starting it again in 0.0 s",
        "fake is back",
    ]


async def test_a_first_start_is_given_up_after_some_failures(watched: Watched) -> None:
    child = FakeChild(failures=FIRST_STARTS)
    with pytest.raises(StartFailed):
        await watched.supervisor.start_all([child])
    assert child.starts == FIRST_STARTS
    assert watched.lines == ["fake exited with 1; again in 0.0 s"] * (FIRST_STARTS - 1)


async def test_one_that_is_kept_from_its_first_start_is_never_given_up(watched: Watched) -> None:
    child = FakeChild(failures=2 * FIRST_STARTS)
    await watched.supervisor.start(child).wait()
    assert (child.starts, child.pid) == (1, None), "the event is for the first try, whatever it did"
    while child.pid is None:
        await watched.changes.get()
    assert child.starts == 2 * FIRST_STARTS + 1


async def test_what_was_stopped_is_not_started_again_until_it_is_asked_for(
    watched: Watched,
) -> None:
    child = FakeChild()
    await watched.supervisor.start_all([child])
    await watched.supervisor.stop(child, drain_s=5)
    assert (child.pid, child.grace_s) == (None, 5 + supervision.DRAIN_MARGIN_S)
    for _ in range(10):  # turns of the loop in which it would be started
        await asyncio.sleep(0)
    assert child.starts == 1

    await watched.supervisor.start(child).wait()
    assert child.starts == 2


async def test_a_failure_inside_the_block_is_raised_as_it_is() -> None:
    with pytest.raises(StartFailed):
        async with Supervisor([].append).running():
            raise StartFailed("no store answers")
