"""place_orders on the real broker: every accepted grab becomes an order, or a named dead letter."""

from __future__ import annotations

import asyncio
from functools import partial

import asyncpg
import msgspec
import pytest

from consumers.roles.expire_orders import ExpireOrders
from seckill import messages
from seckill.adapters import topology
from seckill.adapters.topology import ORDERS_EXPIRE, ORDERS_PLACE
from seckill.errors import Unavailable
from seckill.orders import orders
from seckill.sales import sales
from seckill.sales.sales import NewSale

#: More starts of a consumer than RabbitMQ's delivery limit allows a message to survive.
RESTARTS = topology.DELIVERY_LIMIT + 5


@pytest.fixture
def handler(place_orders):
    return place_orders("delay_queue")


@pytest.fixture
def send(publisher, queues):
    """Publish placements as the gateway does (all of one sale and epoch), or any other body."""

    async def publish(*placements, bad=(), body=None):
        if body is None:
            first = placements[0]
            grabs = [*([p.order_id, p.buyer_id, p.quantity] for p in placements), *bad]
            body = messages.encode_place(first.sale_id, first.epoch, ["1-0"], grabs)
        await publisher.publish(ORDERS_PLACE, body)

    return publish


@pytest.fixture
def handle(handler, queues):
    """Take so many messages and handle them as one batch; no_ack, so that they are gone."""

    async def call(count=1):
        await handler.handle(await queues.take(ORDERS_PLACE, count))

    return call


@pytest.fixture
def burials(queues):
    """Take the dead letters as (entries, reason)."""

    async def take(name=ORDERS_PLACE):
        return [
            (msgspec.msgpack.decode(m.body)["grabs"], m.headers["x-reason"])
            for m in await queues.dead(name)
        ]

    return take


@pytest.fixture
def calls(monkeypatch):
    """The order ids of every call of orders.place; each `fail` put in comes out of a call first."""
    seen = []
    real = orders.place

    async def place(db, placements):
        seen.append([p.order_id for p in placements])
        if place.fail:
            raise place.fail.pop(0)
        return await real(db, placements)

    place.fail = []
    place.seen = seen
    monkeypatch.setattr(orders, "place", place)
    return place


def ids(placements):
    return [p.order_id for p in placements]


# What becomes of a message.


async def test_message_becomes_orders(
    open_sale, shop, send, handler, queue_role, running, eventually, assert_balanced
):
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann", "bob")
    await send(*grabs)

    async with running(queue_role(ORDERS_PLACE, handler.handle)):
        await eventually(lambda: shop.rows(sale), "rows")

    assert await shop.states(sale, grabs) == ["pending"] * 2
    await assert_balanced(sale)


async def test_messages_of_several_sales_and_epochs_are_one_transaction(
    open_sale, shop, send, handle, calls
):
    one, other = await open_sale(), await open_sale()
    await shop.bump_epoch(other)
    batches = [
        [shop.wish(one, "ann"), shop.wish(one, "bob")],
        [shop.wish(other, "ann")],
        [shop.wish(other, "bob", epoch=2)],
    ]
    for batch in batches:
        await send(*batch)

    await handle(3)

    assert calls.seen == [ids([p for batch in batches for p in batch])]
    assert await shop.states(one, batches[0]) == ["pending"] * 2
    assert await shop.states(other, batches[1] + batches[2]) == ["rejected epoch", "pending"]


async def test_F20_copies_of_a_message_are_placed_once(
    open_sale, shop, send, handle, burials, assert_balanced
):
    """Within one batch, and again later."""
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann", "bob")
    for _ in range(3):
        await send(*grabs)

    await handle(2)
    await handle(1)

    assert await shop.states(sale, grabs) == ["pending"] * 2
    assert await burials() == []
    await assert_balanced(sale)


async def test_F1_what_postgresql_rejects_is_a_row_not_a_dead_letter(
    open_sale, shop, send, handle, burials
):
    sale = await open_sale(stock=1)
    grabs = [shop.wish(sale, "ann"), shop.wish(sale, "bob")]
    await send(*grabs)

    await handle()

    assert await shop.states(sale, grabs) == ["pending", "rejected stock"]
    assert await burials() == []


async def test_empty_message_is_nothing(open_sale, shop, send, handle, burials):
    sale = await open_sale()
    await send(body=messages.encode_place(sale.sale_id, 1, [], []))

    await handle()

    assert await burials() == []
    assert await shop.rows(sale) == {}


# Parcels.


@pytest.fixture
def parcel(send):
    """Send placements, each in a message of its own, and other bodies as one parcel."""

    async def publish(*placements, others=()):
        parts = [
            messages.encode_place(p.sale_id, p.epoch, [], [[p.order_id, p.buyer_id, p.quantity]])
            for p in placements
        ]
        await send(body=messages.encode_multi_sale([*parts, *others]))

    return publish


async def test_a_parcel_is_one_transaction(open_sale, shop, parcel, handle, calls):
    one, other = await open_sale(), await open_sale()
    grabs = [shop.wish(one, "ann"), shop.wish(other, "ann"), shop.wish(other, "bob")]
    await parcel(*grabs)

    await handle()

    assert calls.seen == [ids(grabs)]
    assert await shop.states(one, grabs[:1]) == ["pending"]
    assert await shop.states(other, grabs[1:]) == ["pending"] * 2


async def test_F13_what_is_unreadable_in_a_parcel_is_buried_alone(
    open_sale, shop, parcel, handler, queue_role, running, eventually, queues
):
    sale = await open_sale()
    good = shop.wish(sale, "ann")
    await parcel(good, others=[b"hello, world"])

    async with running(queue_role(ORDERS_PLACE, handler.handle)):
        await eventually(lambda: shop.rows(sale), "the readable one placed")
        await eventually(lambda: queues.size(topology.dead(ORDERS_PLACE)), "the other dead")

    assert [m.body for m in await queues.dead(ORDERS_PLACE)] == [b"hello, world"]
    assert await shop.states(sale, [good]) == ["pending"]


async def test_a_parcel_is_held_while_postgresql_is_away(open_sale, shop, parcel, handle, calls):
    sale = await open_sale()
    await parcel(shop.wish(sale, "ann"), shop.wish(sale, "bob"))
    calls.fail = [Unavailable("away")]

    with pytest.raises(Unavailable):
        await handle()


# Dead letters.

UNREADABLE = {
    "empty": b"",
    "not MessagePack": b"hello, world",
    "not a map": b"\x01",
    "JSON": b'{"sale": "x", "epoch": 1, "batch": [], "grabs": []}',
    "another message": messages.encode_expire([]),
    "no sale of ours": messages.encode_place("with space", 1, [], []),
    "text that is not UTF-8": b"\x84\xa4sale\xa1\xff\xa5epoch\x01\xa5batch\x90\xa5grabs\x90",
    "nested too deeply": b"\x84\xa4sale\xa1x\xa5epoch\x01\xa5batch\x90\xa5grabs" + b"\x91" * 9999,
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
async def test_F13_an_unreadable_message_lies_whole_in_the_dead_queue(
    open_sale, shop, send, handler, queue_role, running, eventually, queues, body
):
    """And the readable one beside it is placed."""
    sale = await open_sale()
    good = shop.wish(sale, "ann")
    await send(body=body)
    await send(good)

    async with running(queue_role(ORDERS_PLACE, handler.handle)):
        await eventually(lambda: shop.rows(sale), "the readable one placed")

    (dead,) = await queues.dead(ORDERS_PLACE)
    assert dead.body == body
    assert "not an orders.place message" in dead.headers["x-reason"]
    assert await shop.states(sale, [good]) == ["pending"]


class Crash(BaseException):
    """The end of a process; like a segmentation fault, nothing in it can be done about it."""


@pytest.mark.parametrize("in_a_parcel", [True, False])
@pytest.mark.parametrize("poison_first", [True, False])
async def test_F23_a_message_that_kills_its_consumer_does_not_take_its_neighbours_along(
    open_sale,
    shop,
    send,
    parcel,
    handler,
    queue_role,
    running,
    queues,
    eventually,
    monkeypatch,
    poison_first,
    in_a_parcel,
):
    """The consumer is started again until the broker gives up the message, and that one alone."""
    sale = await open_sale()
    good, poison = shop.wish(sale, "ann"), shop.wish(sale, "eve")
    real = orders.place

    async def place(db, placements):
        if poison.order_id in {placement.order_id for placement in placements}:
            raise Crash
        return await real(db, placements)

    monkeypatch.setattr(orders, "place", place)

    def dead():
        return queues.size(topology.dead(ORDERS_PLACE))

    async def died(role):
        return role.done() or await dead()

    async def settled():
        return await shop.rows(sale) or await dead() > 1

    both = (poison, good) if poison_first else (good, poison)
    if in_a_parcel:
        await parcel(*both)
    else:
        for placement in both:
            await send(placement)
    for _ in range(RESTARTS):
        stop = asyncio.Event()
        role = asyncio.create_task(queue_role(ORDERS_PLACE, handler.handle).run(stop))
        await eventually(partial(died, role), "the consumer died, or the message is dead")
        stop.set()
        await asyncio.gather(role, return_exceptions=True)
        if await dead():
            break
    async with running(queue_role(ORDERS_PLACE, handler.handle)):
        await eventually(settled, "the neighbour is placed, or dead as well")

    assert await shop.states(sale, [good]) == ["pending"]
    buried = [messages.decode_place(m.body).grabs for m in await queues.dead(ORDERS_PLACE)]
    assert [grab.order_id for grabs in buried for grab in grabs] == [poison.order_id]


BAD_ENTRIES = {
    "text": "x",
    "number": 7,
    "map": {"a": 1},
    "too short": ["0198c0de-0000-8000-8000-000000000000", "eve"],
    "no order id": ["x", "eve", 1],
    "no buyer id": ["0198c0de-0000-8000-8000-000000000000", "e v e", 1],
    "no quantity": ["0198c0de-0000-8000-8000-000000000000", "eve", 0],
    "half a unit": ["0198c0de-0000-8000-8000-000000000000", "eve", 0.5],
    "more than an integer": ["0198c0de-0000-8000-8000-000000000000", "eve", 2**31],
}


@pytest.mark.parametrize("bad", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
async def test_F13_of_a_message_with_a_bad_entry_only_that_is_dead(
    open_sale, shop, send, handle, burials, assert_balanced, bad
):
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann", "bob")
    await send(*grabs, bad=[bad])

    await handle()

    assert await shop.states(sale, grabs) == ["pending"] * 2
    (entries, reason) = (await burials())[0]
    assert entries == [bad]
    assert "Expected" in reason
    await assert_balanced(sale)


async def test_F13_each_bad_entry_has_its_own_letter_and_reason(
    open_sale, shop, send, handle, burials
):
    sale = await open_sale()
    await send(shop.wish(sale, "ann"), bad=["x", 7])

    await handle()

    assert sorted(await burials(), key=str) == [
        (["x"], "Expected `array`, got `str`"),
        ([7], "Expected `array`, got `int`"),
    ]


async def test_F13_grabs_of_an_unknown_sale_are_named_in_the_dead_queue(
    open_sale, shop, send, handle, burials
):
    sale = await open_sale()
    good = shop.wish(sale, "ann")
    lost = [shop.wish(sale, name)._replace(sale_id="no-such-sale") for name in ("bob", "cat")]
    await send(*lost)
    await send(good)

    await handle(2)

    assert sorted(await burials(), key=str) == [
        ([[p.order_id, p.buyer_id, 1]], "unknown sale") for p in sorted(lost)
    ]
    assert await shop.states(sale, [good]) == ["pending"]


async def test_dead_letter_names_sale_and_epoch(open_sale, shop, send, handle, queues):
    """All that is needed to give its unit back, or to place it after all."""
    sale = await open_sale()
    good = shop.wish(sale, "ann", epoch=3)
    await send(good, bad=["x"])

    await handle()

    (dead,) = await queues.dead(ORDERS_PLACE)
    placing = messages.decode_place(dead.body)
    assert (placing.sale_id, placing.epoch, placing.grabs) == (sale.sale_id, 3, [])


async def test_F23_a_value_that_postgresql_refuses_is_found_and_left_out(
    shop, send, handle, burials, db, stock
):
    """Its amount does not fit; decoding cannot know the price."""
    dear = await sales.create(db, stock, NewSale("dear-sale", 10, 10**17))
    good = [shop.wish(dear, f"buyer-{i}") for i in range(6)]
    bad = shop.wish(dear, "eve", 1000)
    await send(*good[:4], bad, *good[4:])

    await handle()

    assert await shop.states(dear, good) == ["pending"] * 6
    assert await shop.inventory(dear) == (4, 6, 0)
    ((entries, reason),) = await burials()
    assert entries == [[bad.order_id, "eve", 1000]]
    assert "PostgreSQL refuses it: bigint out of range" in reason


async def test_F23_an_epoch_that_postgresql_refuses_leaves_other_messages_alone(
    open_sale, shop, send, handle, burials
):
    sale = await open_sale()
    good, bad = shop.wish(sale, "ann"), shop.wish(sale, "bob", epoch=2**64 - 1)
    await send(bad)
    await send(good)

    await handle(2)

    assert await shop.states(sale, [good, bad]) == ["pending", None]
    ((entries, _),) = await burials()
    assert entries == [[bad.order_id, "bob", 1]]


async def test_F23_a_message_delivered_for_the_third_time_is_placed_alone(
    open_sale, shop, send, handler, queues, calls, queue_role, running, eventually
):
    sale = await open_sale()
    suspect, *others = [shop.wish(sale, name) for name in ("ann", "bob", "cat")]
    await send(suspect)
    for _ in range(2):  # two consumers died of it
        (message,) = await queues.take(ORDERS_PLACE, 1, no_ack=False)
        await message.nack(requeue=True)
    for other in others:
        await send(other)

    async with running(queue_role(ORDERS_PLACE, handler.handle)):
        await eventually(lambda: sum(map(len, calls.seen)) == 3, "all placed")

    assert [suspect.order_id] in calls.seen
    assert await shop.states(sale, [suspect, *others]) == ["pending"] * 3


# Stores that are away.

AWAY = {
    "Unavailable": Unavailable,
    "connection lost": lambda: asyncpg.ConnectionDoesNotExistError("connection was closed"),
    "shutting down": lambda: asyncpg.AdminShutdownError("shutting down"),
    "too slow": TimeoutError,
    "deadlock": lambda: asyncpg.DeadlockDetectedError("deadlock detected"),
    "lock timeout": lambda: asyncpg.LockNotAvailableError("lock timeout"),
}


@pytest.mark.parametrize("away", AWAY.values(), ids=AWAY)
async def test_F23_while_postgresql_is_away_messages_are_held_and_then_placed(
    open_sale, shop, send, handler, queue_role, running, eventually, calls, queues, away
):
    """Neither dead, nor given back to the broker in a loop, nor bisected."""
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann", "bob")
    calls.fail = [away(), away()]
    deliveries = []

    async def handle(batch):
        deliveries.extend(m.redelivered for m in batch)
        await handler.handle(batch)

    await send(*grabs)
    async with running(queue_role(ORDERS_PLACE, handle)):
        await eventually(lambda: shop.rows(sale), "rows")

    assert calls.seen == [ids(grabs)] * 3
    assert deliveries == [False] * 3
    assert await shop.states(sale, grabs) == ["pending"] * 2
    assert await queues.dead(ORDERS_PLACE) == []
    await assert_all_acknowledged(queue_role, running, eventually, send, shop.wish(sale, "cat"))


async def assert_all_acknowledged(queue_role, running, eventually, send, marker):
    """A new consumer gets the marker and nothing that was there before."""
    delivered = []

    async def note(batch):
        delivered.extend(messages.decode_place(m.body).grabs[0].order_id for m in batch)

    await send(marker)
    async with running(queue_role(ORDERS_PLACE, note)):
        await eventually(lambda: marker.order_id in delivered, "marker delivered")
    assert delivered == [marker.order_id]


async def test_F23_a_bad_entry_is_buried_once_however_long_postgresql_is_away(
    open_sale, shop, send, handler, queue_role, running, eventually, calls, burials
):
    sale = await open_sale()
    good = shop.wish(sale, "ann")
    calls.fail = [Unavailable(), Unavailable()]
    await send(good, bad=["x"])

    async with running(queue_role(ORDERS_PLACE, handler.handle)):
        await eventually(lambda: shop.rows(sale), "rows")  # and the batch in hand is finished

    assert [entries for entries, _ in await burials()] == [["x"]]


async def test_F13_a_bad_entry_is_not_acknowledged_before_it_is_buried(
    open_sale, shop, send, handler, queue_role, running, eventually, burials, publisher, monkeypatch
):
    """The broker does not confirm the dead letter: the message is held until it does."""
    sale = await open_sale()
    good = shop.wish(sale, "ann")
    real, failures = publisher.publish, [Unavailable(), Unavailable()]

    async def publish(queue, *args):
        if queue == topology.dead(ORDERS_PLACE) and failures:
            raise failures.pop()
        await real(queue, *args)

    await send(good, bad=["x"])
    monkeypatch.setattr(publisher, "publish", publish)
    async with running(queue_role(ORDERS_PLACE, handler.handle)):
        ((entries, _),) = await eventually(burials, "the dead letter")

    assert failures == []
    assert entries == ["x"]
    assert await shop.states(sale, [good]) == ["pending"]


# Ack follows commit.


@pytest.mark.parametrize("committed", [False, True], ids=["before commit", "after commit"])
async def test_F13_a_consumer_that_dies_has_its_message_delivered_again(
    open_sale,
    shop,
    send,
    handler,
    queue_role,
    running,
    eventually,
    queues,
    assert_balanced,
    committed,
):
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann", "bob")
    redelivered = []

    async def dies(batch):
        if committed:
            await handler.handle(batch)
        raise Crash

    async def lives(batch):
        await handler.handle(batch)
        redelivered.extend(m.redelivered for m in batch)

    await send(*grabs)
    with pytest.raises(Crash):
        await queue_role(ORDERS_PLACE, dies).run(asyncio.Event())
    async with running(queue_role(ORDERS_PLACE, lives)):
        await eventually(lambda: redelivered, "delivered again")

    assert redelivered == [True]
    assert await shop.states(sale, grabs) == ["pending"] * 2
    assert await queues.dead(ORDERS_PLACE) == []
    await assert_balanced(sale)


async def test_F20_a_message_whose_ack_was_lost_is_dropped_as_a_duplicate(
    open_sale, shop, send, handler, queue_role, running, eventually, queues, assert_balanced
):
    """The broker closes the channel between commit and ack; the role goes on by itself."""
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann", "bob")
    redelivered = []

    async def handle(batch):
        await handler.handle(batch)
        redelivered.extend(m.redelivered for m in batch)
        if len(redelivered) == 1:
            channel = batch[0].channel
            await channel.basic_ack(delivery_tag=10**6)
            await eventually(lambda: channel.is_closed, "channel closed by the broker")

    await send(*grabs)
    async with running(queue_role(ORDERS_PLACE, handle)):
        await eventually(lambda: len(redelivered) == 2, "delivered again")

    assert redelivered == [False, True]
    assert await queues.dead(ORDERS_PLACE) == []
    await assert_balanced(sale)
    await assert_all_acknowledged(queue_role, running, eventually, send, shop.wish(sale, "cat"))


# Timers.


@pytest.fixture
def timers(settings, queues, publisher, eventually):
    """Take a number of timers of a window, as sets of order ids."""

    async def take(window_s, count=1):
        await eventually(lambda: queues.exists(topology.timer(window_s)), "the first timer")

        # A queue exists a moment before it can be read: who gets from it then is thrown out.
        async def all_there():
            return await queues.size(topology.timer(window_s)) >= count

        await eventually(all_there, f"{count} timers of {window_s} s")
        taken = await queues.take(topology.timer(window_s), count)
        assert await queues.take_all(topology.timer(window_s)) == []
        return [set(messages.decode_expire(m.body)) for m in taken]

    return take


async def test_timers_are_one_a_window_and_name_placed_orders_only(
    open_sale, shop, send, handle, timers
):
    short, long = (
        await open_sale(stock=2, payment_window_s=801),
        await open_sale(payment_window_s=802),
    )
    mine = [shop.wish(short, name) for name in ("ann", "bob", "cat")]  # one too many
    yours = [shop.wish(long, name) for name in ("ann", "bob")]
    await send(*mine)
    await send(*yours)

    await handle(2)

    assert await timers(801) == [set(ids(mine[:2]))]
    assert await timers(802) == [set(ids(yours))]


async def test_a_duplicate_starts_no_timer(open_sale, shop, send, handle, timers):
    sale = await open_sale(payment_window_s=803)
    (ann,) = await shop.order(sale, "ann")
    bob = shop.wish(sale, "bob")
    await send(ann, bob)

    await handle()

    assert await timers(803) == [{bob.order_id}]


async def test_a_sale_newer_than_the_directory_has_its_timer(
    open_sale, shop, send, handler, queues, timers, db
):
    await handler._timers._sales.recent()
    sale = await open_sale(payment_window_s=804)
    ann = shop.wish(sale, "ann")
    await send(ann)

    await handler.handle(await queues.take(ORDERS_PLACE, 1))

    assert await timers(804) == [{ann.order_id}]


async def test_without_timers_orders_are_placed_all_the_same(
    open_sale, shop, send, handle, publisher, monkeypatch, burials
):
    """The sweep finds them."""
    sale = await open_sale()
    ann = shop.wish(sale, "ann")

    async def away(*_):
        raise Unavailable

    await send(ann)
    monkeypatch.setattr(publisher, "publish_timer", away)
    await handle()

    assert await shop.states(sale, [ann]) == ["pending"]
    assert await burials() == []


async def test_F21_unpaid_orders_end_with_their_window(
    open_sale,
    shop,
    send,
    handler,
    queue_role,
    running,
    eventually,
    db,
    publisher,
    assert_balanced,
):
    """Also those of a short window placed behind a long one."""
    patient = await open_sale(payment_window_s=900)
    sale = await open_sale(payment_window_s=1)
    kept = await shop.grab(patient, "ann")
    grabs = await shop.grab(sale, "ann", "bob")
    await send(*kept)
    await send(*grabs)

    expire = ExpireOrders(db)
    async with (
        running(queue_role(ORDERS_PLACE, handler.handle)),
        running(queue_role(ORDERS_EXPIRE, expire.handle)),
    ):
        await eventually(lambda: shop.returns(sale), "cancelled by the timer")

    assert await shop.states(sale, grabs) == ["cancelled expired"] * 2
    assert await shop.states(patient, kept) == ["pending"]
    await shop.return_all(sale)
    assert await shop.left(sale) == 10
    await assert_balanced(sale)
