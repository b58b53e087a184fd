"""Quiet sales: over, equal in both stores, and with no unpaid order. Pollers leave them out.

A quiet sale keeps the stamp that it was found quiet with. Nothing changes in it without another
stamp, so a slow round over the quiet sales that compares stamps misses nothing: a Redis that came
back with an old outbox entry or an old holder makes its sale live again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import asyncpg
from redis.asyncio import Redis

from seckill.adapters import redis_keys
from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.adapters.redis import open_pipeline
from seckill.consistency import fencing
from seckill.consistency.fencing import IS_OVER, ChangeStamp, FenceReason, SaleState
from seckill.inventory import outbox
from seckill.sales import listing, sales

#: Sales with at most so many holders are compared many at a time, each with one HGETALL, which
#: takes Redis 0.1 ms. Larger ones are for `diff.compare_sale`.
SMALL_MAX = 512
#: Holders and sales compared in one step: some 10 ms of this process.
STEP_MAX = 2_000
#: Quiet sales checked in one pass of the fence, each second: 0.1 % of a core. Ten thousand take
#: some three minutes.
PAGE = 50

_MARK = f"""
UPDATE sales s SET quiet_stamp = q.stamp
  FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
         AS q (sale_id, stamp, over_as, version, unsold), inventory i
 WHERE s.sale_id = q.sale_id AND i.sale_id = q.sale_id AND s.archived_at IS NULL
   -- As when the stamp was taken: sold and held units are then the same, too.
   AND i.version = q.version AND s.state = q.over_as AND i.frozen = 0 AND {IS_OVER}
   -- A restock that broke off has changed one store alone.
   AND i.available = coalesce(q.unsold, i.available)
   AND NOT EXISTS (SELECT FROM stock_returns r WHERE r.sale_id = s.sale_id)
RETURNING s.sale_id
"""  # noqa: S608 - ours


async def mark_small(redis: Redis, db: asyncpg.Pool, states: Mapping[str, SaleState]) -> set[str]:
    """Mark those surveyed sales that are quiet and have few holders; return them."""
    marked: set[str] = set()
    for step in _steps({id_: state for id_, state in states.items() if _may_be_quiet(state)}):
        equal = await _equal_in_both(redis, db, list(step))
        marked |= await mark(redis, db, {sale_id: step[sale_id] for sale_id in equal})
    return marked


async def mark(redis: Redis, db: asyncpg.Pool, states: Mapping[str, SaleState]) -> set[str]:
    """Mark those sales, of which both stores hold the same orders, that are quiet; return them."""
    sizes = await outbox.sizes(redis, list(states))
    rows = [
        (sale_id, state.stamp.text(), state.over_as, state.stamp.version, _unsold(state.stamp))
        for (sale_id, state), size in zip(states.items(), sizes, strict=True)
        if state.stamp and _is_over(state) and size == 0
    ]
    if not rows:
        return set()
    with database_errors_as_unavailable():
        return {row[0] for row in await db.fetch(_MARK, *map(list, zip(*rows, strict=True)))}


class QuietRound:
    """Goes round all quiet sales, a page at a time."""

    def __init__(self, redis: Redis, db: asyncpg.Pool) -> None:
        self._redis = redis
        self._db = db
        self._after = 0
        #: Sale -> why it must be rebuilt, of this round and of the one before.
        self._troubles: dict[str, FenceReason] = {}
        self._before: dict[str, FenceReason] = {}

    async def check_page(self, live: Collection[str]) -> Mapping[str, FenceReason]:
        """Check the next page; return all quiet sales known to need a rebuild.

        One that went back in time is fenced. One that has changed is live again.
        """
        page = await listing.quiet_page(self._db, after=self._after, limit=PAGE)
        self._after = page[-1].number if len(page) == PAGE else 0
        ids = [sale.sale_id for sale in page]
        states = await fencing.survey(self._redis, self._db, ids, fence=True) if ids else {}
        for sale_id, state in states.items():
            self._before.pop(sale_id, None)
            if state.fence_reason:
                self._troubles[sale_id] = state.fence_reason
            elif state.stamp and state.quiet_stamp not in (None, state.stamp.text()):
                await sales.wake(self._db, sale_id)
        for troubles in (self._before, self._troubles):
            for sale_id in troubles.keys() & set(live):
                del troubles[sale_id]
        known = self._before | self._troubles
        if self._after == 0:
            self._before, self._troubles = self._troubles, {}
        return known


def _may_be_quiet(state: SaleState) -> bool:
    return _is_over(state) and _holders(state) <= SMALL_MAX


def _is_over(state: SaleState) -> bool:
    """Return whether the sale is over in PostgreSQL, and in the same state in Redis."""
    return (
        state.over_as is not None
        and state.stamp is not None
        and state.stamp.redis[0] == state.over_as.encode()
    )


def _holders(state: SaleState) -> int:
    return int(state.stamp.redis[3] or 0) if state.stamp else 0


def _unsold(stamp: ChangeStamp) -> int | None:
    """Return the units that PostgreSQL must have available; None before the opening."""
    _, stock, corrections, *_ = stamp.redis
    return None if stock is None else int(stock) + int(corrections or 0)


def _steps(states: Mapping[str, SaleState]) -> Iterator[dict[str, SaleState]]:
    step: dict[str, SaleState] = {}
    size = 0
    for sale_id, state in states.items():
        step[sale_id] = state
        size += 1 + _holders(state)
        if size >= STEP_MAX:
            yield step
            step, size = {}, 0
    if step:
        yield step


async def _equal_in_both(redis: Redis, db: asyncpg.Pool, sale_ids: Sequence[str]) -> list[str]:
    """Return the sales whose holders are exactly their live orders."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT sale_id, buyer_id, order_id::text || ':' || quantity FROM orders"
            " WHERE sale_id = ANY($1) AND state IN ('pending', 'paying', 'paid')",
            sale_ids,
        )
    live: dict[str, dict[str, str]] = defaultdict(dict)
    for sale_id, buyer_id, holding in rows:
        live[sale_id][buyer_id] = holding
    async with open_pipeline(redis) as pipe:
        for sale_id in sale_ids:
            pipe.hgetall(redis_keys.holders(sale_id))
        held = await pipe.execute()
    return [
        sale_id
        for sale_id, holders in zip(sale_ids, held, strict=True)
        if live[sale_id] == {buyer.decode(): text.decode() for buyer, text in holders.items()}
    ]
