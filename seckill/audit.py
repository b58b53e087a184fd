"""The audit trail: each change by an operator and each repair, with its author and reason."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

import asyncpg
import msgspec

_encode = msgspec.json.Encoder().encode


class AuditRow(NamedTuple):
    """One row; `details` is JSON."""

    audit_id: int
    at: datetime
    actor: str
    action: str
    sale_id: str | None
    reason: str
    details: str


def operator_name() -> str:
    """Return the login name of the user who runs this command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        return "unknown"


async def record(
    connection: asyncpg.Connection,
    action: str,
    *,
    actor: str,
    reason: str,
    sale_id: str | None = None,
    details: Mapping[str, object] | None = None,
) -> None:
    """Write one row, in the transaction of the change itself, so that neither exists alone.

    `action` is "<area>.<verb>"; `details` is anything that JSON can express.
    """
    await connection.execute(
        "INSERT INTO audit (actor, action, sale_id, reason, details) VALUES ($1, $2, $3, $4, $5)",
        actor,
        action,
        sale_id,
        reason,
        _encode(details or {}).decode(),
    )


async def newest(db: asyncpg.Pool, limit: int) -> list[AuditRow]:
    """Return the newest rows, newest first."""
    rows = await db.fetch(
        "SELECT audit_id, at, actor, action, sale_id, left(reason, 500), left(details::text, 2000)"
        " FROM audit ORDER BY audit_id DESC LIMIT $1",
        limit,
    )
    return [AuditRow(*row) for row in rows]
