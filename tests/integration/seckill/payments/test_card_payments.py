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
from seckill.payments.provider_client import ChargeStatus, Provider
from seckill.transactions.states import TransactionOutcome, TransactionState
from tests.cards import GRACE_S, CardDesk
from tests.till import payer

PAID = TransactionOutcome(TransactionState.CONFIRMED)
UNKNOWN = TransactionOutcome(TransactionState.TRYING)
DECLINED = TransactionOutcome(TransactionState.CANCELED, PaymentRefusal.DECLINED)


@pytest.fixture
async def desk(db) -> AsyncIterator[CardDesk]:
    async with CardDesk.open(db) as open_desk:
        yield open_desk


@pytest.fixture
def place(shop, open_sale):
    """Open a sale and place orders in it: `sale, [order] = await place()`."""

    async def make(count: int = 1):
        sale = await open_sale(stock=count)
        return sale, await shop.order(sale, *(payer() for _ in range(count)))

    return make


async def test_an_authorised_payment_is_paid_and_booked(desk, place, shop, assert_balanced):
    sale, [order] = await place()
    assert await desk.pay(order) == PAID
    assert desk.held() == 1999
    assert await shop.states(sale, [order]) == ["paid"]
    books = await assert_balanced(sale)
    assert (books.lines["sold"], books.lines["charged, cents"]) == (1, 1999)


async def test_a_declined_payment_leaves_the_order_payable_under_another_key(
    desk, place, shop, assert_balanced
):
    sale, [order] = await place()
    desk.sandbox.habits.decline = 1
    assert await desk.pay(order) == DECLINED
    assert await shop.states(sale, [order]) == ["pending"]
    desk.sandbox.habits.decline = 0
    assert await desk.pay(order) == PAID
    assert sorted(charge.status for charge in desk.charges()) == ["authorised", "declined"]
    await assert_balanced(sale)


async def test_a_lost_reply_is_unknown_until_the_charge_is_found(
    desk, place, shop, verify, assert_balanced
):
    sale, [order] = await place()
    desk.sandbox.habits.lose_replies = 1
    assert await desk.pay(order) == UNKNOWN
    assert await shop.states(sale, [order]) == ["paying"]
    books = await verify(sale)
    assert (books.balanced, books.quiet) == (True, False)
    assert len(books.unknown_txs) == books.lines["card payments unknown"] == 1
    desk.sandbox.habits.lose_replies = 0
    await desk.settle(sale)
    assert [charge.history for charge in desk.charges()] == [["authorised"]]
    assert (await assert_balanced(sale)).lines["orders paid"] == 1


async def test_a_request_that_never_arrived_is_sent_again_under_its_key(
    desk, place, assert_balanced
):
    sale, [order] = await place()
    desk.sandbox.habits.lose_requests = 1
    assert await desk.pay(order, tx_id=(tx_id := new_tx_id())) == UNKNOWN
    assert desk.charges() == []
    desk.sandbox.habits.lose_requests = 0
    await desk.settle(sale)
    assert [(c.key, c.history) for c in desk.charges()] == [(tx_id, ["authorised"])]
    assert (await assert_balanced(sale)).lines["orders paid"] == 1


async def test_a_lost_reply_of_a_decline_is_found_declined(desk, place, shop, assert_balanced):
    sale, [order] = await place()
    desk.sandbox.habits.lose_replies = desk.sandbox.habits.decline = 1
    assert await desk.pay(order) == UNKNOWN
    desk.sandbox.habits.lose_replies = 0
    await desk.settle(sale)
    assert await shop.states(sale, [order]) == ["pending"]
    await assert_balanced(sale)


async def test_F09_a_bank_that_says_yes_after_the_window_and_the_grace_gets_nothing(
    desk, place, shop, eventually, assert_balanced
):
    # Given a payment of which the bank has not said anything
    sale, [order] = await place()
    desk.sandbox.habits.late = 1
    desk.sandbox.habits.late_after_s = 2.0
    assert await desk.pay(order) == UNKNOWN
    # While its time lasts it is only asked about
    await desk.hasten(sale)
    await desk.payments.ask_due()
    assert await shop.states(sale, [order]) == ["paying"]
    # When that is over
    await shop.let_expire(order)
    await desk.settle(sale)
    assert await shop.states(sale, [order]) == ["cancelled expired"]
    # Then the money that comes after all goes back, and the order stays cancelled
    [charge] = desk.charges()
    await eventually(lambda: len(charge.history) > 2, "the bank says yes")
    assert charge.history == ["pending", "voided", "authorised", "voided"]
    assert await desk.books.ask_now(charge.key)
    await desk.settle(sale)
    assert desk.held() == 0
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_within_the_grace_an_expired_payment_may_still_be_paid(
    desk, place, shop, db, assert_balanced
):
    sale, [order] = await place()
    desk.sandbox.habits.lose_replies = 1
    assert await desk.pay(order) == UNKNOWN
    await db.execute(
        "UPDATE orders SET pay_by = now() - make_interval(secs => $2) WHERE order_id = $1",
        order.order_id,
        GRACE_S / 2,
    )
    desk.sandbox.habits.lose_replies = 0
    await desk.settle(sale)
    assert (await assert_balanced(sale)).lines["orders paid"] == 1


async def test_money_for_a_cancelled_payment_goes_back(desk, place, shop, assert_balanced):
    # Given a payment whose charge the books call off, whatever the reason
    sale, [order] = await place()
    payment = Payment(sale.sale_id, order.order_id, order.buyer_id, CARD)
    await desk.books.begin([(tx_id := new_tx_id(), payment)], lease_s=60)
    await desk.books.settle({tx_id: ChargeStatus.DECLINED})
    # When the provider has it charged all the same, and says so
    assert await desk.provider.authorise(tx_id, 1999) is ChargeStatus.AUTHORISED
    assert await desk.books.ask_now(tx_id)
    await desk.settle(sale)
    # Then it is voided, and the order can be paid again
    assert desk.held() == 0
    assert await shop.states(sale, [order]) == ["pending"]
    assert await desk.pay(order) == PAID
    assert desk.held() == 1999
    await assert_balanced(sale)


async def test_what_was_given_up_is_not_paid_although_the_provider_says_yes(
    desk, place, shop, assert_balanced
):
    sale, [order] = await place()
    desk.sandbox.habits.lose_replies = 1
    await desk.pay(order, tx_id=(tx_id := new_tx_id()))
    desk.sandbox.habits.lose_replies = 0
    # One process gives it up, while another has just found it authorised
    await desk.books.give_up([tx_id])
    assert await desk.books.settle({tx_id: ChargeStatus.AUTHORISED}) == {tx_id: "trying"}
    await shop.let_expire(order)
    await desk.settle(sale)
    assert (desk.held(), await shop.states(sale, [order])) == (0, ["cancelled expired"])
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_what_is_paid_cannot_be_given_up(desk, place, shop, assert_balanced):
    sale, [order] = await place()
    tx_id = new_tx_id()
    assert await desk.pay(order, tx_id=tx_id) == PAID
    await desk.books.give_up([tx_id])
    assert await desk.hasten(sale) == 0
    assert (desk.held(), await shop.states(sale, [order])) == (1999, ["paid"])
    await assert_balanced(sale)


async def test_a_webhook_before_the_reply_and_a_second_one_change_nothing(
    desk, place, eventually, assert_balanced
):
    sale, [order] = await place()
    desk.sandbox.habits.delay_s = 0.5
    paying = asyncio.create_task(desk.pay(order, tx_id=(tx_id := new_tx_id())))
    await eventually(desk.charges, "the provider has charged it")
    assert not paying.done()
    desk.sandbox.habits.delay_s = 0
    assert await desk.books.ask_now(tx_id)
    assert await desk.another().ask_due() == 1
    assert await paying == PAID
    assert await desk.books.ask_now(tx_id)
    assert await desk.payments.ask_due() == 0
    assert [charge.history for charge in desk.charges()] == [["authorised"]]
    await assert_balanced(sale)
    assert not await desk.books.ask_now("pay-of-somebody-else")


async def test_two_processes_never_ask_about_the_same_payment(desk, place, db, assert_balanced):
    sale, orders = await place(150)
    desk.sandbox.habits.lose_replies = 1
    assert set(await asyncio.gather(*map(desk.pay, orders))) == {UNKNOWN}
    desk.sandbox.habits.lose_replies = 0
    assert await desk.hasten(sale) == 150
    first, second = desk.another(), desk.another()
    asked = await asyncio.gather(first.ask_due(), second.ask_due())
    assert sum(asked) == 150
    assert await db.fetchval("SELECT max(asks) FROM payments WHERE sale_id = $1", sale.sale_id) == 1
    assert (await assert_balanced(sale)).lines["orders paid"] == 150
    assert {tuple(charge.history) for charge in desk.charges()} == {("authorised",)}


async def test_while_the_provider_is_away_nothing_is_decided(db, place, shop, assert_balanced):
    sale, [order] = await place()
    sandbox, port = Sandbox(SandboxBehaviour()), free_port()
    async with Provider.open(f"http://127.0.0.1:{port}", timeout_s=1, calls_max=9) as provider:
        desk = CardDesk(db, sandbox, provider)
        assert await desk.pay(order) == UNKNOWN
        await shop.let_expire(order)
        for _ in range(3):
            await desk.hasten(sale)
            await desk.payments.ask_due()
        assert await shop.states(sale, [order]) == ["paying"]
        async with sandbox.serving(port=port):
            await desk.settle(sale)
    assert desk.held() == 0
    assert await shop.states(sale, [order]) == ["cancelled expired"]
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_a_coupon_lowers_the_charge_or_makes_it_needless(desk, place, till, assert_balanced):
    sale, [part, whole] = await place(2)
    assert await desk.pay(part, coupon=await till.coupon(part.buyer_id, 500)) == PAID
    assert await desk.pay(whole, coupon=await till.coupon(whole.buyer_id, 5000)) == PAID
    assert [charge.amount_cents for charge in desk.charges()] == [1499]
    books = await assert_balanced(sale)
    assert (books.lines["charged, cents"], books.lines["discounted, cents"]) == (1499, 2499)


async def test_a_bad_coupon_is_refused_before_the_provider_hears_of_it(
    desk, place, shop, till, assert_balanced
):
    sale, [order, other] = await place(2)
    coupon = await till.coupon(other.buyer_id, 500)
    refused = TransactionOutcome(TransactionState.CANCELED, PaymentRefusal.COUPON_UNKNOWN)
    answers = await asyncio.gather(desk.pay(order, coupon=coupon), desk.pay(other, coupon=coupon))
    assert answers == [refused, PAID]
    assert len(desk.charges()) == 1
    assert await shop.states(sale, [order, other]) == ["pending", "paid"]
    await assert_balanced(sale)


async def test_a_coupon_of_a_declined_payment_is_good_again(desk, place, till, assert_balanced):
    sale, [order] = await place()
    coupon = await till.coupon(order.buyer_id, 500)
    desk.sandbox.habits.decline = 1
    assert await desk.pay(order, coupon=coupon) == DECLINED
    assert [c.state for c in await wallets.coupons_of(desk.db, order.buyer_id)] == ["available"]
    await assert_balanced(sale)


async def test_a_refund_goes_back_to_the_card(desk, place, shop, till, db, assert_balanced):
    sale, [order] = await place()
    coupon = await till.coupon(order.buyer_id, 500)
    assert await desk.pay(order, coupon=coupon) == PAID
    await refunds.refund(db, order.order_id, actor="ann", reason="returned")
    assert await shop.states(sale, [order]) == ["refunding returned"]
    assert desk.held() == 1499
    desk.sandbox.habits.lose_replies = 1
    await desk.payments.ask_due()
    desk.sandbox.habits.lose_replies = 0
    await desk.settle(sale)
    assert await shop.states(sale, [order]) == ["refunded returned"]
    assert desk.held() == 0
    assert (await wallets.find_wallet(db, order.buyer_id)).available_cents == 0
    assert [c.state for c in await wallets.coupons_of(db, order.buyer_id)] == ["available"]
    await shop.return_all(sale)
    books = await assert_balanced(sale)
    lines = books.lines  # what is refunded counts the coupon
    assert (lines["charged, cents"], lines["refunded, cents"]) == (1499, 1999)


async def test_an_order_is_paid_once_whoever_pays_it(desk, place, till, assert_balanced):
    sale, [order] = await place()
    await till.give(order.buyer_id, 1999)
    outcomes = await asyncio.gather(*(desk.pay(order) for _ in range(5)), till.pay(order))
    assert outcomes.count(PAID) == 1
    assert {o.reason for o in outcomes} <= {
        None,
        PaymentRefusal.PAYMENT_IN_PROGRESS,
        PaymentRefusal.PAID,
    }
    wallet = await wallets.find_wallet(till.db, order.buyer_id)
    assert 1999 - wallet.available_cents + desk.held() == 1999
    await assert_balanced(sale)


async def test_what_follows_a_payment_is_begun_with_it_and_once(desk, place, assert_balanced):
    sale, [order] = await place()
    begun = []

    async def begin(connection, works):
        assert connection.is_in_transaction()
        begun.extend(works)

    desk.payments = desk.another(on_paid=begin)
    tx_id = new_tx_id()
    assert await desk.pay(order, tx_id=tx_id) == PAID
    payment = Payment(sale.sale_id, order.order_id, order.buyer_id, CARD)
    assert begun == [(tx_id, payment.args())]
    await CardPaymentStore(desk.db, on_paid=begin).settle({tx_id: ChargeStatus.AUTHORISED})
    assert len(begun) == 1
    await assert_balanced(sale)
