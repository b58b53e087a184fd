"""What the roles of a consumer process work with: its stores, opened once."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

import asyncpg
from redis.asyncio import Redis

from config.settings import Settings
from seckill.adapters import postgres
from seckill.adapters import redis as redis_client
from seckill.adapters.rabbitmq import Broker, Publisher
from seckill.inventory.reservations import Stock
from seckill.payments.provider_client import Provider
from seckill.sales.directory import SaleDirectory


@dataclass(frozen=True, slots=True)
class Resources:
    """What the roles work with."""

    settings: Settings
    redis: Redis
    stock: Stock
    db: asyncpg.Pool
    sales: SaleDirectory
    publisher: Publisher
    #: For events alone: what other people's queues refuse must not hold up our own.
    event_publisher: Publisher
    consuming: Broker
    #: The card provider, where there is one.
    provider: Provider | None


async def open_resources(settings: Settings, stack: AsyncExitStack) -> Resources:
    """Open all stores onto the stack, which closes them in reverse."""
    redis = redis_client.connect(settings.redis_url, timeout_s=settings.redis_timeout_s)
    stack.push_async_callback(redis.aclose)
    stock = Stock(redis)
    await stock.now_ms()  # is it there?
    db = await stack.enter_async_context(
        postgres.connect(
            settings.postgres_dsn,
            size=settings.postgres_pool_max,
            timeout_s=settings.postgres_timeout_s,
        )
    )
    url, timeout_s = settings.amqp_url, settings.connect_timeout_s
    publisher, event_publisher = [
        await stack.enter_async_context(
            Publisher.open(Broker(url, name, timeout_s), timeout_s=settings.confirm_timeout_s)
        )
        for name in ("seckill-publishing", "seckill-telling")
    ]
    consuming = Broker(url, "seckill-consuming", timeout_s)
    provider = None
    if settings.provider_url:
        provider = await stack.enter_async_context(
            Provider.open(
                settings.provider_url,
                timeout_s=settings.provider_timeout_s,
                calls_max=settings.provider_calls_max,
            )
        )
    return Resources(
        settings,
        redis,
        stock,
        db,
        SaleDirectory(db),
        publisher,
        event_publisher,
        consuming,
        provider,
    )
