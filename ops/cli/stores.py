"""The stores that commands work on: how they are opened, and how work on them runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import asyncpg
from redis.asyncio import Redis

from config.settings import STORES, Settings, load_settings
from seckill.adapters import installation, postgres, schema
from seckill.adapters import redis as redis_client
from seckill.adapters.rabbitmq import Broker
from seckill.inventory.reservations import Stock
from seckill.payments.provider import Provider
from seckill.payments.providers import access_of, open_provider

T = TypeVar("T")

#: Some commands ask Redis within a transaction, which PostgreSQL ends after five idle seconds: its
#: complaint about that would hide that it is Redis that does not answer.
REDIS_S = 3.0


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores that a command works on, and the settings by which it found them."""

    settings: Settings
    #: The id of the installation that the stores must belong to.
    installation_id: str
    redis: Redis
    stock: Stock
    db: asyncpg.Pool

    def broker(self, name: str) -> Broker:
        """Return the way to RabbitMQ, which lists the command under this name."""
        settings = self.settings
        return Broker(settings.amqp_url, name, settings.connect_timeout_s, self.installation_id)

    @asynccontextmanager
    async def provider(self) -> AsyncIterator[Provider | None]:
        """Open the card provider for one command; None in a shop that takes no cards."""
        async with open_provider(access_of(self.settings), calls_max=1) as provider:
            yield provider


@asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[Stores]:
    """Open Redis and PostgreSQL for one command.

    Raise NotReady if the database does not have the schema of this version.
    """
    settings.require(*STORES)
    async with postgres.connect(
        settings.postgres_dsn, size=2, timeout_s=settings.connect_timeout_s
    ) as db:
        await schema.require(db)
        own_id = await installation.join(db, settings.namespace)
        async with redis_client.connect(
            settings.redis_url, timeout_s=REDIS_S, installation_id=own_id
        ) as redis:
            yield Stores(settings, own_id, redis, Stock(redis), db)


def run(work: Callable[[Stores], Awaitable[T]]) -> T:
    """Do some work on the stores, and return what it returns."""

    async def with_stores() -> T:
        async with open_stores(load_settings()) as stores:
            return await work(stores)

    return asyncio.run(with_stores())
