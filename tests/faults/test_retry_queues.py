"""The retry queues while the broker dies: a message in one of them returns all the same."""

from __future__ import annotations

import aio_pika
import pytest

from consumers.runtime.retries import RetrySchedule
from seckill.adapters import topology
from seckill.adapters.publisher import Publisher
from seckill.adapters.rabbitmq import Broker
from seckill.errors import Unavailable
from tests.processes import eventually

#: Long enough to kill the broker and start it again before the delay is over, on most machines.
RETRY_DELAY_S = 25
QUEUE = topology.ORDERS_EXPIRE
#: The delay, and a broker that starts: should its queue not take the message at once, the broker
#: moves it again after three minutes (`dead_letter_worker_publisher_confirm_timeout`).
DEAD_LETTERED_S = 240


@pytest.fixture
def one_retry(monkeypatch):
    monkeypatch.setattr("consumers.runtime.retries.RETRY_DELAYS_S", (RETRY_DELAY_S,))
    monkeypatch.setattr("consumers.runtime.retries.JITTER", (0.2, 0.2))


@pytest.mark.timeout(DEAD_LETTERED_S + 120)
async def test_F22_a_message_in_a_retry_queue_outlives_the_broker_and_returns(
    settings, services, one_retry
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

    async def returned():
        try:
            async with broker.channel() as channel:
                queue = await channel.get_queue(QUEUE, ensure=False)
                message = await queue.get(fail=False)
                if message is None:
                    return None
                await message.ack()
                # The ack may have died with the broker: then the first copy is back as well.
                return message if "x-attempts" in message.headers else None
        except (Unavailable, aio_pika.exceptions.AMQPError):
            return None

    message = await eventually(returned, "the message is back", within_s=DEAD_LETTERED_S)
    assert (message.body, message.headers["x-attempts"]) == (b"failed", 1)
