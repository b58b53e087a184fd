"""A store fails under an open stream: the stream stays, and sends afterwards what it missed."""

from __future__ import annotations

import asyncio
import signal

from aiohttp import ClientSession

from ops.buyers import grab
from tests.event_streams import HEARTBEAT, event_stream
from tests.processes import eventually


async def test_stores_frozen_and_killed_the_stream_goes_on_and_catches_up(
    processes, services, open_sale, ticket_for, login_for, db, postgres_proxy
):
    # Given a stream that has sent "queued", and a gateway with its own way to PostgreSQL
    proxy, dsn = postgres_proxy
    gateway = await processes.run(
        "gateway", SECKILL_POSTGRES_DSN=dsn, SECKILL_EVENT_HEARTBEAT_S="0.1"
    )
    sale = await open_sale()
    async with ClientSession(gateway.url) as http:
        answer = await grab(http, sale.sale_id, "alice", ticket_for(sale, "alice"))
        async with event_stream(http, answer.order_id, login_for("alice")) as stream:
            assert (await stream.next())["status"] == "queued"

            # When that way is frozen, Redis as well, and the order is placed meanwhile
            proxy.freeze()
            services.pause("redis")
            try:
                for _ in range(5):
                    assert await stream.next() == HEARTBEAT
            finally:
                services.resume("redis")
            await processes.run("consumers")

            async def placed():
                return await db.fetchval(
                    "SELECT state FROM orders WHERE order_id = $1", answer.order_id
                )

            await eventually(placed, "the order is placed")
            for _ in range(5):
                assert await stream.next() == HEARTBEAT
            proxy.thaw()
            # Then the stream sends it
            assert (await stream.next_order())["status"] == "pending"

            # And when PostgreSQL dies and comes back, the stream sends what follows, too
            await services.kill("postgresql")
            for _ in range(5):
                assert await stream.next() == HEARTBEAT
            await services.start("postgresql")

            async def cancelled():
                url = f"/v1/orders/{answer.order_id}"
                async with http.delete(url, headers=login_for("alice")) as response:
                    return response.status == 200

            await eventually(cancelled, "the order is cancelled")
            assert (await stream.next_order())["status"] == "cancelled"
            assert await stream.next() is None


async def test_sigterm_with_postgresql_frozen_ends_the_streams_and_exits_cleanly(
    processes, open_sale, ticket_for, login_for, postgres_proxy
):
    proxy, dsn = postgres_proxy
    gateway = await processes.run(
        "gateway", SECKILL_POSTGRES_DSN=dsn, SECKILL_EVENT_HEARTBEAT_S="0.1"
    )
    sale = await open_sale()
    async with ClientSession(gateway.url) as http:
        answer = await grab(http, sale.sale_id, "alice", ticket_for(sale, "alice"))
        async with event_stream(http, answer.order_id, login_for("alice")) as stream:
            assert (await stream.next())["status"] == "queued"
            proxy.freeze()
            for _ in range(5):  # a query is under way by now, and does not come back
                assert await stream.next() == HEARTBEAT
            gateway.child.send(signal.SIGTERM)
            while await stream.next():
                pass
        async with asyncio.timeout(60):
            await gateway.child.wait()
    assert gateway.child.describe_end() == "exited with 0"
