"""Payments of the shop's own checkout over HTTP, against real processes."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from seckill.auth import webhook_signatures
from seckill.auth.key_ring import KeyRing
from seckill.order_ids import new_order_id
from seckill.orders import orders
from tests.checkout import payer
from tests.external_payments import new_reference
from tests.processes import eventually

pytestmark = pytest.mark.usefixtures("consumers", "no_tracebacks")

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def ring(settings):
    return KeyRing.parse(settings.shop_keys.get_secret_value(), setting="test")


@pytest.fixture
def shop_calls(http, ring):
    """Call as the shop's server: `status, body = await shop_calls("POST", path, {…})`."""

    async def call(method, path, body=None, *, keys=ring, at_s=None, signed=None):
        data = b"" if body is None else json.dumps(body).encode()
        signed = signed or data or f"{method} {path}".encode()
        signature = webhook_signatures.sign(keys, signed, now_s=at_s or int(time.time()))
        headers = {webhook_signatures.SIGNATURE: signature}
        if body is not None:
            headers["Content-Type"] = "application/json"
        async with http.request(method, path, data=data or None, headers=headers) as response:
            found = await response.json(content_type=None)
            return response.status, found | {"retry_after": response.headers.get("Retry-After")}

    return call


@pytest.fixture
def report(shop_calls):
    """Report a payment of an order; return (status, body)."""

    async def call(order_id, *, how=None, **changes):
        body = {"reference": new_reference() + "-http", "amount_cents": 1999, "currency": "EUR"}
        body |= {"paid_at": NOW.isoformat()} | changes
        path = f"/v1/orders/{order_id}/payments/external"
        return await shop_calls("POST", path, body, **how or {})

    return call


@pytest.fixture
def placed(http, open_sale, order_for, db):
    """Make a sale and an order whose row is there: `sale, order_id, buyer = await placed()`."""

    async def make():
        sale, buyer = await open_sale(stock=1), payer()
        order_id = await order_for(http, sale, buyer)

        async def row():
            return await db.fetchval("SELECT 1 FROM orders WHERE order_id = $1", order_id)

        await eventually(row, "the order is placed")
        return sale, order_id, buyer

    return make


@pytest.fixture
def order_of(http, login_for):
    """Read an order as its buyer."""

    async def read(order_id, buyer):
        async with http.get(f"/v1/orders/{order_id}", headers=login_for(buyer)) as response:
            return await response.json()

    return read


async def test_a_report_pays_its_order_and_a_repeat_has_the_same_answer(
    placed, report, order_of, assert_balanced
):
    sale, order_id, buyer = await placed()
    status, first = await report(order_id, reference="pi_first:1")
    assert (status, first["status"], first["refund"]) == (200, "paid", False)
    assert await report(order_id, reference="pi_first:1") == (200, first)
    assert (await order_of(order_id, buyer))["status"] == "paid"
    await assert_balanced(sale)
    status, problem = await report(order_id, reference="pi_first:1", amount_cents=2000)
    assert (status, problem["code"]) == (409, "reference_used")
    assert "refund" not in problem


async def test_money_that_must_go_back_is_listed_until_the_shop_sent_it(
    placed, report, shop_calls, db
):
    _, order_id, _ = await placed()
    await orders.release(db, [order_id], to_state="cancelled", reason="buyer")
    status, first = await report(order_id, reference="pi_late")
    assert (status, first["code"], first["refund"], first["reason"]) == (
        409,
        "refund_due",
        True,
        "too_late",
    )
    assert (first["reference"], first["amount_cents"], first["currency"]) == (
        "pi_late",
        1999,
        "EUR",
    )
    assert (await report(order_id, reference="pi_late"))[1] == first

    async def due():
        status, page = await shop_calls("GET", "/v1/payments/external?due=true")
        assert status == 200
        return [p["reference"] for p in page["payments"] if p["order_id"] == order_id]

    assert await due() == ["pi_late"]
    for _ in range(2):
        path = f"/v1/orders/{order_id}/payments/external/pi_late/refunded"
        status, view = await shop_calls("POST", path)
        assert (status, view["status"], view["refund"]) == (200, "refunded", False)
    assert await due() == []
    # A copy that comes late does not make the shop send the money a second time.
    status, problem = await report(order_id, reference="pi_late")
    assert (status, problem["code"], problem["refund"]) == (409, "sent_back", False)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"amount_cents": 1}, "wrong_amount"),
        ({"currency": "JPY"}, "wrong_currency"),
        ({"amount_cents": 2**53 - 1}, "wrong_amount"),
    ],
)
async def test_another_sum_than_the_price_pays_nothing(placed, report, order_of, changes, reason):
    _, order_id, buyer = await placed()
    status, problem = await report(order_id, **changes)
    assert (status, problem["refund"], problem["reason"]) == (409, True, reason)
    assert "the order costs 1999 EUR" in problem["detail"]
    assert (await order_of(order_id, buyer))["status"] == "pending"
    assert (await report(order_id))[0] == 200
    status, problem = await report(order_id)
    assert (status, problem["reason"]) == (409, "already_paid")


async def test_money_for_no_order_must_go_back(report, open_sale):
    sale = await open_sale()
    for order_id in (str(uuid4()), new_order_id(sale.number), new_order_id(2**24 - 1)):
        status, problem = await report(order_id)
        assert (status, problem["refund"], problem["reason"]) == (409, True, "unknown_order")


async def test_a_payment_that_is_faster_than_its_order_waits(
    http, open_sale, order_for, placing_held, report, shop_calls
):
    sale = await open_sale(stock=1)
    async with placing_held(sale):
        order_id = await order_for(http, sale, payer())
        for status, problem in (
            await report(order_id, reference="pi_fast"),
            await shop_calls("POST", f"/v1/orders/{order_id}/payments/external/begin"),
        ):
            assert (status, problem["code"], problem["retry_after"]) == (409, "queued", "1")

    async def is_paid():
        return (await report(order_id, reference="pi_fast"))[0] == 200

    await eventually(is_paid, "the same report pays the order once it is placed")


async def test_an_order_is_kept_while_its_buyer_is_at_the_bank(
    placed, report, shop_calls, order_of, settings
):
    _, order_id, buyer = await placed()
    before = datetime.fromisoformat((await order_of(order_id, buyer))["pay_by"])
    path = f"/v1/orders/{order_id}/payments/external/begin"
    status, held = await shop_calls("POST", path)
    assert (status, held["amount_cents"], held["currency"]) == (200, 1999, "EUR")
    kept = datetime.fromisoformat(held["pay_by"])
    assert before < kept < before + timedelta(seconds=settings.external_hold_s)
    assert (await order_of(order_id, buyer))["pay_by"] == held["pay_by"]
    assert (await shop_calls("POST", path, {}))[1]["pay_by"] == held["pay_by"]
    assert (await report(order_id))[0] == 200
    status, problem = await shop_calls("POST", path)
    assert (status, problem["code"]) == (409, "not_payable")
    assert "paid" in problem["detail"]


async def test_a_buyer_who_cancels_at_the_bank_has_cancelled(
    http, placed, report, shop_calls, login_for
):
    _, order_id, buyer = await placed()
    await shop_calls("POST", f"/v1/orders/{order_id}/payments/external/begin")
    async with http.delete(f"/v1/orders/{order_id}", headers=login_for(buyer)) as response:
        assert response.status == 200
    assert (await report(order_id))[1]["reason"] == "too_late"


async def test_money_that_pays_is_not_to_be_sent_back(placed, report, shop_calls):
    _, order_id, _ = await placed()
    await report(order_id, reference="pi_paid")
    path = f"/v1/orders/{order_id}/payments/external"
    status, problem = await shop_calls("POST", f"{path}/pi_paid/refunded")
    assert (status, problem["code"]) == (409, "not_due")
    assert (await shop_calls("POST", f"{path}/pi_none/refunded"))[0] == 404
    assert (await shop_calls("POST", f"{path}/a%2Fb/refunded"))[0] in (404, 422)


async def test_only_the_shop_reports_payments(placed, report, shop_calls, settings, http):
    _, order_id, _ = await placed()
    stranger = KeyRing.parse("k1:" + "x" * 32, setting="test")
    provider = KeyRing.parse(settings.webhook_keys.get_secret_value(), setting="test")
    hour_ago = int(time.time()) - 3600
    for how in (
        {"keys": stranger},
        {"keys": provider},
        {"at_s": hour_ago},
        {"signed": b"{}"},
    ):
        status, problem = await report(order_id, how=how)
        assert (status, problem["code"]) == (401, "bad_signature")
    path = f"/v1/orders/{order_id}/payments/external"
    async with http.post(path, json={}) as response:
        assert response.status == 401
    # A signature of a call without a body is good for that call alone.
    signed = b"GET /v1/payments/external"
    assert (await shop_calls("POST", f"{path}/begin", signed=signed))[0] == 401
    assert (await shop_calls("GET", "/v1/payments/external?due=true", signed=signed))[0] == 401


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("amount_cents", value) for value in ("1999", 19.99, -1, 2**53, 10**40, True, None)),
        *(("currency", value) for value in ("eur", "EURO", "", 978, "EU\n", "ABC")),
        *(("reference", value) for value in ("", ".", "..", "-x", "a b", "a/b", "é", "x" * 129, 7)),
        ("reference", "ok\n"),
        ("paid_at", "2026-11-27T19:14:00"),
        ("paid_at", "2999-01-01T00:00:00Z"),
        ("paid_at", "0001-01-01T00:00:00+14:00"),
        ("paid_at", "9999-12-31T23:59:59-14:00"),
        ("paid_at", 1764270840),
        ("more", 1),
    ],
)
async def test_a_value_that_cannot_be_is_refused_by_its_name(report, field, value):
    status, problem = await report(str(uuid4()), **{field: value})
    assert status in (400, 422)
    assert field == "more" or problem.get("field") == field


async def test_a_store_that_does_not_answer_leaves_a_payment_to_its_repeat(
    placed, report, db, assert_balanced
):
    sale, order_id, _ = await placed()
    async with db.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM orders WHERE order_id = $1 FOR UPDATE", order_id)
        status, problem = await report(order_id, reference="pi_slow")
        assert (status, problem["code"]) == (503, "unavailable")
        assert int(problem["retry_after"]) >= 1
    assert (await report(order_id, reference="pi_slow"))[0] == 200
    await assert_balanced(sale)


async def test_of_two_payments_at_once_one_is_taken(placed, report, assert_balanced):
    sale, order_id, _ = await placed()
    answers = await asyncio.gather(*(report(order_id) for _ in range(4)))
    assert sorted(status for status, _ in answers) == [200, 409, 409, 409]
    await assert_balanced(sale)
