"""Running coroutines together, and until a signal."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from seckill.process import stop_on_signals


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Run all of it at once; the first failure cancels the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in work:
                group.create_task(coroutine)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def until_signal(work: Coroutine[Any, Any, None]) -> bool:
    """Run `work` to its end; SIGTERM or SIGINT cancels it instead. Return whether one came.

    Its `finally` blocks run undisturbed: a second signal changes nothing.
    """
    stop = stop_on_signals()
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    return stop.is_set()
