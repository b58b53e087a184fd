"""The units of ended orders on their way back to Redis: the SQL outbox `stock_returns`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.errors import BrokenSale
from seckill.inventory.reservations import CALL_MAX, Holding, Stock, UnitReturn

_IS_DUE = "SELECT EXISTS (SELECT FROM stock_returns WHERE due_at <= now())"
#: Wait before the next attempt at a sale that is missing, fenced or being rebuilt.
LATER_S = 2.0


@dataclass(frozen=True, slots=True)
class ReturnReport:
    """What one pass did."""

    done: int
    put_off: int
    #: The orders of what is done.
    order_ids: Sequence[str] = field(default=(), compare=False)


async def return_batch(db: asyncpg.Pool, stock: Stock) -> ReturnReport:
    """Return the units of up to CALL_MAX holders.

    Rows are deleted after Redis has answered that their holders are gone. A crash in between runs
    return_units.lua again, which finds no holder and adds nothing: exactly once, by the holder.
    """
    with database_errors_as_unavailable():
        if not await db.fetchval(_IS_DUE):  # a poll at rest is one round trip, and no transaction
            return ReturnReport(0, 0)
    async with transaction(db) as connection:
        rows = await connection.fetch(
            "SELECT r.order_id::text, r.sale_id, r.buyer_id, r.quantity, r.units, i.epoch,"
            "       s.archived_at IS NOT NULL AS archived"
            "  FROM stock_returns r JOIN inventory i USING (sale_id) JOIN sales s USING (sale_id)"
            " WHERE due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE OF r SKIP LOCKED",
            CALL_MAX,
        )
        # Redis has nothing of an archived sale that units could return to.
        done = [row["order_id"] for row in rows if row["archived"]]
        later: list[str] = []
        by_sale: dict[tuple[str, int], list[asyncpg.Record]] = defaultdict(list)
        for row in rows:
            if not row["archived"]:
                by_sale[row["sale_id"], row["epoch"]].append(row)
        for (sale_id, epoch), group in by_sale.items():
            returns = [
                UnitReturn(r["buyer_id"], str(Holding(r["order_id"], r["quantity"])), r["units"])
                for r in group
            ]
            try:
                finished = await stock.return_units(sale_id, epoch, returns)
            except BrokenSale:  # logged; the other sales go on
                finished = False
            (done if finished else later).extend(r["order_id"] for r in group)
        if done:
            await connection.execute(
                "DELETE FROM stock_returns WHERE order_id = ANY($1::uuid[])", done
            )
        if later:
            await connection.execute(
                "UPDATE stock_returns SET due_at = now() + make_interval(secs => $2)"
                " WHERE order_id = ANY($1::uuid[])",
                later,
                LATER_S,
            )
    return ReturnReport(len(done), len(later), done)
