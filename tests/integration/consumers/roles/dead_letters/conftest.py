"""What the tests of dead_letters share: messages in a dead queue, and the role that moves them."""

from __future__ import annotations

import aio_pika
import pytest

from consumers.roles.dead_letters import LongestRetry, StoreDeadLetters
from seckill.adapters import topology
from seckill.adapters.topology import ORDERS_PLACE


@pytest.fixture
def put_dead(settings, queues):
    """Put a message into a dead queue, with any headers."""

    async def publish(body, headers=None, *, queue=ORDERS_PLACE):
        async with await aio_pika.connect(settings.amqp_url) as connection:
            channel = await connection.channel()
            message = aio_pika.Message(body, headers=headers)
            await channel.default_exchange.publish(message, topology.dead(queue))

    return publish


@pytest.fixture
def mover(db, publisher, queue_role):
    """Make the role that moves the dead letters of a queue."""

    def make(queue=ORDERS_PLACE, *, handle=None):
        return queue_role(
            topology.dead(queue),
            handle or StoreDeadLetters(db, queue).handle,
            retries=LongestRetry(publisher, queue),
        )

    return make


@pytest.fixture
async def moved(mover, running, eventually, letters):
    """Run the role until there are so many letters."""

    async def run(count=1, queue=ORDERS_PLACE):
        async def arrived():
            found = await letters.all()
            return found if len(found) >= count else None

        async with running(mover(queue)):
            return await eventually(arrived, f"{count} letters")

    return run
