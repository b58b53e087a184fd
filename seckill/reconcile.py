"""Making Redis and PostgreSQL agree again, order by order; neither side is copied over the other.

| found, twice | done |
|---|---|
| a holder without a row, older than `age_ms` | its grab is published again: the message was lost |
| a holder of an ended order, whose units are not on their way | they are put on their way again |
| a live order without a holder | adopted: it gets its holder, and stock loses its units |

Each is done by the script or function that does it in an undisturbed sale, so a repair that races
with the sale is at worst one that was not needed. Nothing is done to a sale that needs a rebuild.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeVar

import asyncpg
import msgspec
from redis.asyncio import Redis

import lua
from seckill import audit, differences, fencing, keys, messages, telemetry, topology
from seckill.clock import now_ms
from seckill.database import database_errors_as_unavailable
from seckill.dead_letters import open_order_ids
from seckill.differences import Held
from seckill.order_ids import created_ms_of
from seckill.redis_client import redis_errors_as_unavailable
from seckill.stock import CALL_MAX, Grab, Holding

P = TypeVar("P")

#: Least time between two looks that must agree: longer than any call between the stores may take.
LOOKS_APART_S = 3.0
#: Differences of one sale that a look keeps; the rest is found by the next ones.
DIFFERENCES_MAX = 5_000

#: The whole retry ladder, and half a minute for what is between its rungs.
LADDER_MS = (sum(topology.RUNGS_S) + 30) * 1000

_pack = msgspec.msgpack.Encoder().encode


class Action(StrEnum):
    """What is done about a difference."""

    REPUBLISH = "republish"
    GIVE_BACK = "give_back"
    ADOPT = "adopt"


REASONS = {
    Action.REPUBLISH: "held for long without a row: its message was lost",
    Action.GIVE_BACK: "ended, but still held in Redis",
    Action.ADOPT: "live, but not held in Redis",
}


class Difference(NamedTuple):
    """One order on which the stores do not agree."""

    action: Action
    buyer_id: str
    holding: Holding


class Look(NamedTuple):
    """One comparison of a sale."""

    #: By order_id.
    differences: dict[str, Difference]
    #: Whether the stores hold the same orders, with nothing under way.
    is_quiet: bool


class Publishes(Protocol):
    """What a repair needs of a publisher."""

    async def publish(self, queue: str, body: bytes) -> None:
        """Return when confirmed, raise Unavailable when not known."""


async def look(
    redis: Redis, db: asyncpg.Pool, sale_id: str, *, age_ms: int, share: float = 1.0
) -> Look:
    """Compare a sale's holders with its rows, and its live rows with their holders.

    With a share below 1 it works so much of the time and rests in between, page by page.
    """
    found: dict[str, Difference] = {}
    is_quiet = True
    waiting_for_operator = await open_order_ids(db, sale_id)
    lost_before_ms = now_ms() - age_ms
    async for page in _paced(differences.held(redis, db, sale_id), share):
        for each in page:
            is_quiet = is_quiet and each.is_live
            action = _action_for(each, lost_before_ms)
            if action and each.holding.order_id not in waiting_for_operator:
                found[each.holding.order_id] = Difference(action, each.buyer_id, each.holding)
        if len(found) > DIFFERENCES_MAX:
            return Look(found, is_quiet=False)
    async for rows in _paced(differences.unheld(redis, db, sale_id), share):
        for row in rows:
            is_quiet = False
            found[row.holding.order_id] = Difference(Action.ADOPT, *row)
        if len(found) > DIFFERENCES_MAX:
            break
    return Look(found, is_quiet)


async def _paced(pages: AsyncIterator[P], share: float) -> AsyncIterator[P]:
    """Yield pages so that reading and judging them takes a share of the time."""
    began = time.monotonic()
    async for page in pages:
        yield page
        await _rest(began, share)
        began = time.monotonic()


async def _rest(began: float, share: float) -> None:
    """Rest after work since `began` (monotonic), so that it has taken a share of the time."""
    if share < 1:
        await asyncio.sleep((time.monotonic() - began) * (1 / share - 1))


class Reconciler:
    """Repairs what two looks agree on."""

    def __init__(
        self,
        redis: Redis,
        db: asyncpg.Pool,
        publisher: Publishes,
        count_waiting: Callable[[], Awaitable[int]],
        *,
        actor: str,
    ) -> None:
        self._redis = redis
        self._db = db
        self._publisher = publisher
        self._count_waiting = count_waiting
        self._actor = actor
        self._adopt_script = lua.register(redis, "adopt")
        #: When grabs of a sale were last published although messages waited.
        self._pressed_ms: dict[str, int] = {}

    async def repair(
        self, sale_id: str, epoch: int, agreed: Sequence[Difference], *, share: float = 1.0
    ) -> Counter[Action]:
        """Act on differences, in steps of at most CALL_MAX; return how many orders were changed.

        `epoch` is that of the sale in Redis when it was looked at. With a share below 1 it works so
        much of the time and rests in between, step by step, but for publishing.
        """
        done: Counter[Action] = Counter()
        for action in Action:
            chosen = [each for each in agreed if each.action is action]
            if action is Action.REPUBLISH and chosen:
                chosen = await self._lost_for_sure(sale_id, epoch, chosen)
            for start in range(0, len(chosen), CALL_MAX):
                part = chosen[start : start + CALL_MAX]
                began = time.monotonic()
                match action:
                    case Action.REPUBLISH:
                        done[action] += await self._republish(sale_id, epoch, part)
                    case Action.GIVE_BACK:
                        done[action] += await self._give_back(sale_id, part)
                    case Action.ADOPT:
                        done[action] += await self._adopt(sale_id, part)
                if action is not Action.REPUBLISH:  # what is lost for sure now may not be so later
                    await _rest(began, share)
        for action, count in done.items():
            telemetry.RECONCILED.labels(action).inc(count)
        return done

    async def _lost_for_sure(
        self, sale_id: str, epoch: int, chosen: list[Difference]
    ) -> list[Difference]:
        """Return those that need a second message: all, or none after a rebuild.

        While messages wait anywhere theirs may be among them, and one that cannot be placed must
        not be sent up the retry ladder again and again: then those alone that have been on their
        way for longer than the ladder takes, and not more often than that.
        """
        if await fencing.epoch_in_redis(self._redis, sale_id) != epoch:
            return []
        waiting = await self._count_waiting()
        # Read once more: what left the last rung while we looked and counted is a letter by now.
        letters = await open_order_ids(self._db, sale_id)
        chosen = [d for d in chosen if d.holding.order_id not in letters]
        if not waiting:
            return chosen
        now = now_ms()
        if now < self._pressed_ms.get(sale_id, 0) + LADDER_MS:
            return []
        old = [d for d in chosen if created_ms_of(d.holding.order_id) < now - LADDER_MS]
        if old:
            self._pressed_ms[sale_id] = now
        return old

    async def _republish(self, sale_id: str, epoch: int, part: Sequence[Difference]) -> int:
        """Publish grabs again, and have it on record."""
        grabs = [Grab(d.holding.order_id, d.buyer_id, d.holding.quantity) for d in part]
        with database_errors_as_unavailable():
            async with self._db.acquire() as connection, connection.transaction():
                await self._record(connection, sale_id, Action.REPUBLISH, grabs)
                body = messages.encode_place(sale_id, epoch, [], grabs)
                await self._publisher.publish(topology.ORDERS_PLACE, body)
        return len(grabs)

    async def _give_back(self, sale_id: str, part: Sequence[Difference]) -> int:
        """Write the rows that return_stock works on; an ended order stays ended."""
        with database_errors_as_unavailable():
            async with self._db.acquire() as connection, connection.transaction():
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
                if rows:
                    await self._record(
                        connection, sale_id, Action.GIVE_BACK, [Grab(*row) for row in rows]
                    )
        return len(rows)

    async def _adopt(self, sale_id: str, part: Sequence[Difference]) -> int:
        """Give live orders their holders, with the rows locked so that none ends meanwhile."""
        with database_errors_as_unavailable():
            async with self._db.acquire() as connection, connection.transaction():
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
                adopted = await self._call_adopt(sale_id, epoch, live) if live else []
                if adopted:
                    await self._record(connection, sale_id, Action.ADOPT, adopted)
        return len(adopted)

    async def _call_adopt(self, sale_id: str, epoch: int, live: Sequence[Grab]) -> list[Grab]:
        adoptions = [[order.buyer_id, str(Holding(order[0], order.quantity))] for order in live]
        with redis_errors_as_unavailable():
            reply = await self._adopt_script(
                keys=[keys.stock(sale_id), keys.sale(sale_id), keys.holders(sale_id)],
                args=[epoch, _pack(adoptions)],
            )
        if reply[0] == b"LATER":
            return []
        outcomes = zip(live, reply[2].decode(), strict=True)
        return [order for order, outcome in outcomes if outcome == "A"]

    async def _record(
        self,
        connection: asyncpg.Connection,
        sale_id: str,
        action: Action,
        changed: Sequence[Grab],
    ) -> None:
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


def agreed(before: Look, now: Look) -> list[Difference]:
    """Return what both looks saw."""
    return [d for order_id, d in now.differences.items() if before.differences.get(order_id) == d]


def _action_for(each: Held, lost_before_ms: int) -> Action | None:
    if each.is_live or each.is_returning:
        return None
    if each.state is not None:
        return Action.GIVE_BACK
    is_young = created_ms_of(each.holding.order_id) > lost_before_ms
    return None if is_young else Action.REPUBLISH
