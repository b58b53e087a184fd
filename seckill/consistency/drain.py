"""Wait until every accepted grab of some sales has its row."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple

import asyncpg
from redis.asyncio import Redis

from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.consistency import diff
from seckill.inventory import outbox

#: Between two counts: a consumer commits the messages that it holds in less.
COUNTS_APART_S = 1.0


class InFlight(NamedTuple):
    """Grabs that are not placed yet, counted where they can wait."""

    #: Messages on the broker, of any sale.
    messages: int
    outbox_entries: int
    #: Holders without a row.
    holders: int


async def wait_until_placed(
    redis: Redis,
    db: asyncpg.Pool,
    count_waiting: Callable[[], Awaitable[int]],
    sale_ids: Collection[str],
    wait_s: float,
) -> InFlight:
    """Wait until all grabs under way are placed; return what is left when the time is over.

    `count_waiting` counts the messages on `orders.place`. The messages that a consumer holds cannot
    be counted. So the wait ends when nothing waits anywhere, and nothing was placed since the last
    count.
    """
    deadline = time.monotonic() + wait_s
    before: object = None
    while True:
        left = await _count(redis, db, count_waiting, sale_ids)
        with database_errors_as_unavailable():
            version = await db.fetchval(
                "SELECT sum(version) FROM inventory WHERE sale_id = ANY($1)", list(sale_ids)
            )
        is_quiet = not any(left) and version == before
        if is_quiet or time.monotonic() >= deadline:
            return left
        before = version
        await asyncio.sleep(COUNTS_APART_S)


async def _count(
    redis: Redis,
    db: asyncpg.Pool,
    count_waiting: Callable[[], Awaitable[int]],
    sale_ids: Collection[str],
) -> InFlight:
    messages = await count_waiting()
    entries = sum(await outbox.sizes(redis, list(sale_ids)))
    holders = 0
    for sale_id in sale_ids:
        async for page in diff.holders_with_rows(redis, db, sale_id):
            holders += sum(holder.state is None for holder in page)
    return InFlight(messages, entries, holders)
