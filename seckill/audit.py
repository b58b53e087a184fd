"""The audit trail: each change by an operator and each repair, with its author and reason."""

from __future__ import annotations

import getpass
from collections.abc import Mapping

import asyncpg
import msgspec

_encode = msgspec.json.Encoder().encode


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
