"""Publishing: what the library raises, and what becomes of the link."""

from __future__ import annotations

import asyncio

import aio_pika
import pytest

from seckill.adapters import topology
from seckill.adapters.rabbitmq import link_errors_as_unavailable
from seckill.errors import Unavailable


def test_what_the_library_says_without_a_name_is_unavailable() -> None:
    """Publishes under way on a link that closes get a bare Exception; our mistakes stay loud."""
    with pytest.raises(Unavailable), link_errors_as_unavailable("publishing"):
        raise Exception
    with pytest.raises(ValueError, match="ours"), link_errors_as_unavailable("publishing"):
        raise ValueError("ours")


async def test_a_refused_message_is_no_business_of_the_others_on_the_link(
    settings, publisher, queues
):
    """A queue that is full and rejects must not end what goes to other queues."""
    async with await aio_pika.connect(settings.amqp_url) as connection:
        channel = await connection.channel()
        full = await channel.declare_queue(
            exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )
        await full.bind(topology.EXCHANGE, "full")
        await publisher.publish("full", b"fills it")

        async def refused():
            with pytest.raises(Unavailable):
                await publisher.publish("full", b"too much")

        others = [publisher.publish(topology.ORDERS_EXPIRE, b"x") for _ in range(20)]
        await asyncio.gather(*others, *(refused() for _ in range(20)))

    assert await queues.size(topology.ORDERS_EXPIRE) == 20


@pytest.fixture
async def channel(settings):
    async with await aio_pika.connect(settings.amqp_url) as connection:
        yield await connection.channel()


@pytest.fixture
async def without_dead_queue(channel, publisher):
    """Delete a dead queue, before and after the test; the next declaration makes it anew."""
    name = topology.dead(topology.SAGA_STEPS)
    await channel.queue_delete(name)
    yield name
    await channel.queue_delete(name)
    await topology.declare(channel)


async def test_F23_a_dead_queue_that_an_earlier_rabbitmq_made_is_used_and_named(
    channel, without_dead_queue, monkeypatch
):
    """An upgrade of RabbitMQ must stop nothing, and an operator should know what it may lose."""
    made_before = {"x-queue-type": "quorum"}
    await channel.declare_queue(without_dead_queue, durable=True, arguments=made_before)
    monkeypatch.setattr(topology, "LIMITING_MAJOR", 1)

    assert without_dead_queue in (await topology.declare(channel)).limited
    assert r"'^saga\.steps\.dead$'" in topology.limit_advice(without_dead_queue)


async def test_F23_a_new_dead_queue_has_no_limit_and_stays_as_it_is(
    channel, without_dead_queue, monkeypatch
):
    monkeypatch.setattr(topology, "LIMITING_MAJOR", 1)
    for _ in range(2):
        assert without_dead_queue not in (await topology.declare(channel)).limited
