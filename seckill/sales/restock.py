"""Changing how many units a running sale has, once, whatever is killed on the way.

A raise is written to PostgreSQL first, a reduction to Redis first: in between Redis sells too few
units, never too many. PostgreSQL decides what the total is; `repair_total` takes Redis there, after
every change and whenever a poller finds it behind. All of it holds the lock of the sale's row.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import asyncpg

from seckill import audit
from seckill.adapters.postgres import transaction
from seckill.errors import Conflict, Unavailable, UserMistake, WrongState
from seckill.inventory.reservations import RestockOutcome, Stock
from seckill.sales import sales
from seckill.sales.sales import UNITS_MAX, Sale


class UnitCount(NamedTuple):
    """A sale's units as PostgreSQL counts them, and the epoch in which it does."""

    total: int
    epoch: int


async def restock(
    db: asyncpg.Pool,
    stock: Stock,
    sale_id: str,
    units: int,
    *,
    actor: str,
    reason: str,
    from_total: int | None = None,
) -> Sale:
    """Add units to a sale that was opened, or take unsold ones out (below 0); return the sale.

    With `from_total` the call may be repeated: it changes that total and no other, once.
    Unavailable when a store did not answer: a repeat with `from_total` makes sure that it is done.
    """
    if units == 0:
        raise UserMistake("a restock needs some units, above or below 0")
    if not reason.strip() or not reason.isprintable():
        raise UserMistake("a restock needs a reason: one line of text")
    before = (await sales.find(db, sale_id)).total if from_total is None else from_total
    try:
        async with transaction(db) as connection:
            await _change(connection, stock, sale_id, units, from_total, actor, reason)
        with suppress(Conflict):  # being rebuilt since then, which writes the new total
            await repair_total(db, stock, sale_id)
    except Unavailable as error:
        raise Unavailable(
            f"{error}; sale {sale_id} had {before} units: repeat this with --from-total {before}, "
            "and they change once"
        ) from error
    return await sales.find(db, sale_id)


async def repair_total(db: asyncpg.Pool, stock: Stock, sale_id: str) -> None:
    """Finish or undo in Redis what a restock left half done."""
    async with transaction(db) as connection:
        await _align(stock, sale_id, await _locked(connection, sale_id))


async def repair_totals(db: asyncpg.Pool, stock: Stock) -> list[str]:
    """Repair every sale whose total in Redis is behind; return their ids.

    Cheap when there is none: one query, and one round trip to Redis.
    """
    opened = {s.sale_id: s.total for s in await sales.all_sales(db) if s.was_opened}
    behind = [
        sale_id
        for sale_id, total in zip(opened, await stock.totals_of(list(opened)), strict=True)
        if total is not None and total < opened[sale_id]
    ]
    repaired = []
    for sale_id in behind:
        try:
            await repair_total(db, stock, sale_id)
        except Conflict:
            continue  # being rebuilt, which writes the total; one sale must not hold up the others
        repaired.append(sale_id)
    return repaired


async def _change(
    connection: asyncpg.Connection,
    stock: Stock,
    sale_id: str,
    units: int,
    from_total: int | None,
    actor: str,
    reason: str,
) -> None:
    count = await _locked(connection, sale_id)
    after = count.total + units
    if from_total is not None and count.total != from_total:
        if count.total == from_total + units:
            return  # done before
        raise WrongState(f"sale {sale_id} has {count.total} units, not {from_total}")
    if not 1 <= after <= UNITS_MAX:
        raise UserMistake(
            f"sale {sale_id} would have {after} units; it may have 1 to {UNITS_MAX} "
            f"(to sell none: seckill sale close {sale_id})"
        )
    await _align(stock, sale_id, count)
    if units < 0:
        await _step(stock, sale_id, count, after)
    changed = await connection.fetchval(
        "UPDATE inventory"
        "   SET total = total + $2, available = available + $2, version = version + 1"
        # A rebuild in between has written the old total to Redis.
        " WHERE sale_id = $1 AND epoch = $3 AND available + $2 >= 0 RETURNING true",
        sale_id,
        units,
        count.epoch,
    )
    if not changed:
        raise Conflict(
            f"sale {sale_id} was rebuilt meanwhile, or PostgreSQL has fewer than {-units} units "
            f"unsold; nothing was changed: seckill verify {sale_id}"
        )
    await audit.record(
        connection,
        "sale.restock",
        actor=actor,
        reason=reason,
        sale_id=sale_id,
        details={"units": units, "total": after},
    )


async def _locked(connection: asyncpg.Connection, sale_id: str) -> UnitCount:
    sale = await sales.lock(connection, sale_id)
    if not sale.was_opened:
        raise WrongState(f"sale {sale_id} was never opened; open it first")
    row = await connection.fetchrow(  # what another restock has just committed counts, too
        "SELECT total, epoch FROM inventory WHERE sale_id = $1", sale_id
    )
    return UnitCount(*row)


async def _align(stock: Stock, sale_id: str, count: UnitCount) -> None:
    """Take Redis to the total that PostgreSQL has.

    A sale opened by an earlier version has no total in Redis; it gets one before its first change.
    """
    told = await stock.restock(sale_id, count.epoch, count.total, count.total)
    if told.outcome is RestockOutcome.MOVED and told.units < count.total:
        told = await stock.restock(sale_id, count.epoch, told.units, count.total)
    if told.outcome is not RestockOutcome.OK:
        raise _refusal(sale_id, count, told.outcome, told.units)


async def _step(stock: Stock, sale_id: str, count: UnitCount, after: int) -> None:
    told = await stock.restock(sale_id, count.epoch, count.total, after)
    if told.outcome is not RestockOutcome.OK:
        raise _refusal(sale_id, count, told.outcome, told.units)


def _refusal(
    sale_id: str, count: UnitCount, outcome: RestockOutcome, units: int
) -> WrongState | Conflict:
    if outcome is RestockOutcome.SHORT:
        return WrongState(
            f"only {units} units of sale {sale_id} are unsold; take no more than that"
        )
    if outcome is RestockOutcome.LATER:
        return Conflict(
            f"Redis has lost sale {sale_id}, or it is being rebuilt; restock it after that"
        )
    return Conflict(
        f"sale {sale_id} has {units} units in Redis and {count.total} in PostgreSQL; "
        f"look what is wrong: seckill verify {sale_id}"
    )
