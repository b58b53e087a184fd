"""Redis and PostgreSQL compared name by name, a page at a time, while the sale goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import asyncpg
from redis.asyncio import Redis

from seckill import keys
from seckill.books import holder_pages
from seckill.database import database_errors_as_unavailable
from seckill.orders import LIVE
from seckill.redis_client import redis_errors_as_unavailable
from seckill.stock import CALL_MAX, Holding


class Held(NamedTuple):
    """A holder, and what PostgreSQL says of its order."""

    buyer_id: str
    holding: Holding
    #: None when there is no row.
    state: str | None
    #: Whether its units are on their way back.
    is_returning: bool

    @property
    def is_live(self) -> bool:
        """Tell whether the order may hold units."""
        return self.state in LIVE


class Unheld(NamedTuple):
    """A live order whose buyer does not hold it in Redis."""

    buyer_id: str
    holding: Holding


async def held(redis: Redis, db: asyncpg.Pool, sale_id: str) -> AsyncIterator[list[Held]]:
    """Yield all holders with their rows. The row is read after the holder.

    So a holder without a row was in flight when it was read, or has lost its message.
    """
    async for page in holder_pages(redis, sale_id):
        with database_errors_as_unavailable():
            rows = await db.fetch(
                "SELECT o.order_id::text, o.state, r.order_id IS NOT NULL"
                "  FROM orders o LEFT JOIN stock_returns r USING (order_id)"
                " WHERE o.order_id = ANY($1::uuid[])",
                [holding.order_id for _, holding in page],
            )
        found = {order_id: (state, returning) for order_id, state, returning in rows}
        yield [
            Held(buyer_id, holding, *found.get(holding.order_id, (None, False)))
            for buyer_id, holding in page
        ]


async def unheld(redis: Redis, db: asyncpg.Pool, sale_id: str) -> AsyncIterator[list[Unheld]]:
    """Yield live orders that have no holder. The holder is read after the row.

    So the order may have ended, and been given back, in between: whoever acts looks again.
    """
    after = ""
    while True:
        with database_errors_as_unavailable():
            rows = await db.fetch(
                "SELECT buyer_id, order_id::text, quantity FROM orders"
                # As the partial index has it; one live order a buyer, so a buyer is a place in it.
                " WHERE sale_id = $1 AND state IN ('pending', 'paying', 'paid') AND buyer_id > $2"
                " ORDER BY buyer_id LIMIT $3",
                sale_id,
                after,
                CALL_MAX,
            )
        if not rows:
            return
        after = rows[-1]["buyer_id"]
        page = [Unheld(buyer, Holding(order_id, units)) for buyer, order_id, units in rows]
        yield await _without_holder(redis, sale_id, page)


async def _without_holder(redis: Redis, sale_id: str, page: Sequence[Unheld]) -> list[Unheld]:
    with redis_errors_as_unavailable():
        texts: Any = await redis.hmget(keys.holders(sale_id), [live.buyer_id for live in page])
    return [
        live
        for live, text in zip(page, texts, strict=True)
        if text is None or text.decode() != str(live.holding)
    ]
