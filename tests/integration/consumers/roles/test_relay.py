"""relay: what no gateway had confirmed is sent again, and becomes an order once."""

from __future__ import annotations

import msgspec
import pytest

from consumers.roles import relay
from consumers.roles.relay import Relay
from consumers.runtime.poll_role import Polled
from seckill.adapters import redis_keys, topology
from seckill.errors import Unavailable
from seckill.sales.directory import SaleDirectory

#: Old enough, whenever it was written: entries of this very millisecond count as well.
ANY_AGE_MS = -60_000


@pytest.fixture(autouse=True)
async def other_outboxes_are_empty(store):
    """Leave aside what other tests have not settled, and the lock of a relay that one killed."""
    await store.delete(redis_keys.relay_lock())
    async for key in store.scan_iter("sk:*:outbox"):
        await store.delete(key)


@pytest.fixture
def make_relay(store, stock, db, publisher, queues):
    def make(*, age_ms=ANY_AGE_MS, publisher=publisher):
        return Relay(store, stock, SaleDirectory(db), publisher, age_ms=age_ms)

    return make


@pytest.fixture
def sent(queues):
    """Take so many messages from orders.place; there must be no more of them."""

    async def take(count):
        messages = await queues.take(topology.ORDERS_PLACE, count)
        assert await queues.take_all(topology.ORDERS_PLACE) == []
        return [msgspec.msgpack.decode(m.body) for m in messages]

    return take


class Broken:
    """A publisher whose broker confirms only the first few messages."""

    def __init__(self, publisher, *, confirms=0):
        self._publisher = publisher
        self._confirms = confirms

    async def publish(self, *args):
        if self._confirms == 0:
            raise Unavailable("no confirm")
        self._confirms -= 1
        await self._publisher.publish(*args)


def entries(grabs):
    return [[g.order_id, g.buyer_id, g.quantity] for g in grabs]


async def test_F12_a_batch_whose_gateway_died_is_sent_and_dropped(
    open_sale, shop, make_relay, sent, store
):
    sale = await open_sale(per_order_max=2)
    grabs = await shop.grab(sale, "ann", "bob", quantity=2, settle=False)
    ((outbox_id, _),) = await store.xrange(redis_keys.outbox(sale.sale_id))

    assert await make_relay().run_once() == Polled(1, more=False)

    (message,) = await sent(1)
    traceparent = message.pop("traceparent")
    assert traceparent
    assert message == {
        "v": 1,
        "sale": sale.sale_id,
        "epoch": 1,
        "batch": [outbox_id.decode()],
        "grabs": entries(grabs),
    }
    assert await shop.outbox_size(sale) == 0


async def test_F12_a_relayed_batch_becomes_orders(
    open_sale, shop, make_relay, queues, place_orders, assert_balanced
):
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann", "bob", settle=False)

    await make_relay().run_once()
    messages = await queues.take(topology.ORDERS_PLACE, 1)
    await place_orders().handle(messages)

    assert await shop.states(sale, grabs) == ["pending"] * 2
    await assert_balanced(sale)


async def test_a_young_entry_is_left_to_its_gateway(open_sale, shop, make_relay, sent):
    sale = await open_sale()
    await shop.grab(sale, "ann", settle=False)

    assert await make_relay(age_ms=3_600_000).run_once() == Polled(0, more=False)

    assert await shop.outbox_size(sale) == 1
    await sent(0)


async def test_several_entries_go_in_one_message(open_sale, shop, make_relay, sent, store):
    sale = await open_sale()
    grabs = [g for name in ("ann", "bob", "cat") for g in await shop.grab(sale, name, settle=False)]
    ids = [
        outbox_id.decode() for outbox_id, _ in await store.xrange(redis_keys.outbox(sale.sale_id))
    ]

    assert (await make_relay().run_once()).done == 3

    (message,) = await sent(1)
    assert (message["batch"], message["grabs"]) == (ids, entries(grabs))
    assert await shop.outbox_size(sale) == 0


async def test_messages_are_bounded_and_entries_stay_whole(
    open_sale, shop, make_relay, sent, monkeypatch
):
    monkeypatch.setattr(relay, "MESSAGE_GRABS_MAX", 3)
    sale = await open_sale(stock=20)
    for batch in ("ab", "c", "d", "efgh", "i"):
        await shop.grab(sale, *batch, settle=False)

    await make_relay().run_once()

    buyers = [[grab[1] for grab in message["grabs"]] for message in await sent(4)]
    assert buyers == [list("abc"), list("d"), list("efgh"), list("i")]


async def test_F8_epochs_do_not_mix_in_a_message(open_sale, shop, make_relay, sent, store):
    sale = await open_sale()
    await shop.grab(sale, "ann", settle=False)
    await store.hset(redis_keys.sale(sale.sale_id), "epoch", 2)
    await shop.grab(sale, "bob", "cat", settle=False)

    await make_relay().run_once()

    assert [(m["epoch"], len(m["grabs"])) for m in await sent(2)] == [(1, 1), (2, 2)]


async def test_sales_do_not_mix_in_a_message(open_sale, shop, make_relay, sent):
    one, other = await open_sale(), await open_sale()
    await shop.grab(one, "ann", settle=False)
    await shop.grab(other, "ann", settle=False)

    assert (await make_relay().run_once()).done == 2

    assert {m["sale"] for m in await sent(2)} == {one.sale_id, other.sale_id}


async def test_a_closed_sale_is_relayed_too(open_sale, shop, stock, make_relay, sent):
    sale = await open_sale()
    await shop.grab(sale, "ann", settle=False)
    await stock.set_sale_state(sale.sale_id, "closed")

    await make_relay().run_once()

    await sent(1)


async def test_role_goes_on_at_once_while_there_is_more(
    open_sale, shop, make_relay, sent, monkeypatch
):
    monkeypatch.setattr(relay, "ENTRIES_MAX", 2)
    sale = await open_sale()
    for name in ("ann", "bob", "cat"):
        await shop.grab(sale, name, settle=False)
    role = make_relay()

    assert [(await role.run_once()).more for _ in range(2)] == [True, False]

    assert await shop.outbox_size(sale) == 0
    await sent(2)


async def test_one_relay_works_at_a_time(open_sale, shop, make_relay, sent, store):
    sale = await open_sale()
    await shop.grab(sale, "ann", settle=False)

    async with store.lock(redis_keys.relay_lock(), timeout=60):
        assert await make_relay().run_once() == Polled(0, more=False)
        assert await shop.outbox_size(sale) == 1

    assert (await make_relay().run_once()).done == 1
    await sent(1)


async def test_F12_an_unconfirmed_publish_leaves_the_entry(
    open_sale, shop, make_relay, sent, publisher, store
):
    sale = await open_sale()
    await shop.grab(sale, "ann", settle=False)

    with pytest.raises(Unavailable):
        await make_relay(publisher=Broken(publisher)).run_once()

    assert await shop.outbox_size(sale) == 1
    assert not await store.exists(redis_keys.relay_lock())  # the next may try at once
    assert (await make_relay().run_once()).done == 1
    await sent(1)


async def test_F12_only_what_was_confirmed_is_dropped(
    open_sale, shop, make_relay, sent, publisher, monkeypatch
):
    monkeypatch.setattr(relay, "MESSAGE_GRABS_MAX", 1)
    sale = await open_sale()
    ann, bob = [(await shop.grab(sale, name, settle=False))[0] for name in ("ann", "bob")]

    with pytest.raises(Unavailable):
        await make_relay(publisher=Broken(publisher, confirms=1)).run_once()

    (message,) = await sent(1)
    assert message["grabs"] == entries([ann])
    await make_relay().run_once()
    (message,) = await sent(1)
    assert message["grabs"] == entries([bob])


async def test_F7_an_entry_sent_twice_becomes_one_order(
    open_sale, shop, stock, make_relay, queues, place_orders, monkeypatch, assert_balanced
):
    """The broker confirmed, and the relay died before it dropped the entry."""
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann", "bob", settle=False)

    async def fail(*_):
        raise Unavailable

    monkeypatch.setattr(stock, "ack_outbox", fail)
    with pytest.raises(Unavailable):
        await make_relay().run_once()
    monkeypatch.undo()
    await make_relay().run_once()

    messages = await queues.take(topology.ORDERS_PLACE, 2)
    await place_orders().handle(messages)
    assert await shop.states(sale, grabs) == ["pending"] * 2
    assert await queues.dead(topology.ORDERS_PLACE) == []
    await assert_balanced(sale)


async def test_F23_entries_that_cannot_be_read_are_dead_letters_and_hold_no_sale(
    open_sale, shop, store, make_relay, queues, sent
):
    broken, sale = await open_sale(), await open_sale()
    await shop.grab(sale, "ann", settle=False)
    await shop.grab(broken, "bob", settle=False)
    key = redis_keys.outbox(broken.sale_id)
    for fields in (
        {"epoch": "x", "grabs": b"\x90"},
        {"epoch": 1},
        {"epoch": 1, "grabs": b"\xc1"},
        {"epoch": 1, "grabs": msgspec.msgpack.encode([None] * 3_000)},
    ):
        await store.xadd(key, fields)

    await make_relay().run_once()

    assert {message["sale"] for message in await sent(2)} == {broken.sale_id, sale.sale_id}
    letters = await queues.dead(topology.ORDERS_PLACE)
    assert len(letters) == 4
    assert all("cannot be read" in letter.headers["x-reason"] for letter in letters)
    assert {msgspec.msgpack.decode(letter.body)["sale"] for letter in letters} == {broken.sale_id}
    assert await store.xlen(key) == 0
