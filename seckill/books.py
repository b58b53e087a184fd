"""The books of a sale: what each store holds of it, read by name and without stopping it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from seckill import keys
from seckill.database import database_errors_as_unavailable
from seckill.orders import LIVE
from seckill.redis_client import redis_errors_as_unavailable
from seckill.stock import CALL_MAX, Holding

#: Tries to read Redis without anything moving, before the sale is taken as moving.
STILL_LOOKS = 3


@dataclass(frozen=True, slots=True)
class RedisBooks:
    """A sale in Redis. Unless `still`, it moved while it was read: counts then need not add up."""

    state: str
    stock: int
    corrections: int
    epoch: int
    #: None in a sale opened by a version that did not write it down.
    total: int | None
    #: buyer_id -> reservation
    holders: dict[str, Holding]
    outbox: int
    still: bool


@dataclass(frozen=True, slots=True)
class SqlBooks:
    """A sale in PostgreSQL, read in one snapshot."""

    total: int
    available: int
    frozen: int
    sold: int
    epoch: int
    #: state -> (orders, units)
    by_state: dict[str, tuple[int, int]]
    #: order_id -> buyer_id of live orders
    live: dict[str, str]
    doubled_buyers: list[str]
    returns_pending: int


async def read_redis(redis: Redis, sale_id: str) -> RedisBooks | None:
    """Read a sale's keys; None when the sale is not there.

    Holders are scanned in small steps, so that Redis goes on serving a running sale. A stamp taken
    before and after tells whether anything moved meanwhile: a grab makes a new outbox id, a
    give-back changes stock or corrections, a restock the total.
    """
    with redis_errors_as_unavailable():
        before = await glance(redis, sale_id)
        for _ in range(STILL_LOOKS):
            if before is None:
                return None
            holders = {
                buyer_id: holding
                async for page in holder_pages(redis, sale_id)
                for buyer_id, holding in page
            }
            stamp, before = before, await glance(redis, sale_id)
            if before == stamp:
                break
    return RedisBooks(
        state=stamp.state,
        stock=stamp.stock,
        corrections=stamp.corrections,
        epoch=stamp.epoch,
        total=stamp.total,
        holders=holders,
        outbox=stamp.outbox,
        still=before == stamp,
    )


async def find_holdings(
    redis: Redis, sale_id: str, wanted: Mapping[str, str | None]
) -> dict[str, tuple[str, Holding]]:
    """Return order_id -> (buyer_id, holding) of those of `wanted` that Redis holds units for.

    `wanted` maps order ids to their buyers. Where the buyer is not known all holders are looked
    through, in small steps.
    """
    found: dict[str, tuple[str, Holding]] = {}
    with redis_errors_as_unavailable():
        buyers = sorted({buyer for buyer in wanted.values() if buyer is not None})
        if buyers:
            texts: list[Any] = await redis.hmget(keys.holders(sale_id), buyers)
            for buyer_id, text in zip(buyers, texts, strict=True):
                if text is not None:
                    holding = Holding.parse(text.decode())
                    found[holding.order_id] = (buyer_id, holding)
        if None in wanted.values():
            async for buyer, text in redis.hscan_iter(keys.holders(sale_id), count=1000):
                holding = Holding.parse(text.decode())
                found[holding.order_id] = (buyer.decode(), holding)
    return {order_id: found[order_id] for order_id in wanted if order_id in found}


async def holder_pages(redis: Redis, sale_id: str) -> AsyncIterator[list[tuple[str, Holding]]]:
    """Yield buyers and what they hold, some hundreds at a time, while the sale goes on.

    What is held from the beginning to the end is seen, perhaps twice.
    """
    cursor = None
    while cursor != 0:
        with redis_errors_as_unavailable():
            reply: Any = await redis.hscan(keys.holders(sale_id), cursor or 0, count=CALL_MAX)
        cursor, page = reply
        if page:
            yield [(buyer.decode(), Holding.parse(text.decode())) for buyer, text in page.items()]


async def read_sql(db: asyncpg.Pool, sale_id: str) -> SqlBooks | None:
    """Read a sale's rows in one snapshot; None when there is no such sale."""
    with database_errors_as_unavailable():
        async with (
            db.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            inventory = await connection.fetchrow(
                "SELECT total, available, frozen, sold, epoch FROM inventory WHERE sale_id = $1",
                sale_id,
            )
            if inventory is None:
                return None
            states = await connection.fetch(
                "SELECT state, count(*), sum(quantity) FROM orders WHERE sale_id = $1 GROUP BY 1",
                sale_id,
            )
            live = await connection.fetch(
                "SELECT order_id::text, buyer_id FROM orders"
                " WHERE sale_id = $1 AND state = ANY($2)",
                sale_id,
                list(LIVE),
            )
            returns = await connection.fetchval(
                "SELECT count(*) FROM stock_returns WHERE sale_id = $1", sale_id
            )
    per_buyer = Counter(row[1] for row in live)
    return SqlBooks(
        **inventory,
        by_state={state: (count, units) for state, count, units in states},
        live={row[0]: row[1] for row in live},
        doubled_buyers=[buyer for buyer, orders in per_buyer.items() if orders > 1],
        returns_pending=returns,
    )


async def states_of(db: asyncpg.Pool, order_ids: set[str]) -> dict[str, str]:
    """Return order_id -> state of those that have a row."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT order_id::text, state FROM orders WHERE order_id = ANY($1::uuid[])",
            list(order_ids),
        )
    return {row[0]: row[1] for row in rows}


class Glance(NamedTuple):
    """Everything that a grab, a give-back or a restock changes."""

    state: str
    stock: int
    corrections: int
    epoch: int
    total: int | None
    holders: int
    outbox: int
    last_outbox_id: bytes


async def glance(redis: Redis, sale_id: str) -> Glance | None:
    """Read what a sale's keys come to, in one step; None when the sale is not there."""
    with redis_errors_as_unavailable():
        async with redis.pipeline(transaction=True) as pipe:
            pipe.hmget(keys.sale(sale_id), "state", "corrections", "epoch", "total")
            pipe.get(keys.stock(sale_id))
            pipe.hlen(keys.holders(sale_id))
            pipe.xinfo_stream(keys.outbox(sale_id))
            fields, stock, held, outbox = await pipe.execute(raise_on_error=False)
        for reply in (fields, stock, held):
            if isinstance(reply, RedisError):
                raise reply
    if isinstance(outbox, ResponseError):  # no such key: nobody has grabbed yet
        outbox = {"length": 0, "last-generated-id": b""}
    state, corrections, epoch, total = fields
    if state is None or (state != b"created" and stock is None):
        return None
    return Glance(
        state=state.decode(),
        stock=int(stock or 0),
        corrections=int(corrections),
        epoch=int(epoch),
        total=None if total is None else int(total),
        holders=held,
        outbox=outbox["length"],
        last_outbox_id=outbox["last-generated-id"],
    )
