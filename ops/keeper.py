"""Keeping children alive: whatever dies is started again, less and less eagerly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ops.children import Child, StartFailed

#: A crash of a moment is over at once; what keeps failing must not eat a processor.
BACKOFF_MIN_S = 0.2
BACKOFF_MAX_S = 10.0
#: Who lived this long was healthy: its next death is a new story.
HEALTHY_S = 30.0
#: Failures in a row before a start that has never worked is given up: some seconds, enough for a
#: store that is slow to take connections, too few to keep a person waiting for a wrong setting.
FIRST_STARTS = 5

Say = Callable[[str], None]


async def start_first(child: Child, say: Say) -> None:
    """Start a child for the first time; after some failures in a row raise the last one."""
    delay_s = BACKOFF_MIN_S
    for attempt in range(1, FIRST_STARTS + 1):
        try:
            return await child.start()
        except StartFailed as failure:
            if attempt == FIRST_STARTS:
                raise
            say(f"{str(failure).partition(';')[0]}; again in {delay_s:g} s")
        await asyncio.sleep(delay_s)
        delay_s *= 2
    return None


async def keep(child: Child, say: Say, changed: Callable[[], None]) -> None:
    """Start a running child again whenever it ends, for ever; call `changed` at each change."""
    delay_s = BACKOFF_MIN_S
    while True:
        await child.wait()
        if child.age_s > HEALTHY_S:
            delay_s = BACKOFF_MIN_S
        say(f"{child.name} {child.describe_end()}; starting it again in {delay_s:g} s")
        changed()
        await asyncio.sleep(delay_s)
        delay_s = min(2 * delay_s, BACKOFF_MAX_S)
        try:
            await child.start()
        except StartFailed as failure:
            say(str(failure))
        else:
            say(f"{child.name} is back")
        changed()
