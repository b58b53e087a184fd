"""Refund a paid order: its units at once, then the money and the coupon."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from seckill import audit
from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.auth.tickets import ID
from seckill.errors import Missing, UserMistake, WrongState

#: Why there is no part, by the words of begin_refund_part in sql/0024_refund_part_keys.sql.
_NO_PART: dict[str, type[UserMistake]] = {
    "no_order": Missing,
    "external": WrongState,
    "still_booked": WrongState,
    "too_much": UserMistake,
    "key_used": UserMistake,
}
_NO_PART_WORDS = {
    "no_order": "there is no such order",
    "external": "the shop's own checkout took the money; send the part back there",
    "still_booked": "its payment is still being booked; try again",
    "too_much": "all parts together would be more than was charged; give a smaller amount",
    "key_used": "another part has this key; give another key",
}


async def refund(
    db: asyncpg.Pool | asyncpg.Connection, order_id: str, *, actor: str, reason: str
) -> str:
    """Refund a paid order, on record; return its state. Raise Missing or WrongState if not paid.

    Money from the wallet is back at once, and the order is `refunded`. An order paid by card is
    `refunding` until the provider has returned the money. Then the coupon is good again, too.
    """
    async with transaction(db) as connection:
        if not await connection.fetch("SELECT begin_refunds($1, $2)", [order_id], reason):
            await _explain(connection, order_id)
        await connection.execute("SELECT release_shipments($1)", [order_id])
        await connection.execute("SELECT refund_to_wallets($1)", [order_id])
        row = await connection.fetchrow(
            "SELECT p.tx_id, p.sale_id, p.amount_cents, o.state"
            "  FROM payments p JOIN orders o ON tx_id = paying_tx WHERE o.order_id = $1",
            order_id,
        )
        await audit.record(
            connection,
            "order.refund",
            actor=actor,
            sale_id=row["sale_id"],
            reason=reason,
            details={"order_id": order_id, "tx_id": row["tx_id"], "cents": row["amount_cents"]},
        )
    return str(row["state"])


async def refund_part(
    db: asyncpg.Pool | asyncpg.Connection,
    order_id: str,
    cents: int,
    *,
    key: str,
    actor: str,
    reason: str,
) -> str:
    """Give a part of the money of a paid order back, on record; the order stays paid.

    Return the state of the part: `done` for a wallet; `begun` for a card, until the provider has
    done it; `refused` if it did not. The same key is one part, however often it is asked for.
    Raise Missing, WrongState or UserMistake.
    """
    if not ID.match(key):
        raise UserMistake(f"key {key!r} of a part: use 1 to 64 of A-Z a-z 0-9 _ . -")
    if cents <= 0:
        raise UserMistake("a part has to be above 0 cents")
    refund_id = f"part-{key}"
    async with transaction(db) as connection:
        # The order's lock first: of two calls with one key, the later one finds the part.
        await connection.execute("SELECT FROM orders WHERE order_id = $1 FOR UPDATE", order_id)
        known = await connection.fetchval(
            "SELECT EXISTS (SELECT FROM refund_parts WHERE refund_id = $1)", refund_id
        )
        state = str(
            await connection.fetchval(
                "SELECT begin_refund_part($1, $2, $3, $4)", refund_id, order_id, cents, reason
            )
        )
        if state == "not_paid":
            await _explain(connection, order_id)
        if state in _NO_PART:
            raise _NO_PART[state](f"order {order_id}: {_NO_PART_WORDS[state]}")
        if not known:
            await audit.record(
                connection,
                "order.refund_part",
                actor=actor,
                sale_id=await connection.fetchval(
                    "SELECT sale_id FROM refund_parts WHERE refund_id = $1", refund_id
                ),
                reason=reason,
                details={"order_id": order_id, "refund_id": refund_id, "cents": cents},
            )
    return state


async def begin(db: asyncpg.Pool, order_ids: Sequence[str], reason: str) -> set[str]:
    """Begin the refunds of paid orders, with their units for sale; return those still unsettled.

    These wait: only what was charged can be returned. Orders in other states stay as they are.
    """
    async with transaction(db) as connection:
        await connection.execute("SELECT begin_refunds($1, $2)", order_ids, reason)
        rows = await connection.fetch(
            "SELECT order_id::text FROM orders WHERE order_id = ANY ($1) AND state = 'paid'",
            order_ids,
        )
    return {row[0] for row in rows}


async def finish(
    db: asyncpg.Pool, paid_by_wallet: Sequence[str], voided_payments: Sequence[str]
) -> None:
    """Post the refunds that were begun, each once: by order id or by card payment."""
    with database_errors_as_unavailable():
        # Two transactions, so that each takes its locks in order.
        if voided_payments:
            await db.execute("SELECT refund_card_payments($1)", voided_payments)
        if paid_by_wallet:
            await db.execute("SELECT refund_to_wallets($1)", paid_by_wallet)


async def _explain(connection: asyncpg.Connection, order_id: str) -> None:
    state = await connection.fetchval("SELECT state FROM orders WHERE order_id = $1", order_id)
    if state is None:
        raise Missing(f"there is no order {order_id}")
    if state == "paid":
        raise WrongState(
            f"order {order_id}: its payment is still being booked, or a part of it is on its way "
            "back; try again"
        )
    raise WrongState(f"order {order_id} is {state}, not paid: there is nothing to refund")
