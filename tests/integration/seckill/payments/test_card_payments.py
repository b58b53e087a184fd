"""Card payments against a provider on a real socket: whatever it says or does not say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ops.processes.ports import free_port
from ops.sandbox_provider import Sandbox, SandboxBehaviour
from seckill.payments import refunds, wallets
from seckill.payments.card_payment_store import CardPaymentStore
from seckill.payments.checkout import CARD
from seckill.payments.payment import Payment, PaymentRefusal, new_tx_id
from seckill.payments.provider import Charge, ChargeRequest, ChargeStatus
from seckill.payments.sandbox_client import SandboxClient
from seckill.transactions.states import TransactionOutcome, TransactionState
from tests.card_payments import GRACE_S, CardPaymentBench
from tests.checkout import payer

PAID = TransactionOutcome(TransactionState.CONFIRMED)
UNKNOWN = TransactionOutcome(TransactionState.TRYING)
DECLINED = TransactionOutcome(TransactionState.CANCELED, PaymentRefusal.DECLINED)


@pytest.fixture
async def cards(db) -> AsyncIterator[CardPaymentBench]:
    async with CardPaymentBench.open(db) as open_desk:
        yield open_desk


@pytest.fixture
def place(shop, open_sale):
    """Open a sale and place orders in it: `sale, [order] = await place()`."""

    async def make(count: int = 1):
        sale = await open_sale(stock=count)
        return sale, await shop.order(sale, *(payer() for _ in range(count)))

    return make


async def test_an_authorised_payment_is_paid_and_booked(cards, place, shop, assert_balanced):
    sale, [order] = await place()
    assert await cards.pay(order) == PAID
    assert cards.held() == 1999
    assert await shop.states(sale, [order]) == ["paid"]
    ledger = await assert_balanced(sale)
    assert (ledger.lines["sold"], ledger.lines["charged, cents"]) == (1, 1999)


async def test_a_declined_payment_leaves_the_order_payable_under_another_key(
    cards, place, shop, assert_balanced
):
    sale, [order] = await place()
    cards.sandbox.behaviour.decline = 1
    assert await cards.pay(order) == DECLINED
    assert await shop.states(sale, [order]) == ["pending"]
    cards.sandbox.behaviour.decline = 0
    assert await cards.pay(order) == PAID
    assert sorted(charge.status for charge in cards.charges()) == ["authorised", "declined"]
    await assert_balanced(sale)


async def test_a_lost_reply_is_unknown_until_the_charge_is_found(
    cards, place, shop, verify, assert_balanced
):
    sale, [order] = await place()
    cards.sandbox.behaviour.lose_replies = 1
    assert await cards.pay(order) == UNKNOWN
    assert await shop.states(sale, [order]) == ["paying"]
    ledger = await verify(sale)
    assert (ledger.balanced, ledger.quiet) == (True, False)
    assert len(ledger.unknown_txs) == ledger.lines["card payments unknown"] == 1
    cards.sandbox.behaviour.lose_replies = 0
    await cards.settle(sale)
    assert [charge.history for charge in cards.charges()] == [["authorised"]]
    assert (await assert_balanced(sale)).lines["orders paid"] == 1


async def test_a_request_that_never_arrived_is_sent_again_under_its_key(
    cards, place, assert_balanced
):
    sale, [order] = await place()
    cards.sandbox.behaviour.lose_requests = 1
    assert await cards.pay(order, tx_id=(tx_id := new_tx_id())) == UNKNOWN
    assert cards.charges() == []
    cards.sandbox.behaviour.lose_requests = 0
    await cards.settle(sale)
    assert [(c.key, c.history) for c in cards.charges()] == [(tx_id, ["authorised"])]
    assert (await assert_balanced(sale)).lines["orders paid"] == 1


async def test_a_found_charge_of_another_amount_is_voided_and_pays_nothing(
    cards, place, shop, assert_balanced
):
    """A restored database has forgotten an attempt with a coupon, and the reply is lost."""
    sale, [order] = await place()
    tx_id = new_tx_id()
    forgotten = ChargeRequest(tx_id, 1499, "EUR", sale.sale_id, order.order_id)
    assert (await cards.provider.authorise(forgotten)).has_money
    cards.sandbox.behaviour.lose_replies = 1
    assert await cards.pay(order, tx_id=tx_id) == UNKNOWN
    cards.sandbox.behaviour.lose_replies = 0
    await cards.settle(sale)
    assert await shop.states(sale, [order]) == ["pending"]
    assert cards.held() == 0
    assert await cards.pay(order) == PAID
    await assert_balanced(sale)


async def test_a_lost_reply_of_a_decline_is_found_declined(cards, place, shop, assert_balanced):
    sale, [order] = await place()
    cards.sandbox.behaviour.lose_replies = cards.sandbox.behaviour.decline = 1
    assert await cards.pay(order) == UNKNOWN
    cards.sandbox.behaviour.lose_replies = 0
    await cards.settle(sale)
    assert await shop.states(sale, [order]) == ["pending"]
    await assert_balanced(sale)


async def test_F09_a_bank_that_says_yes_after_the_window_and_the_grace_gets_nothing(
    cards, place, shop, eventually, assert_balanced
):
    # Given a payment of which the bank has not said anything
    sale, [order] = await place()
    cards.sandbox.behaviour.late = 1
    cards.sandbox.behaviour.late_after_s = 2.0
    assert await cards.pay(order) == UNKNOWN
    # While its time lasts it is only asked about
    await cards.hasten(sale)
    await cards.payments.ask_due()
    assert await shop.states(sale, [order]) == ["paying"]
    # When that is over
    await shop.let_expire(order)
    await cards.settle(sale)
    assert await shop.states(sale, [order]) == ["cancelled expired"]
    # Then the money that comes after all goes back, and the order stays cancelled
    [charge] = cards.charges()
    await eventually(lambda: len(charge.history) > 2, "the bank says yes")
    assert charge.history == ["pending", "voided", "authorised", "voided"]
    assert await cards.store.ask_now(charge.key)
    await cards.settle(sale)
    assert cards.held() == 0
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_within_the_grace_an_expired_payment_may_still_be_paid(
    cards, place, shop, db, assert_balanced
):
    sale, [order] = await place()
    cards.sandbox.behaviour.lose_replies = 1
    assert await cards.pay(order) == UNKNOWN
    await db.execute(
        "UPDATE orders SET pay_by = now() - make_interval(secs => $2) WHERE order_id = $1",
        order.order_id,
        GRACE_S / 2,
    )
    cards.sandbox.behaviour.lose_replies = 0
    await cards.settle(sale)
    assert (await assert_balanced(sale)).lines["orders paid"] == 1


async def test_money_for_a_cancelled_payment_goes_back(cards, place, shop, assert_balanced):
    # Given a payment that PostgreSQL has cancelled although the provider holds the money
    sale, [order] = await place()
    payment = Payment(sale.sale_id, order.order_id, order.buyer_id, CARD)
    await cards.store.begin([(tx_id := new_tx_id(), payment)], lease_s=60)
    await cards.store.settle({tx_id: Charge(ChargeStatus.DECLINED)})
    # When the provider has it charged all the same, and says so
    charge = await cards.provider.authorise(ChargeRequest(tx_id, 1999))
    assert charge.status is ChargeStatus.AUTHORISED
    assert await cards.store.ask_now(tx_id)
    await cards.settle(sale)
    # Then it is voided, and the order can be paid again
    assert cards.held() == 0
    assert await shop.states(sale, [order]) == ["pending"]
    assert await cards.pay(order) == PAID
    assert cards.held() == 1999
    await assert_balanced(sale)


async def test_what_was_given_up_is_not_paid_although_the_provider_says_yes(
    cards, place, shop, assert_balanced
):
    sale, [order] = await place()
    cards.sandbox.behaviour.lose_replies = 1
    await cards.pay(order, tx_id=(tx_id := new_tx_id()))
    cards.sandbox.behaviour.lose_replies = 0
    # One process gives it up, while another has just found it authorised
    await cards.store.give_up([tx_id])
    assert await cards.store.settle({tx_id: Charge(ChargeStatus.AUTHORISED)}) == {tx_id: "trying"}
    await shop.let_expire(order)
    await cards.settle(sale)
    assert (cards.held(), await shop.states(sale, [order])) == (0, ["cancelled expired"])
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_what_is_paid_cannot_be_given_up(cards, place, shop, assert_balanced):
    sale, [order] = await place()
    tx_id = new_tx_id()
    assert await cards.pay(order, tx_id=tx_id) == PAID
    await cards.store.give_up([tx_id])
    assert await cards.hasten(sale) == 0
    assert (cards.held(), await shop.states(sale, [order])) == (1999, ["paid"])
    await assert_balanced(sale)


async def test_a_webhook_before_the_reply_and_a_second_one_change_nothing(
    cards, place, eventually, assert_balanced
):
    sale, [order] = await place()
    cards.sandbox.behaviour.delay_s = 0.5
    paying = asyncio.create_task(cards.pay(order, tx_id=(tx_id := new_tx_id())))
    await eventually(cards.charges, "the provider has charged it")
    assert not paying.done()
    cards.sandbox.behaviour.delay_s = 0
    assert await cards.store.ask_now(tx_id)
    assert await cards.another().ask_due() == 1
    assert await paying == PAID
    assert await cards.store.ask_now(tx_id)
    assert await cards.payments.ask_due() == 0
    assert [charge.history for charge in cards.charges()] == [["authorised"]]
    await assert_balanced(sale)
    assert not await cards.store.ask_now("pay-of-another-shop")


async def test_two_processes_never_ask_about_the_same_payment(cards, place, db, assert_balanced):
    sale, orders = await place(150)
    cards.sandbox.behaviour.lose_replies = 1
    assert set(await asyncio.gather(*map(cards.pay, orders))) == {UNKNOWN}
    cards.sandbox.behaviour.lose_replies = 0
    assert await cards.hasten(sale) == 150
    first, second = cards.another(), cards.another()
    asked = await asyncio.gather(first.ask_due(), second.ask_due())
    assert sum(asked) == 150
    assert await db.fetchval("SELECT max(asks) FROM payments WHERE sale_id = $1", sale.sale_id) == 1
    assert (await assert_balanced(sale)).lines["orders paid"] == 150
    assert {tuple(charge.history) for charge in cards.charges()} == {("authorised",)}


async def test_without_the_provider_nothing_is_decided(db, place, shop, assert_balanced):
    sale, [order] = await place()
    sandbox, port = Sandbox(SandboxBehaviour()), free_port()
    async with SandboxClient.open(f"http://127.0.0.1:{port}", timeout_s=1, calls_max=9) as provider:
        cards = CardPaymentBench(db, sandbox, provider)
        assert await cards.pay(order) == UNKNOWN
        await shop.let_expire(order)
        for _ in range(3):
            await cards.hasten(sale)
            await cards.payments.ask_due()
        assert await shop.states(sale, [order]) == ["paying"]
        async with sandbox.serving(port=port):
            await cards.settle(sale)
    assert cards.held() == 0
    assert await shop.states(sale, [order]) == ["cancelled expired"]
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_a_coupon_lowers_the_charge_or_makes_it_needless(
    cards, place, checkout, assert_balanced
):
    sale, [part, whole] = await place(2)
    assert await cards.pay(part, coupon=await checkout.coupon(part.buyer_id, 500)) == PAID
    assert await cards.pay(whole, coupon=await checkout.coupon(whole.buyer_id, 5000)) == PAID
    assert [charge.amount_cents for charge in cards.charges()] == [1499]
    ledger = await assert_balanced(sale)
    assert (ledger.lines["charged, cents"], ledger.lines["discounted, cents"]) == (1499, 2499)


async def test_a_bad_coupon_is_refused_before_the_provider_hears_of_it(
    cards, place, shop, checkout, assert_balanced
):
    sale, [order, other] = await place(2)
    coupon = await checkout.coupon(other.buyer_id, 500)
    refused = TransactionOutcome(TransactionState.CANCELED, PaymentRefusal.COUPON_UNKNOWN)
    answers = await asyncio.gather(cards.pay(order, coupon=coupon), cards.pay(other, coupon=coupon))
    assert answers == [refused, PAID]
    assert len(cards.charges()) == 1
    assert await shop.states(sale, [order, other]) == ["pending", "paid"]
    await assert_balanced(sale)


async def test_a_coupon_of_a_declined_payment_is_good_again(
    cards, place, checkout, assert_balanced
):
    sale, [order] = await place()
    coupon = await checkout.coupon(order.buyer_id, 500)
    cards.sandbox.behaviour.decline = 1
    assert await cards.pay(order, coupon=coupon) == DECLINED
    assert [c.state for c in await wallets.coupons_of(cards.db, order.buyer_id)] == ["available"]
    await assert_balanced(sale)


async def test_a_refund_goes_back_to_the_card(cards, place, shop, checkout, db, assert_balanced):
    sale, [order] = await place()
    coupon = await checkout.coupon(order.buyer_id, 500)
    assert await cards.pay(order, coupon=coupon) == PAID
    await refunds.refund(db, order.order_id, actor="ann", reason="returned")
    assert await shop.states(sale, [order]) == ["refunding returned"]
    assert cards.held() == 1499
    cards.sandbox.behaviour.lose_replies = 1
    await cards.payments.ask_due()
    cards.sandbox.behaviour.lose_replies = 0
    await cards.settle(sale)
    assert await shop.states(sale, [order]) == ["refunded returned"]
    assert cards.held() == 0
    assert (await wallets.find_wallet(db, order.buyer_id)).available_cents == 0
    assert [c.state for c in await wallets.coupons_of(db, order.buyer_id)] == ["available"]
    await shop.return_all(sale)
    ledger = await assert_balanced(sale)
    lines = ledger.lines  # what is refunded counts the coupon
    assert (lines["charged, cents"], lines["refunded, cents"]) == (1499, 1999)


async def test_an_order_is_paid_once_whoever_pays_it(cards, place, checkout, assert_balanced):
    sale, [order] = await place()
    await checkout.give(order.buyer_id, 1999)
    outcomes = await asyncio.gather(*(cards.pay(order) for _ in range(5)), checkout.pay(order))
    assert outcomes.count(PAID) == 1
    assert {o.reason for o in outcomes} <= {
        None,
        PaymentRefusal.PAYMENT_IN_PROGRESS,
        PaymentRefusal.PAID,
    }
    wallet = await wallets.find_wallet(checkout.db, order.buyer_id)
    assert 1999 - wallet.available_cents + cards.held() == 1999
    await assert_balanced(sale)


async def test_what_follows_a_payment_is_begun_with_it_and_once(cards, place, assert_balanced):
    sale, [order] = await place()
    begun = []

    async def begin(connection, calls):
        assert connection.is_in_transaction()
        begun.extend(calls)

    cards.payments = cards.another(on_paid=begin)
    tx_id = new_tx_id()
    assert await cards.pay(order, tx_id=tx_id) == PAID
    payment = Payment(sale.sale_id, order.order_id, order.buyer_id, CARD)
    assert begun == [(tx_id, payment.args())]
    await CardPaymentStore(cards.db, on_paid=begin).settle({tx_id: Charge(ChargeStatus.AUTHORISED)})
    assert len(begun) == 1
    await assert_balanced(sale)
