"""Ending tasks that run for ever."""

from __future__ import annotations

import asyncio
from typing import Any

#: A cancellation that was lost is repeated so much later: a task that is only slow to end has time.
AGAIN_S = 1.0


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, again and again until all have ended; raise nothing of what they raise.

    For loops that have nothing to clean up: a second cancellation would break that off.
    In Python 3.11 `asyncio.wait_for`, which redis-py sends through, loses a cancellation that comes
    in the same turn of the loop as its result. A task that loops would then go on for ever.
    https://github.com/python/cpython/issues/86296
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_S)
