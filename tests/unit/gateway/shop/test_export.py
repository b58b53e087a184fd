"""The export of a sale's orders, to a client that reads nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace

from aiohttp import web

from gateway.app_keys import DB
from gateway.shop import export
from gateway.shop.calls import TIME_LIMIT
from seckill.shop.order_pages import OrderPage


async def test_a_client_that_takes_nothing_loses_its_place(monkeypatch, caplog) -> None:
    async def opened_at(*_: object) -> datetime:
        return datetime(2026, 11, 27, tzinfo=UTC)

    async def page(*_: object) -> OrderPage:
        return OrderPage([], "another")

    monkeypatch.setattr(export, "TAKEN_S", 0.05)
    monkeypatch.setattr(export, "csv_of", lambda _: bytes(1 << 20))
    monkeypatch.setattr(export, "_page", page)
    monkeypatch.setattr(export.sales, "find", opened_at)
    left = asyncio.Event()

    async def serve(request: web.Request) -> web.StreamResponse:
        async with asyncio.timeout(10) as request[TIME_LIMIT]:
            try:
                return await export.export_orders.handler(request)
            finally:
                left.set()

    app = web.Application()
    app[DB] = SimpleNamespace(fetchval=opened_at)  # type: ignore[assignment]
    app.router.add_get("/{sale_id}", serve)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        _, client = await asyncio.open_connection(*runner.addresses[0][:2], limit=1024)
        client.write(b"GET /demo HTTP/1.1\r\nHost: shop\r\n\r\n")
        async with asyncio.timeout(10):
            await left.wait()
        client.close()
    finally:
        await runner.cleanup()
    assert "its client took nothing" in caplog.text
