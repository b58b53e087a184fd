"""Sales that have many holders already, as after a day of selling: written, and taken out again.

For private stores of one run: such holders have no orders. In Redis, stock and held units are the
sale's total all the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from seckill.adapters import redis_keys
from seckill.errors import SeckillError, UserMistake
from seckill.order_ids import new_order_id
from seckill.sales.sales import Sale

#: Fields of one HSET or HDEL; and how many of these go in one round trip, a megabyte.
FIELDS, CALLS = 1_000, 15
#: What a holder takes in Redis, and about as much while its log is being rewritten.
HOLDER_BYTES = 250
#: Longest wait for a log of gigabytes to be rewritten.
REWRITE_S = 300.0
LOOK_S = 0.1


def check_memory(count: int) -> None:
    """Raise a UserMistake when so many holders do not fit into the memory that is free."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    if HOLDER_BYTES * count > free:
        fit = free // HOLDER_BYTES
        raise UserMistake(
            f"{count:,} holders take up to {HOLDER_BYTES * count / 1e9:.1f} GB, and only "
            f"{free / 1e9:.1f} GB are free; give --holders-max {10 ** (len(str(fit)) - 1)}"
        )


async def fill(
    redis: Redis, sale: Sale, count: int, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Let the buyers h0, h1 and so on hold a unit each."""
    # Ids as those of one moment are: all but the last 12 digits in common.
    common = new_order_id(sale.number)[:24]
    for first in range(0, count, FIELDS * CALLS):
        last = min(first + FIELDS * CALLS, count)
        async with redis.pipeline(transaction=True) as pipe:
            for begin in range(first, last, FIELDS):
                items: list[str] = []
                for n in range(begin, min(begin + FIELDS, last)):
                    items += (f"h{n}", f"{common}{n:012x}:1")
                pipe.hset(redis_keys.holders(sale.sale_id), items=items)
            pipe.decrby(redis_keys.stock(sale.sale_id), last - first)
            await pipe.execute()
        advance(last - first)


async def take_out(redis: Redis, sales: Sequence[Sale], count: int) -> None:
    """Take out the buyers b0, b1 and so on, who grabbed in these sales in turn."""
    for place, sale in enumerate(sales):
        buyers = [f"b{n}" for n in range(place, count, len(sales))]
        for first in range(0, len(buyers), FIELDS):
            gone = await redis.hdel(
                redis_keys.holders(sale.sale_id), *buyers[first : first + FIELDS]
            )
            await redis.incrby(redis_keys.stock(sale.sale_id), gone)


async def take_out_all(redis: Redis, sale: Sale) -> None:
    """Take out every holder."""
    async with redis.pipeline(transaction=True) as pipe:
        pipe.unlink(redis_keys.holders(sale.sale_id))
        pipe.set(redis_keys.stock(sale.sale_id), sale.total)
        await pipe.execute()


@asynccontextmanager
async def quick_filling(redis: Redis) -> AsyncIterator[None]:
    """Let Redis write its log when it likes, and rewrite it in the end, so that it is at rest then.

    Rewriting begins by itself whenever the log has doubled, and would be measured, too.
    """
    relaxed = {"appendfsync": "no", "auto-aof-rewrite-percentage": "0"}
    before = {name: str((await redis.config_get(name))[name]) for name in relaxed}
    try:
        for name, value in relaxed.items():
            await redis.config_set(name, value)
        yield
    finally:
        # While it does not begin by itself.
        await _log_is_at_rest(redis)
        await redis.bgrewriteaof()
        status = await _log_is_at_rest(redis)
        for name, value in before.items():
            await redis.config_set(name, value)
    if status != "ok":
        raise SeckillError("Redis could not rewrite its log; is the disk full?")


async def _log_is_at_rest(redis: Redis) -> str:
    """Wait until the log is not being rewritten; return how the last time ended."""
    async with asyncio.timeout(REWRITE_S):
        while True:
            log = await redis.info("persistence")
            if not (log["aof_rewrite_in_progress"] or log["aof_rewrite_scheduled"]):
                return str(log["aof_last_bgrewrite_status"])
            await asyncio.sleep(LOOK_S)
