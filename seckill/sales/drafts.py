"""Sales that have not begun: their terms may still change, and they may be removed.

That is a sale that was never opened, or one that opens at a time to come. Each change holds the
lock of the row, as `open_` does. Redis is changed before the commit, and says whether the sale has
begun; the same command again repairs a crash in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Union

import asyncpg
import msgspec

from seckill import audit
from seckill.adapters.postgres import transaction
from seckill.errors import Conflict, UserMistake, WrongState
from seckill.inventory.reservations import ChangeOutcome, Stock
from seckill.sales import sales, terms
from seckill.sales.sales import Sale
from seckill.sales.terms import NewSale

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
    terms.check_times(**times)
    return changes


async def edit(
    db: asyncpg.Pool,
    stock: Stock,
    sale_id: str,
    changes: Mapping[str, object],
    *,
    by: str | None = None,
) -> Sale:
    """Change the terms of a sale by the names of `NewSale`; return the sale as it then is.

    With `by`, the audit trail has who did it, and each changed term with its old and new value.

    Raise WrongState if it has begun, UserMistake if the terms cannot be kept.
    """
    if not changes:
        raise UserMistake("nothing to change; name at least one of the terms")
    await sales.wake(db, sale_id)
    try:
        async with transaction(db) as connection:
            sale = await _lock_unbegun(connection, sale_id)
            if sale.was_opened and changes.get("stock", sale.total) != sale.total:
                raise UserMistake(
                    f"sale {sale_id} is open; its units change by: seckill sale restock {sale_id}",
                    field="stock",
                )
            terms_now = NewSale(sale_id, **sale.all_terms())
            new = msgspec.structs.replace(terms_now, **_visibility(changes))
            terms.check_terms(new)
            await sales.check_window(connection, new.payment_window_s)
            columns = new.columns()
            assigned = ", ".join(f"{name} = ${at}" for at, name in enumerate(columns, start=2))
            await connection.execute(
                f"UPDATE sales SET {assigned} WHERE sale_id = $1",  # noqa: S608 - ours
                sale_id,
                *columns.values(),
            )
            if not sale.was_opened:
                await connection.execute(
                    "UPDATE inventory SET total = $2, available = $2, version = version + 1"
                    " WHERE sale_id = $1",
                    sale_id,
                    new.stock,
                )
            changed = await sales.lock(connection, sale_id)
            await _record_edit(connection, sale, changed, by)
            await _change_in_redis(stock, changed)
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


async def _record_edit(
    connection: asyncpg.Connection, was: Sale, changed: Sale, by: str | None
) -> None:
    """Write into the audit trail which terms changed; a repeat changes nothing."""
    new = changed.all_terms()
    details = {
        name: {"from": old, "to": new[name]}
        for name, old in was.all_terms().items()
        if new[name] != old
    }
    if by is not None and details:
        await audit.record(
            connection,
            "sale.edit",
            actor=by,
            reason=f"changed: {', '.join(details)}",
            sale_id=was.sale_id,
            details=details,
        )


async def _change_in_redis(stock: Stock, changed: Sale) -> None:
    if changed.was_opened:
        _require_unbegun(changed, await stock.change_terms(changed.sale_id, changed.terms()))
    elif not await stock.announce(changed.sale_id, changed.terms()):
        _require_unbegun(changed, ChangeOutcome.OPENED)


async def delete(db: asyncpg.Pool, stock: Stock, sale_id: str, *, actor: str) -> Sale:
    """Remove a sale that has not begun; return what it was.

    Its keys in Redis go before the commit, under the lock of the row, so that they cannot be those
    of another sale of this id. A crash in between leaves a sale that Redis does not have: deleting
    it again removes it.
    """
    async with transaction(db) as connection:
        sale = await _lock_unbegun(connection, sale_id)
        await audit.record(
            connection,
            "sale.delete",
            actor=actor,
            reason=sales.DELETED_OPEN if sale.was_opened else "never opened",
            sale_id=sale_id,
            details={"number": sale.number, "total": sale.total},
        )
        for table in ("sale_limits", "inventory", "sales"):
            await connection.execute(
                f"DELETE FROM {table} WHERE sale_id = $1",  # noqa: S608 - ours
                sale_id,
            )
        _require_unbegun(sale, await stock.remove_sale(sale_id, was_opened=sale.was_opened))
    return sale


async def _lock_unbegun(connection: asyncpg.Connection, sale_id: str) -> Sale:
    sale = await sales.lock_kept(connection, sale_id)
    opens_later = sale.opens_at is not None and sale.opens_at > datetime.now(UTC)
    has_begun = sale.was_opened and not opens_later
    if has_begun or await sales.has_orders(connection, sale_id):
        _require_unbegun(sale, ChangeOutcome.BEGUN)
    return sale


def _require_unbegun(sale: Sale, outcome: ChangeOutcome) -> None:
    """Raise WrongState, with what can be done instead, unless the outcome is OK."""
    sale_id = sale.sale_id
    if outcome is ChangeOutcome.BEGUN:
        raise WrongState(
            f"sale {sale_id} has begun, so its terms are fixed and it stays; what can be done: "
            f"seckill sale pause {sale_id}, seckill sale close {sale_id}, or, for its units, "
            f"seckill sale restock {sale_id}"
        )
    if outcome is ChangeOutcome.OPENED:
        raise WrongState(
            f"sale {sale_id} is open in Redis: its opening broke off; "
            f"complete it: seckill sale open {sale_id}"
        )
    if outcome is ChangeOutcome.LATER:
        raise Conflict(
            f"Redis has lost sale {sale_id}, or it is being rebuilt; "
            f"first: seckill sale rebuild {sale_id}"
        )
