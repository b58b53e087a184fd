"""One batch on its way through its handler: what is left of it, and which of its messages failed.

A failure of a store holds the batch. Any other failure may be the fault of one message: the batch
is halved until that message stands alone. A statement that takes too long may be either. It holds
the batch at first, because a store may be slow. If PostgreSQL answers at once, and the same batch
takes too long again, then it is halved, and in the end the message alone is to blame.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from aio_pika.abc import AbstractIncomingMessage

from consumers.runtime.retries import FailureAction, attempts_of, failure_action
from seckill.adapters.failures import POSTGRESQL
from seckill.errors import TimedOut, Unavailable

#: Time-outs until a batch is halved, and until a message alone has failed. One more for the message
#: than for the batch, as its failure counts. A message that failed before has one time-out left.
BATCH_TIMEOUTS, MESSAGE_TIMEOUTS = 2, 3

Message = AbstractIncomingMessage
Handler = Callable[[Sequence[Message]], Awaitable[None]]


class BatchProgress:
    """Handles a batch, as a whole or in parts."""

    def __init__(
        self, batch: list[Message], handler: Handler, ask_store: Callable[[], Awaitable[None]]
    ) -> None:
        self._handler = handler
        #: A trivial call of PostgreSQL; raises Unavailable if it fails.
        self._ask_store = ask_store
        #: The parts that are still to be handled, in order.
        self._left = [batch]
        #: Time-outs of the part that is next.
        self._timeouts = 0
        self._was_halved = False
        #: Messages that failed alone, each with its error.
        self.failed: list[tuple[Message, Exception]] = []

    async def go_on(self) -> None:
        """Handle what is left; raise the failure of a store, and go on later from there."""
        while self._left:
            part = self._left[0]
            try:
                await self._handler(part)
            except Exception as error:
                if failure_action(error) is FailureAction.HOLD and not await self._is_to_blame(
                    part, error
                ):
                    raise
                self._left[:1] = self._rest_of(part, error)
            else:
                del self._left[0]
            self._timeouts = 0

    def _rest_of(self, part: list[Message], error: Exception) -> list[list[Message]]:
        """Return what is left of a part that failed: its halves, or nothing of one message."""
        if len(part) == 1:
            self.failed.append((part[0], error))
            return []
        self._was_halved = True
        middle = len(part) // 2
        return [part[:middle], part[middle:]]

    async def _is_to_blame(self, part: list[Message], error: Exception) -> bool:
        """Return whether a part takes too long by itself, while PostgreSQL works."""
        if not isinstance(error, TimedOut) or error.store != POSTGRESQL:
            return False
        self._timeouts += 1
        if len(part) > 1:
            limit = 1 if self._was_halved else BATCH_TIMEOUTS
        else:
            limit = 1 if attempts_of(part[0]) else MESSAGE_TIMEOUTS
        if self._timeouts < limit:
            return False
        try:
            await self._ask_store()
        except Unavailable:
            return False
        return True
