"""`/shop/v1/webhooks/{webhook_id}/deliveries`: what became of them, and sending them again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import asyncpg
import msgspec
from aiohttp import web

from gateway.app_keys import DB
from gateway.http.contract import ResponseSpec, operation
from gateway.http.problems import Problem
from gateway.http.requests import json_body, parse_json, read_body
from gateway.http.responses import Moment, json_response
from gateway.http.shop_auth import shop_token
from gateway.shop.calls import CALLER
from gateway.shop.idempotency import IDEMPOTENCY_KEY, change_once
from gateway.shop.parameters import (
    DELIVERY_ID,
    DELIVERY_STATE,
    LIMIT,
    NUMBER_CURSOR,
    WEBHOOK_ID,
    limit_of,
    number_of,
    refuse_unknown,
    text_of,
)
from seckill.shop.tokens import Scope
from seckill.webhooks import endpoints, replays
from seckill.webhooks.replays import ListedDelivery

#: Deliveries of a page for who does not say, and the most.
PAGE, PAGE_MAX = 50, 500
_FILTERS = [DELIVERY_STATE, LIMIT, NUMBER_CURSOR]


class DeliveryView(msgspec.Struct):
    """One event for one endpoint; `last_…` is about the last attempt.

    `message_id` is the header webhook-id. `dead`: it was given up after three days.
    """

    delivery_id: int
    webhook_id: int
    message_id: str
    event: str
    state: Literal["pending", "delivered", "dead"]
    attempts: int
    queued_at: Moment
    next_attempt_at: Moment | None
    last_at: Moment | None
    last_status: int | None
    last_words: str | None


class DeliveryList(msgspec.Struct):
    """A page of deliveries, newest first. `next` is the next page's cursor."""

    deliveries: Sequence[DeliveryView]
    next: str | None


class DeadReplay(msgspec.Struct, forbid_unknown_fields=True):
    """Which dead deliveries: those of events since a time; without it all."""

    since: Moment | None = None


class ReplayedDeliveries(msgspec.Struct):
    """How many deliveries wait to be sent again."""

    replayed: int


_AT = datetime(2026, 11, 27, 12, tzinfo=UTC)
_DELIVERY = DeliveryView(
    17,
    7,
    "msg_5f0c7d6c1f0a4f3a9a3f0f4b6f1d2c3e",
    "order.paid",
    "delivered",
    1,
    _AT,
    None,
    _AT,
    200,
    "thanks",
)
_dead_replay = msgspec.json.Decoder(DeadReplay)


@operation(
    "List the deliveries of a webhook, newest first",
    ResponseSpec(
        200,
        "A page. What was delivered is kept for 7 days, what is dead for 30.",
        DeliveryList([_DELIVERY], None),
    ),
    tag="webhooks",
    parameters=[WEBHOOK_ID, *_FILTERS],
    identities=[shop_token(Scope.WEBHOOKS_READ)],
    problems=[Problem.RATE_LIMITED],
)
async def list_webhook_deliveries(request: web.Request) -> web.Response:
    """Answer with a page of an endpoint's deliveries."""
    refuse_unknown(request, *_FILTERS)
    endpoint_id, db = number_of(request, WEBHOOK_ID), request.app[DB]
    limit, before = limit_of(request, default=PAGE, most=PAGE_MAX), text_of(request, NUMBER_CURSOR)
    await endpoints.find(db, endpoint_id)
    found = await replays.newest(
        db,
        endpoint_id=endpoint_id,
        state=text_of(request, DELIVERY_STATE),
        limit=limit + 1,
        before=int(before) if before else None,
    )
    shown = found[:limit]
    more = str(shown[-1].delivery_id) if found[limit:] else None
    return json_response(DeliveryList([_view(each) for each in shown], more))


@operation(
    "Send a delivery again, whatever became of it",
    ResponseSpec(200, "It waits, and is sent at once.", ReplayedDeliveries(1)),
    tag="webhooks",
    parameters=[WEBHOOK_ID, DELIVERY_ID, IDEMPOTENCY_KEY],
    identities=[shop_token(Scope.WEBHOOKS_WRITE)],
    problems=[Problem.BAD_REQUEST, Problem.RATE_LIMITED],
)
async def replay_webhook_delivery(request: web.Request) -> web.Response:
    """Send one again, once for each key, with the same webhook-id and body as before."""
    endpoint_id, delivery_id = number_of(request, WEBHOOK_ID), number_of(request, DELIVERY_ID)
    actor = request[CALLER].actor

    async def change(connection: asyncpg.Connection) -> bytes:
        count = await replays.replay(
            connection, [delivery_id], actor=actor, endpoint_id=endpoint_id
        )
        return msgspec.json.encode(ReplayedDeliveries(count))

    return await change_once(request, b"", change)


@operation(
    "Send all dead deliveries of a webhook again",
    ResponseSpec(200, "So many wait, and are sent at once.", ReplayedDeliveries(12)),
    tag="webhooks",
    parameters=[WEBHOOK_ID, IDEMPOTENCY_KEY],
    identities=[shop_token(Scope.WEBHOOKS_WRITE)],
    body=json_body(DeadReplay(_AT)),
    problems=[Problem.RATE_LIMITED],
)
async def replay_dead_deliveries(request: web.Request) -> web.Response:
    """Send again what is dead, once for each key."""
    endpoint_id = number_of(request, WEBHOOK_ID)
    actor, body = request[CALLER].actor, await read_body(request)
    since = parse_json(body, _dead_replay).since

    async def change(connection: asyncpg.Connection) -> bytes:
        await endpoints.find(connection, endpoint_id)
        count = await replays.replay_dead(connection, endpoint_id, since, actor=actor)
        return msgspec.json.encode(ReplayedDeliveries(count))

    return await change_once(request, body, change)


def _view(delivery: ListedDelivery) -> DeliveryView:
    is_pending = delivery.state == "pending"
    return msgspec.convert(
        {
            "delivery_id": delivery.delivery_id,
            "webhook_id": delivery.endpoint_id,
            "message_id": delivery.message_id,
            "event": delivery.topic,
            "state": delivery.state,
            "attempts": delivery.attempts,
            "queued_at": delivery.queued_at,
            "next_attempt_at": delivery.next_attempt_at if is_pending else None,
            "last_at": delivery.last_at,
            "last_status": delivery.last_status,
            "last_words": delivery.last_words,
        },
        DeliveryView,
    )
