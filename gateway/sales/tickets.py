"""`POST /v1/sales/{sale_id}/tickets`: the right to grab, for a buyer who is logged in.

Tickets are issued from some time before the opening, so that the costly check of the login is
spread out and the opening second verifies only the ticket's MAC. A sale with `proof_bits` asks for
work first.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from gateway.app_keys import SETTINGS
from gateway.http.auth import LOGIN, TICKET_KEYS, buyer_of_login
from gateway.http.contract import ResponseSpec, operation
from gateway.http.problems import Problem
from gateway.http.requests import SALE_ID, find_sale
from gateway.http.responses import Moment, json_response
from gateway.overload.aiohttp_protocol import in_flight
from gateway.sales.challenges import (
    PROOF,
    PROOF_PROBLEMS,
    opening_of,
    read_proof,
    redeem_proof,
)
from seckill.auth import tickets


class TicketView(msgspec.Struct):
    """A ticket for the header `Seckill-Ticket`, good before `expires_at`.

    `server_time` and `opens_at` are for a countdown: this answer is never a copy.
    """

    ticket: str
    expires_at: Moment
    server_time: Moment
    opens_at: Moment | None = None


_EXAMPLE = TicketView(
    "k1~1795809600~alice~0f1e2d3c4b5a69788796a5b4c3d2e1f0",
    datetime(2026, 11, 27, 20, tzinfo=UTC),
    datetime(2026, 11, 27, 18, 52, tzinfo=UTC),
    datetime(2026, 11, 27, 19, tzinfo=UTC),
)


@operation(
    "Get a ticket for a sale",
    ResponseSpec(
        201, "A ticket for the header `Seckill-Ticket`, good before `expires_at`.", _EXAMPLE
    ),
    tag="tickets",
    parameters=[SALE_ID],
    identities=[LOGIN],
    body=PROOF,
    problems=[Problem.TOO_EARLY, *PROOF_PROBLEMS],
)
async def issue_ticket(request: web.Request) -> web.Response:
    """Answer with a ticket for the login's buyer; asking again is harmless.

    The body matters only where the sale asks for a proof of work: else it is not even read, so
    that a client may send the same to every sale.
    """
    settings = request.app[SETTINGS]
    buyer_id = await buyer_of_login(request)
    sale = await find_sale(request)
    now_s = time.time()
    opens_at_s = opening_of(sale, lead_s=settings.ticket_lead_s, now_s=now_s)
    sent = await read_proof(request, sale) if sale.proof_bits else None
    with in_flight(request):
        if sent is not None:
            await redeem_proof(request, sale, buyer_id, sent)
        expires_at_s = int(max(now_s, opens_at_s) + settings.ticket_ttl_s)
        ticket = tickets.issue(
            request.app[TICKET_KEYS],
            sale_id=sale.sale_id,
            buyer_id=buyer_id,
            expires_at_s=expires_at_s,
        )
    expires_at = datetime.fromtimestamp(expires_at_s, UTC)
    view = TicketView(ticket, expires_at, datetime.now(UTC), sale.opens_at)
    return json_response(view, status=201)
