"""What follows a payment: shipped and announced, or taken back step by step, with every cent."""

from __future__ import annotations

from functools import partial

import pytest

from seckill.errors import Unavailable
from seckill.inventory import stock_returns
from seckill.payments import fulfilment, refunds, wallets
from seckill.payments.checkout import CARD
from seckill.payments.payment import Payment, new_tx_id
from seckill.payments.provider import ChargeStatus
from seckill.payments.wallets import Wallet
from seckill.transactions import manual, saga
from seckill.transactions.log import TransactionLog
from seckill.transactions.states import BranchOp
from tests.card_payments import CardPaymentBench
from tests.checkout import payer
from tests.fulfilment import FulfilmentWorker, saga_of
from tests.transactions import Killed

PRICE = 1999


@pytest.fixture
async def order(shop, open_sale, checkout):
    """An order that its buyer can pay."""
    sale = await open_sale(stock=3)
    (placement,) = await shop.order(sale, payer())
    await checkout.give(placement.buyer_id, PRICE)
    return sale, placement


@pytest.fixture
def paid(order, checkout):
    """Pay the order, with a coupon if one is asked for."""

    async def make(coupon_cents=0):
        sale, placement = order
        coupon = await checkout.coupon(placement.buyer_id, coupon_cents) if coupon_cents else None
        assert (await checkout.pay(placement, coupon=coupon)).confirmed
        return sale, placement

    return make


@pytest.fixture
def ship_at_most(db):
    """Let the warehouse ship so many units of a sale."""

    async def limit(sale, units):
        await db.execute(
            "INSERT INTO shipping_capacity VALUES ($1, $2)"
            " ON CONFLICT (sale_id) DO UPDATE SET units = excluded.units",
            sale.sale_id,
            units,
        )

    return limit


@pytest.fixture
def refusing(db):
    """Let a table refuse the rows of a buyer inside the block: what no attempt can mend."""

    class Refusing:
        def __init__(self, table, buyer):
            self.table, self.name = table, f"refuse_{table}"
            self.buyer = buyer

        async def __aenter__(self):
            await db.execute(
                f"CREATE FUNCTION {self.name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                f" IF NEW.buyer_id = '{self.buyer}' THEN RAISE EXCEPTION 'broken'; END IF;"
                f" RETURN NEW; END $$;"
                f" CREATE TRIGGER {self.name} BEFORE INSERT OR UPDATE ON {self.table}"
                f" FOR EACH ROW EXECUTE FUNCTION {self.name}()"
            )

        async def __aexit__(self, *_):
            await db.execute(f"DROP FUNCTION {self.name}() CASCADE")

    return Refusing


@pytest.fixture
def shipment_of(db):
    async def call(placement):
        query = "SELECT state FROM shipments WHERE order_id = $1"
        return await db.fetchval(query, placement.order_id)

    return call


@pytest.fixture
def notices(db):
    async def call(placement):
        query = "SELECT kind FROM notifications WHERE order_id = $1 ORDER BY at"
        return [row[0] for row in await db.fetch(query, placement.order_id)]

    return call


@pytest.fixture
def steps(db):
    """Return (branch, operation, attempts, done) in the order of `seckill tx show`."""

    async def call(placement):
        shown = await manual.show(db, fulfilment.tx_id_of(placement.order_id))
        return [(b.branch, b.op, b.attempts, b.done_at is not None) for b in shown.branches]

    return call


async def test_a_paid_order_is_shipped_and_its_buyer_notified(
    paid, db, steps, shipment_of, notices, assert_balanced
):
    sale, placement = await paid()
    await FulfilmentWorker(db).run(sale.sale_id)
    assert await saga_of(db, placement.order_id) == ("COMPLETED", None)
    assert await steps(placement) == [
        ("capture", "do", 1, True),
        ("allocate_shipment", "do", 1, True),
        ("notify", "do", 1, True),
    ]
    assert (await shipment_of(placement), await notices(placement)) == ("allocated", ["shipping"])
    await assert_balanced(sale)


async def test_a_shipment_that_is_refused_refunds_the_order(
    paid, db, shop, stock, ship_at_most, steps, shipment_of, notices, checkout, assert_balanced
):
    sale, placement = await paid(coupon_cents=500)
    await ship_at_most(sale, 0)
    await FulfilmentWorker(db).run(sale.sale_id)
    assert await saga_of(db, placement.order_id) == ("COMPENSATED", "no_capacity")
    assert await steps(placement) == [
        ("capture", "do", 1, True),
        ("allocate_shipment", "do", 1, False),
        ("allocate_shipment", "undo", 1, True),
        ("capture", "undo", 1, True),
    ]
    assert await shop.states(sale, [placement]) == ["refunded unfulfilled"]
    assert (await shipment_of(placement), await notices(placement)) == (None, [])
    assert (await stock_returns.return_batch(db, stock)).done
    assert not (await stock_returns.return_batch(db, stock)).done
    assert (await shop.inventory(sale), await shop.left(sale)) == ((3, 0, 0), 3)
    assert await wallets.find_wallet(db, placement.buyer_id) == Wallet(placement.buyer_id, PRICE)
    assert [c.state for c in await wallets.coupons_of(db, placement.buyer_id)] == ["available"]
    ledger = await assert_balanced(sale)
    assert ledger.lines["refunded, cents"] == PRICE


async def test_a_third_step_that_fails_undoes_all_in_reverse_once_each(
    paid, db, shop, stock, refusing, steps, shipment_of, notices, assert_balanced
):
    sale, placement = await paid()
    worker, another = FulfilmentWorker(db), FulfilmentWorker(db)
    await worker.step(sale.sale_id)
    await worker.step(sale.sale_id)
    async with refusing("notifications", placement.buyer_id):
        await worker.step(sale.sale_id)
    # Two workers have every message that follows, and each of them twice.
    while open_steps := await worker.open_steps(sale.sale_id):
        await worker.saga.handle(open_steps * 2)
        await another.saga.handle(open_steps * 2)
    assert await steps(placement) == [
        ("capture", "do", 1, True),
        ("allocate_shipment", "do", 1, True),
        ("notify", "do", 1, False),
        ("notify", "undo", 1, True),
        ("allocate_shipment", "undo", 1, True),
        ("capture", "undo", 1, True),
    ]
    state, reason = await saga_of(db, placement.order_id)
    assert (state, "broken" in reason) == ("COMPENSATED", True)
    assert await shop.states(sale, [placement]) == ["refunded unfulfilled"]
    assert (await shipment_of(placement), await notices(placement)) == ("released", [])
    await stock_returns.return_batch(db, stock)
    await assert_balanced(sale)


async def test_a_buyer_notified_of_a_shipment_is_notified_of_its_withdrawal(
    paid, db, notices, monkeypatch, stock, assert_balanced
):
    """The third step was done, but its reply was lost for good."""
    monkeypatch.setattr(saga, "DO_ATTEMPTS_MAX", 1)
    sale, placement = await paid()
    worker = FulfilmentWorker(db)
    await worker.step(sale.sale_id)
    await worker.step(sale.sale_id)
    notify = worker.saga._steps[2]
    run = notify.run

    async def lost(op, calls):
        await run(op, calls)
        if op is BranchOp.DO:
            raise Unavailable("the reply was lost")
        return {}

    monkeypatch.setattr(notify, "run", lost)
    await worker.run(sale.sale_id)
    assert (await saga_of(db, placement.order_id))[0] == "COMPENSATED"
    assert await notices(placement) == ["shipping", "withdrawn"]
    await stock_returns.return_batch(db, stock)
    await assert_balanced(sale)


async def test_capacity_is_allocated_in_one_row_of_buyers_and_comes_back(
    open_sale, shop, checkout, db, ship_at_most, stock, assert_balanced
):
    sale = await open_sale(stock=5)
    placements = await shop.order(sale, *(payer() for _ in range(5)))
    for placement in placements:
        await checkout.give(placement.buyer_id, PRICE)
        assert (await checkout.pay(placement)).confirmed
    await ship_at_most(sale, 3)
    await FulfilmentWorker(db).run(sale.sale_id)
    states = [(await saga_of(db, p.order_id))[0] for p in placements]
    assert sorted(states) == ["COMPENSATED"] * 2 + ["COMPLETED"] * 3
    shipped = placements[states.index("COMPLETED")]
    await refunds.refund(db, shipped.order_id, actor="ann", reason="broken")
    query = "SELECT count(*) FROM shipments WHERE sale_id = $1 AND state = 'allocated'"
    assert await db.fetchval(query, sale.sale_id) == 2
    await stock_returns.return_batch(db, stock)
    await assert_balanced(sale)


async def test_an_order_refunded_by_hand_is_not_shipped(
    paid, db, stock, shipment_of, notices, assert_balanced
):
    sale, placement = await paid()
    await refunds.refund(db, placement.order_id, actor="ann", reason="changed their mind")
    await FulfilmentWorker(db).run(sale.sale_id)
    assert await saga_of(db, placement.order_id) == ("COMPENSATED", "not_paid")
    assert (await shipment_of(placement), await notices(placement)) == (None, [])
    await stock_returns.return_batch(db, stock)
    await assert_balanced(sale)


async def test_an_unpaid_order_has_no_saga(order, db, checkout):
    _, placement = order
    payment = checkout.call(placement)
    assert not await checkout.run("order", BranchOp.TRY, payment)
    assert await saga_of(db, placement.order_id) is None
    await checkout.run("order", BranchOp.CANCEL, payment)
    assert await saga_of(db, placement.order_id) is None


async def test_F12_no_paid_order_without_a_saga_wherever_the_payment_is_killed(
    open_sale, shop, checkout, db, assert_balanced
):
    sale = await open_sale(stock=100)
    for point in range(100):
        (placement,) = await shop.order(sale, payer())
        await checkout.give(placement.buyer_id, PRICE)
        try:
            await checkout.mortal(point).coordinator.run([checkout.call(placement)])
        except Killed:
            paid = await shop.states(sale, [placement]) == ["paid"]
            assert (await saga_of(db, placement.order_id) is not None) == paid
            continue
        break
    assert point > 10
    await checkout.recover(sale.sale_id)
    await assert_balanced(sale)


async def test_a_refund_waits_for_a_payment_that_is_still_being_booked(
    order, db, checkout, ship_at_most, steps, stock, assert_balanced
):
    """Its units are sold, its wallet not charged yet: only what was charged can be given back."""
    sale, placement = order
    await ship_at_most(sale, 0)
    payment = checkout.call(placement)
    await checkout.log.begin("tcc", "payment", "CONFIRMING", [payment])
    for branch in ("order", "coupon", "wallet"):
        assert not await checkout.run(branch, BranchOp.TRY, payment)
    assert not await checkout.run("order", BranchOp.CONFIRM, payment)
    worker = FulfilmentWorker(db)
    await worker.run(sale.sale_id)
    assert (await saga_of(db, placement.order_id))[0] == "COMPENSATING"
    assert (await steps(placement))[-1] == ("capture", "undo", 1, False)
    await checkout.recover(sale.sale_id)
    await worker.run(sale.sale_id)
    assert (await saga_of(db, placement.order_id))[0] == "COMPENSATED"
    assert (await wallets.find_wallet(db, placement.buyer_id)).available_cents == PRICE
    await stock_returns.return_batch(db, stock)
    await assert_balanced(sale)


async def test_a_refund_that_cannot_finish_is_parked_and_goes_on_when_it_is_mended(
    paid, db, shop, ship_at_most, refusing, monkeypatch, stock, steps, assert_balanced
):
    monkeypatch.setattr(saga, "UNDO_ATTEMPTS_MAX", 1)
    sale, placement = await paid()
    await ship_at_most(sale, 0)
    worker = FulfilmentWorker(db)
    tx_id = fulfilment.tx_id_of(placement.order_id)
    async with refusing("wallets", placement.buyer_id):
        await worker.run(sale.sale_id)
        shown = await manual.show(db, tx_id)
        assert (shown.transaction.state, shown.transaction.parked_in) == ("FAILED", "COMPENSATING")
        assert "broken" in shown.branches[-1].error
    # Its units are for sale again meanwhile, and its buyer sees where it stands.
    assert await shop.states(sale, [placement]) == ["refunding unfulfilled"]
    await stock_returns.return_batch(db, stock)
    assert await shop.left(sale) == 3
    await manual.retry(db, tx_id, actor="test")
    await worker.run(sale.sale_id)
    assert await saga_of(db, placement.order_id) == ("COMPENSATED", "no_capacity")
    assert (await steps(placement))[-1] == ("capture", "undo", 2, True)
    await assert_balanced(sale)


@pytest.fixture
def paid_by_card(shop, open_sale, checkout, db):
    """Pay an order by card, as a gateway does; return its sale, the order and the payment."""

    async def make(cards, coupon_cents=0):
        sale = await open_sale(stock=3)
        (placement,) = await shop.order(sale, payer())
        coupon = await checkout.coupon(placement.buyer_id, coupon_cents) if coupon_cents else None
        payment = Payment(sale.sale_id, placement.order_id, placement.buyer_id, CARD, coupon)
        taking = cards.another(on_paid=partial(fulfilment.begin, TransactionLog(db)))
        tx_id = new_tx_id()
        assert (await taking.pay(tx_id, payment)).confirmed
        return sale, placement, tx_id

    return make


async def test_what_a_card_payment_holds_is_captured(db, paid_by_card, assert_balanced):
    async with CardPaymentBench.open(db) as cards:
        sale, placement, tx_id = await paid_by_card(cards)
        assert cards.sandbox.charges[tx_id].status is ChargeStatus.AUTHORISED
        await FulfilmentWorker(db, cards.provider).run(sale.sale_id)
        assert await saga_of(db, placement.order_id) == ("COMPLETED", None)
        assert cards.sandbox.charges[tx_id].status is ChargeStatus.CAPTURED
        await assert_balanced(sale)


async def test_a_card_payment_that_is_taken_back_is_voided(
    db, shop, stock, paid_by_card, ship_at_most, assert_balanced
):
    async with CardPaymentBench.open(db) as cards:
        sale, placement, tx_id = await paid_by_card(cards)
        await ship_at_most(sale, 0)
        await FulfilmentWorker(db, cards.provider).run(sale.sale_id)
        assert await shop.states(sale, [placement]) == ["refunded unfulfilled"]
        assert cards.sandbox.charges[tx_id].status is ChargeStatus.VOIDED
        await stock_returns.return_batch(db, stock)
        ledger = await assert_balanced(sale)
        assert ledger.lines["refunded, cents"] == PRICE


async def test_a_capture_that_the_provider_declines_takes_the_order_back(
    db, shop, stock, paid_by_card, assert_balanced
):
    async with CardPaymentBench.open(db) as cards:
        sale, placement, tx_id = await paid_by_card(cards)
        cards.sandbox.charges[tx_id].become(ChargeStatus.DECLINED)
        await FulfilmentWorker(db, cards.provider).run(sale.sale_id)
        state, reason = await saga_of(db, placement.order_id)
        assert (state, "declined" in reason) == ("COMPENSATED", True)
        assert await shop.states(sale, [placement]) == ["refunded unfulfilled"]
        await stock_returns.return_batch(db, stock)
        await assert_balanced(sale)


async def test_an_unavailable_provider_delays_a_capture_and_decides_nothing(
    db, shop, paid_by_card, assert_balanced
):
    async with CardPaymentBench.open(db) as cards:
        sale, placement, tx_id = await paid_by_card(cards)
        await FulfilmentWorker(db, None).run(sale.sale_id)
        assert await saga_of(db, placement.order_id) == ("RUNNING", None)
        assert await shop.states(sale, [placement]) == ["paid"]
        await FulfilmentWorker(db, cards.provider).run(sale.sale_id)
        assert cards.sandbox.charges[tx_id].status is ChargeStatus.CAPTURED
        await assert_balanced(sale)


async def test_a_coupon_that_pays_all_of_it_leaves_nothing_to_capture(
    db, paid_by_card, assert_balanced
):
    async with CardPaymentBench.open(db) as cards:
        sale, placement, _ = await paid_by_card(cards, coupon_cents=2 * PRICE)
        await FulfilmentWorker(db, cards.provider).run(sale.sale_id)
        assert await saga_of(db, placement.order_id) == ("COMPLETED", None)
        assert cards.charges() == []
        await assert_balanced(sale)
