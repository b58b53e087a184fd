"""Sales that were never opened: their terms may still change, and they may be removed.

Buyers do not see such a sale. Each change holds the lock of the row, as `open_` does, and looks
into Redis: a crash may have opened the sale there alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Union

import asyncpg
import msgspec
from redis.asyncio import Redis

from seckill import audit
from seckill.adapters import redis_keys
from seckill.adapters.postgres import transaction
from seckill.adapters.redis import redis_errors_as_unavailable
from seckill.errors import UserMistake, WrongState
from seckill.inventory.reservations import Stock
from seckill.sales import sales
from seckill.sales.sales import NewSale, Sale

#: The terms that may change, each as in NewSale; one that is left out stays as it is.
SaleEdit = msgspec.defstruct(
    "SaleEdit",
    [
        (field.name, Union[field.type, msgspec.UnsetType], msgspec.UNSET)  # noqa: UP007 - at run time
        for field in msgspec.structs.fields(NewSale)
        if field.name != "sale_id"
    ],
    forbid_unknown_fields=True,
)


def changes_of(sent: msgspec.Struct) -> dict[str, object]:
    """Return the terms that a SaleEdit names; raise UserMistake if a time is over."""
    changes = {
        name: value
        for name in sent.__struct_fields__
        if (value := getattr(sent, name)) is not msgspec.UNSET
    }
    times = {name: changes.get(name) for name in ("opens_at", "closes_at", "announce_at")}
    sales.check_times(**times)
    return changes


async def edit(db: asyncpg.Pool, stock: Stock, sale_id: str, changes: Mapping[str, object]) -> Sale:
    """Change the terms of a sale by the names of `NewSale`; return the sale as it then is.

    Raise WrongState if it was opened, UserMistake if the terms cannot be kept.
    """
    if not changes:
        raise UserMistake("nothing to change; name at least one of the terms")
    await sales.wake(db, sale_id)
    try:
        async with transaction(db) as connection:
            sale = await _lock_unopened(connection, sale_id)
            new = msgspec.structs.replace(_terms_of(sale), **_visibility(changes))
            sales.check_terms(new)
            await sales.check_window(connection, new.payment_window_s)
            columns = new.columns()
            assigned = ", ".join(f"{name} = ${at}" for at, name in enumerate(columns, start=2))
            await connection.execute(
                f"UPDATE sales SET {assigned} WHERE sale_id = $1",  # noqa: S608 - ours
                sale_id,
                *columns.values(),
            )
            await connection.execute(
                "UPDATE inventory SET total = $2, available = $2, version = version + 1"
                " WHERE sale_id = $1",
                sale_id,
                new.stock,
            )
            changed = await sales.lock(connection, sale_id)
            # Before the commit: a crash in between leaves the old terms in PostgreSQL, and
            # `open_` writes those to Redis.
            if not await stock.announce(sale_id, changed.terms()):
                raise _opened_in_redis(sale_id)
    except (asyncpg.CheckViolationError, asyncpg.DataError) as error:
        raise UserMistake(f"sale {sale_id} cannot be changed so: {error}") from error
    return changed


def _visibility(changes: Mapping[str, object]) -> Mapping[str, object]:
    """Add what follows from one of the two: a sale that is not hidden waits for no announcement."""
    if changes.get("hidden") is False:
        return {"announce_at": None, **changes}
    if "announce_at" in changes and changes["announce_at"] is None:
        return {"hidden": False, **changes}
    return changes


async def delete(db: asyncpg.Pool, redis: Redis, sale_id: str, *, actor: str) -> Sale:
    """Remove a sale that was never opened; return what it was.

    Its key in Redis goes before the commit, under the lock of the row, so that it cannot be the
    key of another sale of this id. A crash in between leaves a sale that Redis does not have:
    deleting it again removes it.
    """
    async with transaction(db) as connection:
        sale = await _lock_unopened(connection, sale_id)
        await audit.record(
            connection,
            "sale.delete",
            actor=actor,
            reason="never opened",
            sale_id=sale_id,
            details={"number": sale.number, "total": sale.total},
        )
        for table in ("sale_limits", "inventory", "sales"):
            await connection.execute(
                f"DELETE FROM {table} WHERE sale_id = $1",  # noqa: S608 - ours
                sale_id,
            )
        with redis_errors_as_unavailable():
            if await redis.hget(redis_keys.sale(sale_id), "state") not in (None, b"created"):
                raise _opened_in_redis(sale_id)
            await redis.unlink(redis_keys.sale(sale_id))
    return sale


async def _lock_unopened(connection: asyncpg.Connection, sale_id: str) -> Sale:
    sale = await sales.lock(connection, sale_id)
    if sale.was_opened or await sales.has_orders(connection, sale_id):
        raise WrongState(
            f"sale {sale_id} was opened, so its terms are fixed and it stays; units: "
            f"seckill sale restock {sale_id}; its end: seckill sale close {sale_id}"
        )
    return sale


def _terms_of(sale: Sale) -> NewSale:
    return NewSale(
        sale_id=sale.sale_id,
        stock=sale.total,
        **{name: getattr(sale, name) for name in sales.TERMS},
    )


def _opened_in_redis(sale_id: str) -> WrongState:
    return WrongState(
        f"sale {sale_id} is open in Redis: its opening broke off; "
        f"complete it: seckill sale open {sale_id}"
    )
