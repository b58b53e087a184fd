"""The retry ladder while the broker dies: what waits on a rung comes back all the same."""

from __future__ import annotations

import aio_pika
import pytest

from consumers.runtime.retries import RetrySchedule
from seckill.adapters import topology
from seckill.adapters.rabbitmq import Broker, Publisher
from seckill.errors import Unavailable
from tests.processes import eventually

#: Long enough to kill the broker and start it again before it is over, on most machines.
RUNG_S = 25
QUEUE = topology.ORDERS_EXPIRE


@pytest.fixture
def rung(monkeypatch):
    monkeypatch.setattr("consumers.runtime.retries.RETRY_DELAYS_S", (RUNG_S,))
    monkeypatch.setattr("consumers.runtime.retries.JITTER", (0.2, 0.2))


async def test_F22_what_waits_on_a_rung_outlives_the_broker_and_comes_back(
    settings, services, rung
):
    broker = Broker(settings.amqp_url, "test", 15)
    async with Publisher.open(broker, timeout_s=15) as publisher:
        await publisher.publish(QUEUE, b"failed")
        async with broker.channel() as channel:
            queue = (await topology.declare(channel)).queues[QUEUE]

            async def taken():
                return await queue.get(fail=False)

            message = await eventually(taken, "the message")
            await RetrySchedule(publisher, QUEUE).handle_failure(message, ZeroDivisionError())
            await message.ack()
        await services.kill("rabbitmq")
        await services.start("rabbitmq")

    async def back():
        try:
            async with broker.channel() as channel:
                queue = await channel.get_queue(QUEUE, ensure=False)
                message = await queue.get(fail=False, no_ack=True)
                # The ack may have died with the broker: then the message itself is back, too.
                return message if message and "x-attempts" in message.headers else None
        except (Unavailable, aio_pika.exceptions.AMQPError):
            return None

    message = await eventually(back, "the message is back", within_s=60)
    assert (message.body, message.headers["x-attempts"]) == (b"failed", 1)
