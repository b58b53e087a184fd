"""What buyers hold of archived sales: PostgreSQL alone knows."""

from __future__ import annotations

import time
from collections.abc import Sequence

import asyncpg

from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.inventory.reservations import Holding

#: A sale that Redis does not have is asked for so often at most: it may be lost rather than
#: archived, and then a crowd waits for its answer.
ASK_S = 1.0


class ArchivedSales:
    """Tells archived sales from lost ones, and looks buyers up in the archived."""

    def __init__(self, db: asyncpg.Pool) -> None:
        self._db = db
        self._archived: set[str] = set()
        #: Sale that was not archived -> monotonic time of the next question.
        self._ask_at: dict[str, float] = {}

    async def holdings(self, sale_id: str, buyer_ids: Sequence[str]) -> list[Holding | None] | None:
        """Return what each buyer holds, in their order; None if the sale is not archived."""
        if not await self._is_archived(sale_id):
            return None
        with database_errors_as_unavailable():
            rows = await self._db.fetch(
                "SELECT buyer_id, order_id::text, quantity FROM orders"
                " WHERE sale_id = $1 AND buyer_id = ANY($2)"
                "   AND state IN ('pending', 'paying', 'paid')",
                sale_id,
                list(buyer_ids),
            )
        held = {buyer_id: Holding(order_id, units) for buyer_id, order_id, units in rows}
        return [held.get(buyer_id) for buyer_id in buyer_ids]

    async def _is_archived(self, sale_id: str) -> bool:
        now = time.monotonic()
        if sale_id in self._archived:
            return True
        if self._ask_at.get(sale_id, now) > now:
            return False
        self._ask_at[sale_id] = now + ASK_S
        with database_errors_as_unavailable():
            if await self._db.fetchval(
                "SELECT archived_at IS NOT NULL FROM sales WHERE sale_id = $1", sale_id
            ):
                self._archived.add(sale_id)
                del self._ask_at[sale_id]
                return True
        return False
