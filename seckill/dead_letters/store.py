"""The dead letters in PostgreSQL.

A letter is one message: copies with the same queue and body share its row. It is open until an
operator replays or discards it, and open again if the message dies again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.dead_letters.parser import DeadMessage, NamedOrder
from seckill.errors import Missing

#: Letters read at once: bodies of up to some 50 kB each.
PAGE = 200

_COLUMNS = (
    "letter_id, queue, sale_id, state, reason, stack, attempts, first_at, last_at, arrived_at,"
    " deaths, replays, closed_at, closed_by, closed_reason, body, headers::text"
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One row of `dead_letters`, with the orders that it names."""

    letter_id: int
    queue: str
    sale_id: str | None
    state: str
    reason: str
    stack: str | None
    attempts: int | None
    first_at: datetime
    last_at: datetime
    arrived_at: datetime
    deaths: int
    replays: int
    closed_at: datetime | None
    closed_by: str | None
    closed_reason: str | None
    body: bytes
    headers: dict[str, Any]
    orders: tuple[NamedOrder, ...]


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """A filter of letters; a field that is None lets every letter pass."""

    ids: Sequence[int] | None = None
    queue: str | None = None
    sale_id: str | None = None
    #: Part of the reason, in upper or lower case.
    reason: str | None = None
    state: str | None = "open"

    def arguments(self) -> list[object]:
        """Return the values of _MATCHES's parameters."""
        ids = None if self.ids is None else list(self.ids)
        return [ids, self.queue, self.sale_id, self.reason, self.state]


_MATCHES = (
    "($1::bigint[] IS NULL OR letter_id = ANY ($1)) AND ($2::text IS NULL OR queue = $2)"
    " AND ($3::text IS NULL OR sale_id = $3)"
    " AND ($4::text IS NULL OR strpos(lower(reason), lower($4)) > 0)"
    " AND ($5::text IS NULL OR state = $5)"
)

# A copy with the same time of death is the same death, delivered again: it changes nothing, and
# does not open a letter that was closed meanwhile. Without that time it counts as a new death,
# because a second look does less harm than a lost letter.
_ARRIVE = """
INSERT INTO dead_letters AS d (digest, queue, body, headers, sale_id, reason, stack, attempts, first_at, last_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, coalesce($9, $10, now()), coalesce($10, now()))
ON CONFLICT (digest) DO UPDATE
   SET state = 'open', closed_at = NULL, closed_by = NULL, closed_reason = NULL,
       deaths = d.deaths + 1, headers = excluded.headers, reason = excluded.reason,
       stack = excluded.stack, attempts = excluded.attempts,
       first_at = least(d.first_at, excluded.first_at),
       last_at = greatest(d.last_at, excluded.last_at)
 WHERE coalesce(d.headers -> 'x-last-failed-ms' <> excluded.headers -> 'x-last-failed-ms', true)
RETURNING letter_id
"""  # noqa: E501 - SQL


@dataclass(frozen=True, slots=True)
class NewLetter:
    """A message that died now, and its letter."""

    letter_id: int
    message: DeadMessage


async def arrive(db: asyncpg.Pool, messages: Iterable[DeadMessage]) -> list[NewLetter]:
    """Write dead messages down in one transaction; return those that died now."""
    arrivals = []
    async with transaction(db) as connection:
        # Sorted, so that two processes lock rows in one order.
        for message in sorted(messages, key=lambda m: m.digest):
            letter_id = await write(connection, message)
            if letter_id is not None:
                arrivals.append(NewLetter(letter_id, message))
    return arrivals


async def write(connection: asyncpg.Connection, message: DeadMessage) -> int | None:
    """Write one dead message down; return the id of its letter, or None for an old death."""
    letter_id: int | None = await connection.fetchval(
        _ARRIVE,
        message.digest,
        message.queue,
        message.body,
        message.headers,
        message.sale_id,
        message.reason,
        message.stack,
        message.attempts,
        message.first_at,
        message.last_at,
    )
    if letter_id is not None and message.orders:
        await connection.execute(
            "INSERT INTO dead_letter_orders"
            " SELECT $1, * FROM unnest($2::uuid[], $3::text[], $4::int[]) ON CONFLICT DO NOTHING",
            letter_id,
            *(list(column) for column in zip(*message.orders, strict=True)),
        )
    return letter_id


async def page(
    db: asyncpg.Pool | asyncpg.Connection,
    wanted: LetterFilter,
    *,
    limit: int,
    after: int = 0,
    newest_first: bool = False,
) -> list[DeadLetter]:
    """Return up to `limit` letters by id: those with ids above `after`, or the newest first."""
    direction = "DESC" if newest_first else "ASC"
    with database_errors_as_unavailable():
        rows = await db.fetch(
            f"SELECT {_COLUMNS} FROM dead_letters WHERE {_MATCHES} AND letter_id > $6"  # noqa: S608 - constants
            f" ORDER BY letter_id {direction} LIMIT $7",
            *wanted.arguments(),
            after,
            limit,
        )
        named = await db.fetch(
            "SELECT letter_id, order_id::text, buyer_id, quantity FROM dead_letter_orders"
            " WHERE letter_id = ANY ($1) ORDER BY order_id",
            [row["letter_id"] for row in rows],
        )
    orders: dict[int, list[NamedOrder]] = {row["letter_id"]: [] for row in rows}
    for letter_id, *order in named:
        orders[letter_id].append(NamedOrder(*order))
    return [_letter(row, orders[row["letter_id"]]) for row in rows]


async def every(db: asyncpg.Pool, wanted: LetterFilter) -> AsyncIterator[DeadLetter]:
    """Yield all letters of a filter, oldest first, with one page in memory at a time."""
    after = 0
    while letters := await page(db, wanted, limit=PAGE, after=after):
        for letter in letters:
            yield letter
        after = letters[-1].letter_id


async def count(db: asyncpg.Pool, wanted: LetterFilter) -> int:
    """Count the letters of a filter."""
    with database_errors_as_unavailable():
        number: int = await db.fetchval(
            f"SELECT count(*) FROM dead_letters WHERE {_MATCHES}",  # noqa: S608 - a constant
            *wanted.arguments(),
        )
    return number


async def find(db: asyncpg.Pool, letter_id: int) -> DeadLetter:
    """Return one letter, whatever its state; raise Missing if there is none."""
    found = await page(db, LetterFilter(ids=[letter_id], state=None), limit=1)
    if not found:
        raise Missing(f"there is no dead letter {letter_id}; see: seckill dead list --state all")
    return found[0]


async def open_order_ids(db: asyncpg.Pool, sale_id: str) -> set[str]:
    """Return the orders that open letters of a sale name: their units wait for an operator."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT DISTINCT order_id::text FROM dead_letters JOIN dead_letter_orders"
            " USING (letter_id) WHERE sale_id = $1 AND state = 'open'",
            sale_id,
        )
    return {row[0] for row in rows}


async def open_by_queue(db: asyncpg.Pool) -> dict[str, int]:
    """Count the open letters by queue."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT queue, count(*) FROM dead_letters WHERE state = 'open' GROUP BY 1"
        )
    return dict(rows)


async def lock_open(connection: asyncpg.Connection, letter_id: int) -> DeadLetter | None:
    """Lock a letter until the transaction ends; return None if it is not open.

    A copy that dies meanwhile waits for the lock, and opens the letter after it was closed.
    """
    locked = await connection.fetchval(
        "SELECT letter_id FROM dead_letters WHERE letter_id = $1 AND state = 'open' FOR UPDATE",
        letter_id,
    )
    if locked is None:
        return None
    (letter,) = await page(connection, LetterFilter(ids=[letter_id]), limit=1)
    return letter


async def close(
    connection: asyncpg.Connection, letter_id: int, *, state: str, actor: str, reason: str | None
) -> None:
    """Close a letter that this transaction has locked."""
    await connection.execute(
        "UPDATE dead_letters SET state = $2, closed_at = now(), closed_by = $3, closed_reason = $4,"
        " replays = replays + ($2 = 'replayed')::int WHERE letter_id = $1",
        letter_id,
        state,
        actor,
        reason,
    )


def _letter(row: asyncpg.Record, orders: Sequence[NamedOrder]) -> DeadLetter:
    fields = dict(row) | {"headers": msgspec.json.decode(row["headers"])}
    return DeadLetter(**fields, orders=tuple(orders))
