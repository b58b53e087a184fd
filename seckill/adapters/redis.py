"""The client of Redis: a bounded pool, short time limits, and no retries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property, partial
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from seckill.adapters.failures import (
    REDIS,
    store_errors_as_unavailable,
    store_failure,
    words,
)
from seckill.adapters.marks import greet_redis
from seckill.adapters.redis_links import LinkPool
from seckill.errors import BrokenSale, UserMistake
from seckill.micro_batcher import MicroBatcher, Waiter
from seckill.outages import OUTAGES

#: Calls under way from one process; the micro-batchers use a few, an operator's command uses one.
CONNECTIONS_MAX = 16
#: Script calls, or pipelines of them, under way from one process: connections stay free for others.
SCRIPTS_UNDER_WAY = 8
#: Script calls in one pipeline.
PIPELINE_MAX = 64

#: The arguments of EVALSHA, and its reply.
_Waiter = Waiter[tuple[Any, ...], Any]


class PipeliningRedis(Redis):
    """A client that sends the script calls of one turn of the event loop in one pipeline.

    A call of its own costs the client 230 us of CPU, and Redis a flush to its disk. Each call gets
    its own reply or error; a broken connection is an error of every call in its pipeline.
    """

    async def evalsha(self, *args: Any) -> Any:  # noqa: ANN401 - untyped in redis-py
        """Run a script; `args` are its digest, the number of its keys, the keys, and the rest.

        The time limit covers the call and its wait for a pipeline.
        """
        async with asyncio.timeout(self.connection_pool.connection_kwargs["socket_timeout"]):
            return await self._scripts.submit(args)

    @cached_property
    def _scripts(self) -> MicroBatcher[tuple[Any, ...], Any]:
        return MicroBatcher(self._run, max_batch=PIPELINE_MAX, max_calls=SCRIPTS_UNDER_WAY)

    async def _run(self, calls: Sequence[_Waiter]) -> None:
        if len(calls) == 1:
            calls[0].answer(await super().evalsha(*calls[0].item))
            return
        async with self.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.evalsha(*call.item)
            replies = await pipe.execute(raise_on_error=False)
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                call.fail(reply)
            else:
                call.answer(reply)


def connect(
    url: str, *, timeout_s: float, kind: type[Redis] = Redis, installation_id: str = ""
) -> Redis:
    """Return a client whose every call is sent once and fails after `timeout_s`.

    With an installation its calls raise ForeignStore at a Redis that belongs to another one.

    The library would send a failed command up to ten more times. A grab whose reply was lost has
    been run, so each retry would be another grab. The default pool raises when it is full, instead
    of waiting. Both are turned off here.
    """
    try:
        pool = _pool(url, timeout_s, installation_id)
        pool.connection_class(**pool.connection_kwargs)  # it connects later; it knows its options
    except (TypeError, ValueError) as error:
        raise UserMistake(f"SECKILL_REDIS_URL: {error}") from error
    return kind.from_pool(pool)  # which closes the pool along with the client


def _pool(url: str, timeout_s: float, installation_id: str) -> LinkPool:
    pool: LinkPool = LinkPool.from_url(
        url,
        max_connections=CONNECTIONS_MAX,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        redis_connect_func=partial(greet_redis, installation_id) if installation_id else None,
        # While the library waits for notices of a managed service, it lends connections that the
        # server has closed long ago: after a restart, one call fails for each of them.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    return pool


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
