"""`/admin/transactions`: those that wait for an operator, and what can be done about one."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from aiohttp import web

from gateway.admin.auth import actor_of, on_record
from gateway.admin.health import EDGE
from gateway.app_keys import DB
from gateway.http.requests import read_json
from gateway.http.responses import json_response
from seckill.transactions import manual
from seckill.transactions.states import TransactionState

#: Transactions of one list, the newest.
LISTED_MAX = 200


class Settlement(msgspec.Struct, forbid_unknown_fields=True):
    """How a parked transaction ended, as an operator found out."""

    to: Literal["confirmed", "canceled"]
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


_settlement = msgspec.json.Decoder(Settlement)


async def list_parked(request: web.Request) -> web.Response:
    """Answer with the newest transactions that are parked."""
    found = await manual.list_(request.app[EDGE][DB], [TransactionState.FAILED], LISTED_MAX)
    return json_response({"transactions": found})


async def show_transaction(request: web.Request) -> web.Response:
    """Answer with one transaction and the operations of its branches."""
    return json_response(await manual.show(request.app[EDGE][DB], request.match_info["tx_id"]))


async def retry_transaction(request: web.Request) -> web.Response:
    """Let recovery go on with it at once."""
    tx_id = request.match_info["tx_id"]
    with on_record("retry", f"transaction {tx_id!r}"):
        found = await manual.retry(request.app[EDGE][DB], tx_id, actor=actor_of(request))
    return json_response(found)


async def settle_transaction(request: web.Request) -> web.Response:
    """Close it as confirmed or canceled; nothing is done at its branches."""
    tx_id = request.match_info["tx_id"]
    wanted = await read_json(request, _settlement)
    with on_record(f"settle as {wanted.to}", f"transaction {tx_id!r}"):
        found = await manual.settle(
            request.app[EDGE][DB], tx_id, wanted.to, wanted.reason, actor=actor_of(request)
        )
    return json_response(found)
