"""Which buyer a request comes from: its ticket or its login token, verified without any store."""

from __future__ import annotations

import time

from aiohttp import web

from gateway.http.contract import Identity
from gateway.http.logins import LOGINS
from gateway.http.problems import Problem, Refused
from seckill.auth import tickets
from seckill.auth.key_ring import KeyRing

TICKET_HEADER = "Seckill-Ticket"
TICKET_KEYS = web.AppKey("ticket_keys", KeyRing)
#: How a route declares that it takes tickets, or login tokens.
TICKET = Identity(
    "ticket",
    {
        "type": "apiKey",
        "in": "header",
        "name": TICKET_HEADER,
        "description": "A ticket for this sale, from `POST /v1/sales/{sale_id}/tickets`.",
    },
    (Problem.BAD_TICKET,),
)
LOGIN = Identity(
    "login",
    {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A login token of the shop, whose `sub` is the buyer.",
    },
    (Problem.UNAUTHORIZED, Problem.UNAVAILABLE),
)


def buyer_of_ticket(request: web.Request, sale_id: str) -> str:
    """Return the buyer of the request's ticket for this sale, or refuse."""
    buyer_id = tickets.verify(
        request.app[TICKET_KEYS],
        request.headers.get(TICKET_HEADER, ""),
        sale_id=sale_id,
        now_s=time.time(),
    )
    if buyer_id is None:
        raise Refused(Problem.BAD_TICKET)
    return buyer_id


async def buyer_of_login(request: web.Request) -> str:
    """Return the buyer of the request's login token, or refuse."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Refused(Problem.UNAUTHORIZED)
    return await request.app[LOGINS].buyer_of(token.strip())


async def buyer_of_any(request: web.Request, sale_id: str) -> str:
    """Return the buyer of a ticket for this sale or, without one, of a login token."""
    if TICKET_HEADER in request.headers:
        return buyer_of_ticket(request, sale_id)
    return await buyer_of_login(request)
