"""Ending tasks, also one that loses its cancellation."""

from __future__ import annotations

import asyncio

import pytest

from seckill import tasks
from seckill.tasks import end_tasks


async def test_a_task_that_loses_a_cancellation_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "AGAIN_S", 0.001)
    lost = 0

    async def go_on() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                lost += 1
                if lost == 3:
                    raise

    looping = asyncio.create_task(go_on())
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await end_tasks(looping)
    assert (looping.cancelled(), lost) == (True, 3)


async def test_what_tasks_raised_is_not_raised_again() -> None:
    async def fail() -> None:
        raise ValueError

    failed = asyncio.create_task(fail())
    await asyncio.wait([failed])
    await end_tasks(failed)
    assert isinstance(failed.exception(), ValueError)
