"""Compare Redis and PostgreSQL order by order, a page at a time, while the sale goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

import asyncpg
from redis.asyncio import Redis

from seckill.adapters import redis_keys
from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.adapters.redis import redis_errors_as_unavailable
from seckill.clock import now_ms
from seckill.dead_letters.store import open_order_ids
from seckill.inventory.holders import holder_pages
from seckill.inventory.reservations import CALL_MAX, Holding
from seckill.order_ids import created_ms_of
from seckill.orders.orders import LIVE

#: Least time between two comparisons that must agree: longer than any call between the stores.
COMPARISONS_APART_S = 3.0
#: Differences of one sale that a comparison keeps; the next comparisons find the rest.
DIFFERENCES_MAX = 5_000

P = TypeVar("P")


class HolderWithRow(NamedTuple):
    """A holder, and what PostgreSQL has of its order."""

    buyer_id: str
    holding: Holding
    #: None if there is no row.
    state: str | None
    #: Whether a stock return of its units is waiting.
    is_returning: bool

    @property
    def is_live(self) -> bool:
        """Whether the order may hold units."""
        return self.state in LIVE


class OrderWithoutHolder(NamedTuple):
    """A live order whose buyer has no holder in Redis."""

    buyer_id: str
    holding: Holding


class RepairAction(StrEnum):
    """What is done about a difference."""

    REPUBLISH = "republish"
    GIVE_BACK = "give_back"
    ADOPT = "adopt"


REASONS = {
    RepairAction.REPUBLISH: "held for long without a row: its message was lost",
    RepairAction.GIVE_BACK: "ended, but still held in Redis",
    RepairAction.ADOPT: "live, but not held in Redis",
}


class Difference(NamedTuple):
    """One order on which the stores do not agree."""

    action: RepairAction
    buyer_id: str
    holding: Holding


class Comparison(NamedTuple):
    """One comparison of a sale."""

    #: By order_id.
    differences: dict[str, Difference]
    #: Whether the stores hold the same orders, with nothing under way.
    is_quiet: bool


async def compare_sale(
    redis: Redis, db: asyncpg.Pool, sale_id: str, *, age_ms: int, share: float = 1.0
) -> Comparison:
    """Compare a sale's holders with its rows, and its live rows with their holders.

    With a share below 1 it works that share of the time, and rests after each page.
    """
    found: dict[str, Difference] = {}
    is_quiet = True
    waiting_for_operator = await open_order_ids(db, sale_id)
    lost_before_ms = now_ms() - age_ms
    async for page in paced(holders_with_rows(redis, db, sale_id), share):
        for each in page:
            is_quiet = is_quiet and each.is_live
            action = _action_for(each, lost_before_ms)
            if action and each.holding.order_id not in waiting_for_operator:
                found[each.holding.order_id] = Difference(action, each.buyer_id, each.holding)
        if len(found) > DIFFERENCES_MAX:
            return Comparison(found, is_quiet=False)
    async for rows in paced(orders_without_holder(redis, db, sale_id), share):
        for row in rows:
            is_quiet = False
            found[row.holding.order_id] = Difference(RepairAction.ADOPT, *row)
        if len(found) > DIFFERENCES_MAX:
            break
    return Comparison(found, is_quiet)


def in_both(before: Comparison, now: Comparison) -> list[Difference]:
    """Return the differences that both comparisons found."""
    return [d for order_id, d in now.differences.items() if before.differences.get(order_id) == d]


async def holders_with_rows(
    redis: Redis, db: asyncpg.Pool, sale_id: str
) -> AsyncIterator[list[HolderWithRow]]:
    """Yield all holders with their rows. Each row is read after its holder.

    So a holder without a row was in flight when it was read, or its message was lost.
    """
    async for page in holder_pages(redis, sale_id):
        with database_errors_as_unavailable():
            rows = await db.fetch(
                "SELECT o.order_id::text, o.state, r.order_id IS NOT NULL"
                "  FROM orders o LEFT JOIN stock_returns r USING (order_id)"
                " WHERE o.order_id = ANY($1::uuid[])",
                [holding.order_id for _, holding in page],
            )
        found = {order_id: (state, returning) for order_id, state, returning in rows}
        yield [
            HolderWithRow(buyer_id, holding, *found.get(holding.order_id, (None, False)))
            for buyer_id, holding in page
        ]


async def orders_without_holder(
    redis: Redis, db: asyncpg.Pool, sale_id: str
) -> AsyncIterator[list[OrderWithoutHolder]]:
    """Yield live orders that have no holder. Each holder is read after its row.

    So an order may have ended, and its units be returned, in between: compare again before acting.
    """
    after = ""
    while True:
        with database_errors_as_unavailable():
            rows = await db.fetch(
                "SELECT buyer_id, order_id::text, quantity FROM orders"
                # The condition of the partial index, which has one live order a buyer: so the
                # buyer is enough to go on from.
                " WHERE sale_id = $1 AND state IN ('pending', 'paying', 'paid') AND buyer_id > $2"
                " ORDER BY buyer_id LIMIT $3",
                sale_id,
                after,
                CALL_MAX,
            )
        if not rows:
            return
        after = rows[-1]["buyer_id"]
        page = [OrderWithoutHolder(buyer, Holding(id_, units)) for buyer, id_, units in rows]
        yield await _without_holder(redis, sale_id, page)


async def paced(pages: AsyncIterator[P], share: float) -> AsyncIterator[P]:
    """Yield pages so that reading and comparing them takes a share of the time."""
    began = time.monotonic()
    async for page in pages:
        yield page
        await rest(began, share)
        began = time.monotonic()


async def rest(began: float, share: float) -> None:
    """Rest after work that `began` (monotonic), so that the work took a share of the time."""
    if share < 1:
        await asyncio.sleep((time.monotonic() - began) * (1 / share - 1))


async def _without_holder(
    redis: Redis, sale_id: str, page: Sequence[OrderWithoutHolder]
) -> list[OrderWithoutHolder]:
    with redis_errors_as_unavailable():
        texts: Any = await redis.hmget(
            redis_keys.holders(sale_id), [live.buyer_id for live in page]
        )
    return [
        live
        for live, text in zip(page, texts, strict=True)
        if text is None or text.decode() != str(live.holding)
    ]


def _action_for(each: HolderWithRow, lost_before_ms: int) -> RepairAction | None:
    if each.is_live or each.is_returning:
        return None
    if each.state is not None:
        return RepairAction.GIVE_BACK
    is_young = created_ms_of(each.holding.order_id) > lost_before_ms
    return None if is_young else RepairAction.REPUBLISH
