"""Calls of the admin API."""

from __future__ import annotations

from aiohttp import ClientSession

NEW = {"sale_id": "by-http", "stock": 2, "price_cents": 1999}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def call(http: ClientSession, method: str, path: str, **options):
    """Return status and body; assert that a refusal is a problem."""
    async with http.request(method, path, **options) as response:
        body = await response.json(content_type=None)
        if response.status >= 400:
            assert response.content_type == "application/problem+json"
        return response.status, body


async def refusal(http: ClientSession, method: str, path: str, **options):
    status, body = await call(http, method, path, **options)
    return status, body["code"]


async def audited(db, http, action):
    """Return (sale, reason, details) of what a session's token is on record with."""
    rows = await db.fetch(
        "SELECT sale_id, reason, details::text FROM audit WHERE actor = $1 AND action = $2"
        " ORDER BY audit_id",
        f"shop token {http.token_name}",
        action,
    )
    return [tuple(row) for row in rows]
