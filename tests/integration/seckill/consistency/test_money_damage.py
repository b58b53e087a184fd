"""One row of each table of money is damaged by hand, and the money check finds each."""

from __future__ import annotations

import dataclasses

import pytest

from seckill.consistency.money_checks import read_money
from seckill.payments import refunds
from seckill.transactions.states import BranchOp, TransactionState
from tests.checkout import payer
from tests.external_payments import external_payments, report_of

#: Short for these in what follows.
MINE = "(SELECT tx_id FROM payments WHERE sale_id = $1)"
ALL = (
    "(SELECT tx_id FROM payments WHERE sale_id = $1"
    " UNION SELECT refund_id FROM refund_parts WHERE sale_id = $1"
    " UNION SELECT 'ext-' || reference FROM external_payments WHERE sale_id = $1)"
)
DAMAGE = [
    "UPDATE entries SET cents = cents + 1 WHERE tx IN {ALL} AND account = 'revenue'",
    "UPDATE entries SET account = 'funding' WHERE tx IN {ALL} AND account = 'revenue'",
    "UPDATE entries SET tx = tx || 'x' WHERE tx IN {ALL}",
    "DELETE FROM entries WHERE tx IN {ALL}",
    "INSERT INTO entries (tx, kind, account, cents) VALUES ($1, 'payment', 'provider', -1),"
    " ($1, 'payment', 'revenue', 1)",
    "UPDATE orders SET amount_cents = amount_cents + 1 WHERE sale_id = $1 AND state = 'paid'",
    "UPDATE payments SET amount_cents = amount_cents + 1 WHERE sale_id = $1",
    "UPDATE payments SET order_id = gen_random_uuid() WHERE sale_id = $1",
    "UPDATE payments SET sale_id = 'elsewhere' WHERE sale_id = $1",
    "UPDATE payments SET buyer_id = 'x' WHERE sale_id = $1 AND method = 'external'",
    "UPDATE payments SET method = 'card' WHERE sale_id = $1",
    "DELETE FROM payments WHERE sale_id = $1 AND method = 'wallet'",
    "UPDATE coupons SET locked_by = 'x' WHERE coupon_id IN"
    " (SELECT coupon_id FROM payments WHERE sale_id = $1)",
    "INSERT INTO coupons VALUES ($1, 'x', 5, 'used', 'lost')",
    "UPDATE wallet_holds SET tx_id = 'x', buyer_id = buyer_id WHERE tx_id IN {MINE}",
    "UPDATE wallet_holds SET cents = cents + 1 WHERE tx_id IN {MINE}",
    "DELETE FROM wallet_holds WHERE tx_id IN {MINE}",
    "UPDATE wallets SET frozen_cents = frozen_cents + 1 WHERE buyer_id IN"
    " (SELECT buyer_id FROM payments WHERE sale_id = $1)",
    "DELETE FROM refund_parts WHERE sale_id = $1",
    "UPDATE refund_parts SET cents = cents + 1 WHERE sale_id = $1",
    "UPDATE refund_parts SET state = 'refused' WHERE sale_id = $1",
    "UPDATE refund_parts SET order_id = gen_random_uuid() WHERE sale_id = $1",
    "UPDATE refund_parts SET tx_id = 'x' WHERE sale_id = $1",
    *(
        change + " WHERE sale_id = $1 AND state = '" + state + "'"
        for state in ("paid", "refund_due")
        for change in (
            "DELETE FROM external_payments",
            "UPDATE external_payments SET amount_cents = amount_cents + 1",
            "UPDATE external_payments SET currency = 'USD'",
            "UPDATE external_payments SET reference = reference || 'x'",
            "UPDATE external_payments SET state = 'refunded', reason = 'too_late'",
        )
    ),
    "UPDATE external_payments SET order_id = gen_random_uuid()"
    " WHERE sale_id = $1 AND state = 'paid'",
]


@pytest.fixture
async def sale(checkout, shop, open_sale, db):
    """Orders paid from a wallet, with a coupon and a part refunded, under way, and from outside."""
    sale = await open_sale(stock=3)
    bought, frozen, outside = await shop.order(sale, payer(), payer(), payer())
    await checkout.give(bought.buyer_id, 1500)
    coupon = await checkout.coupon(bought.buyer_id, 500)
    assert (await checkout.pay(bought, coupon=coupon)).confirmed
    key = f"damage-{bought.order_id[-8:]}"
    await refunds.refund_part(db, bought.order_id, 300, key=key, actor="t", reason="late")
    await checkout.give(frozen.buyer_id, 1999)
    call = checkout.call(frozen)
    await checkout.log.begin("tcc", "payment", TransactionState.TRYING, [call])
    for branch in ("order", "wallet"):
        await checkout.run(branch, BranchOp.TRY, call)
    await external_payments(db).take(report_of(outside))
    await external_payments(db).take(report_of(outside))
    return sale


async def test_every_damaged_row_is_found(sale, db):
    async def faults(damage: str | None) -> list[str]:
        async with db.acquire() as connection:
            changes = connection.transaction(isolation="repeatable_read")
            await changes.start()
            try:
                await connection.execute("SET LOCAL session_replication_role = replica")
                if damage:
                    query = damage.replace("{MINE}", MINE).replace("{ALL}", ALL)
                    done = await connection.execute(query, sale.sale_id)
                    assert not done.endswith(" 0"), damage
                found = await read_money(connection, sale.sale_id)
            finally:
                await changes.rollback()
        return [
            field.name
            for field in dataclasses.fields(found)
            if field.name.startswith(("wrong", "misbooked", "stray", "balance"))
            and getattr(found, field.name)
        ]

    assert await faults(None) == []
    assert [damage for damage in DAMAGE if not await faults(damage)] == []
