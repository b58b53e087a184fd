"""Orders as the shop's programs list them: newest first, a page at a time, with bounded work.

A page goes on where the last one ended by the id of an order, which begins with the time of its
grab. So new orders do not move what comes next. A page reads the rows of some thousand ids at most,
whatever is looked for among them; then it may be short, or empty, and yet have a next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import asyncpg

from seckill.adapters.postgres import database_errors_as_unavailable

#: Rows that one page looks at: some 20 ms of PostgreSQL, warm.
LOOKED_AT_MAX = 10_000
#: Orders of one page.
PAGE_MAX = 500

_COLUMNS = (
    "o.order_id::text, o.sale_id, o.buyer_id, o.quantity, o.amount_cents, o.state, o.reason,"
    " o.version, o.created_at, o.pay_by, o.ended_at, p.method, p.amount_cents, p.discount_cents,"
    " p.coupon_id, p.provider_ref,"
    " CASE WHEN o.state = 'refunded' THEN coalesce(p.amount_cents, 0)"
    " ELSE parts_refunded(o.paying_tx) END,"
    " (SELECT s.currency FROM sales s WHERE s.sale_id = o.sale_id)"
)
#: How it was paid; money that was only tried does not count.
_PAYMENT = (
    "LEFT JOIN payments p ON p.tx_id = o.paying_tx AND p.state IN ('paid', 'refunding', 'refunded')"
)
#: $1 and $2 bound the ids, $3 to $5 say what is looked for, $6 how many.
_PAGE = """
WITH seen AS MATERIALIZED (
  SELECT * FROM orders WHERE order_id {above} $1 AND order_id {below} $2
   ORDER BY order_id {direction} LIMIT {looked_at}
), found AS (
  SELECT * FROM seen
   WHERE ($3::text IS NULL OR sale_id = $3) AND ($4::text IS NULL OR buyer_id = $4)
     AND ($5::text IS NULL OR state = $5)
   ORDER BY order_id {direction} LIMIT $6
)
SELECT * FROM (
  SELECT {columns}, NULL::bigint AS looked_at, NULL::text AS last_seen FROM found o {payment}
  UNION ALL
  SELECT {nulls}, (SELECT count(*) FROM seen),
         (SELECT order_id::text FROM seen ORDER BY order_id {opposite} LIMIT 1)
) page
 ORDER BY page.order_id::uuid {direction} NULLS LAST
"""
_NULLS = (
    "NULL::text, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL::timestamptz, NULL::timestamptz,"
    " NULL::timestamptz, NULL, NULL, NULL, NULL, NULL, NULL, NULL"
)
_NEWEST_FIRST = _PAGE.format(
    above=">=",
    below="<",
    direction="DESC",
    opposite="ASC",
    looked_at=LOOKED_AT_MAX,
    columns=_COLUMNS,
    nulls=_NULLS,
    payment=_PAYMENT,
)
_OLDEST_FIRST = _PAGE.format(
    above=">",
    below="<",
    direction="ASC",
    opposite="DESC",
    looked_at=LOOKED_AT_MAX,
    columns=_COLUMNS,
    nulls=_NULLS,
    payment=_PAYMENT,
)
#: All orders of one buyer. The conditions are those of the two indexes by sale and buyer, so each
#: sale costs two looks into an index: 20,000 sales take a tenth of a second.
_OF_BUYER = f"""
SELECT {_COLUMNS}
  FROM sales s
 CROSS JOIN LATERAL (
   SELECT * FROM orders l WHERE l.sale_id = s.sale_id AND l.buyer_id = $4
      AND state IN ('pending', 'paying', 'paid')
   UNION ALL
   SELECT * FROM orders e WHERE e.sale_id = s.sale_id AND e.buyer_id = $4
      AND state IN ('cancelled', 'rejected', 'refunding', 'refunded')
 ) o {_PAYMENT}
 WHERE o.order_id >= $1 AND o.order_id < $2 AND ($3::text IS NULL OR s.sale_id = $3)
   AND ($5::text IS NULL OR o.state = $5)
 ORDER BY o.order_id DESC LIMIT $6
"""  # noqa: S608 - ours
_FIRST_ID = "00000000-0000-0000-0000-000000000000"
_LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"


@dataclass(frozen=True, slots=True)
class ShopOrder:
    """An order as the shop's programs see it: its row, and how it was paid."""

    order_id: str
    sale_id: str
    buyer_id: str
    quantity: int
    amount_cents: int
    status: str
    reason: str | None
    version: int
    created_at: datetime
    pay_by: datetime
    ended_at: datetime | None
    method: str | None
    paid_cents: int | None
    discount_cents: int | None
    coupon_id: str | None
    provider_ref: str | None
    #: What has gone back, in parts or as a whole.
    refunded_cents: int
    currency: str


@dataclass(frozen=True, slots=True)
class OrderFilter:
    """Which orders are looked for; `since` and `until` are about the grab."""

    sale_id: str | None = None
    buyer_id: str | None = None
    status: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class OrderPage(NamedTuple):
    """Some orders, and the id behind which the next page begins; None on the last."""

    orders: list[ShopOrder]
    next: str | None


async def find(db: asyncpg.Pool | asyncpg.Connection, order_id: str) -> ShopOrder | None:
    """Return one order; None if it has no row."""
    with database_errors_as_unavailable():
        row = await db.fetchrow(
            f"SELECT {_COLUMNS} FROM orders o {_PAYMENT} WHERE o.order_id = $1",  # noqa: S608 - a constant
            order_id,
        )
    return ShopOrder(*row) if row else None


async def newest(
    db: asyncpg.Pool, wanted: OrderFilter, *, cursor: str | None, limit: int
) -> OrderPage:
    """Return a page, the newest grabs first."""
    lowest = _id_at(wanted.since) if wanted.since else _FIRST_ID
    highest = _id_at(wanted.until) if wanted.until else _LAST_ID
    below = min(highest, cursor) if cursor else highest
    if wanted.buyer_id is None:
        return await _page(db, _NEWEST_FIRST, lowest, below, wanted, limit)
    with database_errors_as_unavailable():
        rows = await db.fetch(_OF_BUYER, lowest, below, *_looked_for(wanted), limit + 1)
    found = [ShopOrder(*row) for row in rows[:limit]]
    return OrderPage(found, found[-1].order_id if len(rows) > limit else None)


async def oldest_of_sale(
    db: asyncpg.Pool, sale_id: str, *, opened_at: datetime, cursor: str | None, limit: int
) -> OrderPage:
    """Return a page of a sale's orders, the oldest grabs first, from its opening on."""
    return await _page(
        db, _OLDEST_FIRST, cursor or _id_at(opened_at), _LAST_ID, OrderFilter(sale_id), limit
    )


async def _page(
    db: asyncpg.Pool, query: str, lower: str, upper: str, wanted: OrderFilter, limit: int
) -> OrderPage:
    with database_errors_as_unavailable():
        rows = await db.fetch(query, lower, upper, *_looked_for(wanted), limit)
    *found, (*_, looked_at, last_seen) = rows
    orders = [ShopOrder(*row[:-2]) for row in found]
    if len(orders) == limit:
        return OrderPage(orders, orders[-1].order_id)
    return OrderPage(orders, last_seen if looked_at == LOOKED_AT_MAX else None)


def _looked_for(wanted: OrderFilter) -> tuple[str | None, str | None, str | None]:
    return wanted.sale_id, wanted.buyer_id, wanted.status


def _id_at(moment: datetime) -> str:
    """Return the least id of an order that was grabbed at this time or later."""
    # Not by way of UTC: a time of the year 1 or 9999 there may be none in Python.
    text = f"{max(0, int(moment.timestamp() * 1000)):012x}"
    return f"{text[:8]}-{text[8:]}-0000-0000-000000000000"
