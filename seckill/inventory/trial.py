"""A grab on trial: whether Redis would take one now, found out without a sale."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

import lua
from seckill.adapters import redis_keys
from seckill.adapters.failures import REDIS, store_failure, words
from seckill.adapters.redis import open_pipeline, redis_errors_as_unavailable
from seckill.adapters.redis_cluster import ClusterRedis, spread_ids
from seckill.adapters.redis_scripts import PipeliningRedis
from seckill.errors import Unavailable

#: No sale has an id that begins so: those begin with a letter, a digit or "_".
SALE_ID = "~trial"
#: A sale that is open, for one unit.
_SALE: dict[Any, Any] = {
    "state": "open",
    "opens_at_ms": 0,
    "closes_at_ms": 0,
    "per_order_max": 1,
    "epoch": 1,
}
#: A length of 36, as the script cuts it from a holder.
_GRABS = msgspec.msgpack.encode([("~" * 36, "~trial", 1)])
_NOTHING = msgspec.msgpack.encode([])
#: Redis's time never reaches it.
_DEADLINE_MS = 2**53
#: No trace, and a caller that has seen nothing yet: so the script counts the call, as of a gateway.
_COUNTED = ("", "trial", 0, 0)


async def try_grab(redis: Redis) -> None:
    """Grab by the real script; raise Unavailable with Redis's words if it refuses any of it.

    On a cluster every node that takes grabs is tried.

    The sale is made, grabbed from and removed in one atomic step: processes that try at the same
    time do not meet, and nothing is left behind.
    """
    with redis_errors_as_unavailable():
        sale_ids = await spread_ids(redis, SALE_ID)
    await asyncio.gather(*(_try_sale(redis, sale_id) for sale_id in sale_ids))


async def _try_sale(redis: Redis, sale_id: str) -> None:
    taken = await _try(redis, sale_id)
    if isinstance(taken, NoScriptError):  # Redis has restarted, or no grab has come yet
        with redis_errors_as_unavailable():
            await redis.script_load(lua.source("grab"))
        taken = await _try(redis, sale_id)
    if isinstance(taken, Exception):
        with redis_errors_as_unavailable():
            raise store_failure(taken) or Unavailable(f"Redis: {words(taken)}", store=REDIS)
    if taken[0] != b"OK" or taken[5] != b"A":
        raise Unavailable(f"Redis refuses a grab on trial: {taken!r}", store=REDIS)
    if isinstance(redis, PipeliningRedis | ClusterRedis):
        with redis_errors_as_unavailable():
            if failure := await redis.replica_failure(redis_keys.stock(sale_id)):
                raise failure


async def _try(redis: Redis, sale_id: str) -> list[Any] | Exception:
    """Return the script's reply, or the first error of any command."""
    keys = [
        key(sale_id)
        for key in (redis_keys.stock, redis_keys.sale, redis_keys.holders, redis_keys.outbox)
    ]
    async with open_pipeline(redis, atomic=True) as pipe:
        pipe.set(redis_keys.stock(sale_id), 1)
        pipe.hset(redis_keys.sale(sale_id), mapping=_SALE)
        pipe.evalsha(
            lua.digest("grab"), len(keys), *keys, _GRABS, _DEADLINE_MS, _NOTHING, 1, *_COUNTED
        )
        pipe.delete(*keys)
        replies = await pipe.execute(raise_on_error=False)
    errors = [reply for reply in replies if isinstance(reply, Exception)]
    return errors[0] if errors else replies[2]
