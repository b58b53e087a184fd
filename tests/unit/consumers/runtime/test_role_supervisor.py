"""The roles of a process change while it runs; one that ends by itself is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from consumers.runtime.role_supervisor import Assignment, RoleSupervisor, assignments
from seckill.errors import SeckillError


class FakeRole:
    """Works until it is stopped, then until its batch may end."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log
        self.batch_ends = asyncio.Event()
        self.batch_ends.set()
        self.fails = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        self.log.append(f"{self.name} starts")
        waiting = [asyncio.create_task(event.wait()) for event in (stop, self.fails)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await self.batch_ends.wait()
        self.log.append(f"{self.name} ends")


class Stage:
    """Fake roles under a supervisor, and what they did."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.log: list[str] = []
        self.roles = {name: FakeRole(name, self.log) for name in ("place", "sweep")}
        self.supervisor = RoleSupervisor(
            lambda name: self.roles[name], group, died=lambda: self.log.append("died")
        )

    async def assign(self, *roles: str) -> None:
        self.supervisor.assign(roles)
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with asyncio.TaskGroup() as group:
        stage = Stage(group)
        yield stage
        await stage.assign()


async def test_roles_come_and_go_without_touching_the_others(stage: Stage) -> None:
    await stage.assign("place")
    await stage.assign("place", "sweep")
    await stage.assign("sweep")
    assert stage.log == ["place starts", "sweep starts", "place ends"]
    await stage.assign("sweep", "place")
    assert stage.log[3:] == ["place starts"]


async def test_a_role_that_is_no_longer_wanted_finishes_its_batch(stage: Stage) -> None:
    await stage.assign("place")
    stage.roles["place"].batch_ends.clear()
    await stage.assign()
    assert stage.log == ["place starts"]
    stage.roles["place"].batch_ends.set()
    await stage.assign()
    assert stage.log == ["place starts", "place ends"]


async def test_a_role_wanted_back_during_its_last_batch_runs_again_and_never_twice(stage) -> None:
    await stage.assign("place")
    stage.roles["place"].batch_ends.clear()
    for roles in ([], ["place"], [], ["place"]):
        await stage.assign(*roles)
    assert stage.log == ["place starts"]
    stage.roles["place"].batch_ends.set()
    await stage.assign("place")
    assert stage.log == ["place starts", "place ends", "place starts"]


async def test_a_role_that_ends_by_itself_is_noticed_and_not_run_again(stage: Stage) -> None:
    await stage.assign("place", "sweep")
    stage.roles["place"].fails.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert stage.log == ["place starts", "sweep starts", "place ends", "died"]


async def test_assignments_are_lines_until_the_manager_is_gone() -> None:
    stdin = asyncio.StreamReader()
    stdin.feed_data(b'{"roles": ["place"]}\n{"roles": [], "paused": ["place"]}\n')
    stdin.feed_eof()
    found = [assignment async for assignment in assignments(stdin)]
    assert found == [Assignment(["place"]), Assignment([], ["place"])]


async def test_a_line_that_is_no_assignment_is_an_error() -> None:
    stdin = asyncio.StreamReader()
    stdin.feed_data(b'{"place": 1}\n')
    with pytest.raises(SeckillError, match="no assignment"):
        await anext(assignments(stdin))
