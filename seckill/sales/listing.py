"""Many sales at once: those that are live, those that buyers may see, those for operators."""

from __future__ import annotations

from typing import NamedTuple

import asyncpg

from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.sales.sales import SELECT, Sale, sale_of

#: The condition of the index `sales_live`.
_LIVE = "quiet_stamp IS NULL AND archived_at IS NULL"
_LIVE_IDS = f"SELECT sale_id FROM sales WHERE {_LIVE} ORDER BY number"  # noqa: S608 - ours
_LIVE_UNITS = f"""
SELECT sale_id, CASE WHEN closes_at < now() THEN 'over' ELSE state END, opened_at IS NOT NULL,
       total, available, frozen, sold
  FROM sales JOIN inventory USING (sale_id) WHERE {_LIVE} ORDER BY number DESC
"""  # noqa: S608 - ours
#: The condition of the index `sales_listed`, as what was never opened is not for buyers yet, and
#: what is hidden neither.
_LISTED = "opened_at IS NOT NULL AND archived_at IS NULL AND (NOT hidden OR announce_at <= now())"
#: More than any number of a sale, which has 24 bits.
NUMBER_MAX = 2**31 - 1


class QuietSale(NamedTuple):
    """A sale that no poller has to look at."""

    number: int
    sale_id: str


class LiveUnits(NamedTuple):
    """A live sale, and what became of its units by PostgreSQL."""

    sale_id: str
    #: `created`, `open`, `paused`, `closed`; `over` once its time is over.
    state: str
    was_opened: bool
    total: int
    available: int
    frozen: int
    sold: int


class SoldUnits(NamedTuple):
    """Units of paid orders, of orders that may still be paid, and the others, by PostgreSQL."""

    sold: int
    held: int
    left: int


async def live_ids(db: asyncpg.Pool) -> list[str]:
    """Return the ids of all live sales, oldest first."""
    with database_errors_as_unavailable():
        rows = await db.fetch(_LIVE_IDS)
    return [row[0] for row in rows]


async def live_sales(db: asyncpg.Pool) -> list[Sale]:
    """Return all live sales, oldest first."""
    return await _sales(db, f"WHERE {_LIVE} ORDER BY number")


async def live_units(db: asyncpg.Pool) -> list[LiveUnits]:
    """Return the units of all live sales, newest first."""
    with database_errors_as_unavailable():
        rows = await db.fetch(_LIVE_UNITS)
    return [LiveUnits(*row) for row in rows]


async def named(db: asyncpg.Pool, sale_ids: list[str], numbers: list[int]) -> list[Sale]:
    """Return the sales that have one of the ids or of the numbers, archived ones too."""
    by_id = await _sales(db, "WHERE s.sale_id = ANY($1)", sale_ids) if sale_ids else []
    return by_id + (await _sales(db, "WHERE s.number = ANY($1)", numbers) if numbers else [])


async def listed_page(db: asyncpg.Pool, *, before: int = NUMBER_MAX, limit: int) -> list[Sale]:
    """Return the newest sales that buyers may see, of those with a number under `before`."""
    return await _sales(
        db, f"WHERE {_LISTED} AND number < $1 ORDER BY number DESC LIMIT $2", before, limit
    )


async def newest(
    db: asyncpg.Pool, *, limit: int, archived: bool = False, before: int = NUMBER_MAX
) -> list[Sale]:
    """Return the newest sales of those with a number under `before`, newest first.

    With `archived` also those that are history.
    """
    which = "WHERE ($2 OR archived_at IS NULL) AND number < $3 ORDER BY number DESC LIMIT $1"
    return await _sales(db, which, limit, archived, before)


async def units_of(db: asyncpg.Pool, sale_ids: list[str]) -> dict[str, SoldUnits]:
    """Return what became of the units of sales, by sale."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT sale_id, sold, frozen, available FROM inventory WHERE sale_id = ANY($1)",
            sale_ids,
        )
    return {sale_id: SoldUnits(*units) for sale_id, *units in rows}


async def quiet_page(db: asyncpg.Pool, *, after: int, limit: int) -> list[QuietSale]:
    """Return the next quiet sales behind a number, oldest first."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT number, sale_id FROM sales"
            " WHERE quiet_stamp IS NOT NULL AND archived_at IS NULL AND number > $1"
            " ORDER BY number LIMIT $2",
            after,
            limit,
        )
    return [QuietSale(*row) for row in rows]


async def _sales(db: asyncpg.Pool, which: str, *args: object) -> list[Sale]:
    with database_errors_as_unavailable():
        return [sale_of(row) for row in await db.fetch(f"{SELECT} {which}", *args)]
