"""The mailbag: the messages of many sales that have little each go out as one, in a parcel.

A confirmed publish costs the process some 280 us of CPU, whatever is in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from seckill import messages, topology
from seckill.batching import MicroBatcher, Waiter
from seckill.broker import Publisher
from seckill.errors import Unavailable

#: A larger message, of some 20 grabs, goes by itself: a sale that has much waits for no other, and
#: its messages do not become those of all in the consumers' eyes, which take sales in turn.
SMALL = 1024
PUBLISHES_MAX = 4


class Mailbag:
    """Publishes messages to orders.place; small ones together (see `messages.Parcel`)."""

    def __init__(self, publisher: Publisher, *, timeout_s: float) -> None:
        self._publisher = publisher
        self._timeout_s = timeout_s
        self._small = MicroBatcher(
            self._send, max_batch=messages.PARTS_MAX, max_calls=PUBLISHES_MAX
        )

    async def publish(self, body: bytes) -> None:
        """Return when confirmed; Unavailable when that is not known.

        A message may wait for others to use up the time limit of a publish, before it has its own.
        """
        if len(body) > SMALL:
            await self._publisher.publish(topology.ORDERS_PLACE, body)
            return
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                await self._small.submit(body)
        except TimeoutError as error:
            raise Unavailable("RabbitMQ: other messages are not confirmed") from error

    async def _send(self, waiting: Sequence[Waiter[bytes, None]]) -> None:
        bodies = [waiter.item for waiter in waiting]
        body = messages.encode_parcel(bodies) if len(bodies) > 1 else bodies[0]
        await self._publisher.publish(topology.ORDERS_PLACE, body)
        for waiter in waiting:
            waiter.answer(None)
