"""The queues of the broker, seen from outside."""

from __future__ import annotations

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import ChannelNotFoundEntity

from seckill.adapters import topology
from tests.integration.patience import eventually


class Queues:
    """The broker's queues, seen from outside."""

    def __init__(self, channel: AbstractChannel, url: str) -> None:
        self._channel = channel
        self._url = url

    async def take(
        self, name: str, count: int, *, no_ack: bool = True
    ) -> list[AbstractIncomingMessage]:
        """Wait for `count` messages and take them."""
        queue = await self._channel.get_queue(name, ensure=False)
        return [
            await eventually(lambda: queue.get(fail=False, no_ack=no_ack), f"message in {name}")
            for _ in range(count)
        ]

    async def take_all(self, name: str) -> list[AbstractIncomingMessage]:
        """Take what lies in a queue now."""
        queue = await self._channel.get_queue(name, ensure=False)
        taken = []
        while (message := await queue.get(fail=False, no_ack=True)) is not None:
            taken.append(message)
        return taken

    async def size(self, name: str) -> int:
        """Count the messages of a queue that no consumer holds."""
        queue = await self._channel.declare_queue(name, passive=True)
        return queue.declaration_result.message_count or 0

    async def all_delivered(self, name: str) -> bool:
        """Return whether consumers hold every message."""
        return await self.size(name) == 0

    async def dead(self, name: str) -> list[AbstractIncomingMessage]:
        """Take what lies in the dead queue of a queue."""
        return await self.take_all(topology.dead(name))

    async def delete(self, name: str) -> None:
        """Delete a queue."""
        await self._channel.queue_delete(name)

    async def exists(self, name: str) -> bool:
        """Return whether the queue exists; it uses another channel, which a "no" closes."""
        async with await aio_pika.connect(self._url) as connection:
            try:
                await (await connection.channel()).get_queue(name)
            except ChannelNotFoundEntity:
                return False
        return True

    async def empty(self) -> None:
        """Empty all queues."""
        work = topology.WORK_QUEUES
        retry_queues = map(topology.retry, topology.RETRY_DELAYS_S)
        for name in (*retry_queues, *work, *map(topology.dead, work)):
            await (await self._channel.get_queue(name, ensure=False)).purge()
