"""`seckill wallet`, `coupon` and `refund`, as typed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from config.settings import Settings
from tests.card_payments import CardPaymentBench
from tests.checkout import payer
from tests.external_payments import external_payments, report_of

Seckill = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def seckill(settings: Settings) -> Seckill:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ops.cli", *words],
            env={
                "PYTHONPATH": ":".join(sys.path),
                "SECKILL_REDIS_URL": settings.redis_url,
                "SECKILL_AMQP_URL": settings.amqp_url,
                "SECKILL_POSTGRES_DSN": settings.postgres_dsn,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_wallet_is_shown_and_filled(seckill):
    name = payer()
    assert "0.00 EUR available" in seckill("wallet", name).stdout
    shown = json.loads(seckill("wallet", name, "--add", "1999", "--json").stdout)
    assert shown == {"buyer_id": name, "available_cents": 1999, "frozen_cents": 0}


def test_a_coupon_is_handed_out_once(seckill):
    name = payer()
    words = ("coupon", name, "--add", f"c-{name}", "--cents", "500")
    (shown,) = json.loads(seckill(*words, "--json").stdout)
    assert shown == {
        "coupon_id": f"c-{name}",
        "buyer_id": name,
        "cents": 500,
        "state": "available",
    }
    assert "5.00 EUR  available" in seckill("coupon", name).stdout
    again = seckill(*words)
    assert (again.returncode, "give another id" in again.stderr) == (2, True)


async def test_a_paid_order_is_refunded_on_record(seckill, checkout, shop, open_sale, db):
    sale = await open_sale(stock=1)
    (order,) = await shop.order(sale, payer())
    early = seckill("refund", order.order_id, "--reason", "r")
    assert (early.returncode, "is pending, not paid" in early.stderr) == (2, True)
    await checkout.give(order.buyer_id, 1999)
    await checkout.pay(order)
    done = seckill("refund", order.order_id, "--reason", "wrong size", "--json")
    assert json.loads(done.stdout) == {"order_id": order.order_id, "status": "refunded"}
    assert await shop.states(sale, [order]) == ["refunded wrong size"]
    row = await db.fetchrow("SELECT action, reason FROM audit WHERE sale_id = $1", sale.sale_id)
    assert tuple(row) == ("order.refund", "wrong size")


@pytest.mark.parametrize(
    "words",
    [
        ("wallet", "a b"),
        ("wallet", "ann", "--add", "-1"),
        ("coupon", "ann", "--add", "c"),
        ("coupon", "ann", "--add", "c", "--cents", "0"),
        ("refund", "no-id", "--reason", "r"),
        ("refund", "019aab2f-4c00-8000-8005-5d3c1f0a2b7e"),
        ("refund", "019aab2f-4c00-8000-8005-5d3c1f0a2b7e", "--reason", " "),
        ("refund", "019aab2f-4c00-8000-8005-5d3c1f0a2b7e", "--reason", "unknown"),
    ],
)
def test_what_is_typed_wrong_is_one_line(seckill, words):
    done = seckill(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


async def test_payments_without_an_outcome_are_listed_and_asked_about(
    seckill, shop, open_sale, db, assert_balanced
):
    sale = await open_sale(stock=1)
    [order] = await shop.order(sale, payer())
    async with CardPaymentBench.open(db) as cards:
        cards.sandbox.behaviour.lose_replies = 1
        await cards.pay(order)
        await cards.hasten(sale)
        await cards.payments.ask_due()
        listed = json.loads(seckill("unknown-payments", "--json").stdout)
        [shown] = [each for each in listed if each["order_id"] == order.order_id]
        assert (shown["state"], shown["cents"], shown["asks"], shown["said"]) == (
            "trying",
            1999,
            1,
            None,
        )
        cards.sandbox.behaviour.lose_replies = 0
        assert "said: nothing" in seckill("unknown-payments", "--ask-now").stdout
        assert await cards.payments.ask_due() >= 1
    await assert_balanced(sale)
    assert order.order_id not in seckill("unknown-payments", "--json").stdout


async def test_money_of_the_shops_own_checkout_is_listed_until_it_went_back(
    seckill, shop, open_sale, db
):
    sale = await open_sale()
    (order,) = await shop.order(sale, payer())
    await shop.release(order)
    report = report_of(order)
    await external_payments(db).take(report)

    def due():
        shown = json.loads(seckill("external-payments", "list", "--due", "--json").stdout)
        return [each for each in shown if each["reference"] == report.reference]

    (listed,) = due()
    assert (listed["amount_cents"], listed["reason"]) == (1999, "too_late")
    assert "19.99 EUR  refund_due (too_late)" in seckill("external-payments", "list").stdout
    noted = seckill("external-payments", "refunded", report.reference)
    assert (noted.returncode, "refunded (too_late)" in noted.stdout) == (0, True)
    assert due() == []
    unknown = seckill("external-payments", "refunded", "nothing")
    assert unknown.returncode == 2
    assert unknown.stderr == "seckill: there is no external payment nothing\n"
