"""Processes that a test may kill, and stores that it may break: nothing here is shared."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from config.settings import Settings
from loadtest.proxy import Proxy
from ops.buyers import grab
from seckill.orders.orders import Placement
from tests.checkout import payer
from tests.processes import Processes, eventually


@pytest.fixture
async def processes(settings: Settings, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(settings, tmp_path) as running:
        yield running


@pytest.fixture
async def amqp_proxy(settings: Settings) -> AsyncIterator[tuple[Proxy, str]]:
    async with _before(settings.amqp_url) as proxied:
        yield proxied


@pytest.fixture
async def redis_proxy(settings: Settings) -> AsyncIterator[tuple[Proxy, str]]:
    async with _before(settings.redis_url) as proxied:
        yield proxied


@pytest.fixture
async def postgres_proxy(settings: Settings) -> AsyncIterator[tuple[Proxy, str]]:
    async with _before(settings.postgres_dsn) as proxied:
        yield proxied


@pytest.fixture
def placed_order(db, ticket_for, checkout):
    """Grab at a gateway, wait for the row, and fill the wallet."""

    async def make(http, sale):
        name = payer()
        answer = await grab(http, sale.sale_id, name, ticket_for(sale, name))
        order = Placement(answer.order_id, sale.sale_id, name, 1, 1)

        async def row():
            return await db.fetchval("SELECT 1 FROM orders WHERE order_id = $1", order.order_id)

        await eventually(row, "the order is placed")
        await checkout.give(name, 1999)
        return order

    return make


@pytest.fixture
def pay(login_for):
    async def call(http, order):
        async with http.post(
            f"/v1/orders/{order.order_id}/payments",
            json={"method": "wallet"},
            headers=login_for(order.buyer_id),
        ) as response:
            return response.status, await response.json()

    return call


class _before:
    """Put a proxy before the server of a URL; gives the proxy and the URL through it."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._proxy = Proxy(self._parts.hostname or "", self._parts.port or 0)

    async def __aenter__(self) -> tuple[Proxy, str]:
        await self._proxy.__aenter__()
        login, _, _ = self._parts.netloc.rpartition("@")
        netloc = f"{login}@127.0.0.1:{self._proxy.port}"
        return self._proxy, urlunsplit(self._parts._replace(netloc=netloc))

    async def __aexit__(self, *_: object) -> None:
        await self._proxy.__aexit__()
