"""Whole sales, through HTTP, on two gateways and a consumer."""

from __future__ import annotations

import time
from collections import Counter

from ops.buyers import flash_crowd, grab
from seckill.sales import sales
from tests.processes import eventually


async def order_of(http, sale, ticket):
    path = f"/v1/sales/{sale.sale_id}/orders/mine"
    async with http.get(path, headers={"Seckill-Ticket": ticket}) as response:
        return await response.json() if response.status == 200 else {"status": response.status}


async def test_F01_F20_2000_buyers_pressing_twice_get_500_units(
    gateway, consumers, open_sale, ticket_for, assert_balanced, db
):
    sale = await open_sale(stock=500)
    tickets = {f"buyer-{n}": ticket_for(sale, f"buyer-{n}") for n in range(2000)}
    answers = await flash_crowd(gateway.url, sale.sale_id, tickets, connections=200, presses=2)

    statuses = Counter(answer.status for answer in answers)
    assert statuses[202] == 500
    assert statuses[200] + statuses[409] == 3500
    winners = {a.buyer_id: a.order_id for a in answers if a.status == 202}
    assert all(winners[a.buyer_id] == a.order_id for a in answers if a.status == 200)
    ledger = await assert_balanced(sale)
    assert ledger.lines["orders pending"] == 500
    rows = await db.fetch(
        "SELECT buyer_id, order_id::text FROM orders WHERE sale_id = $1", sale.sale_id
    )
    assert dict(rows) == winners


async def test_unpaid_orders_expire_and_a_later_buyer_gets_the_unit(
    gateway, http, consumers, open_sale, ticket_for, assert_balanced
):
    sale = await open_sale(stock=2, payment_window_s=3)
    tickets = {buyer: ticket_for(sale, buyer) for buyer in ("alice", "bob", "carol")}
    for buyer, status in (("alice", 202), ("bob", 202), ("carol", 409)):
        assert (await grab(http, sale.sale_id, buyer, tickets[buyer])).status == status
    started = time.monotonic()

    async def cancelled(buyer):
        order = await order_of(http, sale, tickets[buyer])
        return order if order["status"] == "cancelled" else None

    order = await eventually(lambda: cancelled("alice"), "the unpaid order is cancelled")
    assert order["reason"] == "expired"
    assert time.monotonic() - started >= 2.5, "cancelled before its window ended"
    await eventually(lambda: cancelled("bob"), "the other one, which may have been placed later")

    async def carol_wins():
        return (await grab(http, sale.sale_id, "carol", tickets["carol"])).status == 202

    await eventually(carol_wins, "the unit can be bought again")
    ledger = await assert_balanced(sale)
    assert ledger.lines["orders cancelled"] == 2
    assert ledger.lines["redis stock"] == 1


async def test_a_cancelled_order_stays_cancelled_and_frees_its_buyer(
    http, consumers, open_sale, ticket_for, login_for, assert_balanced
):
    sale = await open_sale(stock=1)
    ticket = ticket_for(sale, "alice")
    first = await grab(http, sale.sale_id, "alice", ticket)
    for _ in range(2):
        url = f"/v1/orders/{first.order_id}"
        async with http.delete(url, headers=login_for("alice")) as response:
            assert (response.status, (await response.json())["status"]) == (200, "cancelled")
    async with http.delete(url, headers=login_for("mallory")) as response:
        assert response.status == 404

    async def new_order():
        answer = await grab(http, sale.sale_id, "alice", ticket)
        return answer if answer.status == 202 else None

    second = await eventually(new_order, "alice can buy again")
    assert second.order_id != first.order_id
    ledger = await assert_balanced(sale)
    assert ledger.lines["orders pending"] == 1


async def test_closing_keeps_orders_and_answers_their_holders(
    http, consumers, open_sale, ticket_for, assert_balanced, db, stock
):
    sale = await open_sale(stock=5)
    won = await grab(http, sale.sale_id, "alice", ticket_for(sale, "alice"))
    await sales.close(db, stock, sale.sale_id)
    assert (await grab(http, sale.sale_id, "bob", ticket_for(sale, "bob"))).status == 410
    again = await grab(http, sale.sale_id, "alice", ticket_for(sale, "alice"))
    assert (again.status, again.order_id) == (200, won.order_id)
    await assert_balanced(sale)
