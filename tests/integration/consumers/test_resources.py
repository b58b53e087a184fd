"""The stores of a consumer process: all are closed in the end."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from consumers.resources import open_resources


async def test_F27_a_consumer_process_closes_all_its_connections(settings, store, db, eventually):
    async def open_now():
        redis = {client["id"] for client in await store.client_list()}
        postgres = await db.fetch("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'cl%'")
        return redis, {row[0] for row in postgres}

    async with AsyncExitStack() as stack:
        before = await open_now()
        stores = await open_resources(settings, stack)
        await asyncio.gather(*(stores.stock.now_ms() for _ in range(4)))
        during = await open_now()
        assert all(now - then for now, then in zip(during, before, strict=True))

    async def all_closed():
        after = await open_now()
        return not any(
            (now & then) - old for now, then, old in zip(after, during, before, strict=True)
        )

    await eventually(all_closed, "no connection of the process is left")
