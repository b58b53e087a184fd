"""The micro-batcher: what arrived while the last call was under way goes out together.

No timers, so a lone request waits for nobody; under load, calls grow instead of queueing. The same
rule serves every stage of the gateway: script calls, look-ups, reads from SQL.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class MicroBatcher(Generic[T, R]):
    """Merges single items into calls of up to `max_batch`, with up to `max_calls` under way.

    `call` gets the items in order of arrival and returns one result for each, in that order. When
    it raises, every item of the call fails with that exception.
    """

    def __init__(
        self,
        call: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        max_batch: int,
        max_calls: int,
    ) -> None:
        self._call = call
        self._max_batch = max_batch
        self._max_calls = max_calls
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._kick_due = False

    @property
    def waiting(self) -> int:
        """Items that no call has taken yet."""
        return len(self._waiting)

    @property
    def calls(self) -> int:
        """Calls under way."""
        return len(self._calls)

    def submit(self, item: T) -> asyncio.Future[R]:
        """Queue an item; the future gets its result, and leaves the batch if cancelled in time."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, future))
        if not self._kick_due and len(self._calls) < self._max_calls:
            # At the end of this turn of the loop, so that all that one poll of the sockets
            # brought in goes out together.
            self._kick_due = True
            loop.call_soon(self._kick)
        return future

    def _kick(self) -> None:
        self._kick_due = False
        while self._waiting and len(self._calls) < self._max_calls:
            batch = self._take()
            if batch:
                task = asyncio.create_task(self._run(batch), name="micro-batch")
                self._calls.add(task)
                task.add_done_callback(self._finish)

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(batch) < self._max_batch:
            entry = self._waiting.popleft()
            if not entry[1].cancelled():  # its connection was closed: nobody waits for it
                batch.append(entry)
        return batch

    async def _run(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._call([item for item, _ in batch])
        except Exception as error:  # handed on to every caller
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        task.result()  # a bug in here must be heard, not swallowed
        self._kick()
