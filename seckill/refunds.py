"""Taking a paid order back: its units at once, then the money and the coupon."""

from __future__ import annotations

import asyncpg

from seckill import audit
from seckill.database import database_errors_as_unavailable
from seckill.errors import Missing, WrongState


async def refund(db: asyncpg.Pool, order_id: str, *, actor: str, reason: str) -> str:
    """Refund a paid order, on record; return its state. Missing or WrongState says why not.

    What came from the wallet is in it again, and the order `refunded`; what was paid by card makes
    it `refunding` until the provider has given it back. Then the coupon is good again, too.
    """
    with database_errors_as_unavailable():
        async with db.acquire() as connection, connection.transaction():
            if not await connection.fetch("SELECT begin_refunds($1, $2)", [order_id], reason):
                await _explain(connection, order_id)
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


async def _explain(connection: asyncpg.Connection, order_id: str) -> None:
    state = await connection.fetchval("SELECT state FROM orders WHERE order_id = $1", order_id)
    if state is None:
        raise Missing(f"there is no order {order_id}")
    if state == "paid":
        raise WrongState(f"the payment of order {order_id} is still being booked; try again")
    raise WrongState(f"order {order_id} is {state}, not paid: there is nothing to refund")
