"""`GET /v1/orders/{order_id}/events`: an order's changes as they happen, as server-sent events.

The first event is the order as it is, then comes one for each change, until it can change no more.
An event's id is the order's state: a client that comes back with the one it knows gets what is new.
"""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import suppress
from typing import Annotated, Literal

import msgspec
from aiohttp import web

from gateway.app_keys import SETTINGS
from gateway.http.auth import LOGIN, TICKET, buyer_of_any
from gateway.http.contract import Parameter, ResponseSpec, operation
from gateway.http.requests import ORDER_ID
from gateway.orders.lookup import ORDER_LOOKUP
from gateway.orders.routes import PENDING, OrderView, sale_of_path, view_of
from gateway.orders.watcher import ORDER_WATCHER, StreamSlot
from seckill import metrics
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
    identities=[TICKET, LOGIN],
)
async def stream_order(request: web.Request) -> web.StreamResponse:
    """Send one order's changes until it is final, the client leaves or the gateway stops."""
    sale, order_id = await sale_of_path(request)
    buyer_id = await buyer_of_any(request, sale.sale_id)
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
