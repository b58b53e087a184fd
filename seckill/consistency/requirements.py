"""What a process asks of its stores before it starts.

All faults are reported at once, one line each, so that an operator mends them in one go. A store
that is unavailable is no fault of anybody's settings. A process that runs already holds its work
while a store refuses (`seckill.adapters.failures`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg
from redis.asyncio import Redis

from config.addresses import parse_address
from config.settings import Settings
from seckill.adapters import features, installation, namespace, postgres, topology
from seckill.adapters import redis as redis_client
from seckill.adapters.failures import POSTGRESQL, RABBITMQ, REDIS
from seckill.adapters.rabbitmq import Broker, close_link, link_call
from seckill.errors import FailureKind, NotReady, SeckillError, Unavailable


@dataclass(slots=True)
class StoresAtStart:
    """The stores, opened for the checks alone."""

    settings: Settings
    redis: Redis
    db: asyncpg.Pool
    #: Whether Redis was found to be ours.
    has_redis: bool = False

    def broker(self, installation_id: str) -> Broker:
        """Return the way to RabbitMQ, which must belong to this installation.

        Of two new installations one gets Redis, and only that one goes on to mark RabbitMQ.
        Otherwise each might get one of the two, and refuse the other one for good.
        """
        settings = self.settings
        timeout_s = settings.connect_timeout_s
        return Broker(
            settings.amqp_url, "seckill-start", timeout_s, installation_id, claims=self.has_redis
        )


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
        if own_id and stores.has_redis and not faults:  # nothing is made before it is ours
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

    #: The store, its name in these lines, and the setting that has its address.
    store: str
    title: str
    setting: str
    check: Callable[[StoresAtStart], Awaitable[list[str]]]


CHECK_REDIS = Requirement(REDIS, "Redis", "redis_url", check_redis)
CHECK_POSTGRESQL = Requirement(POSTGRESQL, "PostgreSQL", "postgres_dsn", check_postgresql)
CHECK_RABBITMQ = Requirement(RABBITMQ, "RabbitMQ", "amqp_url", check_rabbitmq)


class StartFinding(NamedTuple):
    """Something that is not as a process needs it."""

    store: str
    line: str
    #: An operator has to act. Otherwise the store is unavailable, and a process can wait for it.
    is_fault: bool


async def require(settings: Settings) -> None:
    """Raise NotReady naming all that is wrong, unless the stores are as a process needs them."""
    _refuse(await _look(settings))


async def require_no_faults(settings: Settings) -> dict[str, str]:
    """Return the stores that are unavailable, each with the reason.

    Raise NotReady naming all faults that an operator has to mend.
    """
    found = await _look(settings)
    _refuse([each for each in found if each.is_fault])
    return {each.store: each.line for each in found}


def _refuse(found: Sequence[StartFinding]) -> None:
    if found:
        raise NotReady("; ".join(each.line for each in found))


async def _look(settings: Settings) -> list[StartFinding]:
    namespace.use(settings.namespace)
    timeout_s = settings.connect_timeout_s
    redis = redis_client.connect(settings.redis_url, timeout_s=timeout_s)
    pool = postgres.connect(settings.postgres_dsn, size=2, timeout_s=timeout_s, at_once=False)
    async with redis, pool as db:
        stores = StoresAtStart(settings, redis, db)
        of_redis, of_postgresql = await asyncio.gather(
            _check(CHECK_REDIS, stores), _check(CHECK_POSTGRESQL, stores)
        )
        stores.has_redis = not of_redis
        return [*of_redis, *of_postgresql, *await _check(CHECK_RABBITMQ, stores)]


async def _check(requirement: Requirement, stores: StoresAtStart) -> list[StartFinding]:
    """Return what a check finds; each line has the address of its store."""
    is_fault = True
    try:
        lines = await requirement.check(stores)
    except Unavailable as error:
        is_fault = error.kind is FailureKind.CONFIGURATION
        setting = f" (SECKILL_{requirement.setting.upper()})" if is_fault else ""
        lines = [f"{error}{setting}"]
    name = requirement.title
    named = f"{name} at {parse_address(getattr(stores.settings, requirement.setting))}"
    return [
        StartFinding(
            requirement.store,
            line if line.startswith(f"{name} at ") else line.replace(name, named, 1),
            is_fault,
        )
        for line in lines
    ]
