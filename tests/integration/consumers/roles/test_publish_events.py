"""publish_events: the events of the outbox reach all listeners, in order, at least once."""

from __future__ import annotations

import asyncio

import aio_pika
import msgspec
import pytest

from consumers.roles.publish_events import PublishEvents
from consumers.runtime.poll_role import Polled, PollRole
from seckill.adapters import topology
from seckill.errors import Unavailable
from seckill.orders import event_outbox
from tests.transactions import Killed
from tests.webhooks import WebhookBench

TOPICS = ["order.placed", "order.paid", "order.cancelled"]


@pytest.fixture
async def received(settings, publisher):
    """Take so many messages, as (id, topic); there must be no more of them."""
    async with await aio_pika.connect(settings.amqp_url) as connection:
        channel = await connection.channel()
        queue = await topology.declare_view(channel, "#", 1000)
        arrived = asyncio.Queue()
        await queue.consume(arrived.put, no_ack=True)

        async def take(count):
            async with asyncio.timeout(30):
                messages = [await arrived.get() for _ in range(count)]
            assert arrived.empty()
            return [(int(m.message_id), m.routing_key) for m in messages]

        take.messages = arrived
        yield take


@pytest.fixture
async def given(db):
    """Write events into the outbox, and nothing else is in it; return them as (id, topic)."""

    async def write(*topics):
        return [
            await db.fetchrow(
                "INSERT INTO events (topic, order_ids) VALUES ($1, '{}') RETURNING id, topic", topic
            )
            for topic in topics
        ]

    await db.execute("TRUNCATE events")
    yield write
    await db.execute("TRUNCATE events")


@pytest.fixture
def waiting(db):
    async def topics():
        rows = await db.fetch("SELECT topic FROM events ORDER BY id")
        return [row[0] for row in rows]

    return topics


class Unsteady:
    """A publisher that fails after so many events: before the next one arrives, or after."""

    def __init__(self, publisher, *, sends, error, arrives=False):
        self._publisher = publisher
        self._sends = sends
        self._error = error
        self._arrives = arrives

    async def publish_event(self, *event):
        if self._sends == 0:
            if self._arrives:
                await self._publisher.publish_event(*event)
            raise self._error
        self._sends -= 1
        await self._publisher.publish_event(*event)


async def test_events_are_sent_in_order_and_removed(db, publisher, given, waiting, received):
    rows = await given(*TOPICS)
    assert await PublishEvents(db, publisher).run_once() == Polled(3, more=False)
    assert await received(3) == rows
    assert await waiting() == []
    assert await PublishEvents(db, publisher).run_once() == Polled(0, more=False)


async def test_the_message_is_json_that_says_what_changed(
    db, publisher, given, received, open_sale, shop
):
    sale = await open_sale()
    await db.execute("TRUNCATE events")  # that it opened
    (order,) = await shop.order(sale, "ann")
    await PublishEvents(db, publisher).run_once()
    async with asyncio.timeout(30):
        message = await received.messages.get()
    assert message.content_type == "application/json"
    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    body = msgspec.json.decode(message.body)
    assert body.pop("at").startswith("20")
    assert body == {
        "v": 1,
        "id": int(message.message_id),
        "topic": "order.placed",
        "orders": [
            {
                "order_id": order.order_id,
                "sale_id": order.sale_id,
                "buyer_id": "ann",
                "quantity": 1,
                "amount_cents": 1999,
                "currency": "EUR",
                "version": 0,
            }
        ],
    }


async def test_an_event_without_a_listener_is_no_error(db, publisher, given, waiting):
    await given("order.placed")
    assert (await PublishEvents(db, publisher).run_once()).done == 1
    assert await waiting() == []


async def test_while_the_broker_is_unavailable_events_wait_and_then_continue(
    db, publisher, given, waiting, received
):
    rows = await given(*TOPICS)
    failing = Unsteady(publisher, sends=1, error=Unavailable("no confirm"))
    with pytest.raises(Unavailable, match="no confirm"):
        await PublishEvents(db, failing).run_once()
    assert await waiting() == TOPICS[1:]  # what was confirmed is not sent again

    await PublishEvents(db, publisher).run_once()
    assert await received(3) == rows


class Gathering:
    """A publisher that confirms nothing before it has so many; those with a number fail."""

    def __init__(self, count, fail=()):
        self._all_here = asyncio.Barrier(count)
        self._fail = fail
        self.topics = []

    async def publish_event(self, topic, body, event_id):
        number = len(self.topics)
        self.topics.append(topic)
        await self._all_here.wait()
        if number in self._fail:
            raise Unavailable("no confirm")


async def test_events_of_one_topic_that_follow_each_other_go_together(db, given, waiting):
    await given(*["order.placed"] * 3)
    async with asyncio.timeout(30):
        await PublishEvents(db, Gathering(3)).run_once()
    assert await waiting() == []


async def test_no_event_is_sent_before_the_earlier_ones_have_arrived(db, given, waiting):
    """Of the events sent together, those that arrived are not sent again."""
    await given(*["order.placed"] * 3, "order.paid")
    publisher = Gathering(3, fail=[1])
    with pytest.raises(Unavailable):
        async with asyncio.timeout(30):
            await PublishEvents(db, publisher).run_once()
    assert publisher.topics == ["order.placed"] * 3
    assert await waiting() == ["order.placed", "order.paid"]


async def test_a_slow_broker_does_not_keep_the_transaction_for_long(
    db, publisher, given, waiting, received, monkeypatch
):
    rows = await given(*TOPICS)
    monkeypatch.setattr("consumers.roles.publish_events.SEND_S", -1.0)
    role = PublishEvents(db, publisher)
    assert await role.run_once() == Polled(1, more=True)
    assert await waiting() == TOPICS[1:]
    assert await role.run_once() == Polled(1, more=True)
    assert await role.run_once() == Polled(1, more=False)
    assert await received(3) == rows


@pytest.mark.parametrize(
    ("events_max", "orders_max", "taken", "more"),
    [(10, 100, 4, False), (4, 100, 4, True), (2, 100, 2, True), (10, 6, 2, True), (10, 1, 1, True)],
)
async def test_no_more_is_read_at_a_time_than_was_asked_for(
    db, given, events_max, orders_max, taken, more
):
    rows = await given(*["order.placed"] * 4)
    await db.execute(
        "UPDATE events SET order_ids ="
        " (SELECT array_agg(gen_random_uuid()) FROM generate_series(1, 5))"
    )
    async with db.acquire() as connection:
        found, is_more = await event_outbox.oldest(connection, events_max, orders_max)
    assert [event.event_id for event in found] == [row["id"] for row in rows[:taken]]
    assert is_more is more


async def test_a_lost_confirm_makes_a_copy_with_the_same_id(db, publisher, given, received):
    (row,) = await given("order.placed")
    unconfirming = Unsteady(publisher, sends=0, error=Unavailable("no confirm"), arrives=True)
    with pytest.raises(Unavailable):
        await PublishEvents(db, unconfirming).run_once()
    await PublishEvents(db, publisher).run_once()
    assert await received(2) == [row, row]


async def test_a_crash_between_publish_and_delete_makes_copies_with_the_same_ids(
    db, publisher, given, waiting, received
):
    rows = await given(*TOPICS)
    killed = Unsteady(publisher, sends=2, error=Killed)
    with pytest.raises(Killed):
        await PublishEvents(db, killed).run_once()
    assert await waiting() == TOPICS

    await PublishEvents(db, publisher).run_once()
    assert await received(5) == [*rows[:2], *rows]


async def test_only_one_publishes_at_a_time(db, publisher, given, waiting, received):
    await given(*TOPICS)
    async with db.acquire() as connection, connection.transaction():
        assert await event_outbox.lock_outbox(connection)
        assert await PublishEvents(db, publisher).run_once() == Polled(0, more=False)
        assert await waiting() == TOPICS
    assert (await PublishEvents(db, publisher).run_once()).done == 3
    await received(3)


async def test_two_roles_at_once_send_everything_once_and_in_order(
    db, publisher, given, waiting, received, running, eventually
):
    rows = await given(*TOPICS * 60)

    def role():
        return PollRole("events", PublishEvents(db, publisher).run_once, idle_s=0.01)

    async def empty():
        return not await waiting()

    async with running(role()), running(role()):
        await eventually(empty, "all events are sent")
    assert await received(len(rows)) == rows


@pytest.fixture
async def webhooks(db, given):
    """An endpoint for all events, and one for payments."""
    bench = WebhookBench(db)
    await bench.clear()
    await bench.add("http://127.0.0.1:9/all")
    await bench.add("http://127.0.0.1:9/paid", "order.paid")
    yield bench
    await bench.clear()


@pytest.fixture
def queued(webhooks):
    """Return the topics that are queued for each endpoint."""

    async def read():
        found = {"all": [], "paid": []}
        for each in await webhooks.all():
            found[each.url.rpartition("/")[2]].append(each.topic)
        return found

    return read


async def test_webhooks_are_queued_for_the_endpoints_that_want_them(
    db, publisher, given, waiting, queued
):
    await given(*TOPICS)
    await PublishEvents(db, publisher).run_once()
    assert await queued() == {"all": TOPICS, "paid": ["order.paid"]}
    assert await waiting() == []


async def test_webhooks_do_not_wait_for_the_broker_and_are_queued_once(
    db, publisher, given, waiting, queued, monkeypatch
):
    monkeypatch.setattr("consumers.roles.publish_events.EVENTS_MAX", 2)
    await given(*TOPICS)
    away = Unsteady(publisher, sends=0, error=Unavailable("no confirm"))
    for _ in range(3):
        with pytest.raises(Unavailable):
            await PublishEvents(db, away).run_once()
    assert await waiting() == TOPICS
    assert (await queued())["all"] == TOPICS
    while (await PublishEvents(db, publisher).run_once()).done:
        pass
    assert await waiting() == []
    assert (await queued())["all"] == TOPICS


async def test_a_process_that_is_killed_queues_nothing_or_all(
    db, publisher, given, waiting, queued
):
    await given(*TOPICS)
    with pytest.raises(Killed):
        await PublishEvents(db, Unsteady(publisher, sends=2, error=Killed)).run_once()
    assert (await queued())["all"] == []
    await PublishEvents(db, publisher).run_once()
    assert (await queued())["all"] == TOPICS


async def test_a_large_event_becomes_requests_of_a_hundred_orders(
    db, publisher, given, webhooks, open_sale, shop
):
    sale = await open_sale(stock=250)
    await db.execute("TRUNCATE events")
    await shop.place(*(shop.wish(sale, f"buyer-{n}") for n in range(230)))
    await PublishEvents(db, publisher).run_once()
    rows = await db.fetch("SELECT body FROM webhook_messages")
    bodies = [msgspec.json.decode(row[0]) for row in rows]
    assert sorted(len(body["orders"]) for body in bodies) == [30, 100, 100]
    assert len({body["id"] for body in bodies}) == 1
    assert len({order["order_id"] for body in bodies for order in body["orders"]}) == 230


async def test_an_endpoint_that_is_removed_meanwhile_is_no_trouble(
    db, publisher, given, webhooks, queued, blocked, eventually
):
    await given("order.paid")
    async with db.acquire() as other:
        removal = other.transaction()
        await removal.start()
        await other.execute("DELETE FROM webhook_endpoints WHERE url LIKE '%/all'")
        publishing = asyncio.create_task(PublishEvents(db, publisher).run_once())
        await eventually(blocked, "the publisher waits")
        await removal.commit()
        assert (await publishing).done == 1
    assert await queued() == {"all": [], "paid": ["order.paid"]}
