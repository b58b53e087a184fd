"""Snapshots of a sale: what each store holds of it, read by name without stopping the sale."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from seckill.adapters import redis_keys
from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.adapters.redis import open_pipeline, redis_errors_as_unavailable
from seckill.inventory.holders import holder_pages
from seckill.inventory.reservations import Holding
from seckill.orders.orders import LIVE

#: Reads of Redis during which something changed, before the sale is reported as moving.
STABLE_READS = 3


@dataclass(frozen=True, slots=True)
class RedisSnapshot:
    """A sale in Redis. If `moved`, it changed while it was read, and counts need not add up."""

    state: str
    stock: int
    corrections: int
    epoch: int
    #: None in a sale that was opened by a version without totals in Redis.
    total: int | None
    #: buyer_id -> reservation
    holders: dict[str, Holding]
    outbox: int
    moved: bool


@dataclass(frozen=True, slots=True)
class SqlSnapshot:
    """A sale in PostgreSQL, read in one snapshot."""

    total: int
    available: int
    frozen: int
    sold: int
    epoch: int
    #: Redis has nothing of the sale any more.
    archived: bool
    #: state -> (orders, units)
    by_state: dict[str, tuple[int, int]]
    #: order_id -> buyer_id of live orders
    live: dict[str, str]
    doubled_buyers: list[str]
    returns_pending: int


class ChangeMarks(NamedTuple):
    """Values of which each grab, return or restock changes one."""

    state: str
    stock: int
    corrections: int
    epoch: int
    total: int | None
    holders: int
    outbox: int
    last_outbox_id: bytes


async def read_redis(redis: Redis, sale_id: str) -> RedisSnapshot | None:
    """Read a sale's keys; return None if the sale is not there.

    Holders are scanned in small steps, so that Redis goes on serving a running sale. Marks taken
    before and after show whether anything changed meanwhile: a grab makes a new outbox id, a
    return changes stock or corrections, a restock changes the total.
    """
    with redis_errors_as_unavailable():
        before = await read_change_marks(redis, sale_id)
        for _ in range(STABLE_READS):
            if before is None:
                return None
            holders = {
                buyer_id: holding
                async for page in holder_pages(redis, sale_id)
                for buyer_id, holding in page
            }
            stamp, before = before, await read_change_marks(redis, sale_id)
            if before == stamp:
                break
    return RedisSnapshot(
        state=stamp.state,
        stock=stamp.stock,
        corrections=stamp.corrections,
        epoch=stamp.epoch,
        total=stamp.total,
        holders=holders,
        outbox=stamp.outbox,
        moved=before != stamp,
    )


async def read_sql(db: asyncpg.Pool, sale_id: str) -> SqlSnapshot | None:
    """Read a sale's rows in one snapshot; return None if there is no such sale."""
    async with transaction(db, snapshot=True) as connection:
        inventory = await connection.fetchrow(
            "SELECT total, available, frozen, sold, epoch, archived_at IS NOT NULL AS archived"
            "  FROM inventory JOIN sales USING (sale_id) WHERE sale_id = $1",
            sale_id,
        )
        if inventory is None:
            return None
        states = await connection.fetch(
            "SELECT state, count(*), sum(quantity) FROM orders WHERE sale_id = $1 GROUP BY 1",
            sale_id,
        )
        live = await connection.fetch(
            "SELECT order_id::text, buyer_id FROM orders WHERE sale_id = $1 AND state = ANY($2)",
            sale_id,
            list(LIVE),
        )
        returns = await connection.fetchval(
            "SELECT count(*) FROM stock_returns WHERE sale_id = $1", sale_id
        )
    per_buyer = Counter(row[1] for row in live)
    return SqlSnapshot(
        **inventory,
        by_state={state: (count, units) for state, count, units in states},
        live={row[0]: row[1] for row in live},
        doubled_buyers=[buyer for buyer, orders in per_buyer.items() if orders > 1],
        returns_pending=returns,
    )


async def states_of(db: asyncpg.Pool, order_ids: set[str]) -> dict[str, str]:
    """Return order_id -> state of the orders that have a row."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT order_id::text, state FROM orders WHERE order_id = ANY($1::uuid[])",
            list(order_ids),
        )
    return {row[0]: row[1] for row in rows}


async def read_change_marks(redis: Redis, sale_id: str) -> ChangeMarks | None:
    """Read a sale's marks in one step; return None if the sale is not there."""
    async with open_pipeline(redis, atomic=True) as pipe:
        pipe.hmget(redis_keys.sale(sale_id), "state", "corrections", "epoch", "total")
        pipe.get(redis_keys.stock(sale_id))
        pipe.hlen(redis_keys.holders(sale_id))
        pipe.xinfo_stream(redis_keys.outbox(sale_id))
        fields, stock, holders, outbox = await pipe.execute(raise_on_error=False)
        for reply in (fields, stock, holders):
            if isinstance(reply, RedisError):
                raise reply
    if isinstance(outbox, ResponseError):  # no such key: there was no grab yet
        outbox = {"length": 0, "last-generated-id": b""}
    state, corrections, epoch, total = fields
    if state is None or (state != b"created" and stock is None):
        return None
    return ChangeMarks(
        state=state.decode(),
        stock=int(stock or 0),
        corrections=int(corrections),
        epoch=int(epoch),
        total=None if total is None else int(total),
        holders=holders,
        outbox=outbox["length"],
        last_outbox_id=outbox["last-generated-id"],
    )
