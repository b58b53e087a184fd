"""Several roles run as one, and end as one."""

from __future__ import annotations

import asyncio

import pytest

from consumers.runtime.role import RoleGroup


class Fails:
    async def run(self, stop: asyncio.Event) -> None:
        raise ZeroDivisionError


class Waits:
    def __init__(self) -> None:
        self.ended = False

    async def run(self, stop: asyncio.Event) -> None:
        try:
            await stop.wait()
        finally:
            self.ended = True


async def test_if_one_role_fails_all_end() -> None:
    other = Waits()
    with pytest.raises(ExceptionGroup) as failure:
        await RoleGroup([other, Fails()]).run(asyncio.Event())
    assert failure.group_contains(ZeroDivisionError)
    assert other.ended


async def test_all_end_when_they_are_stopped() -> None:
    roles = [Waits(), Waits()]
    stop = asyncio.Event()
    stop.set()
    await RoleGroup(roles).run(stop)
    assert all(role.ended for role in roles)
