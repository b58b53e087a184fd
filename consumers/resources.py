"""The stores and links that the roles of a consumer process share, opened once."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

import asyncpg
from redis.asyncio import Redis

from config.settings import Settings
from seckill.adapters import installation, postgres
from seckill.adapters import redis as redis_client
from seckill.adapters.publisher import Publisher
from seckill.adapters.rabbitmq import Broker
from seckill.inventory.reservations import Stock
from seckill.payments.provider import Provider
from seckill.payments.providers import access_of, open_provider
from seckill.sales.directory import SaleDirectory


@dataclass(frozen=True, slots=True)
class Resources:
    """What a role is built from."""

    settings: Settings
    redis: Redis
    stock: Stock
    db: asyncpg.Pool
    sales: SaleDirectory
    publisher: Publisher
    #: For events alone: a queue of another program that refuses them must not hold up our messages.
    event_publisher: Publisher
    consuming: Broker
    #: The card provider, if the shop has one.
    provider: Provider | None


async def open_resources(settings: Settings, stack: AsyncExitStack) -> Resources:
    """Open everything onto the stack, which closes it in reverse order.

    Raise Unavailable if PostgreSQL does not answer. The other stores may be unavailable: then the
    roles that need them are held.
    """
    db = await stack.enter_async_context(
        postgres.connect(
            settings.postgres_dsn,
            size=settings.postgres_pool_max,
            timeout_s=settings.postgres_timeout_s,
        )
    )
    own_id = await installation.join(db, settings.namespace)
    redis = redis_client.connect(
        settings.redis_url, timeout_s=settings.redis_timeout_s, installation_id=own_id
    )
    stack.push_async_callback(redis.aclose)
    stock = Stock(redis)
    await stack.enter_async_context(installation.watched(redis, own_id))

    def broker(name: str) -> Broker:
        return Broker(settings.amqp_url, f"seckill-{name}", settings.connect_timeout_s, own_id)

    publisher, event_publisher = [
        await stack.enter_async_context(
            Publisher.open(broker(name), timeout_s=settings.confirm_timeout_s, at_once=False)
        )
        for name in ("publishing", "events")
    ]
    provider = await stack.enter_async_context(
        open_provider(access_of(settings), calls_max=settings.provider_calls_max)
    )
    sales, consuming = SaleDirectory(db), broker("consuming")
    return Resources(
        settings, redis, stock, db, sales, publisher, event_publisher, consuming, provider
    )
