"""Rebuild a sale in Redis from PostgreSQL, fenced by a new epoch.

Units are what PostgreSQL has: stock is what is available there, and holders are its live orders,
both read in one transaction that also raises the epoch. A grab that an older Redis promised beyond
that meets the new epoch and becomes a rejected order, so that nothing of the old epoch is sold.

A rebuild that is cut off anywhere leaves the sale fenced or missing; a second run repairs that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec
from redis.asyncio import Redis

import lua
from config.limits import OPS
from seckill import audit
from seckill.adapters import redis_keys
from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.adapters.redis import run_script
from seckill.consistency import diff, fencing
from seckill.consistency.fencing import FenceReason
from seckill.errors import Conflict, Missing, WrongState
from seckill.inventory.reservations import CALL_MAX, Stock
from seckill.orders import orders
from seckill.orders.orders import Placement
from seckill.sales import rate_limits, sales
from seckill.sales.sales import Sale
from seckill.sales.token_buckets import TokenBuckets

log = logging.getLogger(__name__)

#: To read the live orders of a sale. The inventory row is locked meanwhile, which holds up only
#: this sale's batches; a million orders take some seconds.
READ_S = 60.0

_WITHOUT_STOCK = (redis_keys.sale, redis_keys.holders)
_ALL_KEYS = (redis_keys.stock, *_WITHOUT_STOCK)

_pack = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """A sale after its rebuild."""

    sale_id: str
    epoch: int
    state: str
    stock: int | None
    holders: int
    #: Holders of the old epoch that had no row: each now has a rejected one.
    rejected: int


@dataclass(frozen=True, slots=True)
class _SaleAtEpoch:
    """A sale in the transaction that raised its epoch."""

    sale: Sale
    epoch: int
    total: int
    #: None for a sale that was never opened.
    stock: int | None
    #: (buyer_id, "order_id:quantity") of live orders.
    holders: Sequence[tuple[str, str]]


class Rebuild:
    """Rebuilds sales: first `fence` them, then let grabs under way be placed, then `run`."""

    def __init__(self, redis: Redis, db: asyncpg.Pool) -> None:
        self._redis = redis
        self._db = db
        self._stock = Stock(redis)
        self._begin = lua.register(redis, "begin_rebuild")
        self._restore_holders = lua.register(redis, "restore_holders")
        self._finish = lua.register(redis, "finish_rebuild")

    async def fence(self, sale_ids: Collection[str], *, force: bool = False) -> dict[str, str]:
        """Keep new grabs out of the sales; return why each is rebuilt.

        Raise WrongState if one of them needs no rebuild, which would only reject grabs under way.
        """
        states = await fencing.survey(self._redis, self._db, sale_ids)
        reasons: dict[str, str] = {}
        for sale_id in sale_ids:
            if sale_id not in states:
                await sales.find_kept(self._db, sale_id)  # raises if there is none, or archived
                raise Missing(f"sale {sale_id} was made just now; it needs no rebuild")
            found = states[sale_id].fence_reason
            reasons[sale_id] = found or "forced"
            if found is FenceReason.RESTORED and not force:
                raise WrongState(fencing.advice(sale_id, found))
            if found is None and not force:
                raise WrongState(
                    f"Redis holds sale {sale_id} whole, and a rebuild would reject what is under "
                    f"way. Single differences are mended by: seckill reconcile {sale_id} --apply. "
                    "To rebuild it all the same, add --force"
                )
        for sale_id in sale_ids:  # a sale that is missing or fenced already takes no grabs either
            await self._stock.set_sale_state(sale_id, "fenced")
        return reasons

    async def run(self, sale_id: str, *, actor: str, reason: str) -> RebuildReport:
        """Rebuild one fenced sale; raise Conflict if another rebuild of it overtakes this one."""
        await sales.wake(self._db, sale_id)
        new = await self._raise_epoch(sale_id, actor, reason)
        rejected = await self._reject_in_flight(sale_id, new.epoch)
        await self._step(self._begin, new, _ALL_KEYS, [])
        for start in range(0, len(new.holders), CALL_MAX):
            flat = [text for pair in new.holders[start : start + CALL_MAX] for text in pair]
            await self._step(self._restore_holders, new, _WITHOUT_STOCK, [_pack(flat)])
        await self._restore_limits(sale_id)
        await self._lift(new)
        log.info(
            "sale %s: rebuilt in epoch %d with %d holders; %d grabs of before were rejected",
            sale_id,
            new.epoch,
            len(new.holders),
            rejected,
        )
        return RebuildReport(
            sale_id, new.epoch, new.sale.state, new.stock, len(new.holders), rejected
        )

    async def _raise_epoch(self, sale_id: str, actor: str, reason: str) -> _SaleAtEpoch:
        """Raise the epoch and read the sale, in one transaction that locks the inventory row.

        What was placed before is read here; what is placed after meets the new epoch. The
        transaction ends before Redis is written, so that no batch waits for Redis.
        """
        # A PostgreSQL restored from a backup may have an older epoch than Redis.
        in_redis = await fencing.epoch_in_redis(self._redis, sale_id)
        async with transaction(self._db) as connection:
            sale = await sales.lock_kept(connection, sale_id)
            epoch, total, available = await connection.fetchrow(
                "UPDATE inventory SET epoch = greatest(epoch, $2) + 1, outbox_mark = 0,"
                " version = version + 1 WHERE sale_id = $1 RETURNING epoch, total, available",
                sale_id,
                in_redis,
            )
            await connection.execute("DELETE FROM restored_sales WHERE sale_id = $1", sale_id)
            live = await connection.fetch(
                "SELECT buyer_id, order_id::text || ':' || quantity, quantity FROM orders"
                " WHERE sale_id = $1 AND state IN ('pending', 'paying', 'paid')",
                sale_id,
                timeout=READ_S,
            )
            if sum(row[2] for row in live) != total - available:
                raise Conflict(
                    f"PostgreSQL's own counts of sale {sale_id} do not balance, so nothing was "
                    f"rebuilt; look what is wrong: seckill verify {sale_id}"
                )
            has_stock = sale.was_opened or await sales.has_orders(connection, sale_id)
            await audit.record(
                connection,
                "sale.rebuild",
                actor=actor,
                reason=reason,
                sale_id=sale_id,
                details={"epoch": epoch, "available": available, "live": len(live)},
            )
        holders = [(row[0], row[1]) for row in live]
        return _SaleAtEpoch(sale, epoch, total, available if has_stock else None, holders)

    async def _reject_in_flight(self, sale_id: str, epoch: int) -> int:
        """Give every holder without a row a rejected row, before the holder is dropped.

        The epoch in Redis is read after the holders: those of a later epoch must not be rejected.
        """
        rejected = 0
        async for page in diff.holders_with_rows(self._redis, self._db, sale_id):
            in_flight = [
                Placement(h.holding.order_id, sale_id, h.buyer_id, h.holding.quantity, epoch - 1)
                for h in page
                if h.state is None
            ]
            if in_flight:
                if await fencing.epoch_in_redis(self._redis, sale_id) >= epoch:
                    raise _overtaken(sale_id)
                with database_errors_as_unavailable():
                    refused = await orders.place(self._db, in_flight)
                rejected += sum(each.outcome == "rejected" for each in refused)
        return rejected

    async def _restore_limits(self, sale_id: str) -> None:
        own = await rate_limits.limits_of(self._db, sale_id)
        buckets = TokenBuckets(self._redis)
        for op in OPS:
            if op in own:
                await buckets.set_limit(sale_id, op, rate=own[op].rate, burst=own[op].burst)

    async def _lift(self, new: _SaleAtEpoch) -> None:
        terms = new.sale.terms()
        args = [
            new.sale.state,
            "" if new.stock is None else new.stock,
            len(new.holders),
            terms.opens_at_ms,
            terms.closes_at_ms,
            terms.per_order_max,
            terms.number,
            new.total,
        ]
        await self._step(self._finish, new, _ALL_KEYS, args)

    async def _step(
        self,
        script: Any,  # noqa: ANN401 - untyped in redis-py
        new: _SaleAtEpoch,
        keys: Sequence[Callable[[str], str]],
        args: Sequence[Any],
    ) -> None:
        reply = await run_script(script, new.sale.sale_id, keys, [new.epoch, *args])
        if reply[0] != b"OK":
            raise _overtaken(new.sale.sale_id)


def _overtaken(sale_id: str) -> Conflict:
    return Conflict(
        f"another rebuild of sale {sale_id} has overtaken this one, or Redis lost the sale again; "
        f"look at it: seckill sale show {sale_id}"
    )
