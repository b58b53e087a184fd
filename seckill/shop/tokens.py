"""Tokens of the shop's own programs: what each may do, and whether one is good.

A token has 192 random bits, so its SHA-256 gives nothing away and needs no salt. Only that digest
is stored: who reads the table or a backup of it cannot call.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple

import asyncpg

from seckill import audit
from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.auth.tickets import ID
from seckill.errors import Missing, UserMistake, WrongState
from seckill.single_flight import SingleFlight

#: What scanners for leaked secrets look for.
PREFIX = "seckill_shop_"
FORM = re.compile(rf"{PREFIX}[0-9a-f]{{48}}\Z")
_RANDOM_BYTES = 24
#: Tokens that are good at a time. A process keeps all of them: 300 bytes each.
TOKENS_MAX = 1_000
#: With those that ended last.
KNOWN_MAX = 2 * TOKENS_MAX
#: A revoked token works so long at most, and so long at most after the last answer of PostgreSQL.
FRESH_S = 2.0
#: Least time between two readings: a token that was made just now is found after this, and wrong
#: ones cost PostgreSQL five small queries a second, however many are tried.
READ_APART_S = 0.2
#: The longest time after which a token may end: who wants more wants one without an end.
EXPIRES_IN_MAX = timedelta(days=3650)
# Ended ones, too, so that their programs are told so; behind the good ones, so that these are read.
# How long each has left is by PostgreSQL's clock: a gateway's own may be wrong.
_KNOWN = """
SELECT digest, name, scopes, expires_at,
       coalesce(extract(epoch FROM expires_at - clock_timestamp()), 'infinity')::float8
  FROM shop_tokens WHERE revoked_at IS NULL
 ORDER BY expires_at DESC NULLS FIRST LIMIT $1
"""
_COUNT_GOOD = """
SELECT count(*) FROM shop_tokens
 WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""


class Scope(StrEnum):
    """What a token may do."""

    ORDERS_READ = "orders:read"
    ORDERS_WRITE = "orders:write"
    MONEY = "money"
    SALES = "sales"
    WEBHOOKS_READ = "webhooks:read"
    WEBHOOKS_WRITE = "webhooks:write"


@dataclass(frozen=True, slots=True)
class ShopToken:
    """Who calls, and what they may do."""

    name: str
    scopes: frozenset[str]
    expires_at: datetime | None = None
    #: Its end was reached: it may do nothing.
    is_over: bool = False

    @property
    def actor(self) -> str:
        """The name in the audit trail, where no operator can have it."""
        return f"shop token {self.name}"


class ListedToken(NamedTuple):
    """A token as an operator sees it, good, ended or revoked."""

    name: str
    scopes: list[str]
    created_at: datetime
    created_by: str
    revoked_at: datetime | None
    expires_at: datetime | None
    is_over: bool


async def create(
    db: asyncpg.Pool,
    name: str,
    scopes: Collection[str],
    *,
    by: str,
    expires_in: timedelta | None = None,
) -> str:
    """Make a token, on record, and return it: nothing else can tell it afterwards.

    Raise UserMistake for an impossible name, scope or end, WrongState if the name was used before:
    each name in the audit trail is one token's.
    """
    if expires_in is not None and not timedelta(0) < expires_in <= EXPIRES_IN_MAX:
        raise UserMistake(f"a token ends after at most {EXPIRES_IN_MAX.days} days, or never")
    if not ID.match(name):
        raise UserMistake(f"name {name!r}: use 1 to 64 of A-Z a-z 0-9 _ . -")
    wanted = _checked(scopes)
    token = PREFIX + secrets.token_hex(_RANDOM_BYTES)
    async with transaction(db) as connection:
        if await connection.fetchval(_COUNT_GOOD) >= TOKENS_MAX:
            raise WrongState(f"there are {TOKENS_MAX} tokens; revoke those that are not needed")
        try:
            expires_at = await connection.fetchval(
                "INSERT INTO shop_tokens (name, digest, scopes, created_by, expires_at)"
                " VALUES ($1, $2, $3, $4, now() + $5::interval) RETURNING expires_at",
                name,
                digest_of(token),
                wanted,
                by,
                expires_in,
            )
        except asyncpg.UniqueViolationError as error:
            raise WrongState(
                f"there is or was a token {name}; choose another name, such as {name}-2"
            ) from error
        details = {"scopes": wanted, "expires_at": expires_at}
        await audit.record(connection, "shop_token.create", actor=by, reason=name, details=details)
    return token


async def revoke(db: asyncpg.Pool, name: str, *, by: str) -> bool:
    """Revoke a token, on record; return False if that was done before, raise Missing without one.

    Every gateway refuses it within FRESH_S.
    """
    async with transaction(db) as connection:
        revoked = await connection.fetchval(
            "UPDATE shop_tokens SET revoked_at = now()"
            " WHERE name = $1 AND revoked_at IS NULL RETURNING true",
            name,
        )
        if revoked:
            await audit.record(connection, "shop_token.revoke", actor=by, reason=name)
            return True
        if not await connection.fetchval("SELECT true FROM shop_tokens WHERE name = $1", name):
            raise Missing(f"there is no token {name}; `seckill shop-token list` shows them")
    return False


async def list_(db: asyncpg.Pool) -> list[ListedToken]:
    """Return all tokens that ever were, newest first."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT name, scopes, created_at, created_by, revoked_at, expires_at,"
            " coalesce(expires_at <= now(), false) FROM shop_tokens"
            " ORDER BY created_at DESC, name"
        )
    return [ListedToken(*row) for row in rows]


def _checked(scopes: Collection[str]) -> list[str]:
    wrong = set(scopes) - set(Scope)
    if wrong or not scopes:
        given = f"scope {min(wrong)!r}" if wrong else "no scope"
        raise UserMistake(f"{given}: give at least one of {', '.join(Scope)}")
    return sorted(set(scopes))


def digest_of(token: str) -> bytes:
    """Return what is stored of a token."""
    return sha256(token.encode()).digest()


class ShopTokens:
    """The tokens as one process knows them, at most FRESH_S old; each ends at its moment.

    While PostgreSQL does not answer, a token is neither good nor bad: `find` raises Unavailable.
    """

    def __init__(self, db: asyncpg.Pool) -> None:
        self._db = db
        self._known: dict[bytes, tuple[ShopToken, float]] = {}
        self._read_at = float("-inf")
        self._reading = SingleFlight(self._read, interval_s=READ_APART_S)

    async def find(self, token: str) -> ShopToken | None:
        """Return whose token this is, also if it is over; None for one that is revoked or none.

        Raise Unavailable if that is unknown.
        """
        if not FORM.match(token):
            return None
        # A digest is looked up, and not the token compared: how long that takes says nothing of it.
        digest = digest_of(token)
        if (found := self._fresh(digest)) is None:
            await self._reading.now(lambda: self._fresh(digest) is not None)
            found = self._fresh(digest)
        return found

    def _fresh(self, digest: bytes) -> ShopToken | None:
        now = time.monotonic()
        if now - self._read_at > FRESH_S or digest not in self._known:
            return None
        token, ends_at = self._known[digest]
        return token if now < ends_at else replace(token, is_over=True)

    async def _read(self) -> None:
        begun_at = time.monotonic()
        with database_errors_as_unavailable():
            rows = await self._db.fetch(_KNOWN, KNOWN_MAX)
        # Counted from before the question: so no token lasts longer than PostgreSQL says.
        self._known = {
            digest: (ShopToken(name, frozenset(scopes), expires_at), begun_at + left_s)
            for digest, name, scopes, expires_at, left_s in rows
        }
        # Not when it ended: a token that was revoked in between may be among them.
        self._read_at = begun_at
