"""What the shop's programs change of an order, on record with who asked for it."""

from __future__ import annotations

import asyncpg

from seckill import audit
from seckill.adapters.postgres import transaction
from seckill.orders import orders


async def cancel(
    db: asyncpg.Pool | asyncpg.Connection, order_id: str, *, actor: str, reason: str
) -> bool:
    """Cancel an unpaid order and give its units back; return False if it was not `pending`."""
    async with transaction(db) as connection:
        ended = await orders.release(connection, [order_id], to_state="cancelled", reason=reason)
        if ended:
            await audit.record(
                connection,
                "order.cancel",
                actor=actor,
                reason=reason,
                sale_id=await connection.fetchval(
                    "SELECT sale_id FROM orders WHERE order_id = $1", order_id
                ),
                details={"order_id": order_id},
            )
    return bool(ended)
