"""The ledger of money: they balance for every way that a payment can go, and find what is wrong."""

from __future__ import annotations

import json

import asyncpg
import pytest

from seckill.consistency.money_checks import read_money
from seckill.consistency.verify import verify as verify_sale
from seckill.errors import Missing, WrongState
from seckill.payments import refunds, wallets
from seckill.transactions.states import BranchOp, TransactionState
from tests.checkout import BRANCHES, payer


@pytest.fixture
async def bought(checkout, shop, open_sale):
    """A paid order of 1999 cents, 500 of them by coupon, in a sale of three."""
    sale = await open_sale(stock=3)
    (order,) = await shop.order(sale, payer())
    await checkout.give(order.buyer_id, 1500)
    coupon = await checkout.coupon(order.buyer_id, 500)
    assert (await checkout.pay(order, coupon=coupon)).confirmed
    return sale, order


async def test_a_paid_order_is_booked(bought, assert_balanced):
    ledger = await assert_balanced(bought[0])
    lines = ("sold", "orders paid", "charged, cents", "discounted, cents", "refunded, cents")
    assert [ledger.lines[line] for line in lines] == [1, 1, 1499, 500, 0]


async def test_a_refund_gives_unit_money_and_coupon_back_once(
    bought, checkout, shop, db, assert_balanced
):
    sale, order = bought
    await refunds.refund(db, order.order_id, actor="ann", reason="broken zip")

    assert await shop.states(sale, [order]) == ["refunded broken zip"]
    assert await shop.inventory(sale) == (3, 0, 0)
    assert (await wallets.find_wallet(db, order.buyer_id)).available_cents == 1500
    assert [c.state for c in await wallets.coupons_of(db, order.buyer_id)] == ["available"]
    row = await db.fetchrow("SELECT * FROM audit WHERE sale_id = $1", sale.sale_id)
    assert (row["actor"], row["action"], row["reason"]) == ("ann", "order.refund", "broken zip")
    with pytest.raises(WrongState, match="is refunded, not paid"):
        await refunds.refund(db, order.order_id, actor="ann", reason="again")
    await shop.return_all(sale)
    assert await shop.left(sale) == 3
    ledger = await assert_balanced(sale)
    assert (ledger.lines["refunded, cents"], ledger.lines["orders refunded"]) == (1999, 1)


async def test_a_refunded_buyer_may_buy_again_with_the_same_coupon(
    bought, checkout, shop, db, assert_balanced
):
    sale, order = bought
    await refunds.refund(db, order.order_id, actor="ann", reason="r")
    await shop.return_all(sale)
    (again,) = await shop.order(sale, order.buyer_id)
    (coupon,) = await wallets.coupons_of(db, order.buyer_id)
    assert (await checkout.pay(again, coupon=coupon.coupon_id)).confirmed
    await assert_balanced(sale)


async def test_what_is_not_paid_is_not_refunded(checkout, shop, open_sale, db):
    sale = await open_sale(stock=3)
    (order,) = await shop.order(sale, payer())
    with pytest.raises(WrongState, match="is pending, not paid"):
        await refunds.refund(db, order.order_id, actor="ann", reason="r")
    unplaced = shop.wish(sale, payer())
    with pytest.raises(Missing, match=unplaced.order_id):
        await refunds.refund(db, unplaced.order_id, actor="ann", reason="r")


async def test_what_is_still_being_charged_is_not_refunded(checkout, shop, open_sale, db):
    """Else the money would be given back first and taken afterwards; the coupon would be lost."""
    sale = await open_sale(stock=3)
    (order,) = await shop.order(sale, payer())
    await checkout.give(order.buyer_id, 1999)
    call = checkout.call(order, coupon=await checkout.coupon(order.buyer_id, 5))
    for branch in BRANCHES:
        await checkout.run(branch, BranchOp.TRY, call)
    for branch in BRANCHES:
        await checkout.run(branch, BranchOp.CONFIRM, call)
        if branch != BRANCHES[-1]:
            with pytest.raises(WrongState, match="still being booked"):
                await refunds.refund(db, order.order_id, actor="ann", reason="r")
    await refunds.refund(db, order.order_id, actor="ann", reason="r")


async def test_an_open_transaction_is_not_quiet(checkout, shop, open_sale, assert_balanced):
    sale = await open_sale(stock=3)
    (order,) = await shop.order(sale, payer())
    await checkout.log.begin(
        "tcc", "payment", TransactionState.TRYING, [call := checkout.call(order)]
    )
    await checkout.run("order", BranchOp.TRY, call)
    ledger = await assert_balanced(sale, wait_s=0)
    assert (ledger.quiet, ledger.lines["transactions open"]) == (False, 1)
    with pytest.raises(AssertionError, match=r"1 .* transactions open"):
        await assert_balanced(sale, wait_s=0.01)
    await checkout.another().recover(sale.sale_id)
    assert (await assert_balanced(sale)).quiet


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("UPDATE payments SET state = 'cancelled' WHERE sale_id = $1", "I7"),
        ("UPDATE payments SET amount_cents = amount_cents + 1 WHERE sale_id = $1", "I8"),
        ("UPDATE payments SET discount_cents = 0 WHERE sale_id = $1", "I8"),
        ("UPDATE orders SET paying_tx = NULL WHERE sale_id = $1", "I7"),
        ("UPDATE orders SET state = 'paying' WHERE sale_id = $1", "I7"),
        (
            "UPDATE coupons SET state = 'locked' FROM payments p"
            " WHERE locked_by = p.tx_id AND sale_id = $1",
            "I8",
        ),
    ],
)
async def test_damage_is_found(bought, verify, db, damage, complaint):
    sale, _ = bought
    await db.execute(damage, sale.sale_id)
    violations = (await verify(sale)).violations
    assert any(text.startswith(complaint) for text in violations), violations


@pytest.mark.parametrize(
    ("damage", "repair"),
    [
        (
            "UPDATE wallets SET available_cents = available_cents + 1 WHERE buyer_id = $1",
            "UPDATE wallets SET available_cents = available_cents - 1 WHERE buyer_id = $1",
        ),
        (
            "INSERT INTO wallet_holds VALUES ('lost', $1, 1)",
            "DELETE FROM wallet_holds WHERE buyer_id = $1",
        ),
    ],
)
async def test_a_wallet_that_is_not_what_its_entries_say_is_found(
    bought, verify, db, damage, repair
):
    """Wallets are everybody's: what is broken here would be found by every other test."""
    sale, order = bought
    await db.execute(damage, order.buyer_id)
    violations = (await verify(sale)).violations
    await db.execute(repair, order.buyer_id)
    assert f"wallets are not what their entries say: 1 ({order.buyer_id})" in violations
    assert (await verify(sale)).violations == []


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (
            "INSERT INTO entries"
            " VALUES ('lost', 'payment', 'shop', -5), ('lost', 'payment', 'wallet', 5)",
            "I8: posted for no payment: 1 (lost)",
        ),
        (  # which a trigger refuses
            "ALTER TABLE entries DISABLE TRIGGER entries_balance;"
            "INSERT INTO entries VALUES ('lost', 'payment', 'shop', 5)",
            "all postings sum to 5 cents, not to 0",
        ),
        (
            "INSERT INTO wallet_holds SELECT 'lost', buyer_id, 1 FROM orders"
            " WHERE sale_id = '{sale}'",
            "I8: frozen or locked for no payment: 1 (lost)",
        ),
        (
            "UPDATE coupons SET locked_by = 'lost' FROM payments p"
            " WHERE locked_by = p.tx_id AND sale_id = '{sale}'",
            "I8: frozen or locked for no payment: 1 (coupon-",
        ),
    ],
)
async def test_what_no_payment_has_is_found(bought, store, db, damage, complaint):
    """In a transaction that is taken back: it is of all sales, and no posting can be deleted."""
    sale, _ = bought
    async with db.acquire() as connection:
        undone = connection.transaction(isolation="repeatable_read")
        await undone.start()
        try:
            await connection.execute(damage.format(sale=sale.sale_id))
            ledger = await verify_sale(store, connection, sale.sale_id)
        finally:
            await undone.rollback()
    assert [text for text in ledger.violations if text.startswith(complaint)], ledger.violations


def scans_of(plan, table):
    """Return the nodes of a plan that read a table."""
    found = [plan] if plan.get("Relation Name") == table else []
    return found + [scan for each in plan.get("Plans", ()) for scan in scans_of(each, table)]


async def test_the_postings_of_a_sale_are_found_by_an_index(bought, settings):
    """Else it takes the square of the payments: 30 s for 12,000 of them."""
    sale, _ = bought
    connection, queries = await asyncpg.connect(settings.postgres_dsn), []
    try:
        with connection.query_logger(queries.append):
            await read_money(connection, sale.sale_id)
        of_sale = [each for each in queries if each.args and "entries" in each.query]
        assert len(of_sale) == 3
        await connection.execute("SET enable_seqscan = off")  # as for a large table
        for each in of_sale:
            explained = await connection.fetchval(f"EXPLAIN (FORMAT json) {each.query}", *each.args)
            scans = scans_of(json.loads(explained)[0]["Plan"], "entries")
            assert scans
            conditions = [s.get("Index Cond") or s.get("Recheck Cond", "") for s in scans]
            assert all("tx = " in condition for condition in conditions), explained
    finally:
        await connection.close()
