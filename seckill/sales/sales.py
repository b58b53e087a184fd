"""Sales and their states: each change goes to PostgreSQL and Redis, under the row's lock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from seckill import audit
from seckill.adapters import topology
from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.auth.tickets import ID
from seckill.errors import Conflict, Missing, UserMistake, WrongState
from seckill.inventory.reservations import SaleTerms, Stock
from seckill.sales.description import Metadata, parse_metadata
from seckill.sales.terms import TERMS, NewSale, check_terms

#: Longer than a process keeps a sale that was never opened (`SaleDirectory`, with one reading).
#: Else the orders of a new sale of this id could get the number of the deleted one.
REMEMBERED = timedelta(seconds=5)

#: Why a sale was deleted that gateways may know for good: its id is not used again.
DELETED_OPEN = "opened, and not begun"
#: So long after its opening, by our clock, it has begun by that of Redis, too.
BEGUN_FOR_ALL = timedelta(minutes=1)

#: The columns of a `Sale`.
SELECT = """
SELECT s.sale_id, s.number, s.price_cents, s.per_order_max, s.opens_at, s.closes_at,
       s.payment_window_s, s.proof_bits, s.state, s.opened_at IS NOT NULL AS was_opened,
       s.archived_at IS NOT NULL AS archived, i.total, i.epoch, s.currency, s.name, s.sku,
       s.picture_url, s.hidden, s.announce_at, s.metadata
  FROM sales s JOIN inventory i USING (sale_id)
"""


@dataclass(frozen=True, slots=True)
class Sale:
    """One sale as PostgreSQL has it."""

    sale_id: str
    number: int
    price_cents: int
    per_order_max: int
    opens_at: datetime | None
    closes_at: datetime | None
    payment_window_s: int
    proof_bits: int
    state: str
    was_opened: bool
    #: It is history: Redis has nothing of it any more.
    archived: bool
    total: int
    epoch: int
    #: Of its prices and of its orders, by ISO 4217.
    currency: str
    name: str | None = None
    sku: str | None = None
    picture_url: str | None = None
    #: Buyers do not see it until `announce_at`; without that, until it is announced.
    hidden: bool = False
    announce_at: datetime | None = None
    metadata: Metadata = field(default_factory=dict, hash=False)

    def is_hidden(self, now: datetime) -> bool:
        """Tell whether buyers must not see it at this time."""
        return self.hidden and (self.announce_at is None or now < self.announce_at)

    def may_change(self, now: datetime) -> bool:
        """Tell whether it may be edited, announced or deleted: it has not begun, or is hidden."""
        # A time of the last year that there is bears no addition.
        has_begun = self.opens_at is None or self.opens_at < now - BEGUN_FOR_ALL
        return not self.was_opened or self.is_hidden(now) or not has_begun

    def all_terms(self) -> dict[str, Any]:
        """Return the shop's terms, by the names of `NewSale`."""
        return {"stock": self.total} | {name: getattr(self, name) for name in TERMS}

    def terms(self) -> SaleTerms:
        """Return what Redis needs of this sale."""
        return SaleTerms(
            number=self.number,
            stock=self.total,
            per_order_max=self.per_order_max,
            epoch=self.epoch,
            opens_at_ms=_ms(self.opens_at),
            closes_at_ms=_ms(self.closes_at),
        )


async def create(db: asyncpg.Pool, stock: Stock, new: NewSale, *, by: str | None = None) -> Sale:
    """Create a sale: rows in PostgreSQL, then its hash in Redis in state created.

    With `by`, the audit trail has who did it, and the terms.

    Raise WrongState if the id is taken. Raise UserMistake if the terms cannot be kept, or if a
    seventeenth payment window would need a timer queue.
    """
    if not ID.match(new.sale_id):
        raise UserMistake(
            f"sale id {new.sale_id!r}: use 1 to 64 of A-Z a-z 0-9 _ . -", field="sale_id"
        )
    # Clients resolve dots in a path themselves, and a command takes what begins so for an option.
    if new.sale_id.startswith((".", "-")):
        raise UserMistake(
            f"sale id {new.sale_id!r}: begin with a letter, a digit or _", field="sale_id"
        )
    check_terms(new)
    try:
        async with transaction(db) as connection:
            await _insert(connection, new)
            sale = await lock(connection, new.sale_id)
            await _record_creation(connection, sale, by)
            # Before the commit, so that a refusal leaves no half of a sale behind.
            if not await stock.announce(sale.sale_id, sale.terms()):
                raise WrongState(
                    f"Redis holds a sale {sale.sale_id} that PostgreSQL does not know; "
                    "choose another id",
                    field="sale_id",
                )
    except asyncpg.UniqueViolationError as error:
        raise WrongState(
            f"sale {new.sale_id} exists already; choose another id, or look at it: "
            f"seckill sale show {new.sale_id}",
            field="sale_id",
        ) from error
    except (asyncpg.CheckViolationError, asyncpg.DataError) as error:
        raise UserMistake(f"sale {new.sale_id} cannot be made: {error}") from error
    return sale


async def check_window(connection: asyncpg.Connection, payment_window_s: int) -> None:
    """Raise UserMistake if the payment window would need one timer queue too many."""
    windows = await connection.fetch(
        "SELECT DISTINCT payment_window_s FROM sales WHERE payment_window_s <> $1",
        payment_window_s,
    )
    if len(windows) >= topology.TIMER_QUEUES_MAX:
        taken = ", ".join(str(row[0]) for row in windows)
        raise UserMistake(
            f"a payment window of {payment_window_s} s would be the "
            f"{topology.TIMER_QUEUES_MAX + 1}th different one; use one of: {taken}",
            field="payment_window_s",
        )


async def open_(db: asyncpg.Pool, stock: Stock, sale_id: str, *, by: str | None = None) -> Sale:
    """Open a sale. Its stock is written to Redis once; later openings only change the state.

    With `by`, the audit trail has who did it, if that is a change.

    The row stays locked and `opened_at` uncommitted while Redis is written. A crash in between
    leaves "never opened", and open_sale.lua then finds the stock and leaves it alone.
    """
    await wake(db, sale_id)
    async with transaction(db) as connection:
        sale = await lock_kept(connection, sale_id)
        if sale.state == "paused":
            # A repeated opening must not lift a pause that another operator wanted.
            raise WrongState(
                f"sale {sale_id} is paused; let buyers in again: seckill sale resume {sale_id}"
            )
        if sale.was_opened or await has_orders(connection, sale_id):
            done = await stock.set_sale_state(sale_id, "open")
        else:
            done = await stock.open_sale(sale_id, sale.terms())
        if not done:
            raise Conflict(
                f"Redis has lost the stock of sale {sale_id}, or holds that of another epoch; "
                f"it must be rebuilt before it can open: seckill sale rebuild {sale_id}"
            )
        await connection.execute(
            "UPDATE sales SET state = 'open', opened_at = coalesce(opened_at, now()),"
            " closed_at = NULL, quiet_stamp = NULL WHERE sale_id = $1",
            sale_id,
        )
        await _record(connection, sale, "open", by)
    return await find(db, sale_id)


async def close(db: asyncpg.Pool, stock: Stock, sale_id: str, *, by: str | None = None) -> Sale:
    """Close a sale: it takes no grabs; its orders go on, and returned units stay unsold."""
    return await _move(db, stock, sale_id, "closed", ("open", "paused", "closed"), by)


async def pause(db: asyncpg.Pool, stock: Stock, sale_id: str, *, by: str | None = None) -> Sale:
    """Pause a sale: it takes no grabs until `resume`; its orders go on."""
    return await _move(db, stock, sale_id, "paused", ("open", "paused"), by)


async def resume(db: asyncpg.Pool, stock: Stock, sale_id: str, *, by: str | None = None) -> Sale:
    """Let a paused sale take grabs again; in an open sale nothing changes."""
    return await _move(db, stock, sale_id, "open", ("open", "paused"), by)


async def announce(db: asyncpg.Pool, sale_id: str, *, by: str) -> Sale:
    """Let buyers see a hidden sale; of a sale that they see nothing changes."""
    async with transaction(db) as connection:
        sale = await lock_kept(connection, sale_id)
        await connection.execute(
            "UPDATE sales SET hidden = false, announce_at = NULL WHERE sale_id = $1", sale_id
        )
        if sale.hidden:
            await audit.record(
                connection, "sale.announce", actor=by, reason="announced", sale_id=sale_id
            )
        return await _read(connection, sale_id)


async def find(db: asyncpg.Pool, sale_id: str) -> Sale:
    """Return a sale; raise Missing if there is none of this id."""
    with database_errors_as_unavailable():
        return await _read(db, sale_id)


async def wake(db: asyncpg.Pool, sale_id: str) -> None:
    """Let the pollers look at a sale again, before anything of it changes in Redis.

    This is a transaction of its own. If it were a part of the change, a crash between Redis and
    the commit would leave a sale that sells, and that no poller looks at.
    """
    with database_errors_as_unavailable():
        await db.execute(
            "UPDATE sales SET quiet_stamp = NULL"
            " WHERE sale_id = $1 AND quiet_stamp IS NOT NULL AND archived_at IS NULL",
            sale_id,
        )


async def lock(connection: asyncpg.Connection, sale_id: str) -> Sale:
    """Lock a sale's row until the transaction ends; return the sale.

    The sale is read by a second statement: a statement that waits for a lock sees the other tables
    as they were before the wait.
    """
    await connection.execute("SELECT FROM sales WHERE sale_id = $1 FOR UPDATE", sale_id)
    return await _read(connection, sale_id)


async def lock_kept(connection: asyncpg.Connection, sale_id: str) -> Sale:
    """Do as `lock`; raise WrongState if the sale is archived."""
    return _kept(await lock(connection, sale_id))


async def find_kept(db: asyncpg.Pool, sale_id: str) -> Sale:
    """Do as `find`; raise WrongState if the sale is archived."""
    return _kept(await find(db, sale_id))


async def has_orders(connection: asyncpg.Connection, sale_id: str) -> bool:
    """Return whether a sale has orders: then it was opened, even if that was never written."""
    return bool(
        await connection.fetchval("SELECT EXISTS (SELECT FROM orders WHERE sale_id = $1)", sale_id)
    )


def _kept(sale: Sale) -> Sale:
    if sale.archived:
        raise WrongState(f"sale {sale.sale_id} is archived: nothing of it can change any more")
    return sale


async def _read(db: asyncpg.Pool | asyncpg.Connection, sale_id: str) -> Sale:
    row = await db.fetchrow(f"{SELECT} WHERE sale_id = $1", sale_id)
    if row is None:
        raise Missing(f"there is no sale {sale_id}; `seckill sale list` shows them")
    return sale_of(row)


def sale_of(row: Sequence[Any]) -> Sale:
    """Return the sale of a row of SELECT."""
    return Sale(*(*row[:-1], parse_metadata(row[-1])))


async def _insert(connection: asyncpg.Connection, new: NewSale) -> None:
    await check_window(connection, new.payment_window_s)
    reason = await connection.fetchval(
        "SELECT reason FROM audit WHERE sale_id = $1 AND action = 'sale.delete'"
        " AND (reason = $3 OR at > now() - $2::interval) ORDER BY reason = $3 DESC LIMIT 1",
        new.sale_id,
        REMEMBERED,
        DELETED_OPEN,
    )
    if reason == DELETED_OPEN:
        raise WrongState(
            f"sale {new.sale_id} was open once, and was deleted; choose another id, because "
            "tickets for that sale may be about",
            field="sale_id",
        )
    if reason is not None:
        raise WrongState(
            f"sale {new.sale_id} was deleted just now; try again in "
            f"{REMEMBERED.seconds} s, when every gateway has forgotten it",
            field="sale_id",
        )
    columns = new.columns()
    numbers = ", ".join(f"${number}" for number in range(2, len(columns) + 2))
    await connection.execute(
        f"INSERT INTO sales (sale_id, {', '.join(columns)})"  # noqa: S608 - ours
        f" VALUES ($1, {numbers})",
        new.sale_id,
        *columns.values(),
    )
    await connection.execute(
        "INSERT INTO inventory (sale_id, total, available) VALUES ($1, $2, $2)",
        new.sale_id,
        new.stock,
    )


async def _record_creation(connection: asyncpg.Connection, sale: Sale, by: str | None) -> None:
    if by is not None:
        await audit.record(
            connection,
            "sale.create",
            actor=by,
            reason="created",
            sale_id=sale.sale_id,
            details=sale.all_terms(),
        )


async def _move(
    db: asyncpg.Pool,
    stock: Stock,
    sale_id: str,
    to_state: str,
    from_states: tuple[str, ...],
    by: str | None,
) -> Sale:
    """Set the state in Redis, then in PostgreSQL; a repeat repairs a crash in between."""
    async with transaction(db) as connection:
        sale = await lock_kept(connection, sale_id)
        if not sale.was_opened:
            raise WrongState(f"sale {sale_id} was never opened")
        if sale.state not in from_states:
            raise WrongState(
                f"sale {sale_id} is {sale.state}; open it again: seckill sale open {sale_id}"
            )
        if not await stock.set_sale_state(sale_id, to_state):
            raise Conflict(
                f"Redis has lost sale {sale_id}, or it is being rebuilt; it sells nothing "
                f"until that is done: seckill sale rebuild {sale_id}"
            )
        await connection.execute(
            "UPDATE sales SET state = $2,"
            " closed_at = CASE $2 WHEN 'closed' THEN coalesce(closed_at, now()) END"
            " WHERE sale_id = $1",
            sale_id,
            to_state,
        )
        await _record(connection, sale, to_state, by)
    return await find(db, sale_id)


async def _record(
    connection: asyncpg.Connection, sale: Sale, to_state: str, by: str | None
) -> None:
    """Write into the audit trail who changed a sale's state; a repeat changes nothing."""
    if by is not None and sale.state != to_state:
        await audit.record(
            connection,
            "sale.state",
            actor=by,
            reason=f"{sale.state} -> {to_state}",
            sale_id=sale.sale_id,
        )


def _ms(moment: datetime | None) -> int:
    return int(moment.astimezone(UTC).timestamp() * 1000) if moment else 0
