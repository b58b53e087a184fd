"""Paying over HTTP: every answer, whatever order it comes in, and one charge for all of them."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from aiohttp import ClientSession, ClientTimeout

from seckill.orders.orders import Placement
from seckill.payments import refunds, wallets
from seckill.transactions.states import BranchOp
from tests.checkout import payer
from tests.event_streams import event_stream
from tests.processes import eventually

pytestmark = pytest.mark.usefixtures("consumers")


@pytest.fixture
def placed_for(order_for, db):
    """Grab and wait for the row: `order = await placed_for(http, sale, buyer)`."""

    async def make(http, sale, buyer):
        order_id = await order_for(http, sale, buyer)

        async def row():
            return await db.fetchval("SELECT 1 FROM orders WHERE order_id = $1", order_id)

        await eventually(row, "the order is placed")
        return Placement(order_id, sale.sale_id, buyer, 1, 1)

    return make


@pytest.fixture
def pay(login_for):
    """Pay an order; return (status, body, headers)."""

    async def call(http, order, *, buyer=None, **body):
        async with http.post(
            f"/v1/orders/{order.order_id}/payments",
            json={"method": "wallet", **body},
            headers=login_for(buyer or order.buyer_id),
        ) as response:
            return response.status, await response.json(content_type=None), response.headers

    return call


@pytest.fixture
def order_now(login_for):
    """Read an order."""

    async def call(http, order):
        path = f"/v1/orders/{order.order_id}"
        async with http.get(path, headers=login_for(order.buyer_id)) as response:
            return await response.json()

    return call


@pytest.fixture
def cancel(login_for):
    """Cancel an order; return (status, body)."""

    async def call(http, order):
        path = f"/v1/orders/{order.order_id}"
        async with http.delete(path, headers=login_for(order.buyer_id)) as response:
            return response.status, await response.json(content_type=None)

    return call


@pytest.fixture
def row_held(db):
    """Let no other connection change an order inside the block."""

    def hold(order):
        return Held(db, order)

    return hold


class Held:
    def __init__(self, db, order) -> None:
        self._db, self._order = db, order

    async def __aenter__(self) -> None:
        self._connection = await self._db.acquire()
        self._transaction = self._connection.transaction()
        await self._transaction.start()
        query = "SELECT FROM orders WHERE order_id = $1 FOR UPDATE"
        await self._connection.execute(query, self._order.order_id)

    async def __aexit__(self, *_: object) -> None:
        await self._transaction.rollback()
        await self._db.release(self._connection)


async def test_a_paid_order_is_paid_for_everyone_and_for_good(
    gateway,
    http,
    open_sale,
    placed_for,
    pay,
    checkout,
    order_now,
    cancel,
    login_for,
    assert_balanced,
):
    sale = await open_sale(stock=2)
    order = await placed_for(http, sale, payer())
    await checkout.give(order.buyer_id, 1999)
    async with (
        ClientSession(gateway.url) as other,
        event_stream(other, order.order_id, login_for(order.buyer_id)) as stream,
    ):
        assert (await stream.next_order())["status"] == "pending"
        for _ in range(2):
            status, body, _ = await pay(http, order)
            assert (status, body["status"], body["amount_cents"]) == (200, "paid", 1999)
            assert "pay_by" not in body
        states = [(await stream.next_order())["status"]]
        if states == ["paying"]:  # the stream may look in between
            states.append((await stream.next_order())["status"])
        assert states[-1] == "paid"
    assert (await order_now(http, order))["status"] == "paid"
    status, body = await cancel(http, order)
    assert (status, body["code"]) == (409, "not_cancellable")
    ledger = await assert_balanced(sale)
    assert (ledger.lines["sold"], ledger.lines["charged, cents"]) == (1, 1999)


async def test_too_little_money_and_bad_coupons_are_402_until_there_is_more(
    http, open_sale, placed_for, pay, checkout, order_now, assert_balanced
):
    sale = await open_sale(stock=2)
    order = await placed_for(http, sale, payer())
    status, body, _ = await pay(http, order)
    assert (status, body["code"]) == (402, "insufficient_funds")
    assert (await order_now(http, order))["status"] == "pending"
    await checkout.give(order.buyer_id, 1499)
    others = await checkout.coupon("another-buyer", 500)
    for coupon in ("nowhere", others):
        status, body, _ = await pay(http, order, coupon=coupon)
        assert (status, body["code"], body["detail"]) == (
            402,
            "coupon_refused",
            "you have no such coupon",
        )
    assert (await pay(http, order, coupon=await checkout.coupon(order.buyer_id, 500)))[0] == 200
    assert (await wallets.find_wallet(checkout.db, order.buyer_id)).available_cents == 0
    await assert_balanced(sale)


async def test_wallet_and_coupon_pay_no_order_in_another_currency(
    gateway, http, open_sale, placed_for, pay, order_now
) -> None:
    order = await placed_for(http, await open_sale(currency="JPY"), "ann")
    assert (await order_now(http, order))["currency"] == "JPY"
    for body in ({}, {"method": "card", "coupon": "any"}):
        status, problem, _ = await pay(http, order, **body)
        assert (status, problem["code"]) == (409, "wrong_currency")


async def test_a_queued_order_can_be_paid_soon(
    http, open_sale, order_for, placing_held, pay, checkout
):
    sale = await open_sale(stock=2)
    await checkout.give(name := payer(), 1999)
    async with placing_held(sale):
        order = Placement(await order_for(http, sale, name), sale.sale_id, name, 1, 1)
        status, body, headers = await pay(http, order)
        assert (status, body["code"], headers["Retry-After"]) == (409, "queued", "1")

    async def paid():
        return (await pay(http, order))[0] == 200

    await eventually(paid, "the order is placed and paid")


async def test_an_order_being_paid_is_neither_paid_nor_cancelled_by_others(
    http, open_sale, placed_for, pay, checkout, order_now, cancel
):
    sale = await open_sale(stock=2)
    order = await placed_for(http, sale, payer())
    await checkout.run("order", BranchOp.TRY, call := checkout.call(order))
    status, body, _ = await pay(http, order)
    assert (status, body["code"]) == (409, "payment_in_progress")
    status, body = await cancel(http, order)
    assert (status, body["code"]) == (409, "payment_in_progress")
    seen = await order_now(http, order)
    assert seen["status"] == "paying"
    assert seen["next_poll_ms"] > 0
    await checkout.run("order", BranchOp.CANCEL, call)
    assert (await cancel(http, order))[0] == 200


async def test_what_has_ended_cannot_be_paid(
    http, open_sale, placed_for, pay, checkout, order_now, cancel, assert_balanced
):
    sale = await open_sale(stock=9)
    gone, refunded = [await placed_for(http, sale, payer()) for _ in range(2)]
    await cancel(http, gone)
    await checkout.give(refunded.buyer_id, 1999)
    await pay(http, refunded)
    await refunds.refund(checkout.db, refunded.order_id, actor="ann", reason="returned")
    for order in (gone, refunded):
        status, body, _ = await pay(http, order)
        assert (status, body["code"]) == (409, "not_payable")
    seen = await order_now(http, refunded)
    assert (seen["status"], seen["reason"]) == ("refunded", "returned")
    assert (await cancel(http, refunded))[0] == 200
    await assert_balanced(sale)


async def test_F09_an_order_whose_time_has_passed_is_410_before_and_after_it_is_cancelled(
    http, open_sale, placed_for, pay, checkout, order_now, assert_balanced
):
    sale = await open_sale(stock=2)
    order = await placed_for(http, sale, payer())
    await checkout.give(order.buyer_id, 1999)
    await checkout.db.execute(
        "UPDATE orders SET pay_by = now() - interval '1 second' WHERE order_id = $1",
        order.order_id,
    )
    status, body, _ = await pay(http, order)
    assert (status, body["code"]) == (410, "expired")

    async def cancelled():
        return (await order_now(http, order))["status"] == "cancelled"

    await eventually(cancelled, "the sweep cancels it")
    status, body, _ = await pay(http, order)
    assert (status, body["code"]) == (410, "expired")
    assert (await wallets.find_wallet(checkout.db, order.buyer_id)).available_cents == 1999
    await assert_balanced(sale)


async def test_others_orders_do_not_exist_and_bad_bodies_are_named(
    http, open_sale, placed_for, pay, login_for
):
    sale = await open_sale(stock=2)
    order = await placed_for(http, sale, payer())
    status, body, _ = await pay(http, order, buyer="mallory")
    assert (status, body["code"]) == (404, "not_found")
    for bad, field in (
        ({"method": "gold"}, "method"),
        ({"coupon": "a b"}, "coupon"),
        ({"coupon": "a\n"}, "coupon"),
        ({"tip": 1}, None),
    ):
        status, body, _ = await pay(http, order, **bad)
        assert (status, body["code"]) == (422, "bad_request"), bad
        assert body.get("field") == field
    async with http.post(f"/v1/orders/{order.order_id}/payments") as response:
        assert response.status == 401


async def test_beyond_the_limit_payments_are_deferred_or_refused_with_a_turn(
    each, open_sale, placed_for, pay, checkout, order_now, set_limit, assert_balanced
):
    sale = await open_sale(stock=9)
    orders = [await placed_for(each[0], sale, payer()) for _ in range(6)]
    for order in orders:
        await checkout.give(order.buyer_id, 1999)
    await set_limit(sale, "confirm", rate=1, burst=1)
    answers = await asyncio.gather(*(pay(each[0], order) for order in orders))
    for status, body, headers in answers:
        if status == 202:
            assert (body["status"], body["next_poll_ms"] > 0) == ("paying", True)
        elif status == 429:
            assert int(headers["Retry-After"]) >= 1
        else:
            assert (status, body["status"]) == (200, "paid")
    assert 202 in {status for status, _, _ in answers}

    async def all_paid():
        answers = await asyncio.gather(*(pay(each[0], order) for order in orders))
        return {status for status, _, _ in answers} == {200}

    await eventually(all_paid, "who comes back is paid")
    ledger = await assert_balanced(sale)
    assert ledger.lines["charged, cents"] == 6 * 1999


async def test_more_payments_than_fit_are_503_and_those_under_way_go_on(
    processes, open_sale, placed_for, pay, checkout, row_held, order_now, assert_balanced
):
    small = await processes.run("gateway", SECKILL_PAYMENTS_IN_HAND_MAX="1")
    sale = await open_sale(stock=9)
    async with ClientSession(small.url) as http:
        first, second = [await placed_for(http, sale, payer()) for _ in range(2)]
        for order in (first, second):
            await checkout.give(order.buyer_id, 1999)
        async with row_held(first):
            status, body, _ = await pay(http, first)
            assert (status, body["status"]) == (202, "paying")
            status, body, _ = await pay(http, second)
            assert (status, body["code"]) == (503, "overloaded")

        async def both_paid():
            await pay(http, second)
            return {(await order_now(http, o))["status"] for o in (first, second)} == {"paid"}

        await eventually(both_paid, "the first goes on, and then there is room")
    await assert_balanced(sale)


async def test_a_payment_goes_on_when_its_client_has_left(
    gateway, http, open_sale, placed_for, login_for, checkout, row_held, order_now, assert_balanced
):
    sale = await open_sale(stock=9)
    order = await placed_for(http, sale, payer())
    await checkout.give(order.buyer_id, 1999)
    async with row_held(order), ClientSession(gateway.url) as leaving:
        with pytest.raises(TimeoutError):
            await leaving.post(
                f"/v1/orders/{order.order_id}/payments",
                json={"method": "wallet"},
                headers=login_for(order.buyer_id),
                timeout=ClientTimeout(total=0.2),
            )

    async def paid():
        return (await order_now(http, order))["status"] == "paid"

    await eventually(paid, "it is paid all the same")
    await assert_balanced(sale)


@pytest.mark.parametrize("lock", ["true", "false"])
async def test_F20_impatient_clicks_at_two_gateways_charge_once(
    processes, http, open_sale, placed_for, pay, checkout, lock, assert_balanced
):
    gateways = [await processes.run("gateway", SECKILL_PAYMENT_LOCK=lock) for _ in range(2)]
    sale = await open_sale(stock=9)
    orders = [await placed_for(http, sale, payer()) for _ in range(4)]
    for order in orders:
        await checkout.give(order.buyer_id, 5 * 1999)
    async with ClientSession(gateways[0].url) as one, ClientSession(gateways[1].url) as two:
        answers = await asyncio.gather(
            *(pay(session, order) for _ in range(5) for order in orders for session in (one, two))
        )
        answered = Counter((status, body.get("code")) for status, body, _ in answers)
        assert answered.keys() <= {(200, None), (202, None), (409, "payment_in_progress")}
        for order in orders:

            async def paid(order=order):
                return (await pay(one, order))[0] == 200

            await eventually(paid, "each is paid")
    for order in orders:
        wallet = await wallets.find_wallet(checkout.db, order.buyer_id)
        assert (wallet.available_cents, wallet.frozen_cents) == (4 * 1999, 0)
    await assert_balanced(sale)


async def test_an_order_that_cannot_be_shipped_is_seen_to_be_refunded(
    http, gateway, open_sale, placed_for, pay, checkout, login_for, order_now, db, assert_balanced
):
    sale = await open_sale(stock=2)
    order = await placed_for(http, sale, payer())
    await checkout.give(order.buyer_id, 1999)
    await db.execute("INSERT INTO shipping_capacity VALUES ($1, 0)", sale.sale_id)
    assert (await pay(http, order))[0] == 200
    async with (
        ClientSession(gateway.url) as other,
        event_stream(other, order.order_id, login_for(order.buyer_id)) as stream,
    ):
        # The money is on its way for as long as its wallet is held.
        async with db.acquire() as connection, connection.transaction():
            query = "SELECT FROM wallets WHERE buyer_id = $1 FOR UPDATE"
            await connection.execute(query, order.buyer_id)
            while (seen := await stream.next_order())["status"] != "refunding":
                assert seen["status"] == "paid"
            assert (await order_now(http, order))["status"] == "refunding"
        last = await stream.next_order()
        assert (last["status"], last["reason"]) == ("refunded", "unfulfilled")
    assert (await wallets.find_wallet(db, order.buyer_id)).available_cents == 1999
    await assert_balanced(sale)
