"""Keeping children alive: whatever ends is started again, less and less eagerly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from ops.processes.child import Child, StartFailed
from ops.processes.tasks import together
from seckill.backoff import Backoff

#: A crash of a moment is over at once; what keeps failing must not eat a processor. Processes that
#: died together, of a store that became unavailable, do not all come back at one moment.
BACKOFF = Backoff(0.2, 10.0, shares=(0.75, 1.25))
#: A process that lived this long was healthy: its next end is the first failure of a new series.
HEALTHY_S = 30.0
#: Failures in a row before a start that has never worked is given up: some seconds, enough for a
#: store that is slow to take connections, too few to keep a person waiting for a wrong setting.
FIRST_STARTS = 5
#: A worker has drained `drain_s` after it was asked to stop; this much later it hangs.
DRAIN_MARGIN_S = 2.0

Log = Callable[[str], None]


class Supervisor:
    """Starts children, each again whenever it has ended, until it is stopped."""

    def __init__(
        self,
        log: Log,
        *,
        changed: Callable[[], None] = lambda: None,
        ended: Callable[[Child], None] = lambda _: None,
    ) -> None:
        self._log = log
        #: Called when a child has ended, and when it was started again or that failed.
        self._changed = changed
        #: Called when a child has ended that was not asked to.
        self._ended = ended
        self._tasks: dict[Child, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep children alive inside the block, which stops them before it ends."""
        try:
            async with asyncio.TaskGroup() as self._group:
                yield
                for task in self._tasks.values():
                    task.cancel()
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def start_all(self, children: Sequence[Child]) -> None:
        """Start all of them and keep them; StartFailed when one fails again and again."""
        await together(*(self._start_first(child) for child in children))
        for child in children:
            self.keep(child)

    def start(self, child: Child) -> asyncio.Event:
        """Start a child and keep it; the event is set when the first start worked or failed."""
        tried = asyncio.Event()
        self.keep(child, tried)
        return tried

    def keep(self, child: Child, tried: asyncio.Event | None = None) -> None:
        """Start a child again whenever it has ended; with `tried`, start it for the first time."""
        self._tasks[child] = self._group.create_task(self._keep(child, tried), name=child.name)

    async def stop(self, child: Child, drain_s: float) -> None:
        """Stop a child for good: it drains, and is killed if that takes too long."""
        if task := self._tasks.pop(child, None):
            task.cancel()
            await asyncio.wait({task})
        await child.stop(drain_s + DRAIN_MARGIN_S)

    async def stop_all(self, children: Sequence[Child], drain_s: float) -> None:
        """Stop children at once."""
        await together(*(self.stop(child, drain_s) for child in children))

    async def _start_first(self, child: Child) -> None:
        for attempt in range(1, FIRST_STARTS + 1):
            try:
                return await child.start()
            except StartFailed as failure:
                if attempt == FIRST_STARTS:
                    raise
                wait_s = BACKOFF.wait_s(attempt)
                self._log(f"{str(failure).partition(';')[0]}; again in {wait_s:.1f} s")
            await asyncio.sleep(wait_s)
        return None

    async def _keep(self, child: Child, tried: asyncio.Event | None) -> None:
        if tried:
            try:
                await self._start(child)
            finally:
                tried.set()
        failures = 0
        while True:
            await child.wait()
            failures = 1 if child.age_s > HEALTHY_S else failures + 1
            wait_s = BACKOFF.wait_s(failures)
            self._log(f"{child.name} {child.describe_end()}; starting it again in {wait_s:.1f} s")
            child.restarts += 1
            self._ended(child)
            self._changed()
            await asyncio.sleep(wait_s)
            if await self._start(child):
                self._log(f"{child.name} is back")

    async def _start(self, child: Child) -> bool:
        try:
            await child.start()
        except StartFailed as failure:
            self._log(str(failure))
        self._changed()
        return child.pid is not None
