"""Refunds of parts: each once, together never more than was charged, and with the provider, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from seckill.consistency import charges
from seckill.consistency.verify import verify
from seckill.errors import Missing, UserMistake, WrongState
from seckill.payments import fulfilment, refunds, wallets
from seckill.payments.card_payment_store import CardPaymentStore
from seckill.payments.part_refunds import PartRefunds
from seckill.payments.payment import CARD, Payment, tx_id_of
from seckill.payments.provider import Charge, ChargeStatus
from seckill.transactions.log import TransactionLog
from seckill.transactions.states import BranchCall
from tests.card_payments import CardPaymentBench
from tests.checkout import payer
from tests.fulfilment import FulfilmentWorker

NO_ORDER = "01a22a2c-e317-8000-807d-e4aea4a6bb80"


@pytest.fixture
async def cards(db) -> AsyncIterator[CardPaymentBench]:
    async with CardPaymentBench.open(db) as bench:
        yield bench


@pytest.fixture
def give_back(db):
    def call(order, cents, key):
        key = f"{order.order_id[-8:]}-{key}"
        return refunds.refund_part(db, order.order_id, cents, key=key, actor="t", reason="late")

    return call


@pytest.fixture
async def paid_by_card(cards, shop, open_sale, db):
    """An order that is paid by card, and captured."""
    sale = await open_sale(stock=1)
    (order,) = await shop.order(sale, payer())
    assert (await cards.pay_order(order)).confirmed
    found = await CardPaymentStore(db).charges([tx_id_of(order.order_id, 0)])
    (charge,) = found.values()
    return sale, order, charge


async def ask(db, cards) -> None:
    """Ask about every part now."""
    await db.execute("UPDATE refund_parts SET next_ask_at = now() WHERE next_ask_at IS NOT NULL")
    await PartRefunds(db, cards.provider, lease_s=10).ask_due()


async def test_parts_of_a_card_payment_go_back_once_each(
    cards, paid_by_card, give_back, db, store, shop, assert_balanced
):
    sale, order, charge = paid_by_card
    (at_provider,) = cards.charges()
    # A hold has no parts: the part waits for the capture
    assert await give_back(order, 500, "a") == "begun"
    await ask(db, cards)
    assert await give_back(order, 500, "a") == "begun"
    await cards.provider.capture(charge)
    await ask(db, cards)
    assert await give_back(order, 500, "a") == "done"
    assert at_provider.taken_cents == 1499
    assert await shop.states(sale, [order]) == ["paid"]

    # A lost answer is asked for again, and done once
    assert await give_back(order, 1499, "b") == "begun"
    cards.sandbox.behaviour.lose_replies = 1
    await ask(db, cards)
    cards.sandbox.behaviour.lose_replies = 0
    await ask(db, cards)
    assert (at_provider.taken_cents, len(at_provider.refunds)) == (0, 2)
    with pytest.raises(UserMistake, match="more than was charged"):
        await give_back(order, 1, "c")
    ledger = await assert_balanced(sale)
    assert ledger.lines["refunded, cents"] == 1999
    assert (await verify(store, db, sale.sale_id, provider=cards.provider)).violations == []


async def test_a_whole_refund_gives_back_what_the_parts_have_left(
    cards, paid_by_card, give_back, db, shop, assert_balanced
):
    sale, order, charge = paid_by_card
    await cards.provider.capture(charge)
    await give_back(order, 500, "a")
    with pytest.raises(WrongState, match="part"):  # both would give it back
        await refunds.refund(db, order.order_id, actor="t", reason="broken")
    await ask(db, cards)
    await refunds.refund(db, order.order_id, actor="t", reason="broken")
    await cards.settle(sale)
    assert await shop.states(sale, [order]) == ["refunded broken"]
    assert cards.held() == 0
    await shop.return_all(sale)
    assert (await assert_balanced(sale)).lines["refunded, cents"] == 1999


async def test_a_part_that_the_provider_refuses_is_not_booked(
    cards, paid_by_card, give_back, db, assert_balanced
):
    sale, order, charge = paid_by_card
    await cards.provider.capture(charge)
    (at_provider,) = cards.charges()
    at_provider.taken_cents = 0  # a dispute took it
    await give_back(order, 500, "a")
    await ask(db, cards)
    assert await give_back(order, 500, "a") == "refused"
    assert (await assert_balanced(sale)).lines["refunded, cents"] == 0


async def test_parts_that_the_provider_gave_back_by_itself_are_named(
    cards, paid_by_card, give_back, db, store
):
    sale, order, charge = paid_by_card
    await cards.provider.capture(charge)
    await cards.provider.refund(charge, "by-hand", 100)
    found = await verify(store, db, sale.sale_id, provider=cards.provider)
    assert any("other parts" in violation for violation in found.violations)
    await give_back(order, 200, "a")
    await ask(db, cards)
    found = await verify(store, db, sale.sale_id, provider=cards.provider)
    assert any("other parts" in violation for violation in found.violations)


async def test_a_part_of_a_wallet_payment_is_back_at_once(
    checkout, shop, open_sale, give_back, db, assert_balanced
):
    sale = await open_sale(stock=1)
    (order,) = await shop.order(sale, name := payer())
    await checkout.give(name, 1999)
    assert (await checkout.pay(order)).confirmed
    for _ in range(2):
        assert await give_back(order, 700, "a") == "done"
    assert (await wallets.find_wallet(db, name)).available_cents == 700
    await refunds.refund(db, order.order_id, actor="t", reason="broken")
    assert (await wallets.find_wallet(db, name)).available_cents == 1999
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_what_has_no_part_says_why(cards, paid_by_card, give_back, shop, open_sale, db):
    _, order, _ = paid_by_card
    await give_back(order, 500, "a")
    with pytest.raises(UserMistake, match="another part has this key"):
        await give_back(order, 501, "a")
    (unpaid,) = await shop.order(await open_sale(), payer())
    with pytest.raises(WrongState, match="pending"):
        await give_back(unpaid, 1, "b")
    with pytest.raises(Missing):
        await refunds.refund_part(db, NO_ORDER, 1, key="c", actor="t", reason="r")
    for key, cents in (("a b", 1), ("d", 0)):
        with pytest.raises(UserMistake):
            await refunds.refund_part(db, order.order_id, cents, key=key, actor="t", reason="r")


@pytest.fixture
def second_of(db, eventually):
    """Ask for the first of two parts, then for the second, which waits for the first's commit."""

    async def ask_for_both(first_order, second_order, key):
        told = {"key": key, "actor": "t", "reason": "late"}
        async with db.acquire() as first, db.acquire() as second:
            async with first.transaction():
                await refunds.refund_part(first, first_order.order_id, 500, **told)
                call = refunds.refund_part(second, second_order.order_id, 500, **told)
                later, pid = asyncio.create_task(call), second.get_server_pid()
                waits = "SELECT cardinality(pg_blocking_pids($1)) > 0"
                await eventually(lambda: first.fetchval(waits, pid), "the later call waits")
            return await later

    return ask_for_both


async def test_one_key_at_the_same_time_is_one_part(paid_by_card, second_of, db):
    _, order, _ = paid_by_card
    key = f"same-{order.order_id[-8:]}"
    assert await second_of(order, order, key) == "begun"
    audited = "SELECT count(*) FROM audit WHERE details::text LIKE '%part-' || $1 || '%'"
    assert await db.fetchval(audited, key) == 1


async def test_one_key_for_parts_of_two_orders_at_the_same_time_is_one_part(
    cards, paid_by_card, shop, open_sale, second_of
):
    _, order, _ = paid_by_card
    (other,) = await shop.order(await open_sale(stock=1), payer())
    assert (await cards.pay_order(other)).confirmed
    with pytest.raises(UserMistake, match="another part has this key"):
        await second_of(order, other, f"two-{order.order_id[-8:]}")


async def test_a_charge_that_went_back_whole_in_parts_is_not_missed(
    cards, paid_by_card, give_back, db, store, monkeypatch
):
    """A provider may call it voided, though it paid its order."""
    sale, order, charge = paid_by_card
    shown = Charge(ChargeStatus.VOIDED, charge.key, 1999, refunded_cents=1999)

    async def charges_of(_sale_id):
        return [shown]

    monkeypatch.setattr(cards.provider, "charges_of", charges_of)
    assert (await charges.compare(db, cards.provider, sale.sale_id)).unfunded == [order.order_id]
    await cards.provider.capture(charge)
    await give_back(order, 1999, "all")
    await ask(db, cards)
    assert (await charges.compare(db, cards.provider, sale.sale_id)).unfunded == []
    shown = Charge(ChargeStatus.CAPTURED, charge.key, 1998, refunded_cents=1998)
    found = await charges.compare(db, cards.provider, sale.sale_id)
    assert found.wrong_amounts == [charge.key]
    ledger = await verify(store, db, sale.sale_id, provider=cards.provider)
    assert any("other amounts" in violation for violation in ledger.violations)


async def test_a_part_does_not_keep_an_order_that_cannot_be_captured(
    cards, paid_by_card, give_back, db, shop, assert_balanced
):
    """The part would wait for the capture, and the refund of the whole for the part."""
    sale, order, _ = paid_by_card
    await give_back(order, 500, "a")
    saga = fulfilment.tx_id_of(order.order_id)
    paid = Payment(order.sale_id, order.order_id, order.buyer_id, CARD)
    call = BranchCall(tx_id_of(order.order_id, 0), paid.args())
    async with db.acquire() as connection:
        await fulfilment.begin(TransactionLog(db), connection, [call])
    await db.execute("UPDATE transactions SET state = 'COMPENSATING' WHERE tx_id = $1", saga)
    await ask(db, cards)
    assert await give_back(order, 500, "a") == "refused"
    await FulfilmentWorker(db, cards.provider).run(sale.sale_id)
    assert await shop.states(sale, [order]) == ["refunded unfulfilled"]
    assert cards.held() == 0
    await shop.return_all(sale)
    assert (await assert_balanced(sale)).lines["refunded, cents"] == 1999
