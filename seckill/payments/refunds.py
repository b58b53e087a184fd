"""Refund a paid order: its units at once, then the money and the coupon."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from seckill import audit
from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.errors import Missing, WrongState


async def refund(
    db: asyncpg.Pool | asyncpg.Connection, order_id: str, *, actor: str, reason: str
) -> str:
    """Refund a paid order, on record; return its state. Raise Missing or WrongState if not paid.

    Money from the wallet is back at once, and the order is `refunded`. An order paid by card is
    `refunding` until the provider has returned the money. Then the coupon is good again, too.
    """
    async with transaction(db) as connection:
        if not await connection.fetch("SELECT begin_refunds($1, $2)", [order_id], reason):
            await _explain(connection, order_id)
        await connection.execute("SELECT release_shipments($1)", [order_id])
        await connection.execute("SELECT refund_to_wallets($1)", [order_id])
        row = await connection.fetchrow(
            "SELECT p.tx_id, p.sale_id, p.amount_cents, o.state"
            "  FROM payments p JOIN orders o ON tx_id = paying_tx WHERE o.order_id = $1",
            order_id,
        )
        await audit.record(
            connection,
            "order.refund",
            actor=actor,
            sale_id=row["sale_id"],
            reason=reason,
            details={"order_id": order_id, "tx_id": row["tx_id"], "cents": row["amount_cents"]},
        )
    return str(row["state"])


async def begin(db: asyncpg.Pool, order_ids: Sequence[str], reason: str) -> set[str]:
    """Begin the refunds of paid orders, with their units for sale; return those still unsettled.

    These wait: only what was charged can be returned. Orders in other states stay as they are.
    """
    async with transaction(db) as connection:
        await connection.execute("SELECT begin_refunds($1, $2)", order_ids, reason)
        rows = await connection.fetch(
            "SELECT order_id::text FROM orders WHERE order_id = ANY ($1) AND state = 'paid'",
            order_ids,
        )
    return {row[0] for row in rows}


async def finish(
    db: asyncpg.Pool, paid_by_wallet: Sequence[str], voided_payments: Sequence[str]
) -> None:
    """Post the refunds that were begun, each once: by order id or by card payment."""
    with database_errors_as_unavailable():
        # Two transactions, so that each takes its locks in order.
        if voided_payments:
            await db.execute("SELECT refund_card_payments($1)", voided_payments)
        if paid_by_wallet:
            await db.execute("SELECT refund_to_wallets($1)", paid_by_wallet)


async def _explain(connection: asyncpg.Connection, order_id: str) -> None:
    state = await connection.fetchval("SELECT state FROM orders WHERE order_id = $1", order_id)
    if state is None:
        raise Missing(f"there is no order {order_id}")
    if state == "paid":
        raise WrongState(f"the payment of order {order_id} is still being booked; try again")
    raise WrongState(f"order {order_id} is {state}, not paid: there is nothing to refund")
