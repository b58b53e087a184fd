"""Make Redis and PostgreSQL agree again, order by order; neither store is copied over the other.

| found in two comparisons | done |
|---|---|
| a holder without a row, older than `age_ms` | its grab is published again: the message was lost |
| a holder of an ended order without a stock return | the stock return is written again |
| a live order without a holder | the order gets its holder, and the stock loses its units |

Each repair uses the script or function that does it in an undisturbed sale. So a repair that races
with the sale is at worst one that was not needed. A sale that needs a rebuild is not repaired.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import asyncpg
import msgspec
from redis.asyncio import Redis

import lua
from seckill import audit, messages, metrics
from seckill.adapters import redis_keys, topology
from seckill.adapters.postgres import transaction
from seckill.adapters.publisher import Publisher
from seckill.adapters.redis import run_script
from seckill.clock import now_ms
from seckill.consistency import fencing
from seckill.consistency.diff import REASONS, Difference, RepairAction, rest
from seckill.dead_letters.store import open_order_ids
from seckill.inventory.reservations import CALL_MAX, Grab, Holding
from seckill.order_ids import created_ms_of

#: The whole retry schedule, and half a minute for the attempts between its waits.
RETRIES_MS = (sum(topology.RETRY_DELAYS_S) + 30) * 1000

_pack = msgspec.msgpack.Encoder().encode


class Reconciler:
    """Repairs the differences that two comparisons found."""

    def __init__(
        self,
        redis: Redis,
        db: asyncpg.Pool,
        publisher: Publisher,
        count_waiting: Callable[[], Awaitable[int]],
        *,
        actor: str,
    ) -> None:
        self._redis = redis
        self._db = db
        self._publisher = publisher
        self._count_waiting = count_waiting
        self._actor = actor
        self._add_missing_holders = lua.register(redis, "add_missing_holders")
        #: When grabs of a sale were last published although messages waited.
        self._published_anyway_ms: dict[str, int] = {}

    async def repair(
        self, sale_id: str, epoch: int, agreed: Sequence[Difference], *, share: float = 1.0
    ) -> Counter[RepairAction]:
        """Repair differences, in steps of at most CALL_MAX; return how many orders were changed.

        `epoch` is the epoch of the sale in Redis when it was compared. With a share below 1 the
        repair works that share of the time, and rests after each step except publishing: a grab
        whose message is lost now may be placed later.
        """
        done: Counter[RepairAction] = Counter()
        for action in RepairAction:
            chosen = [each for each in agreed if each.action is action]
            if action is RepairAction.REPUBLISH and chosen:
                chosen = await self._certainly_lost(sale_id, epoch, chosen)
            for start in range(0, len(chosen), CALL_MAX):
                part = chosen[start : start + CALL_MAX]
                began = time.monotonic()
                match action:
                    case RepairAction.REPUBLISH:
                        done[action] += await self._republish(sale_id, epoch, part)
                    case RepairAction.GIVE_BACK:
                        done[action] += await self._give_back(sale_id, part)
                    case RepairAction.ADOPT:
                        done[action] += await self._adopt(sale_id, part)
                if action is not RepairAction.REPUBLISH:
                    await rest(began, share)
        for action, count in done.items():
            metrics.RECONCILED.labels(action).inc(count)
        return done

    async def _certainly_lost(
        self, sale_id: str, epoch: int, chosen: list[Difference]
    ) -> list[Difference]:
        """Return the grabs that need a second message; none of them after a rebuild.

        While messages wait anywhere, the message of a grab may be among them, and a grab that
        cannot be placed must not go through the retry schedule again and again. So then only
        grabs older than the whole schedule are published, and only once in that time.
        """
        if await fencing.epoch_in_redis(self._redis, sale_id) != epoch:
            return []
        waiting = await self._count_waiting()
        # Read again: a message that left the last retry queue meanwhile is a dead letter by now.
        dead = await open_order_ids(self._db, sale_id)
        chosen = [d for d in chosen if d.holding.order_id not in dead]
        if not waiting:
            return chosen
        now = now_ms()
        if now < self._published_anyway_ms.get(sale_id, 0) + RETRIES_MS:
            return []
        old = [d for d in chosen if created_ms_of(d.holding.order_id) < now - RETRIES_MS]
        if old:
            self._published_anyway_ms[sale_id] = now
        return old

    async def _republish(self, sale_id: str, epoch: int, part: Sequence[Difference]) -> int:
        """Publish grabs again, on record."""
        grabs = [Grab(d.holding.order_id, d.buyer_id, d.holding.quantity) for d in part]
        async with transaction(self._db) as connection:
            await self._record(connection, sale_id, RepairAction.REPUBLISH, grabs)
            body = messages.encode_place(sale_id, epoch, [], grabs)
            await self._publisher.publish(topology.ORDERS_PLACE, body)
        return len(grabs)

    async def _give_back(self, sale_id: str, part: Sequence[Difference]) -> int:
        """Write the stock returns of ended orders; the orders stay as they are."""
        async with transaction(self._db) as connection:
            rows = await connection.fetch(
                "INSERT INTO stock_returns (order_id, sale_id, buyer_id, quantity, units)"
                # As place() wrote it: units that were never there do not go on sale.
                " SELECT order_id, sale_id, buyer_id, quantity,"
                "        CASE WHEN reason = 'stock' THEN 0 ELSE quantity END FROM orders"
                "  WHERE order_id = ANY($1::uuid[])"
                "    AND state NOT IN ('pending', 'paying', 'paid')"
                " ON CONFLICT DO NOTHING RETURNING order_id::text, buyer_id, quantity",
                [difference.holding.order_id for difference in part],
            )
            returned = [Grab(*row) for row in rows]
            await self._record(connection, sale_id, RepairAction.GIVE_BACK, returned)
        return len(returned)

    async def _adopt(self, sale_id: str, part: Sequence[Difference]) -> int:
        """Give live orders their holders, with the rows locked so that no order ends meanwhile."""
        async with transaction(self._db) as connection:
            rows = await connection.fetch(
                "SELECT order_id::text, buyer_id, quantity FROM orders"
                " WHERE order_id = ANY($1::uuid[]) AND state IN ('pending', 'paying', 'paid')"
                " ORDER BY order_id FOR UPDATE",
                [difference.holding.order_id for difference in part],
            )
            epoch = await connection.fetchval(
                "SELECT epoch FROM inventory WHERE sale_id = $1", sale_id
            )
            live = [Grab(*row) for row in rows]
            adopted = await self._add_holders(sale_id, epoch, live) if live else []
            await self._record(connection, sale_id, RepairAction.ADOPT, adopted)
        return len(adopted)

    async def _add_holders(self, sale_id: str, epoch: int, live: Sequence[Grab]) -> list[Grab]:
        keys = (redis_keys.stock, redis_keys.sale, redis_keys.holders)
        missing = [[order.buyer_id, str(Holding(order[0], order.quantity))] for order in live]
        reply = await run_script(self._add_missing_holders, sale_id, keys, [epoch, _pack(missing)])
        if reply[0] == b"LATER":
            return []
        outcomes = zip(live, reply[2].decode(), strict=True)
        return [order for order, outcome in outcomes if outcome == "A"]

    async def _record(
        self,
        connection: asyncpg.Connection,
        sale_id: str,
        action: RepairAction,
        changed: Sequence[Grab],
    ) -> None:
        if not changed:
            return
        await audit.record(
            connection,
            f"reconcile.{action}",
            actor=self._actor,
            reason=REASONS[action],
            sale_id=sale_id,
            details={
                "orders": [order.order_id for order in changed],
                "units": sum(order.quantity for order in changed),
            },
        )
