"""Answers kept by their keys: a change happens once, however often a program asks for it.

The key's row is inserted first, in the transaction of the change. A second call with the key waits
at that row until the first has ended: then it finds the answer, or makes the change itself. So a
process may be killed at any instant, and two calls may come at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256

import asyncpg

from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.errors import WrongState

#: How long an answer is kept: longer than a weekend for whoever looks into a failed run on Monday.
KEPT_DAYS = 7
#: Old answers that a call removes with its own: more than it adds, so they cannot pile up.
REMOVED_MAX = 10

#: Makes a change in the given transaction, and returns the answer.
Change = Callable[[asyncpg.Connection], Awaitable[bytes]]


class KeyReused(WrongState):
    """The key was used for another call."""


@dataclass(frozen=True, slots=True)
class KeyedCall:
    """A call, by whose key it is known, and the digest of what it asks for."""

    token: str
    key: str
    digest: bytes

    @property
    def made_id(self) -> str:
        """An id for what the call makes: one for each key, also when its answer is kept no more."""
        return sha256(f"{self.token}~{self.key}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What a call is answered; `replayed` if it was sent before."""

    answer: bytes
    replayed: bool


async def once(db: asyncpg.Pool, call: KeyedCall, change: Change) -> KeptAnswer:
    """Make a change in one transaction, or return what it was answered before.

    What `change` raises undoes all of it: a refusal is not kept, and the next call tries afresh.
    Raise KeyReused if the key is that of another call.
    """
    async with transaction(db) as connection:
        if not await connection.fetchval(
            "INSERT INTO shop_answers (token, key, digest) VALUES ($1, $2, $3)"
            " ON CONFLICT DO NOTHING RETURNING true",
            call.token,
            call.key,
            call.digest,
        ):
            return KeptAnswer(await _kept(connection, call), replayed=True)
        answer = await change(connection)
        await connection.execute(
            "UPDATE shop_answers SET answer = $3 WHERE token = $1 AND key = $2",
            call.token,
            call.key,
            answer,
        )
        await _remove_old(connection)
    return KeptAnswer(answer, replayed=False)


async def find(db: asyncpg.Pool, call: KeyedCall) -> bytes | None:
    """Return what a call was answered before; None if it was not. Raise KeyReused as `once`."""
    with database_errors_as_unavailable():
        known = await db.fetchval(
            "SELECT true FROM shop_answers WHERE token = $1 AND key = $2", call.token, call.key
        )
        return await _kept(db, call) if known else None


async def keep(db: asyncpg.Pool, call: KeyedCall, answer: bytes) -> None:
    """Keep the answer to a change that may be repeated by itself, after it was made."""
    async with transaction(db) as connection:
        await connection.execute(
            "INSERT INTO shop_answers (token, key, digest, answer) VALUES ($1, $2, $3, $4)"
            " ON CONFLICT DO NOTHING",
            call.token,
            call.key,
            call.digest,
            answer,
        )
        await _remove_old(connection)


async def _kept(db: asyncpg.Pool | asyncpg.Connection, call: KeyedCall) -> bytes:
    row = await db.fetchrow(
        "SELECT digest, answer FROM shop_answers WHERE token = $1 AND key = $2",
        call.token,
        call.key,
    )
    if row["digest"] != call.digest:
        raise KeyReused(f"the key {call.key} was used for another call; give this one its own")
    return bytes(row["answer"])


async def _remove_old(connection: asyncpg.Connection) -> None:
    # What another call is removing is skipped: the two must not wait for each other.
    await connection.execute(
        "DELETE FROM shop_answers WHERE (token, key) IN ("
        "SELECT token, key FROM shop_answers WHERE at < now() - make_interval(days => $1)"
        " ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        KEPT_DAYS,
        REMOVED_MAX,
    )
