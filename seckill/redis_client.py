"""How the project talks to Redis: bounded pool, short time limits, and no retries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from seckill.errors import Unavailable

#: Calls under way from one process; the micro-batchers use a few, operator commands one.
CONNECTIONS_MAX = 16


def connect(url: str, *, timeout_s: float) -> Redis:
    """Return a client whose every call is sent once and fails after `timeout_s`.

    The library would send a failed command up to ten times more. A grab whose reply was lost has
    been run, so each retry would be another grab; the default pool raises when it is full instead
    of waiting. Both are turned off here.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS_MAX,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        # While the library waits for notices of a managed service, it hands out connections that
        # the server has closed long ago: after a restart, one failed call for each of them.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    return Redis.from_pool(pool)  # which closes the pool along with the client


@contextmanager
def redis_errors_as_unavailable() -> Iterator[None]:
    """Turn every failure of a Redis call into Unavailable: the outcome is unknown, never "no"."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable(f"Redis does not answer: {error}") from error
