"""place_orders: a bad message or a bad entry is dead-lettered by name, and alone."""

from __future__ import annotations

import pamqp.encode
import pytest

from consumers.roles.place_orders import EACH_MAX, REFUSALS_MAX
from seckill import messages
from seckill.adapters import topology
from seckill.adapters.topology import ORDERS_PLACE
from seckill.errors import Unavailable
from seckill.messages import BODY_BYTES_MAX, PLACE_ENTRIES_MAX
from seckill.orders import orders
from seckill.sales import sales
from seckill.sales.terms import NewSale

UNREADABLE = {
    "empty": b"",
    "not MessagePack": b"hello, world",
    "not a map": b"\x01",
    "JSON": b'{"sale": "x", "epoch": 1, "batch": [], "grabs": []}',
    "another message": messages.encode_expire([]),
    "no sale of ours": messages.encode_place("with space", 1, [], []),
    "text that is not UTF-8": b"\x84\xa4sale\xa1\xff\xa5epoch\x01\xa5batch\x90\xa5grabs\x90",
    "nested too deeply": b"\x84\xa4sale\xa1x\xa5epoch\x01\xa5batch\x90\xa5grabs" + b"\x91" * 9999,
    "too many grabs": messages.encode_place("x", 1, [], [None] * (PLACE_ENTRIES_MAX + 1)),
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
async def test_F13_an_unreadable_message_lies_whole_in_the_dead_queue(
    open_sale, shop, send_grabs, send_body, handler, queue_role, running, eventually, queues, body
):
    """And the readable one beside it is placed."""
    sale = await open_sale()
    good = shop.wish(sale, "ann")
    await send_body(body)
    await send_grabs(good)

    async with running(queue_role(ORDERS_PLACE, handler.handle)):
        await eventually(lambda: shop.rows(sale), "the readable one placed")

    (dead,) = await queues.dead(ORDERS_PLACE)
    assert dead.body == body
    assert "not an orders.place message" in dead.headers["x-reason"]
    assert await shop.states(sale, [good]) == ["pending"]


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
async def test_F13_only_the_bad_entry_of_a_message_is_dead_lettered(
    open_sale, shop, send_grabs, handle, dead_entries, assert_balanced, bad
):
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann", "bob")
    await send_grabs(*grabs, bad=[bad])

    await handle()

    assert await shop.states(sale, grabs) == ["pending"] * 2
    (entries, reason) = (await dead_entries())[0]
    assert entries == [bad]
    assert "Expected" in reason
    await assert_balanced(sale)


async def test_F23_a_message_of_megabytes_is_a_dead_letter_at_once(
    open_sale, shop, send_grabs, send_body, handler, queue_role, running, eventually, queues
):
    """A million grabs kept the placing of all sales waiting. Its beginning is kept."""
    sale = await open_sale()
    good = shop.wish(sale, "ann")
    grab = [good.order_id, "eve", 1]
    body = messages.encode_place(sale.sale_id, 1, [], [grab] * 100_000)
    await send_body(body)
    await send_grabs(good)

    async with running(queue_role(ORDERS_PLACE, handler.handle)):
        await eventually(lambda: shop.rows(sale), "the readable one placed")

    (dead,) = await queues.dead(ORDERS_PLACE)
    assert f"it has {len(body):,} bytes, the most is 1,048,576" in dead.headers["x-reason"]
    assert dead.headers["x-bytes"] == len(body)
    assert dead.body == body[:BODY_BYTES_MAX]
    assert await queues.size(topology.retry(1)) == 0
    assert await shop.states(sale, [good]) == ["pending"]


async def test_F23_properties_that_cannot_be_read_hold_no_message(
    open_sale, shop, send_grabs, handler, queue_role, running, eventually, queues, monkeypatch
):
    """The link broke at a time of the year 146140482, again with each delivery."""
    sale = await open_sale()
    odd, good = shop.wish(sale, "ann"), shop.wish(sale, "bob")
    with monkeypatch.context() as patched:
        patched.setattr(pamqp.encode, "timestamp", lambda _: (2**62).to_bytes(8, "big"))
        patched.setitem(pamqp.encode.METHODS, "timestamp", pamqp.encode.timestamp)
        await send_grabs(odd)
    await send_grabs(good)

    async def both_placed():
        return len(await shop.rows(sale)) == 2

    async with running(queue_role(ORDERS_PLACE, handler.handle)):
        await eventually(both_placed, "both placed")

    assert await queues.dead(ORDERS_PLACE) == []


async def test_F23_thousands_of_bad_entries_of_a_message_are_one_letter(
    open_sale, shop, send_grabs, handle, dead_entries
):
    """One confirm after the other kept the other sales waiting."""
    sale = await open_sale()
    good = shop.wish(sale, "ann")
    await send_grabs(good, bad=[None] * 3_000)

    await handle()

    assert await dead_entries() == [([None] * 3_000, "Expected `array`, got `None`")]
    assert await shop.states(sale, [good]) == ["pending"]


async def test_F23_thousands_of_unknown_grabs_are_one_letter(
    open_sale, shop, send_grabs, handle, dead_entries
):
    sale = await open_sale()
    unknown = [shop.wish(sale, f"b{i}")._replace(sale_id="no-such-sale") for i in range(3_000)]
    await send_grabs(*unknown)

    await handle()

    ((entries, reason),) = await dead_entries()
    assert (len(entries), reason) == (3_000, "unknown sale")


async def test_F13_each_reason_has_a_letter_of_its_own(
    open_sale, shop, send_grabs, handle, dead_entries
):
    sale = await open_sale()
    await send_grabs(shop.wish(sale, "ann"), bad=["x", 7, "y"])

    await handle()

    assert sorted(await dead_entries(), key=str) == [
        (["x", "y"], "Expected `array`, got `str`"),
        ([7], "Expected `array`, got `int`"),
    ]


async def test_F13_grabs_of_an_unknown_sale_are_named_in_the_dead_queue(
    open_sale, shop, send_grabs, handle, dead_entries
):
    sale = await open_sale()
    good = shop.wish(sale, "ann")
    unknown = [shop.wish(sale, name)._replace(sale_id="no-such-sale") for name in ("bob", "cat")]
    await send_grabs(*unknown)
    await send_grabs(good)

    await handle(2)

    ((entries, reason),) = await dead_entries()
    assert sorted(entries) == sorted([p.order_id, p.buyer_id, 1] for p in unknown)
    assert reason == "unknown sale"
    assert await shop.states(sale, [good]) == ["pending"]


async def test_a_dead_letter_names_sale_and_epoch(open_sale, shop, send_grabs, handle, queues):
    """With them an operator can return its unit, or place it after all."""
    sale = await open_sale()
    await shop.bump_epoch(sale)
    good = shop.wish(sale, "ann", epoch=2)
    await send_grabs(good, bad=["x"])

    await handle()

    (dead,) = await queues.dead(ORDERS_PLACE)
    placing = messages.decode_place(dead.body)
    assert (placing.sale_id, placing.epoch, placing.grabs) == (sale.sale_id, 2, [])


async def test_F23_a_value_that_postgresql_refuses_is_found_and_left_out(
    shop, send_grabs, handle, dead_entries, db, stock
):
    """The amount does not fit; decoding does not know the price."""
    dear = await sales.create(db, stock, NewSale("dear-sale", 10, 10**17))
    good = [shop.wish(dear, f"buyer-{i}") for i in range(6)]
    bad = shop.wish(dear, "eve", 1000)
    await send_grabs(*good[:4], bad, *good[4:])

    await handle()

    assert await shop.states(dear, good) == ["pending"] * 6
    assert await shop.inventory(dear) == (4, 6, 0)
    ((entries, reason),) = await dead_entries()
    assert entries == [[bad.order_id, "eve", 1000]]
    assert "PostgreSQL refuses it: bigint out of range" in reason


async def test_thousands_of_values_that_postgresql_refuses_take_a_bounded_number_of_statements(
    shop, send_grabs, handle, dead_entries, db, stock, monkeypatch
):
    dear = await sales.create(db, stock, NewSale("dear-to-thousands", 10, 10**17))
    good = [shop.wish(dear, f"buyer-{i}") for i in range(3)]
    bad = [shop.wish(dear, f"eve-{i}", 1000) for i in range(3_000)]
    statements = 0
    for name, real_call in (("place", orders.place), ("place_each", orders.place_each)):

        async def counted(db, placements, real=real_call):
            nonlocal statements
            statements += 1
            return await real(db, placements)

        monkeypatch.setattr(orders, name, counted)
    await send_grabs(good[0], *bad[:1_500], good[1], *bad[1_500:], good[2])

    await handle()

    assert await shop.states(dear, good) == ["pending"] * 3
    ((entries, reason),) = await dead_entries()
    assert {entry[0] for entry in entries} == {grab.order_id for grab in bad}
    assert "PostgreSQL refuses it: bigint out of range" in reason
    assert statements <= 2 * REFUSALS_MAX + 1 + (len(good) + len(bad)) // EACH_MAX + 1


async def test_F23_an_epoch_that_postgresql_refuses_leaves_other_messages_alone(
    open_sale, shop, send_grabs, handler, queue_role, running, eventually, dead_entries
):
    sale = await open_sale()
    good, bad = shop.wish(sale, "ann"), shop.wish(sale, "bob", epoch=2**64 - 1)
    await send_grabs(bad)
    await send_grabs(good)

    async with running(queue_role(ORDERS_PLACE, handler.handle)):
        await eventually(lambda: shop.rows(sale), "the good one placed")

    assert await shop.states(sale, [good, bad]) == ["pending", None]
    ((entries, reason),) = await dead_entries()
    assert entries == [[bad.order_id, "bob", 1]]
    assert "9007199254740992 - at `$.epoch`" in reason


async def test_F13_a_bad_entry_is_not_acknowledged_before_it_is_dead_lettered(
    open_sale,
    shop,
    send_grabs,
    handler,
    queue_role,
    running,
    eventually,
    dead_entries,
    publisher,
    monkeypatch,
):
    """The broker does not confirm the dead letter: the message is held until it does."""
    sale = await open_sale()
    good = shop.wish(sale, "ann")
    real, failures = publisher.publish, [Unavailable(), Unavailable()]

    async def publish(queue, *args):
        if queue == topology.dead(ORDERS_PLACE) and failures:
            raise failures.pop()
        await real(queue, *args)

    await send_grabs(good, bad=["x"])
    monkeypatch.setattr(publisher, "publish", publish)
    async with running(queue_role(ORDERS_PLACE, handler.handle)):
        ((entries, _),) = await eventually(dead_entries, "the dead letter")

    assert failures == []
    assert entries == ["x"]
    assert await shop.states(sale, [good]) == ["pending"]
