"""Orders in PostgreSQL: placed, released, found."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import asyncpg

from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.inventory.reservations import Holding

#: States in which an order holds units.
LIVE = ("pending", "paying", "paid")
#: States that an order never leaves.
FINAL = ("cancelled", "rejected", "refunded")

_COLUMNS = (
    "o.order_id::text, o.sale_id, o.buyer_id, o.quantity, o.amount_cents,"
    " o.state, o.reason, o.pay_by,"
    " CASE o.state WHEN 'paying' THEN"
    " (SELECT p.redirect_url FROM payments p WHERE p.tx_id = o.paying_tx) END"
)

#: Unpaid orders that are read to find when the next ones run out: some milliseconds.
EXPIRIES_MAX = 5000
#: The columns of a batch, each as one text.
_PLACE_BY = """
SELECT id::text, outcome, why
  FROM {}(string_to_array($1, ' ')::uuid[], string_to_array($2, ' '), string_to_array($3, ' '),
             string_to_array($4, ' ')::integer[], string_to_array($5, ' ')::bigint[],
             string_to_array($6, ' ')::bigint[])
"""
_PLACE, _PLACE_EACH = _PLACE_BY.format("place"), _PLACE_BY.format("place_each")


@dataclass(frozen=True, slots=True)
class Order:
    """One row of `orders`."""

    order_id: str
    sale_id: str
    buyer_id: str
    quantity: int
    amount_cents: int
    state: str
    reason: str | None
    pay_by: datetime
    #: Where its buyer has to go before the bank decides; None for nowhere.
    redirect_url: str | None = None


class Placement(NamedTuple):
    """A grab to be placed in PostgreSQL."""

    order_id: str
    sale_id: str
    buyer_id: str
    quantity: int
    epoch: int
    #: The newest outbox entry of its message (`seckill.inventory.outbox.mark_of`); 0 if unknown.
    outbox_mark: int = 0


@dataclass(frozen=True, slots=True)
class NotPlaced:
    """A placement that did not become a pending order; `place` in SQL lists the outcomes."""

    order_id: str
    outcome: str
    why: str | None


async def place(db: asyncpg.Pool, placements: Sequence[Placement]) -> list[NotPlaced]:
    """Place a batch, given in grab order; return only what did not become a pending order."""
    rows = await db.fetch(_PLACE, *map(_column, zip(*placements, strict=True)))
    return [NotPlaced(*row) for row in rows]


async def place_each(db: asyncpg.Pool, placements: Sequence[Placement]) -> list[NotPlaced]:
    """Place grabs one by one in one call; what PostgreSQL refuses has the outcome `refused`."""
    by_sale = sorted(placements, key=lambda placement: placement.sale_id)
    rows = await db.fetch(_PLACE_EACH, *map(_column, zip(*by_sale, strict=True)))
    return [NotPlaced(*row) for row in rows]


def _column(values: Sequence[str | int]) -> str:
    """Write values for string_to_array: asyncpg takes ten times as long to write an array."""
    text = " ".join(map(str, values))
    if text.count(" ") != len(values) - 1:
        raise ValueError(f"a value to be placed has a space in it: {text[:200]!r}")
    return text


async def release(
    db: asyncpg.Pool | asyncpg.Connection,
    order_ids: Iterable[str],
    *,
    to_state: str,
    reason: str,
    overdue_only: bool = False,
) -> list[str]:
    """End pending orders and give their units back; return the ids that this call ended."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT release::text FROM release($1, $2, $3, $4)",
            list(order_ids),
            to_state,
            reason,
            overdue_only,
        )
    return [row[0] for row in rows]


async def cancel_unplaced(
    db: asyncpg.Pool | asyncpg.Connection,
    sale_id: str,
    buyer_id: str,
    holding: Holding,
    *,
    reason: str,
) -> bool:
    """Cancel a grab that has no row yet; return False if it has one, or there is no such sale."""
    with database_errors_as_unavailable():
        cancelled: bool = await db.fetchval(
            "SELECT cancel_unplaced($1, $2, $3, $4, $5)",
            holding.order_id,
            sale_id,
            buyer_id,
            holding.quantity,
            reason,
        )
    return cancelled


async def count_cancelled(db: asyncpg.Pool, sale_id: str, buyer_id: str, *, reason: str) -> int:
    """Count the orders of a buyer in a sale that were cancelled for a reason."""
    with database_errors_as_unavailable():
        count: int = await db.fetchval(
            "SELECT count(*) FROM orders WHERE sale_id = $1 AND buyer_id = $2"
            " AND state = 'cancelled' AND reason = $3",
            sale_id,
            buyer_id,
            reason,
        )
    return count


async def next_expiries(db: asyncpg.Pool) -> Mapping[str, datetime]:
    """Return when the next unpaid order of each sale runs out, as far as EXPIRIES_MAX orders show.

    The bound keeps it cheap: without it, a sale whose orders are all paid would have the unpaid
    ones of all others read.
    """
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT sale_id, min(pay_by) AS pay_by FROM ("
            "  SELECT sale_id, pay_by FROM orders WHERE state = 'pending' ORDER BY pay_by LIMIT $1"
            ") AS first GROUP BY sale_id",
            EXPIRIES_MAX,
        )
    return {row["sale_id"]: row["pay_by"] for row in rows}


async def release_overdue(db: asyncpg.Pool, *, grace_s: float, limit: int) -> list[str]:
    """Cancel up to `limit` orders overdue by `grace_s`; skip orders that another process locked."""
    async with transaction(db) as connection:
        rows = await connection.fetch(
            "SELECT order_id::text FROM orders"
            " WHERE state = 'pending' AND pay_by <= now() - make_interval(secs => $1)"
            "   AND sale_id NOT IN (SELECT sale_id FROM restored_sales)"
            " ORDER BY pay_by LIMIT $2 FOR UPDATE SKIP LOCKED",
            grace_s,
            limit,
        )
        if not rows:
            return []
        ids = [row[0] for row in rows]
        return await release(
            connection, ids, to_state="cancelled", reason="expired", overdue_only=True
        )


async def find_many(db: asyncpg.Pool, order_ids: Sequence[str]) -> list[Order | None]:
    """Return the rows of these ids, in their order."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            f"SELECT {_COLUMNS} FROM orders o WHERE o.order_id = ANY($1)",  # noqa: S608 - a constant
            list(order_ids),
        )
    found = {row[0]: Order(*row) for row in rows}
    return [found.get(order_id) for order_id in order_ids]


class KnownState(NamedTuple):
    """An order, and the state that a client last saw: `queued` before there was a row."""

    order_id: str
    state: str


async def find_changed(db: asyncpg.Pool, seen: Collection[KnownState]) -> list[Order]:
    """Return the rows of those orders whose state has changed."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            f"SELECT {_COLUMNS} FROM unnest($1::uuid[], $2::text[]) AS seen (order_id, state)"  # noqa: S608 - a constant
            " JOIN orders o USING (order_id) WHERE o.state <> seen.state",
            [order.order_id for order in seen],
            [order.state for order in seen],
        )
    return [Order(*row) for row in rows]


class SaleBuyer(NamedTuple):
    """A buyer in a sale."""

    sale_id: str
    buyer_id: str


async def find_latest(db: asyncpg.Pool, pairs: Sequence[SaleBuyer]) -> list[Order | None]:
    """Return each buyer's latest order in the sale; a live order comes before any other."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            f"""
            SELECT DISTINCT ON (o.sale_id, o.buyer_id) {_COLUMNS}
              FROM unnest($1::text[], $2::text[]) AS wanted (sale_id, buyer_id)
              CROSS JOIN LATERAL (
                SELECT *, true AS live FROM orders l
                 WHERE l.sale_id = wanted.sale_id AND l.buyer_id = wanted.buyer_id
                   AND state IN ('pending', 'paying', 'paid')
                UNION ALL
                (SELECT *, false FROM orders e
                  WHERE e.sale_id = wanted.sale_id AND e.buyer_id = wanted.buyer_id
                    AND state IN ('cancelled', 'rejected', 'refunding', 'refunded')
                  ORDER BY created_at DESC LIMIT 1)
              ) o
             ORDER BY o.sale_id, o.buyer_id, o.live DESC
            """,  # noqa: S608 - a constant
            [pair.sale_id for pair in pairs],
            [pair.buyer_id for pair in pairs],
        )
    found = {SaleBuyer(row["sale_id"], row["buyer_id"]): Order(*row) for row in rows}
    return [found.get(pair) for pair in pairs]
