"""place_orders: messages become orders, merged or multi-sale, and each grab becomes one once."""

from __future__ import annotations

import pytest

from seckill import messages
from seckill.adapters import topology
from seckill.adapters.topology import ORDERS_PLACE
from seckill.errors import Unavailable


async def test_message_becomes_orders(
    open_sale, shop, send_grabs, handler, queue_role, running, eventually, assert_balanced
):
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann", "bob")
    await send_grabs(*grabs)

    async with running(queue_role(ORDERS_PLACE, handler.handle)):
        await eventually(lambda: shop.rows(sale), "rows")

    assert await shop.states(sale, grabs) == ["pending"] * 2
    await assert_balanced(sale)


async def test_messages_of_several_sales_and_epochs_are_one_transaction(
    open_sale, shop, send_grabs, handle, calls
):
    one, other = await open_sale(), await open_sale()
    await shop.bump_epoch(other)
    batches = [
        [shop.wish(one, "ann"), shop.wish(one, "bob")],
        [shop.wish(other, "ann")],
        [shop.wish(other, "bob", epoch=2)],
    ]
    for batch in batches:
        await send_grabs(*batch)

    await handle(3)

    assert calls.seen == [[p.order_id for batch in batches for p in batch]]
    assert await shop.states(one, batches[0]) == ["pending"] * 2
    assert await shop.states(other, batches[1] + batches[2]) == ["rejected epoch", "pending"]


async def test_F20_copies_of_a_message_are_placed_once(
    open_sale, shop, send_grabs, handle, dead_entries, assert_balanced
):
    """Within one batch, and again later."""
    sale = await open_sale()
    grabs = await shop.grab(sale, "ann", "bob")
    for _ in range(3):
        await send_grabs(*grabs)

    await handle(2)
    await handle(1)

    assert await shop.states(sale, grabs) == ["pending"] * 2
    assert await dead_entries() == []
    await assert_balanced(sale)


async def test_F1_what_postgresql_rejects_is_a_row_not_a_dead_letter(
    open_sale, shop, send_grabs, handle, dead_entries
):
    sale = await open_sale(stock=1)
    grabs = [shop.wish(sale, "ann"), shop.wish(sale, "bob")]
    await send_grabs(*grabs)

    await handle()

    assert await shop.states(sale, grabs) == ["pending", "rejected stock"]
    assert await dead_entries() == []


async def test_an_empty_message_changes_nothing(open_sale, shop, send_body, handle, dead_entries):
    sale = await open_sale()
    await send_body(messages.encode_place(sale.sale_id, 1, [], []))

    await handle()

    assert await dead_entries() == []
    assert await shop.rows(sale) == {}


# Multi-sale messages.


async def test_a_multi_sale_message_is_one_transaction(
    open_sale, shop, send_multi_sale, handle, calls
):
    one, other = await open_sale(), await open_sale()
    grabs = [shop.wish(one, "ann"), shop.wish(other, "ann"), shop.wish(other, "bob")]
    await send_multi_sale(*grabs)

    await handle()

    assert calls.seen == [[p.order_id for p in grabs]]
    assert await shop.states(one, grabs[:1]) == ["pending"]
    assert await shop.states(other, grabs[1:]) == ["pending"] * 2


async def test_F13_an_unreadable_part_is_dead_lettered_alone(
    open_sale, shop, send_multi_sale, handler, queue_role, running, eventually, queues
):
    sale = await open_sale()
    good = shop.wish(sale, "ann")
    await send_multi_sale(good, others=[b"hello, world"])

    async with running(queue_role(ORDERS_PLACE, handler.handle)):
        await eventually(lambda: shop.rows(sale), "the readable part is placed")
        await eventually(lambda: queues.size(topology.dead(ORDERS_PLACE)), "the other is dead")

    assert [m.body for m in await queues.dead(ORDERS_PLACE)] == [b"hello, world"]
    assert await shop.states(sale, [good]) == ["pending"]


async def test_a_multi_sale_message_is_held_while_postgresql_is_unavailable(
    open_sale, shop, send_multi_sale, handle, calls, queues
):
    sale = await open_sale()
    await send_multi_sale(shop.wish(sale, "ann"), shop.wish(sale, "bob"))
    calls.fail = [Unavailable()]

    with pytest.raises(Unavailable):
        await handle()

    assert await queues.take_all(ORDERS_PLACE) == [], "no part was published"
