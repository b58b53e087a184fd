"""`/admin/card-payments` and `/admin/audit`: what waits for the provider, and who changed what."""

from __future__ import annotations

from aiohttp import web

from gateway.admin.auth import actor_of, on_record
from gateway.admin.health import EDGE
from gateway.app_keys import CARD_PAYMENTS, DB
from gateway.http.responses import json_response
from seckill import audit
from seckill.adapters.postgres import database_errors_as_unavailable

#: Payments and audit rows of one list.
LISTED_MAX = 200


async def list_card_payments(request: web.Request) -> web.Response:
    """Answer with the card payments that have no outcome, oldest first."""
    found = await request.app[EDGE][CARD_PAYMENTS].open_payments(LISTED_MAX)
    return json_response({"payments": [each._asdict() for each in found]})


async def ask_about_card_payments(request: web.Request) -> web.Response:
    """Let the provider be asked about all of them now."""
    with on_record("ask the provider", "about all open card payments"):
        await request.app[EDGE][CARD_PAYMENTS].ask_all_now(actor=actor_of(request))
    return json_response({"ok": True})


async def list_audit(request: web.Request) -> web.Response:
    """Answer with the newest rows of the audit trail, newest first."""
    with database_errors_as_unavailable():
        rows = await audit.newest(request.app[EDGE][DB], LISTED_MAX)
    return json_response({"rows": [row._asdict() for row in rows]})
