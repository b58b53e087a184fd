"""recovery: a sale of which PostgreSQL forgot orders and payments."""

from __future__ import annotations

import pytest

from ops.sandbox_provider import PAGE, SandboxCharge
from seckill.consistency import charges
from seckill.consistency.recovery import CardAccess, SaleRecovery
from seckill.consistency.verify import verify
from seckill.errors import WrongState
from seckill.payments import refunds
from seckill.payments.payment import PaymentRefusal, tx_id_of
from seckill.payments.provider import ChargeRequest, ChargeStatus
from tests.card_payments import CardPaymentBench
from tests.checkout import payer

PRICE = 1999


@pytest.fixture
async def cards(db):
    async with CardPaymentBench.open(db) as bench:
        yield bench


@pytest.fixture
def recover(store, db, cards):
    """Recover a sale: `await recover(sale, void=True)`."""

    async def run(sale, **how):
        access = CardAccess(cards.provider, cards.payments)
        return await SaleRecovery(store, db, access).run(sale.sale_id, actor="test", **how)

    return run


@pytest.fixture
def forget(db, stock):
    """Fence a sale as after a restore."""

    async def fence(sale):
        await stock.set_sale_state(sale.sale_id, "fenced")
        await db.execute("INSERT INTO restored_sales VALUES ($1)", sale.sale_id)

    return fence


@pytest.fixture
def charged(cards):
    """Let the provider have money that PostgreSQL forgot."""

    def charge(order, cents=PRICE, *, number=0, status=ChargeStatus.CAPTURED):
        key = tx_id_of(order.order_id, number)
        found = SandboxCharge(key, order.sale_id, order.order_id, cents)
        found.become(status)
        cards.sandbox.charges[key] = found
        return found

    return charge


@pytest.mark.parametrize("give_back", [False, True])
async def test_forgotten_grabs_are_placed_again_or_given_back(
    open_sale, shop, recover, forget, assert_balanced, give_back
):
    sale = await open_sale(stock=3)
    (known,) = await shop.order(sale, "ann")
    (lost,) = await shop.grab(sale, "bob")
    await forget(sale)

    report = await recover(sale, give_back=give_back)

    assert (report.placed, report.rejected) == (
        ([], [lost.order_id]) if give_back else ([lost.order_id], [])
    )
    assert await shop.states(sale, [known, lost]) == [
        "pending",
        "rejected epoch" if give_back else "pending",
    ]
    ledger = await assert_balanced(sale)
    assert ledger.lines["available"] == (2 if give_back else 1)


async def test_forgotten_grabs_beyond_the_stock_are_rejected_and_nothing_is_oversold(
    open_sale, shop, recover, forget, assert_balanced
):
    """An order that had ended lives again, and its unit was sold to another buyer since."""
    sale = await open_sale(stock=1)
    (lost,) = await shop.grab(sale, "bob")
    alive = await shop.place_unseen(sale, "ann")
    await forget(sale)

    report = await recover(sale)

    assert (report.placed, report.rejected) == ([], [lost.order_id])
    assert await shop.states(sale, [alive, lost]) == ["pending", "rejected stock"]
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_charges_pay_their_orders_and_what_is_left_is_named_and_voided_on_demand(
    open_sale, shop, recover, forget, charged, cards, db, store, assert_balanced
):
    sale = await open_sale(stock=5)
    fits, overdue, differs, ended = await shop.order(sale, *(payer() for _ in range(4)))
    await db.execute(
        "UPDATE orders SET pay_by = now() - interval '1 hour' WHERE order_id = $1", overdue.order_id
    )
    await shop.release(ended)
    for order in (fits, overdue, ended):
        charged(order)
    charged(fits, number=1, status=ChargeStatus.VOIDED)
    charged(differs, 1499)
    await forget(sale)

    report = await recover(sale)

    assert {each.order_id for each in report.paid} == {fits.order_id, overdue.order_id}
    assert {(o.order_id, o.cents) for o in report.orphans} == {
        (differs.order_id, 1499),
        (ended.order_id, PRICE),
    }
    assert cards.held() == 3 * PRICE + 1499
    ledger = await verify(store, db, sale.sale_id, provider=cards.provider)
    (violation,) = ledger.violations
    assert f"{PRICE + 1499} cents of charges without a payment" in violation

    report = await recover(sale, void=True)

    assert (len(report.voided), report.orphans, cards.held()) == (2, [], 2 * PRICE)
    audited = await db.fetch(
        "SELECT action, actor FROM audit WHERE sale_id = $1 AND action LIKE 'sale.%charge%'"
        " ORDER BY audit_id",
        sale.sale_id,
    )
    assert list(map(tuple, audited)) == [
        ("sale.pay_by_charge", "test"),
        ("sale.void_charges", "test"),
    ]
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_a_forgotten_refund_is_named_until_it_is_repeated(
    open_sale, shop, recover, cards, db, store
):
    sale = await open_sale()
    (order,) = await shop.order(sale, payer())
    assert (await cards.pay_order(order)).confirmed
    await cards.provider.void(ChargeRequest(tx_id_of(order.order_id, 0)))  # as its refund did

    assert (await recover(sale)).unfunded == [order.order_id]
    ledger = await verify(store, db, sale.sale_id, provider=cards.provider)
    assert any("voided at the provider" in violation for violation in ledger.violations)

    await refunds.refund(db, order.order_id, actor="test", reason="again")
    await cards.settle(sale)
    assert (await recover(sale)).unfunded == []
    assert await shop.states(sale, [order]) == ["refunded again"]


async def test_a_sale_that_redis_lost_is_left_to_its_rebuild(open_sale, recover, lose, run, forget):
    sale = await open_sale()
    await lose(sale)
    with pytest.raises(WrongState, match="seckill sale rebuild"):
        await recover(sale)
    await forget(sale)  # then a rebuild is too little
    with pytest.raises(WrongState, match="seckill sale recover"):
        await run(sale)
    await recover(sale)


async def test_a_forgotten_charge_is_found_by_the_key_of_its_order(
    open_sale, shop, cards, charged, db
):
    """A buyer pays again after a restore, before anything is recovered."""
    sale = await open_sale(stock=3)
    captured, declined, differs = await shop.order(sale, *(payer() for _ in range(3)))
    charged(captured)
    charged(declined, status=ChargeStatus.DECLINED)
    charged(declined, number=1)
    charged(differs, 1499)

    pay = cards.pay_order
    assert (await pay(captured)).confirmed
    assert (await pay(declined)).reason == PaymentRefusal.DECLINED
    assert (await pay(declined)).confirmed
    assert (await pay(differs)).reason == PaymentRefusal.DECLINED  # its money went back
    assert (await pay(differs)).confirmed
    assert [charge.history[-1] for charge in cards.charges()].count("authorised") == 1
    assert cards.held() == 3 * PRICE
    compared = await charges.compare(db, cards.provider, sale.sale_id)
    assert (compared.orphans, compared.unfunded) == ([], [])


async def test_an_attempt_that_its_coupon_stopped_takes_no_number(open_sale, shop, cards, db):
    """Its key was never sent; a later one that was would not be found after a restore."""
    sale = await open_sale()
    (order,) = await shop.order(sale, payer())
    assert (await cards.pay_order(order, coupon="none")).reason == PaymentRefusal.COUPON_UNKNOWN
    assert (await cards.pay_order(order)).confirmed
    assert [charge.key for charge in cards.charges()] == [tx_id_of(order.order_id, 0)]
    # Two calls that began together have one key: the second hears how the first one ended
    again = await cards.pay(order, tx_id=tx_id_of(order.order_id, 0))
    assert again.reason == PaymentRefusal.PAID
    assert await db.fetchval("SELECT count(*) FROM payments WHERE sale_id = $1", sale.sale_id) == 1


async def test_the_list_of_charges_is_read_to_its_end(open_sale, shop, cards, charged, db):
    sale = await open_sale()
    orders = [shop.wish(sale, f"b{number}") for number in range(PAGE + 5)]
    for order in orders:
        charged(order)
    found = await charges.compare(db, cards.provider, sale.sale_id)
    assert {each.order_id for each in found.orphans} == {order.order_id for order in orders}


async def test_a_provider_without_a_list_is_not_compared(open_sale, store, db, cards, monkeypatch):
    sale = await open_sale()

    async def no_list(_):
        return None

    monkeypatch.setattr(cards.provider, "charges_of", no_list)
    assert await charges.compare(db, cards.provider, sale.sale_id) is None
    ledger = await verify(store, db, sale.sale_id, provider=cards.provider)
    assert ledger.balanced
    assert "charges without a payment" not in ledger.lines
