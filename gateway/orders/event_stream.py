"""`GET /v1/orders/{order_id}/events`: an order's changes as they happen, as server-sent events.

The first event is the order as it is, then comes one for each change, until it can change no more.
An event's id is the order's state: a client that comes back with the one it knows gets what is new.

`POST /v1/orders/{order_id}/stream-tokens` gives pages a token for the URL: their `EventSource`
sends no headers.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from aiohttp import web

from gateway.app_keys import SETTINGS
from gateway.http.auth import LOGIN, TICKET, TICKET_KEYS, buyer_of_any
from gateway.http.contract import Identity, Parameter, ResponseSpec, operation
from gateway.http.problems import Problem, Refused
from gateway.http.requests import ORDER_ID
from gateway.http.responses import Moment, json_response
from gateway.orders.lookup import ORDER_LOOKUP
from gateway.orders.routes import PENDING, OrderView, sale_of_path, view_of
from gateway.orders.watcher import ORDER_WATCHER, StreamSlot
from seckill import metrics
from seckill.auth import stream_tokens
from seckill.orders.orders import FINAL
from seckill.sales.sales import Sale

#: When to come back after a broken stream. It is spread: otherwise all clients of a gateway that
#: was stopped would come to the others at once.
RETRY_MS = (2_000, 5_000)
#: What the kernel keeps for a client that does not read (Linux would let it grow to megabytes).
SEND_BUFFER = 8 * 1024
#: Beyond that, so much is kept here (a dozen events), then the client is dropped.
UNSENT_MAX = 4 * 1024
#: A client that acknowledges nothing for so long is gone. Without it, its slot would stay taken for
#: the quarter of an hour that TCP goes on trying.
UNACKNOWLEDGED_MS = 30_000

_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back until a page is full
}
_HEARTBEAT = b":\n\n"

_encode = msgspec.json.Encoder().encode


class OrderEvent(msgspec.Struct):
    """One event: `id` is the state of the order, `data` the order as JSON."""

    event: Literal["order"]
    id: str
    data: Annotated[
        str,
        msgspec.Meta(
            extra_json_schema={
                "contentMediaType": "application/json",
                "contentSchema": {"$ref": "#/components/schemas/OrderView"},
            }
        ),
    ]


class StreamTokenView(msgspec.Struct):
    """A token for the query of one order's event stream, good before `expires_at`."""

    token: str
    expires_at: Moment


STREAM_TOKEN = Identity(
    "stream_token",
    {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "A token for this order, from `POST /v1/orders/{order_id}/stream-tokens`.",
    },
    (Problem.UNAUTHORIZED,),
)
LAST_EVENT_ID = Parameter(
    "Last-Event-ID",
    "The last state that the client heard of; browsers send it when they come back.",
    None,
    "queued",
    place="header",
)


@operation(
    "Hear of an order's changes as they happen",
    ResponseSpec(
        200,
        "Events until the order is final; the first says how it is. The schema is of one event.",
        OrderEvent("order", PENDING.status, _encode(PENDING).decode()),
        content_type="text/event-stream",
    ),
    ResponseSpec(204, "There is nothing to hear after `Last-Event-ID`: do not come back.", None),
    tag="events",
    parameters=[ORDER_ID, LAST_EVENT_ID],
    identities=[TICKET, LOGIN, STREAM_TOKEN],
)
async def stream_order(request: web.Request) -> web.StreamResponse:
    """Send one order's changes until it is final, the client leaves or the gateway stops."""
    sale, order_id = await sale_of_path(request)
    buyer_id = await _buyer_of(request, sale, order_id)
    with request.app[ORDER_WATCHER].slot(order_id, buyer_id) as slot:
        order = await request.app[ORDER_LOOKUP].find(sale, order_id, buyer_id)
        view = view_of(request, sale, order)
        slot.seen = view.status
        is_known = request.headers.get("Last-Event-ID") == view.status
        if is_known and view.status in FINAL:
            return web.Response(status=204)  # an EventSource then does not come back
        response = web.StreamResponse(headers=_HEADERS)
        if request.transport is not None:
            bound_connection(request.transport)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        with suppress(ConnectionError):  # the client left, or was dropped
            await _send(request, response, _opening(None if is_known else view))
            if view.status not in FINAL:
                await _follow(request, response, sale, slot)
        return response


@operation(
    "Get a token for the URL of an order's event stream",
    ResponseSpec(
        201,
        "A token for the query (`?token=…`), to open the stream with before `expires_at`.",
        StreamTokenView(
            "k1~1795809600~alice~0f1e2d3c4b5a69788796a5b4c3d2e1f0",
            datetime(2026, 11, 27, 19, 0, 30, tzinfo=UTC),
        ),
    ),
    tag="events",
    parameters=[ORDER_ID],
    identities=[TICKET, LOGIN],
)
async def issue_stream_token(request: web.Request) -> web.Response:
    """Answer with a token for this buyer and order; whether it is theirs, the stream decides."""
    sale, order_id = await sale_of_path(request)
    buyer_id = await buyer_of_any(request, sale.sale_id)
    expires_at_s = int(time.time()) + stream_tokens.TTL_S
    token = stream_tokens.issue(
        request.app[TICKET_KEYS], order_id=order_id, buyer_id=buyer_id, expires_at_s=expires_at_s
    )
    expires_at = datetime.fromtimestamp(expires_at_s, UTC)
    return json_response(StreamTokenView(token, expires_at), status=201)


async def _buyer_of(request: web.Request, sale: Sale, order_id: str) -> str:
    """Return the buyer of the URL's stream token or, without one, of the headers; or refuse."""
    token = request.query.get("token")
    if token is None:
        return await buyer_of_any(request, sale.sale_id)
    buyer_id = stream_tokens.verify(
        request.app[TICKET_KEYS], token, order_id=order_id, now_s=time.time()
    )
    if buyer_id is None:
        detail = "the stream token has expired, or is not for this order; ask for a new one"
        raise Refused(Problem.UNAUTHORIZED, detail)
    return buyer_id


def bound_connection(transport: asyncio.BaseTransport) -> None:
    """Bound what a client that does not read, or is no longer there, can cost."""
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)


async def _follow(
    request: web.Request, response: web.StreamResponse, sale: Sale, slot: StreamSlot
) -> None:
    """Send each change of the order, and heartbeats between them."""
    heartbeat_s = request.app[SETTINGS].event_heartbeat_s
    while not slot.ended:
        change = await slot.next_change(heartbeat_s)
        if change is not None:
            await _send(request, response, _event(view_of(request, sale, change)))
            if change.state in FINAL:
                return
        elif not slot.ended:
            await _send(request, response, _HEARTBEAT)


async def _send(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Send, or drop a client that has left too much unread."""
    await response.write(data)  # never waits: far less than what makes aiohttp wait is allowed
    transport = request.transport
    if transport is not None and transport.get_write_buffer_size() > UNSENT_MAX:
        metrics.EVENT_STREAMS_DROPPED.inc()
        transport.abort()
        raise ConnectionResetError("the client does not read")


def _opening(view: OrderView | None) -> bytes:
    retry = b"retry: %d\n\n" % random.randint(*RETRY_MS)  # noqa: S311 - not a secret
    return retry if view is None else retry + _event(view)


def _event(view: OrderView) -> bytes:
    return b"event: order\nid: %b\ndata: %b\n\n" % (view.status.encode(), _encode(view))
