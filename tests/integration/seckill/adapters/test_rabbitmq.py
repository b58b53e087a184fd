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
