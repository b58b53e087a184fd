"""The outbox of events: each change of an order or a Saga is one event, in its own transaction."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from seckill.orders import event_outbox, orders
from seckill.payments import refunds
from seckill.sales import sales
from seckill.transactions.states import TransactionState
from tests.checkout import payer
from tests.transactions import new_id


@pytest.fixture
async def outbox(db):
    """Take what is in the outbox as (topic, items), without sales; it is empty at first."""

    async def take(family=("order", "saga")):
        bodies, more = [], True
        async with db.acquire() as connection, connection.transaction():
            while more:
                found, more = await event_outbox.oldest(connection, 1000, 100_000)
                bodies += [msgspec.json.decode(e.body) for e in found if e.topic.startswith(family)]
                await event_outbox.remove(connection, [e.event_id for e in found])
        items = [b.get("orders") or b.get("sagas") or b.get("sales") for b in bodies]
        return list(zip([b["topic"] for b in bodies], items, strict=True))

    await take()
    return take


def item(order, version, **more):
    return {
        "order_id": order.order_id,
        "sale_id": order.sale_id,
        "buyer_id": order.buyer_id,
        "quantity": order.quantity,
        "amount_cents": order.quantity * 1999,
        "currency": "EUR",
        "version": version,
        **more,
    }


def by_id(items):
    return sorted(items, key=lambda each: each["order_id"])


async def test_a_batch_of_placed_orders_is_one_event(open_sale, shop, outbox):
    sale, other = await open_sale(per_order_max=2), await open_sale(per_order_max=2)
    placements = [shop.wish(s, buyer, 2) for s in (sale, other) for buyer in ("ann", "bob")]
    await shop.place(*placements)
    ((topic, items),) = await outbox()
    assert topic == "order.placed"
    assert by_id(items) == by_id([item(p, 0) for p in placements])

    await shop.place(*placements)
    assert await outbox() == []  # copies of a message


async def test_each_outcome_of_a_placed_batch_is_an_event(open_sale, shop, outbox):
    sale = await open_sale(stock=1)
    first, too_many = shop.wish(sale, "ann"), shop.wish(sale, "bob")
    await shop.place(first, too_many)
    (topic, placed), rejected = await outbox()
    assert topic == "order.placed"
    assert by_id(placed) == by_id([item(first, 0), item(too_many, 0)])
    assert rejected == ("order.rejected", [item(too_many, 1, reason="stock")])

    again = shop.wish(sale, "ann")
    await shop.place(again)
    assert await outbox() == [("order.rejected", [item(again, 0, reason="another_order")])]


async def test_orders_cancelled_together_are_one_event(open_sale, shop, outbox):
    placed = await shop.order(await open_sale(), "ann", "bob")
    await outbox()
    await shop.release(*placed)
    ((topic, items),) = await outbox()
    assert topic == "order.cancelled"
    assert by_id(items) == by_id([item(p, 1, reason="buyer") for p in placed])

    await shop.release(*placed)
    assert await outbox() == []


async def test_a_grab_cancelled_while_queued_is_an_event_as_cancelled(open_sale, shop, db, outbox):
    grab = shop.wish(await open_sale(), "ann")
    assert await db.fetchval(
        "SELECT cancel_unplaced($1, $2, $3, 1, 'buyer')",
        grab.order_id,
        grab.sale_id,
        grab.buyer_id,
    )
    await shop.place(grab)
    assert await outbox() == [("order.cancelled", [item(grab, 0, reason="buyer")])]


async def test_paid_and_refunded_are_reported_with_growing_versions(
    open_sale, shop, checkout, db, outbox
):
    (order,) = await shop.order(await open_sale(), payer())
    await checkout.give(order.buyer_id, 1999)
    assert (await checkout.pay(order)).confirmed
    await refunds.refund(db, order.order_id, actor="test", reason="damaged")
    assert await outbox() == [
        ("order.placed", [item(order, 0)]),
        ("order.paid", [item(order, 2)]),
        ("order.refunded", [item(order, 4, reason="damaged")]),
    ]


async def test_a_payment_that_fails_is_no_event(open_sale, shop, checkout, outbox):
    (order,) = await shop.order(await open_sale(), payer())
    await outbox()
    assert not (await checkout.pay(order)).confirmed  # nothing in the wallet
    assert await outbox() == []


async def test_a_change_that_is_rolled_back_is_no_event(open_sale, shop, db, outbox):
    sale = await open_sale()
    (order,) = await shop.order(sale, "ann")
    await outbox()
    async with db.acquire() as connection:
        attempt = connection.transaction()
        await attempt.start()
        await orders.release(connection, [order.order_id], to_state="cancelled", reason="buyer")
        assert await connection.fetchval("SELECT count(*) FROM events") == 1
        await attempt.rollback()
    assert await outbox() == []


@pytest.mark.parametrize("change", ["version = version + 1", "reason = 'x'", "state = state"])
async def test_an_update_that_leaves_the_state_is_no_event(open_sale, shop, db, outbox, change):
    (order,) = await shop.order(await open_sale(), "ann")
    await shop.release(order)
    await outbox()
    await db.execute(
        f"UPDATE orders SET {change} WHERE order_id = $1",  # noqa: S608 - the list above
        order.order_id,
    )
    assert await outbox() == []


@pytest.mark.parametrize(
    ("engine", "state", "topic"),
    [
        ("saga", TransactionState.COMPLETED, "saga.completed"),
        ("saga", TransactionState.COMPENSATED, "saga.compensated"),
        ("saga", TransactionState.FAILED, "saga.parked"),
        ("saga", TransactionState.COMPENSATING, None),
        ("tcc", TransactionState.CONFIRMED, None),
        ("tcc", TransactionState.FAILED, None),
    ],
)
async def test_the_end_of_a_saga_is_an_event(db, outbox, engine, state, topic):
    tx_ids = [new_id(), new_id()]
    await db.execute(
        "INSERT INTO transactions (tx_id, engine, name, state, args, owner, reason, ended_at)"
        " SELECT t, $2, 'fulfilment', 'RUNNING', '{}', 'test', 'no shipment', now()"
        "  FROM unnest($1::text[]) AS t",
        tx_ids,
        engine,
    )
    for _ in range(2):
        await db.execute("UPDATE transactions SET state = $2 WHERE tx_id = ANY($1)", tx_ids, state)
    events = await outbox()
    await db.execute("DELETE FROM transactions WHERE tx_id = ANY($1)", tx_ids)
    assert [each[0] for each in events] == ([topic] if topic else [])
    for _, items in events:
        assert sorted(items, key=lambda each: each["tx_id"]) == [
            {"tx_id": tx_id, "name": "fulfilment", "reason": "no shipment"}
            for tx_id in sorted(tx_ids)
        ]


async def test_each_change_of_a_sales_state_is_an_event(open_sale, stock, db, outbox):
    closes_at = datetime(2100, 1, 1, tzinfo=UTC)
    sale = await open_sale(closes_at=closes_at)
    for change in (sales.open_, sales.pause, sales.pause, sales.resume, sales.close, sales.close):
        await change(db, stock, sale.sale_id)
    told = {"sale_id": sale.sale_id, "closes_at": "2100-01-01T00:00:00Z"}
    assert await outbox("sale") == [
        ("sale.opened", [told]),
        ("sale.paused", [told]),
        ("sale.opened", [told]),
        ("sale.closed", [told]),
    ]


async def test_the_last_unit_sells_a_sale_out_and_again_after_it_came_back(open_sale, shop, outbox):
    sale = await open_sale(stock=2)
    first, second = await shop.order(sale, "ann", "bob")
    await shop.place(second)  # a copy of a message
    await shop.release(first)
    sold_out = ("sale.sold_out", [{"sale_id": sale.sale_id}])
    assert (await outbox("sale"))[1:] == [sold_out]
    await shop.place(shop.wish(sale, "eve"))
    assert await outbox("sale") == [sold_out]
