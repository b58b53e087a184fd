"""The audit trail: every change by hand and every repair, with who, what and why."""

from __future__ import annotations

import getpass
from collections.abc import Mapping

import asyncpg
import msgspec

_encode = msgspec.json.Encoder().encode


def operator_name() -> str:
    """Return the login name of whoever runs this command."""
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
    """Write one row, in the transaction of the change itself, so that neither is without the other.

    `action` is "<area>.<verb>"; `details` is anything that JSON can say.
    """
    await connection.execute(
        "INSERT INTO audit (actor, action, sale_id, reason, details) VALUES ($1, $2, $3, $4, $5)",
        actor,
        action,
        sale_id,
        reason,
        _encode(details or {}).decode(),
    )
