"""The holders of a sale in Redis: who holds which order and how many units."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from redis.asyncio import Redis

from seckill.adapters import redis_keys
from seckill.adapters.redis import redis_errors_as_unavailable
from seckill.inventory.reservations import CALL_MAX, Holding


async def find_holdings(
    redis: Redis, sale_id: str, wanted: Mapping[str, str | None]
) -> dict[str, tuple[str, Holding]]:
    """Return order_id -> (buyer_id, holding) for the `wanted` orders for which Redis holds units.

    `wanted` maps order ids to their buyers. If a buyer is not known, all holders are read, page by
    page.
    """
    found: dict[str, tuple[str, Holding]] = {}
    buyers = sorted({buyer for buyer in wanted.values() if buyer is not None})
    if buyers:
        with redis_errors_as_unavailable():
            texts: list[Any] = await redis.hmget(redis_keys.holders(sale_id), buyers)
        for buyer_id, text in zip(buyers, texts, strict=True):
            if text is not None:
                holding = Holding.parse(text.decode())
                found[holding.order_id] = (buyer_id, holding)
    if None in wanted.values():
        async for page in holder_pages(redis, sale_id):
            found |= {holding.order_id: (buyer_id, holding) for buyer_id, holding in page}
    return {order_id: found[order_id] for order_id in wanted if order_id in found}


async def holder_pages(redis: Redis, sale_id: str) -> AsyncIterator[list[tuple[str, Holding]]]:
    """Yield buyers and their holdings, some hundreds at a time, while the sale goes on.

    A holder that is there from the beginning to the end is yielded, perhaps twice.
    """
    cursor = None
    while cursor != 0:
        with redis_errors_as_unavailable():
            reply: Any = await redis.hscan(redis_keys.holders(sale_id), cursor or 0, count=CALL_MAX)
        cursor, page = reply
        if page:
            yield [(buyer.decode(), Holding.parse(text.decode())) for buyer, text in page.items()]
