"""The micro-batcher: what arrived while the last call was under way goes out together.

A lone request does not wait. Under load the calls grow and the queues do not. The same rule serves
every stage: script calls, reads of holders, reads from SQL, transactions.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from seckill.stage_times import StageTimes

#: So many items do not wait for more: the cost of a call is little beside theirs.
WORTH_A_CALL = 64
#: After a call of so many items the whole spacing is waited for, after a smaller one its share: a
#: client that asks one thing after another hardly waits.
WHOLE_REST_ITEMS = 4

T = TypeVar("T")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)
R_contra = TypeVar("R_contra", contravariant=True)


class Waiter(Protocol[T_co, R_contra]):
    """An item, and the caller that waits for its answer."""

    #: Of its batch, once that is called, if the call keeps them.
    times: StageTimes | None

    @property
    def item(self) -> T_co:
        """The question."""

    @property
    def since(self) -> float:
        """When its caller asked, by the monotonic clock."""

    @property
    def gone(self) -> bool:
        """Whether the caller wants no answer any more; the item then leaves its batch."""

    def answer(self, result: R_contra) -> None:
        """Deliver the answer, unless there was one."""

    def fail(self, error: Exception) -> None:
        """Report that there is no answer, unless there was one."""

    def cancel(self) -> None:
        """Report that the batcher is being ended."""


class FutureWaiter(Generic[T, R]):
    """An item whose caller awaits a future."""

    __slots__ = ("future", "item", "since", "times")

    def __init__(self, item: T, future: asyncio.Future[R]) -> None:
        self.item = item
        self.future = future
        self.since = future.get_loop().time()
        self.times: StageTimes | None = None

    @property
    def gone(self) -> bool:
        """Whether the future was cancelled, for instance because its connection was closed."""
        return self.future.cancelled()

    def answer(self, result: R) -> None:
        """Set the result of a future that is not done."""
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        """Set the exception of a future that is not done."""
        if not self.future.done():
            self.future.set_exception(error)

    def cancel(self) -> None:
        """Cancel the future."""
        self.future.cancel()


class MicroBatcher(Generic[T, R]):
    """Merge single items into calls of up to `max_batch`, with up to `max_calls` under way.

    With a spacing, calls begin so many seconds apart, after small ones less: a lone item goes at
    once, and the items that follow it closely go together. WORTH_A_CALL items do not wait.

    `call` gets the items in order of arrival and answers each of them, now or later. If it raises,
    the items that it has not answered fail with that exception. If it is cancelled from outside,
    everything is being ended: what still waits is cancelled as well.
    """

    def __init__(
        self,
        call: Callable[[Sequence[Waiter[T, R]]], Awaitable[None]],
        *,
        max_batch: int,
        max_calls: int,
        spacing_s: float = 0.0,
    ) -> None:
        self._call = call
        self._max_batch = max_batch
        self._max_calls = max_calls
        self._spacing_s = spacing_s
        self._worth_a_call = min(max_batch, WORTH_A_CALL)
        #: Set while the next call waits for the spacing.
        self._rest: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Waiter[T, R]] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._kick_due = False

    @property
    def calls(self) -> int:
        """Calls under way."""
        return len(self._calls)

    @property
    def in_flight(self) -> int:
        """Items that wait for a call or are in one."""
        return len(self._waiting) + self._under_way

    def submit(self, item: T) -> asyncio.Future[R]:
        """Queue an item; return a future of its answer. Cancelled in time, it leaves the batch."""
        future: asyncio.Future[R] = self._loop.create_future()
        self.put(FutureWaiter(item, future))
        return future

    def put(self, waiter: Waiter[T, R]) -> None:
        """Queue an item that needs no future: the hot path saves its cost."""
        self._waiting.append(waiter)
        if not self._kick_due and self._may_call():
            # At the end of this turn of the event loop, so that the requests which one poll of the
            # sockets brought in go out together.
            self._kick_due = True
            self._loop.call_soon(self._kick)

    def _may_call(self) -> bool:
        rests = self._rest is not None and len(self._waiting) < self._worth_a_call
        return not rests and len(self._calls) < self._max_calls

    def _begin_rest(self, items: int) -> None:
        if self._rest is not None:
            self._rest.cancel()
        rest_s = self._spacing_s * min(1.0, items / WHOLE_REST_ITEMS)
        self._rest = self._loop.call_later(rest_s, self._end_rest)

    def _end_rest(self) -> None:
        self._rest = None
        self._kick()

    def _kick(self) -> None:
        self._kick_due = False
        while self._waiting and self._may_call():
            batch = self._take()
            if batch:
                if self._spacing_s:
                    self._begin_rest(len(batch))
                self._under_way += len(batch)
                task = self._loop.create_task(self._run(batch), name="micro-batch")
                self._calls.add(task)
                task.add_done_callback(self._finish)

    def _take(self) -> list[Waiter[T, R]]:
        batch: list[Waiter[T, R]] = []
        while self._waiting and len(batch) < self._max_batch:
            waiter = self._waiting.popleft()
            if not waiter.gone:
                batch.append(waiter)
        return batch

    async def _run(self, batch: list[Waiter[T, R]]) -> None:
        try:
            await self._call(batch)
        except Exception as error:  # reported to every caller that waits
            for waiter in batch:
                waiter.fail(error)
        except asyncio.CancelledError:
            for waiter in batch:
                waiter.cancel()
            raise
        finally:
            self._under_way -= len(batch)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        if task.cancelling():  # the event loop ends; a call begun now would never be finished
            while self._waiting:
                self._waiting.popleft().cancel()
            return
        if not task.cancelled():
            task.result()  # raises here if the batcher has a bug, so that it is not lost
        self._kick()


def answering_each(
    call: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
) -> Callable[[Sequence[Waiter[T, R]]], Awaitable[None]]:
    """Adapt a call that returns one result an item, in their order."""

    async def answer(batch: Sequence[Waiter[T, R]]) -> None:
        results = await call([waiter.item for waiter in batch])
        for waiter, result in zip(batch, results, strict=True):
            waiter.answer(result)

    return answer
