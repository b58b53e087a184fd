"""What a process asks of its stores before it starts.

All faults are reported at once, one line each, so that an operator mends them in one go. A process
that runs already holds its work while a store refuses (`seckill.adapters.failures`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg
from redis.asyncio import Redis

from config.addresses import parse_address
from config.settings import Settings
from seckill.adapters import features, installation, namespace, postgres, topology
from seckill.adapters import redis as redis_client
from seckill.adapters.rabbitmq import Broker, close_link, link_call
from seckill.errors import NotReady, SeckillError, Unavailable


@dataclass(frozen=True, slots=True)
class StoresAtStart:
    """The stores, opened for the checks alone."""

    settings: Settings
    redis: Redis
    db: asyncpg.Pool

    def broker(self, installation_id: str) -> Broker:
        """Return the way to RabbitMQ, which must belong to this installation."""
        settings = self.settings
        timeout_s = settings.connect_timeout_s
        return Broker(settings.amqp_url, "seckill-start", timeout_s, installation_id)


async def check_redis(stores: StoresAtStart) -> list[str]:
    """Commands, scripts, rights, and whose Redis it is."""
    faults = await features.redis_faults(stores.redis, *redis_waits(stores.settings))
    own_id = await _own_id(stores)
    if own_id and not faults:
        settings = stores.settings
        async with redis_client.connect(
            settings.redis_url, timeout_s=settings.connect_timeout_s, installation_id=own_id
        ) as redis:
            with redis_client.redis_errors_as_unavailable():
                await redis.ping()
    return faults


def redis_waits(settings: Settings) -> list[str]:
    """Return the commands that wait for replicas, as the settings ask for them, on trial."""
    if not settings.redis_min_replicas:
        return []
    return ["WAITAOF 0 0 1" if settings.redis_replicas_fsync else "WAIT 0 1"]


async def check_postgresql(stores: StoresAtStart) -> list[str]:
    """Version, schema, rights; then whose installation it is."""
    if faults := await features.postgresql_faults(stores.db):
        return faults
    await installation.join(stores.db, stores.settings.namespace)
    return []


async def check_rabbitmq(stores: StoresAtStart) -> list[str]:
    """Version, whose broker it is, and the rights to declare and bind the queues."""
    own_id = await _own_id(stores)
    broker = stores.broker(own_id)
    connection = await broker.connect()
    try:
        faults = features.rabbitmq_faults(connection)
        if own_id and not faults:  # in a foreign broker nothing is made
            async with link_call("declaring the queues", broker.timeout_s):
                await topology.declare(await connection.channel())
    finally:
        await close_link(connection)
    return faults


async def _own_id(stores: StoresAtStart) -> str:
    """Return the id of the installation; "" if PostgreSQL has none for us."""
    try:
        return await installation.join(stores.db, stores.settings.namespace)
    except SeckillError:  # `check_postgresql` says why
        return ""


class Requirement(NamedTuple):
    """A check at start; it returns what is wrong and what to do, one line a fault."""

    #: The store as its lines name it, and the setting that has its address.
    store: str
    setting: str
    check: Callable[[StoresAtStart], Awaitable[list[str]]]


#: All checks. They run at once, and each on its own: none may rely on another one.
REQUIREMENTS = (
    Requirement("Redis", "redis_url", check_redis),
    Requirement("PostgreSQL", "postgres_dsn", check_postgresql),
    Requirement("RabbitMQ", "amqp_url", check_rabbitmq),
)


async def require(settings: Settings) -> None:
    """Raise NotReady naming all faults, unless the stores are as a process needs them."""
    namespace.use(settings.namespace)
    timeout_s = settings.connect_timeout_s
    redis = redis_client.connect(settings.redis_url, timeout_s=timeout_s)
    pool = postgres.connect(settings.postgres_dsn, size=2, timeout_s=timeout_s, at_once=False)
    async with redis, pool as db:
        stores = StoresAtStart(settings, redis, db)
        found = await asyncio.gather(*(_faults(each, stores) for each in REQUIREMENTS))
    if faults := [line for lines in found for line in lines]:
        raise NotReady("; ".join(faults))


async def _faults(requirement: Requirement, stores: StoresAtStart) -> list[str]:
    """Return the lines of a check, each with the address of its store."""
    try:
        lines = await requirement.check(stores)
    except Unavailable as error:
        lines = [str(error)]
    name = requirement.store
    address = parse_address(getattr(stores.settings, requirement.setting))
    return [
        line if line.startswith(f"{name} at ") else line.replace(name, f"{name} at {address}", 1)
        for line in lines
    ]
