"""The ledger of a sale: the invariants, counted by ids from the stores themselves.

One helper for tests, load runs and `seckill verify`. Nothing is guessed from queue lengths: a
reservation in Redis and a row in PostgreSQL are compared name by name.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from seckill import keys
from seckill.database import database_errors_as_unavailable
from seckill.orders import LIVE
from seckill.redis_client import redis_errors_as_unavailable
from seckill.stock import Holding

#: Between two looks: long enough for a consumer to finish a batch, short for a person who waits.
LOOK_PAUSE_S = 0.2
#: Tries to read Redis without anything moving, before the sale is taken as moving.
STILL_LOOKS = 3
#: How many ids a violation names before it only counts.
NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class RedisBooks:
    """A sale in Redis. Unless `still`, it moved while it was read: counts then need not add up."""

    state: str
    stock: int
    corrections: int
    epoch: int
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


@dataclass(slots=True)
class Ledger:
    """The books side by side: what they say, what is under way, and what is wrong."""

    lines: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    #: Order ids of holders without a row, and of holders whose row is not live.
    in_flight: list[str] = field(default_factory=list)
    return_pending: list[str] = field(default_factory=list)
    quiet: bool = False

    @property
    def balanced(self) -> bool:
        """Tell whether every invariant holds."""
        return not self.violations


async def verify(redis: Redis, db: asyncpg.Pool, sale_id: str, *, wait_s: float = 0.0) -> Ledger:
    """Compare the books; with `wait_s`, look again until they balance and nothing is under way.

    Things under way are no violation, unless the caller has waited for them to end.
    """
    deadline = time.monotonic() + wait_s
    while True:
        ledger = await _look(redis, db, sale_id)
        if ledger.balanced and (ledger.quiet or not wait_s):
            return ledger
        if time.monotonic() >= deadline:
            break
        await asyncio.sleep(LOOK_PAUSE_S)
    if wait_s and not ledger.quiet:
        ledger.violations.append(
            f"not quiet after {wait_s:g} s: {_named(ledger.in_flight)} in flight, "
            f"{_named(ledger.return_pending)} on their way back, "
            f"{ledger.lines.get('outbox entries', 0)} outbox entries"
        )
    return ledger


async def read_redis(redis: Redis, sale_id: str) -> RedisBooks | None:
    """Read a sale's keys; None when the sale is not there.

    Holders are scanned in small steps, so that Redis goes on serving a running sale. A stamp taken
    before and after tells whether anything moved meanwhile: a grab makes a new outbox id, a
    give-back changes stock or corrections.
    """
    with redis_errors_as_unavailable():
        before = await _stamp(redis, sale_id)
        for _ in range(STILL_LOOKS):
            if before is None:
                return None
            holders = {
                buyer.decode(): Holding.parse(text.decode())
                async for buyer, text in redis.hscan_iter(keys.holders(sale_id), count=1000)
            }
            stamp, before = before, await _stamp(redis, sale_id)
            if before == stamp:
                break
    return RedisBooks(
        state=stamp.state,
        stock=stamp.stock,
        corrections=stamp.corrections,
        epoch=stamp.epoch,
        holders=holders,
        outbox=stamp.outbox,
        still=before == stamp,
    )


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


async def _look(redis: Redis, db: asyncpg.Pool, sale_id: str) -> Ledger:
    """Read PostgreSQL, then Redis, then the rows of all names that occur; compare.

    In this order every violation by name is certain, whatever moves meanwhile: a row that was live
    before and is live after has been live all the time, so its holder had to be there.
    """
    ledger = Ledger()
    sql = await read_sql(db, sale_id)
    if sql is None:
        ledger.violations.append(f"PostgreSQL knows no sale {sale_id}")
        return ledger
    _check_sql(ledger, sql)
    books = await read_redis(redis, sale_id)
    if books is None:
        ledger.violations.append(f"Redis has lost sale {sale_id}: it must be rebuilt")
        return ledger
    _check_redis(ledger, sql, books)
    held_ids = {holding.order_id for holding in books.holders.values()}
    rows = await _states_of(db, held_ids | sql.live.keys())
    _check_names(ledger, sql, books, held_ids, rows)
    return ledger


def _check_sql(ledger: Ledger, sql: SqlBooks) -> None:
    """I1, I2, I3 within PostgreSQL."""
    units = {state: n for state, (_, n) in sql.by_state.items()}
    ledger.lines |= {
        "total": sql.total,
        "available": sql.available,
        "frozen": sql.frozen,
        "sold": sql.sold,
    }
    for state in ("pending", "paying", "paid", "cancelled", "rejected", "refunding", "refunded"):
        ledger.lines[f"orders {state}"] = sql.by_state.get(state, (0, 0))[0]
    ledger.lines["returns pending"] = sql.returns_pending
    owed = units.get("pending", 0) + units.get("paying", 0)
    live = owed + units.get("paid", 0)
    checks = (
        (
            sql.available + sql.frozen + sql.sold == sql.total,
            "I1: available + frozen + sold is not total",
        ),
        (sql.frozen == owed, f"I1: frozen is {sql.frozen}, unpaid live orders hold {owed}"),
        (
            sql.sold == units.get("paid", 0),
            f"I1: sold is {sql.sold}, paid orders hold {units.get('paid', 0)}",
        ),
        (live <= sql.total, f"I2: oversold: live orders hold {live} of {sql.total}"),
        (not sql.doubled_buyers, f"I3: more than one live order: {_named(sql.doubled_buyers)}"),
    )
    ledger.violations += [text for holds, text in checks if not holds]


def _check_redis(ledger: Ledger, sql: SqlBooks, books: RedisBooks) -> None:
    """I1 within Redis. Before the opening there is no stock to conserve."""
    held = sum(holding.quantity for holding in books.holders.values())
    ledger.lines |= {
        "redis stock": books.stock,
        "redis holders": len(books.holders),
        "redis held units": held,
        "redis corrections": books.corrections,
        "redis moving": int(not books.still),
        "outbox entries": books.outbox,
    }
    if books.epoch != sql.epoch:
        ledger.violations.append(f"epoch is {books.epoch} in Redis and {sql.epoch} in PostgreSQL")
    if books.stock < 0:
        ledger.violations.append(f"I2: redis stock is {books.stock}")
    whole = books.stock + held + books.corrections
    if books.still and books.state != "created" and whole != sql.total:
        ledger.violations.append(
            f"I1: redis stock {books.stock} + held {held} + corrections {books.corrections}"
            f" is not total {sql.total}"
        )


def _check_names(
    ledger: Ledger, sql: SqlBooks, books: RedisBooks, held_ids: set[str], rows: dict[str, str]
) -> None:
    """I1 between the stores, I4, I5: holders against rows, live rows against holders."""
    ledger.in_flight = sorted(held_ids - rows.keys())
    ledger.return_pending = sorted(i for i in held_ids & rows.keys() if rows[i] not in LIVE)
    stranded = sorted(i for i in sql.live.keys() - held_ids if rows[i] in LIVE)
    ledger.lines["in flight"] = len(ledger.in_flight)
    ledger.lines["return pending"] = len(ledger.return_pending)
    if stranded:
        ledger.violations.append(f"I1: live orders without a holder: {_named(stranded)}")
    ledger.quiet = (
        books.still and held_ids == sql.live.keys() and not books.outbox and not sql.returns_pending
    )
    expected = sql.available - books.corrections
    if ledger.quiet and books.state != "created" and books.stock != expected:
        ledger.violations.append(
            f"I5: quiet, but redis stock is {books.stock}, available - corrections {expected}"
        )


async def _states_of(db: asyncpg.Pool, order_ids: set[str]) -> dict[str, str]:
    """Return order_id -> state of those that have a row."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT order_id::text, state FROM orders WHERE order_id = ANY($1::uuid[])",
            list(order_ids),
        )
    return {row[0]: row[1] for row in rows}


class _Stamp(NamedTuple):
    """Everything that a grab or a give-back changes."""

    state: str
    stock: int
    corrections: int
    epoch: int
    holders: int
    outbox: int
    last_outbox_id: bytes


async def _stamp(redis: Redis, sale_id: str) -> _Stamp | None:
    """Read the stamp in one step; None when the sale is not there."""
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hmget(keys.sale(sale_id), "state", "corrections", "epoch")
        pipe.get(keys.stock(sale_id))
        pipe.hlen(keys.holders(sale_id))
        pipe.xinfo_stream(keys.outbox(sale_id))
        fields, stock, held, outbox = await pipe.execute(raise_on_error=False)
    for reply in (fields, stock, held):
        if isinstance(reply, RedisError):
            raise reply
    if isinstance(outbox, ResponseError):  # no such key: nobody has grabbed yet
        outbox = {"length": 0, "last-generated-id": b""}
    state, corrections, epoch = fields
    if state is None or (state != b"created" and stock is None):
        return None
    return _Stamp(
        state=state.decode(),
        stock=int(stock or 0),
        corrections=int(corrections),
        epoch=int(epoch),
        holders=held,
        outbox=outbox["length"],
        last_outbox_id=outbox["last-generated-id"],
    )


def _named(ids: Iterable[str]) -> str:
    ids = list(ids)
    more = f" and {len(ids) - NAMED_MAX} more" if len(ids) > NAMED_MAX else ""
    return f"{len(ids)} ({', '.join(ids[:NAMED_MAX])}{more})" if ids else "0"
