"""Events while the broker cannot be reached: for the role that sends, and for a listener."""

from __future__ import annotations

import pytest

from consumers.roles.publish_events import PublishEvents
from seckill.adapters.publisher import Publisher
from seckill.adapters.rabbitmq import Broker
from seckill.errors import Unavailable
from tests.processes import eventually


async def test_events_of_an_outage_are_sent_after_it(db, amqp_proxy):
    proxy, url = amqp_proxy
    await db.execute("TRUNCATE events")
    async with Publisher.open(Broker(url, "test", timeout_s=1), timeout_s=1) as publisher:
        role = PublishEvents(db, publisher)
        await db.execute("INSERT INTO events (topic, order_ids) VALUES ('order.placed', '{}')")
        proxy.freeze()
        with pytest.raises(Unavailable):
            await role.run_once()
        assert await db.fetchval("SELECT count(*) FROM events") == 1
        proxy.thaw()

        async def sent():
            try:
                return (await role.run_once()).done
            except Unavailable:  # the link is opened again
                return 0

        await eventually(sent, "the event is sent")
    assert await db.fetchval("SELECT count(*) FROM events") == 0


async def test_a_listener_whose_link_breaks_ends_with_one_line(processes, amqp_proxy):
    proxy, url = amqp_proxy
    listener = await processes.begin("events", SECKILL_AMQP_URL=url)
    assert b"listening" in await listener.stderr.readline()
    proxy.cut()
    _, complaint = await listener.communicate()
    assert listener.returncode == 1
    assert complaint.decode().count("\n") == 1
    assert "the link broke" in complaint.decode()
