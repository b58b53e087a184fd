"""The client of Redis: a bounded pool, short time limits, and no retries."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from config.redis_url import TLS_FILES, RedisTopology, RedisUrl, parse_redis_url
from seckill.adapters import namespace
from seckill.adapters.failures import (
    REDIS,
    store_errors_as_unavailable,
    store_failure,
    words,
)
from seckill.adapters.marks import greet_redis
from seckill.adapters.redis_cluster import ClusterRedis
from seckill.adapters.redis_links import LinkPool
from seckill.adapters.redis_replicas import ReplicaWait
from seckill.adapters.redis_scripts import PIPELINE_MAX, SCRIPTS_UNDER_WAY, PipeliningRedis
from seckill.adapters.redis_sentinel import MasterPool
from seckill.adapters.redis_slots import SlotMap
from seckill.errors import BrokenSale, UserMistake
from seckill.outages import OUTAGES

__all__ = ["PIPELINE_MAX", "SCRIPTS_UNDER_WAY", "PipeliningRedis"]

#: Calls under way from one process to one server; the micro-batchers use a few, an operator's
#: command uses one.
CONNECTIONS_MAX = 16
#: Settings of a pool that its links know nothing of.
OF_POOL = ("max_connections", "timeout")


def connect(
    url: str,
    *,
    timeout_s: float,
    kind: type[Redis] = Redis,
    installation_id: str = "",
    wait: ReplicaWait | None = None,
) -> Redis:
    """Return a client whose every call is sent once and fails after `timeout_s`.

    With an installation its calls raise ForeignStore at a Redis that belongs to another one. With
    a wait, grabs count once replicas have them.

    The library would send a failed command up to ten more times. A grab whose reply was lost has
    been run, so each retry would be another grab. The default pool raises when it is full, instead
    of waiting. Both are turned off here.
    """
    try:
        address = parse_redis_url(url)
        namespace.use_cluster(address.topology is RedisTopology.CLUSTER)
        return _client(url, address, timeout_s, kind, installation_id, wait)
    except ValueError as error:
        raise UserMistake(f"SECKILL_REDIS_URL: {error}") from error
    except TypeError as error:  # redis-py's: got an unexpected keyword argument 'name'
        scheme, option = url.partition("://")[0], str(error).rpartition(" ")[2]
        raise UserMistake(f"SECKILL_REDIS_URL: {scheme}:// has no option {option}") from error


def _client(
    url: str,
    address: RedisUrl,
    timeout_s: float,
    kind: type[Redis],
    installation_id: str,
    wait: ReplicaWait | None,
) -> Redis:
    def of(pool: LinkPool) -> Redis:
        client = kind.from_pool(pool)  # which closes the pool along with the client
        if isinstance(client, PipeliningRedis):
            client.replica_wait = wait
        return client

    def settings(server_url: str) -> dict[str, Any]:
        return _settings(server_url, timeout_s, installation_id)

    if address.topology is RedisTopology.SERVER:
        return of(LinkPool(**settings(url)))
    first = settings(address.url_of_server(address.hosts[0]))
    if address.topology is RedisTopology.SENTINEL:
        sentinels = [
            Redis.from_pool(LinkPool(**_settings(address.url_of_sentinel(host), timeout_s, "")))
            for host in address.hosts
        ]
        return of(MasterPool(sentinels, address.master, ask_s=timeout_s, **first))
    slots = SlotMap(
        address.hosts,
        lambda host: of(LinkPool(**settings(address.url_of_server(host)))),
        timeout_s=timeout_s,
    )
    return ClusterRedis(slots, LinkPool(**first))


def _settings(url: str, timeout_s: float, installation_id: str) -> dict[str, Any]:
    """Return the settings of a pool of links to one server."""
    settings: dict[str, Any] = {
        "max_connections": CONNECTIONS_MAX,
        "timeout": timeout_s,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "redis_connect_func": partial(greet_redis, installation_id) if installation_id else None,
        # While the library waits for notices of a managed service, it lends connections that the
        # server has closed long ago: after a restart, one call fails for each of them.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        **parse_url(url),
    }
    link = {name: value for name, value in settings.items() if name not in OF_POOL}
    for name in TLS_FILES:
        if (file := settings.get(name)) and not os.access(file, os.R_OK):
            raise ValueError(f"the file of {name} cannot be read: {file}")
    # It connects later; it knows its options now.
    link.pop("connection_class", Connection)(**link)
    return settings


async def run_script(
    script: Any,  # noqa: ANN401 - untyped in redis-py
    sale_id: str,
    keys: Sequence[Callable[[str], str]],
    args: Sequence[Any],
) -> list[Any]:
    """Run a script on a sale's keys, each given by its function in `redis_keys`.

    Raise BrokenSale if the script cannot read them: that is the fault of this sale's data alone.
    """
    with redis_errors_as_unavailable():
        try:
            reply: list[Any] = await script(keys=[key(sale_id) for key in keys], args=args)
        except ResponseError as error:
            if store_failure(error):
                raise
            raise broken_sale(sale_id, error) from error
    return reply


async def read_sales(
    redis: Redis, sale_ids: Sequence[str], read: Callable[[Pipeline, str], object]
) -> list[Any]:
    """Read one thing of each sale, in one round trip; None for a sale whose key is broken."""
    async with open_pipeline(redis) as pipe:
        for sale_id in sale_ids:
            read(pipe, sale_id)
        replies = await pipe.execute(raise_on_error=False)
        return [unless_broken(*each) for each in zip(sale_ids, replies, strict=True)]


def unless_broken(sale_id: str, reply: Any) -> Any:  # noqa: ANN401 - untyped in redis-py
    """Return a reply; None, noted, if it says that a key of this sale is broken."""
    if not isinstance(reply, Exception):
        return reply
    if not isinstance(reply, ResponseError) or store_failure(reply):
        raise reply
    OUTAGES.failed(broken_sale(sale_id, reply))
    return None


def broken_sale(sale_id: str, error: ResponseError) -> BrokenSale:
    """Return what an error reply means that is about the keys of one sale."""
    text = f"Redis: sale {sale_id} is broken: {words(error)}"
    return BrokenSale(text, store=REDIS, code=f"sale {sale_id}")


@asynccontextmanager
async def open_pipeline(redis: Redis, *, atomic: bool = False) -> AsyncIterator[Pipeline]:
    """Open a pipeline; `atomic` lets no other client in between. Raise Unavailable on failure."""
    with redis_errors_as_unavailable():
        async with redis.pipeline(transaction=atomic) as pipe:
            yield pipe


@contextmanager
def redis_errors_as_unavailable() -> Iterator[None]:
    """Raise Unavailable for every failure of a Redis call: its outcome is unknown, never "no"."""
    with store_errors_as_unavailable(REDIS):
        yield
