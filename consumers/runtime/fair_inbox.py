"""Messages that were delivered and not acknowledged: taken fairly across sales, counted for all."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from aio_pika.abc import AbstractIncomingMessage

#: A batch so heavy waits for nothing: what it costs itself is little beside what is in it.
WORTH_A_BATCH = 512
#: After one so light there is no rest: little comes.
LIGHT = 16


class Ack(NamedTuple):
    """An acknowledgement to send."""

    message: AbstractIncomingMessage
    #: It is for all that came before, too.
    multiple: bool


class FairInbox:
    """Delivered messages, a line for each sale.

    A batch takes one message of each sale in turn, so that a sale with a thousand waiting holds
    nobody up who has one. Within a sale the order of delivery is kept.

    With a spacing, batches begin at least so many seconds apart while one sale has the inbox for
    itself: then messages that follow each other closely are taken together.
    """

    def __init__(
        self,
        key: Callable[[AbstractIncomingMessage], str],
        weigh: Callable[[AbstractIncomingMessage], int],
        spacing_s: float = 0.0,
    ) -> None:
        self._key = key
        self._weigh = weigh
        self._spacing_s, self._rest_until = spacing_s, 0.0
        self._lines: OrderedDict[str, deque[AbstractIncomingMessage]] = OrderedDict()
        self._arrived = asyncio.Event()
        #: Set while what waits is worth a batch: it weighs enough, or is of several sales.
        self._worth_it = asyncio.Event()
        self._weight = 0
        #: Delivery tag of everything that is not done, as it was delivered -> when it was sent.
        self._in_hand: dict[int, float] = {}

    def __len__(self) -> int:
        """Return how many messages are in hand: waiting here, or being worked on."""
        return len(self._in_hand)

    async def put(self, message: AbstractIncomingMessage) -> None:
        """Take a delivery."""
        sent_at = message.timestamp.timestamp() if message.timestamp else time.time()
        self._in_hand[message.delivery_tag or 0] = sent_at
        self._lines.setdefault(self._key(message), deque()).append(message)
        self._weight += self._weigh(message)
        self._arrived.set()
        self._weigh_up()

    async def arrived(self) -> None:
        """Return when there is a batch to take."""
        await self._arrived.wait()
        rest_s = self._rest_until - time.monotonic()
        if rest_s > 0 and not self._worth_it.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await self._worth_it.wait()

    def take(self, weight_max: int) -> list[AbstractIncomingMessage]:
        """Take a batch: at least one message, and more until it weighs `weight_max`."""
        batch: list[AbstractIncomingMessage] = []
        weight = 0
        while self._lines and (not batch or weight < weight_max):
            key, line = self._lines.popitem(last=False)
            batch.append(line.popleft())
            weight += self._weigh(batch[-1])
            if line:
                self._lines[key] = line  # behind the others
        self._weight -= weight
        if weight > LIGHT:
            self._rest_until = time.monotonic() + self._spacing_s
        self._weigh_up()
        if not self._lines:
            self._arrived.clear()
        return batch

    def acks(self, batch: list[AbstractIncomingMessage]) -> list[Ack]:
        """Return the fewest acknowledgements that are for this batch and for nothing else in hand.

        Mostly that is one. Where the batch has overtaken others, what is behind them goes singly.
        """
        left = {message.delivery_tag or 0: message for message in batch}
        acks: list[Ack] = []
        for tag in self._in_hand:
            if tag not in left:
                break
            acks = [Ack(left.pop(tag), multiple=True)]
        return acks + [Ack(message, multiple=False) for message in left.values()]

    def done(self, batch: list[AbstractIncomingMessage]) -> None:
        """Forget a batch that was acknowledged."""
        for message in batch:
            self._in_hand.pop(message.delivery_tag or 0, None)

    def clear(self) -> None:
        """Forget everything: the link is gone, and what was in hand is delivered again."""
        self._lines.clear()
        self._in_hand.clear()
        self._weight = 0
        self._arrived.clear()
        self._worth_it.clear()

    def _weigh_up(self) -> None:
        if self._weight >= WORTH_A_BATCH or len(self._lines) > 1:
            self._worth_it.set()
        else:
            self._worth_it.clear()

    def oldest_age_s(self) -> float:
        """Return how long ago the oldest message in hand was sent; 0 with nothing in hand."""
        now = time.time()
        return max(0.0, now - min(self._in_hand.values(), default=now))
