"""The unacknowledged messages of a consumer, taken in batches that are fair to all sales."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from aio_pika.abc import AbstractIncomingMessage

#: A batch of this weight does not wait: its fixed cost is small beside its contents.
FULL_WEIGHT = 512
#: After a batch of this weight the whole spacing is waited for, after a lighter one its share:
#: where few messages arrive, they hardly wait. With all of it or nothing, 500 grabs a second could
#: go on without any rest, and cost PostgreSQL twice as much.
WHOLE_REST_WEIGHT = 16


class Ack(NamedTuple):
    """An acknowledgement to send."""

    message: AbstractIncomingMessage
    #: It also acknowledges every message delivered earlier.
    multiple: bool


class FairInbox:
    """Delivered messages, in one line for each sale.

    A batch takes one message of each sale in turn, so that a sale with a thousand messages does not
    hold up a sale with one. Within a sale the order of delivery is kept.

    With a spacing, batches of one sale begin so many seconds apart, after light ones less: messages
    that follow each other closely then share a batch. When messages of several sales wait, the next
    batch begins at once.
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
        #: Set while the next batch need not rest: it is heavy enough, or of several sales.
        self._urgent = asyncio.Event()
        self._weight = 0
        #: Delivery tag of each message in flight, in order of delivery -> when it was sent.
        self._in_flight: dict[int, float] = {}

    def __len__(self) -> int:
        """Return how many messages are in flight: waiting here, or with the handler."""
        return len(self._in_flight)

    async def put(self, message: AbstractIncomingMessage) -> None:
        """Add a delivered message."""
        sent_at = message.timestamp.timestamp() if message.timestamp else time.time()
        self._in_flight[message.delivery_tag or 0] = sent_at
        self._lines.setdefault(self._key(message), deque()).append(message)
        self._weight += self._weigh(message)
        self._arrived.set()
        self._update_urgent()

    async def arrived(self) -> None:
        """Return when there is a batch to take."""
        await self._arrived.wait()
        rest_s = self._rest_until - time.monotonic()
        if rest_s > 0 and not self._urgent.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await self._urgent.wait()

    def take(self, weight_max: int) -> list[AbstractIncomingMessage]:
        """Take a batch: at least one message, and more until it weighs `weight_max`."""
        batch: list[AbstractIncomingMessage] = []
        weight = 0
        while self._lines and (not batch or weight < weight_max):
            key, line = self._lines.popitem(last=False)
            batch.append(line.popleft())
            weight += self._weigh(batch[-1])
            if line:
                self._lines[key] = line  # behind the other sales
        self._weight -= weight
        rest_s = self._spacing_s * min(1.0, weight / WHOLE_REST_WEIGHT)
        self._rest_until = time.monotonic() + rest_s
        self._update_urgent()
        if not self._lines:
            self._arrived.clear()
        return batch

    def acks(self, batch: list[AbstractIncomingMessage]) -> list[Ack]:
        """Return the fewest acknowledgements that cover this batch and no other message.

        Mostly that is one. Messages that overtook others in flight are acknowledged one by one.
        """
        left = {message.delivery_tag or 0: message for message in batch}
        acks: list[Ack] = []
        for tag in self._in_flight:
            if tag not in left:
                break
            acks = [Ack(left.pop(tag), multiple=True)]
        return acks + [Ack(message, multiple=False) for message in left.values()]

    def done(self, batch: list[AbstractIncomingMessage]) -> None:
        """Forget a batch that was acknowledged."""
        for message in batch:
            self._in_flight.pop(message.delivery_tag or 0, None)

    def clear(self) -> None:
        """Forget everything: the link is gone, and RabbitMQ delivers what was in flight again."""
        self._lines.clear()
        self._in_flight.clear()
        self._weight = 0
        self._arrived.clear()
        self._urgent.clear()

    def oldest_age_s(self) -> float:
        """Return how long ago the oldest message in flight was sent; 0 if there is none."""
        now = time.time()
        return max(0.0, now - min(self._in_flight.values(), default=now))

    def _update_urgent(self) -> None:
        if self._weight >= FULL_WEIGHT or len(self._lines) > 1:
            self._urgent.set()
        else:
            self._urgent.clear()
