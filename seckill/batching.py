"""The micro-batcher: what arrived while the last call was under way goes out together.

No timers, so a lone request waits for nobody; under load, calls grow instead of queueing. The same
rule serves every stage: script calls, look-ups, reads from SQL, transactions.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Pending(Generic[T, R]):
    """An item that waits for its answer."""

    __slots__ = ("future", "item")

    def __init__(self, item: T, future: asyncio.Future[R]) -> None:
        self.item = item
        self.future = future

    def answer(self, result: R) -> None:
        """Answer, unless nobody waits any more."""
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        """Fail, unless it was answered or nobody waits any more."""
        if not self.future.done():
            self.future.set_exception(error)


class MicroBatcher(Generic[T, R]):
    """Merges single items into calls of up to `max_batch`, with up to `max_calls` under way.

    `call` gets the items in order of arrival and answers each of them, now or later; when it
    raises, those it has not answered fail with that exception.
    """

    def __init__(
        self,
        call: Callable[[Sequence[Pending[T, R]]], Awaitable[None]],
        *,
        max_batch: int,
        max_calls: int,
    ) -> None:
        self._call = call
        self._max_batch = max_batch
        self._max_calls = max_calls
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Pending[T, R]] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._kick_due = False

    @property
    def calls(self) -> int:
        """Calls under way."""
        return len(self._calls)

    @property
    def in_hand(self) -> int:
        """Items that wait for a call or are in one."""
        return len(self._waiting) + self._under_way

    def submit(self, item: T) -> asyncio.Future[R]:
        """Queue an item; the future gets its answer, and leaves the batch if cancelled in time."""
        future: asyncio.Future[R] = self._loop.create_future()
        self._waiting.append(Pending(item, future))
        if not self._kick_due and len(self._calls) < self._max_calls:
            # At the end of this turn of the loop, so that all that one poll of the sockets
            # brought in goes out together.
            self._kick_due = True
            self._loop.call_soon(self._kick)
        return future

    def _kick(self) -> None:
        self._kick_due = False
        while self._waiting and len(self._calls) < self._max_calls:
            batch = self._take()
            if batch:
                self._under_way += len(batch)
                task = self._loop.create_task(self._run(batch), name="micro-batch")
                self._calls.add(task)
                task.add_done_callback(self._finish)

    def _take(self) -> list[Pending[T, R]]:
        batch: list[Pending[T, R]] = []
        while self._waiting and len(batch) < self._max_batch:
            pending = self._waiting.popleft()
            if not pending.future.cancelled():  # its connection was closed: nobody waits for it
                batch.append(pending)
        return batch

    async def _run(self, batch: list[Pending[T, R]]) -> None:
        try:
            await self._call(batch)
        except Exception as error:  # handed on to everyone who waits
            for pending in batch:
                pending.fail(error)
        except asyncio.CancelledError:
            for pending in batch:
                pending.future.cancel()
            raise
        finally:
            self._under_way -= len(batch)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.result()  # a bug in here must be heard, not swallowed
        self._kick()


def answering_each(
    call: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
) -> Callable[[Sequence[Pending[T, R]]], Awaitable[None]]:
    """Adapt a call that returns one result an item, in their order."""

    async def answer(batch: Sequence[Pending[T, R]]) -> None:
        results = await call([pending.item for pending in batch])
        for pending, result in zip(batch, results, strict=True):
            pending.answer(result)

    return answer
