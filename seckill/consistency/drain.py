"""What buyers were promised and what is no row yet, and waiting for it to become one."""

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

#: Between two looks: a consumer commits what it holds in less.
LOOK_PAUSE_S = 1.0


class InFlight(NamedTuple):
    """What has not come to its end."""

    #: Waiting on the broker, of whatever sales.
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
    """Wait until all that is under way is placed; return what is left when the time is over.

    `count_waiting` counts the messages on `orders.place`. Those that a consumer holds cannot be
    counted, so the end is: nothing waits anywhere, and nothing was placed since the look before.
    """
    deadline = time.monotonic() + wait_s
    before: object = None
    while True:
        left = await _look(redis, db, count_waiting, sale_ids)
        with database_errors_as_unavailable():
            version = await db.fetchval(
                "SELECT sum(version) FROM inventory WHERE sale_id = ANY($1)", list(sale_ids)
            )
        is_quiet = not any(left) and version == before
        if is_quiet or time.monotonic() >= deadline:
            return left
        before = version
        await asyncio.sleep(LOOK_PAUSE_S)


async def _look(
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
            holders += sum(held.state is None for held in page)
    return InFlight(messages, entries, holders)
