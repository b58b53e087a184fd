"""What an operator sees of one order, wherever it is in its life."""

from __future__ import annotations

import pytest

from seckill import messages
from seckill.adapters import topology
from seckill.consistency import order_life
from seckill.dead_letters import parser
from seckill.dead_letters import store as letters
from seckill.errors import Missing
from seckill.inventory.reservations import Grab
from seckill.order_ids import new_order_id
from tests.external_payments import external_payments, report_of


async def test_a_queued_order_is_found_by_its_holder_alone(shop, open_sale, store, db) -> None:
    sale = await open_sale()
    (placement,) = await shop.grab(sale, "ann", quantity=1)
    life = await order_life.of_order(store, db, placement.order_id)
    assert (life.state, life.buyer_id, life.sale_id) == ("queued", "ann", sale.sale_id)
    assert life.holder == f"{placement.order_id}:1"
    assert [moment.what for moment in life.moments] == ["grabbed"]


async def test_an_ended_order_and_its_units_on_their_way(shop, open_sale, store, db) -> None:
    sale = await open_sale()
    (placement,) = await shop.order(sale, "ann")
    await shop.release(placement)
    life = await order_life.of_order(store, db, placement.order_id)
    told = [moment.what for moment in life.moments]
    assert life.state == "cancelled"
    assert told[0] == "grabbed"
    assert any(each.startswith("placed: 1 for 1999 cents") for each in told)
    assert "cancelled (buyer)" in told
    assert "units on their way back to Redis" in told
    assert "event order.cancelled waits to be published" in told
    times = [moment.at for moment in life.moments]
    assert times == sorted(times)


async def test_an_order_that_only_a_dead_letter_names(shop, open_sale, store, db) -> None:
    sale = await open_sale()
    order_id = new_order_id(sale.number)
    body = messages.encode_place(sale.sale_id, 1, ["1-0"], [Grab(order_id, "ann", 1)])
    dead = parser.read(topology.ORDERS_PLACE, body, {"x-reason": "it is bad"})
    await letters.arrive(db, [dead])
    life = await order_life.of_order(store, db, order_id)
    assert (life.state, life.holder) == ("unknown", None)
    assert any("dead letter" in m.what and "it is bad" in m.what for m in life.moments)


async def test_an_order_that_neither_store_knows_is_missing(open_sale, store, db) -> None:
    sale = await open_sale()
    for number in (sale.number, 2**24 - 1):
        with pytest.raises(Missing, match="there is no order"):
            await order_life.of_order(store, db, new_order_id(number))


async def test_a_payment_of_the_shops_own_checkout_is_shown(shop, open_sale, store, db) -> None:
    sale = await open_sale()
    (placement,) = await shop.order(sale, "ann")
    external, report = external_payments(db), report_of(placement, cents=5)
    await external.hold(placement.order_id, 900)
    await external.take(report)
    life = await order_life.of_order(store, db, placement.order_id)
    told = [moment.what for moment in life.moments]
    assert "held for the bank" in told
    assert f"external payment {report.reference} reported: 5 EUR" in told
    assert f"external payment {report.reference}: refund_due (wrong_amount)" in told
    assert "booked received on due_back" in told
