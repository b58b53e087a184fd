"""Change how many units a running sale has, exactly once even if a process is killed.

An increase is written to PostgreSQL first, a decrease to Redis first: in between Redis sells too
few units, never too many. PostgreSQL decides the total. `repair_total` sets it in Redis, after each
change and whenever a poller finds Redis behind. Each step holds the lock of the sale's row.
"""

from __future__ import annotations

from contextlib import suppress

import asyncpg

from seckill import audit
from seckill.adapters.postgres import transaction
from seckill.errors import BrokenSale, Conflict, Unavailable, UserMistake, WrongState
from seckill.inventory.reservations import RestockOutcome, RestockReply, Stock
from seckill.sales import listing, sales
from seckill.sales.sales import Sale
from seckill.sales.terms import UNITS_MAX


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

    With `from_total` the call may be repeated: it changes that total and no other, once. Raise
    Unavailable if a store did not answer; a repeat with `from_total` then completes the change.
    """
    if units == 0:
        raise UserMistake("a restock needs some units, above or below 0")
    if not reason.strip() or not reason.isprintable():
        raise UserMistake("a restock needs a reason: one line of text")
    before = (await sales.find(db, sale_id)).total if from_total is None else from_total
    await sales.wake(db, sale_id)
    try:
        async with transaction(db) as connection:
            total = await _change(connection, stock, sale_id, units, from_total)
            if total is not None:
                await audit.record(
                    connection,
                    "sale.restock",
                    actor=actor,
                    reason=reason,
                    sale_id=sale_id,
                    details={"units": units, "total": total},
                )
        with suppress(Conflict):  # a rebuild began since then, and writes the new total
            await repair_total(db, stock, sale_id)
    except Unavailable as error:
        raise Unavailable(
            f"{error}; sale {sale_id} had {before} units: repeat this with --from-total {before}, "
            "and they change once"
        ) from error
    return await sales.find(db, sale_id)


async def repair_total(db: asyncpg.Pool, stock: Stock, sale_id: str) -> None:
    """Finish or undo in Redis what a restock left incomplete."""
    async with transaction(db) as connection:
        await _align(stock, await _locked(connection, sale_id))


async def repair_totals(db: asyncpg.Pool, stock: Stock) -> list[str]:
    """Repair every live sale whose total in Redis is behind; return their ids.

    Without such a sale it costs one query and one round trip to Redis.
    """
    opened = {s.sale_id: s.total for s in await listing.live_sales(db) if s.was_opened}
    behind = [
        sale_id
        for sale_id, total in zip(opened, await stock.totals_of(list(opened)), strict=True)
        if total is not None and total < opened[sale_id]
    ]
    repaired = []
    for sale_id in behind:
        try:
            await repair_total(db, stock, sale_id)
        except (Conflict, BrokenSale):
            continue  # a rebuild writes the total; one sale must not hold up the others
        repaired.append(sale_id)
    return repaired


async def _change(
    connection: asyncpg.Connection, stock: Stock, sale_id: str, units: int, from_total: int | None
) -> int | None:
    """Change the total in both stores; return the new one, or None if that was done before."""
    sale = await _locked(connection, sale_id)
    after = sale.total + units
    if from_total is not None and sale.total != from_total:
        if sale.total == from_total + units:
            return None
        raise WrongState(f"sale {sale_id} has {sale.total} units, not {from_total}")
    if not 1 <= after <= UNITS_MAX:
        raise UserMistake(
            f"sale {sale_id} would have {after} units; it may have 1 to {UNITS_MAX} "
            f"(to sell none: seckill sale close {sale_id})"
        )
    await _align(stock, sale)
    if units < 0:
        _require_ok(sale, await stock.restock(sale_id, sale.epoch, sale.total, after))
    changed = await connection.fetchval(
        "UPDATE inventory"
        "   SET total = total + $2, available = available + $2, version = version + 1"
        # A rebuild in between has written the old total to Redis.
        " WHERE sale_id = $1 AND epoch = $3 AND available + $2 >= 0 RETURNING true",
        sale_id,
        units,
        sale.epoch,
    )
    if not changed:
        raise Conflict(
            f"sale {sale_id} was rebuilt meanwhile, or PostgreSQL has fewer than {-units} units "
            f"unsold; nothing was changed: seckill verify {sale_id}"
        )
    return after


async def _locked(connection: asyncpg.Connection, sale_id: str) -> Sale:
    sale = await sales.lock_kept(connection, sale_id)
    if not sale.was_opened:
        raise WrongState(f"sale {sale_id} was never opened; open it first")
    return sale


async def _align(stock: Stock, sale: Sale) -> None:
    """Set the total of PostgreSQL in Redis.

    A sale that an earlier version opened has no total in Redis; the script writes one.
    """
    reply = await stock.restock(sale.sale_id, sale.epoch, sale.total, sale.total)
    if reply.outcome is RestockOutcome.MOVED and reply.units < sale.total:
        reply = await stock.restock(sale.sale_id, sale.epoch, reply.units, sale.total)
    _require_ok(sale, reply)


def _require_ok(sale: Sale, reply: RestockReply) -> None:
    match reply.outcome:
        case RestockOutcome.OK:
            return
        case RestockOutcome.SHORT:
            raise WrongState(
                f"only {reply.units} units of sale {sale.sale_id} are unsold; "
                "take no more than that"
            )
        case RestockOutcome.LATER:
            raise Conflict(
                f"Redis has lost sale {sale.sale_id}, or it is being rebuilt; restock it after that"
            )
        case RestockOutcome.MOVED:
            raise Conflict(
                f"sale {sale.sale_id} has {reply.units} units in Redis and {sale.total} in "
                f"PostgreSQL; look what is wrong: seckill verify {sale.sale_id}"
            )
