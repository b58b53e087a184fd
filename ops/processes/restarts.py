"""Keeping children alive: whatever dies is started again, less and less eagerly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from ops.processes.child import Child, StartFailed
from seckill.backoff import Backoff

#: A crash of a moment is over at once; what keeps failing must not eat a processor. Processes that
#: died together, of a store that became unavailable, do not all come back at one moment.
BACKOFF = Backoff(0.2, 10.0, shares=(0.75, 1.25))
#: Who lived this long was healthy: its next death is a new story.
HEALTHY_S = 30.0
#: Failures in a row before a start that has never worked is given up: some seconds, enough for a
#: store that is slow to take connections, too few to keep a person waiting for a wrong setting.
FIRST_STARTS = 5
#: Between two looks for a wish: a person waits for it, and a look costs microseconds.
WISH_POLL_S = 0.5

Say = Callable[[str], None]


async def start_first(child: Child, say: Say) -> None:
    """Start a child for the first time; after some failures in a row raise the last one."""
    for attempt in range(1, FIRST_STARTS + 1):
        try:
            return await child.start()
        except StartFailed as failure:
            if attempt == FIRST_STARTS:
                raise
            wait_s = BACKOFF.wait_s(attempt)
            say(f"{str(failure).partition(';')[0]}; again in {wait_s:.1f} s")
        await asyncio.sleep(wait_s)
    return None


async def keep(child: Child, say: Say, changed: Callable[[], None]) -> None:
    """Start a child again whenever it has ended, for ever; call `changed` at each change.

    One that was asked to end is started again when it is wished for.
    """
    failures = 0
    while True:
        await child.wait()
        if child.spec.wish and child.describe_end() == "exited with 0":
            say(f"{child.name} was asked to end, and is left alone")
            changed()
            await _made(child.spec.wish)
            say(f"starting {child.name} again, as asked")
            failures = 0
        else:
            if child.age_s > HEALTHY_S:
                failures = 0
            failures += 1
            child.restarts += 1
            wait_s = BACKOFF.wait_s(failures)
            say(f"{child.name} {child.describe_end()}; starting it again in {wait_s:.1f} s")
            changed()
            await asyncio.sleep(wait_s)
        try:
            await child.start()
        except StartFailed as failure:
            say(str(failure))
        else:
            say(f"{child.name} is back")
        changed()


async def _made(wish: Path) -> None:
    while not wish.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(WISH_POLL_S)
