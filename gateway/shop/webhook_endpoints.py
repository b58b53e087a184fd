"""`/shop/v1/webhooks`: where the shop is sent its events, as its programs set that up.

They call what `seckill webhook` calls. A secret is only in the answer that made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import asyncpg
import msgspec
from aiohttp import web

from gateway.app_keys import DB, SETTINGS
from gateway.http.contract import ResponseSpec, operation
from gateway.http.problems import Problem, Refused
from gateway.http.requests import json_body, parse_json, read_body, read_json
from gateway.http.responses import Moment, json_response
from gateway.http.shop_auth import shop_token
from gateway.sales.changes import Reason
from gateway.shop.calls import CALLER
from gateway.shop.idempotency import IDEMPOTENCY_KEY, change_once
from gateway.shop.parameters import (
    DROP,
    LIMIT,
    NUMBER_CURSOR,
    WEBHOOK_ID,
    limit_of,
    number_of,
    refuse_unknown,
    text_of,
)
from seckill.errors import UserMistake
from seckill.shop.tokens import Scope
from seckill.webhooks import endpoints
from seckill.webhooks.addresses import check_url
from seckill.webhooks.endpoints import OLD_SECRET_HOURS, WaitingDeliveries, WebhookEndpoint

#: Endpoints of a page for who does not say, and the most.
PAGE, PAGE_MAX = 50, 100
#: So long an old secret may go on signing.
KEEP_MAX_S = 30 * 86_400
_READ = [shop_token(Scope.WEBHOOKS_READ)]
_WRITE = [shop_token(Scope.WEBHOOKS_WRITE)]
_LIMITED = [Problem.RATE_LIMITED]

#: Names of events, or families of them; which there are is checked where they are kept.
Events = Annotated[list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(max_length=50)]
Url = Annotated[str, msgspec.Meta(min_length=1)]


class WebhookView(msgspec.Struct):
    """An endpoint, and what waits for it. Without `events` it is sent all of them.

    `failing`: the last attempt failed, and others follow. `paused`: nothing is sent, events wait.
    """

    webhook_id: int
    url: str
    events: Sequence[str]
    state: Literal["active", "failing", "paused"]
    paused_because: str | None
    failing_since: Moment | None
    created_at: Moment
    pending: int
    dead: int
    oldest_pending: Moment | None


class WebhookSecret(msgspec.Struct):
    """An endpoint with the secret that was made for it, which no other call shows."""

    webhook: WebhookView
    secret: str


class WebhookList(msgspec.Struct):
    """A page of endpoints, newest first. `next` is the next page's cursor."""

    webhooks: Sequence[WebhookView]
    next: str | None


class NewWebhook(msgspec.Struct, forbid_unknown_fields=True):
    """An endpoint to be added: its address, and the events that it wants; without them all."""

    url: Url
    events: Events = []


class WebhookChange(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is to be changed; an empty list of `events` is all of them."""

    url: Url | msgspec.UnsetType = msgspec.UNSET
    events: Events | msgspec.UnsetType = msgspec.UNSET


class WebhookPause(msgspec.Struct, forbid_unknown_fields=True):
    """Why nothing is to be sent."""

    reason: Reason


class NewSecret(msgspec.Struct, forbid_unknown_fields=True):
    """For how long the secret before it signs, too. 0: it leaked."""

    keep_old_s: Annotated[int, msgspec.Meta(ge=0, le=KEEP_MAX_S)] = int(OLD_SECRET_HOURS * 3600)


class RemovedWebhook(msgspec.Struct):
    """How many deliveries went with the endpoint that were never made."""

    dropped: int


_WEBHOOK = WebhookView(
    7,
    "https://shop.example/seckill-events",
    ["order.paid", "sale.*"],
    "active",
    None,
    None,
    datetime(2026, 11, 27, 12, tzinfo=UTC),
    0,
    0,
    None,
)
_SECRET = WebhookSecret(_WEBHOOK, "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
_new = msgspec.json.Decoder(NewWebhook)
_change = msgspec.json.Decoder(WebhookChange)
_pause = msgspec.json.Decoder(WebhookPause)
_new_secret = msgspec.json.Decoder(NewSecret)


@operation(
    "List webhooks, newest first",
    ResponseSpec(200, "A page.", WebhookList([_WEBHOOK], None)),
    tag="webhooks",
    parameters=[LIMIT, NUMBER_CURSOR],
    identities=_READ,
    problems=_LIMITED,
)
async def list_webhooks(request: web.Request) -> web.Response:
    """Answer with a page of endpoints."""
    refuse_unknown(request, LIMIT, NUMBER_CURSOR)
    limit, db = limit_of(request, default=PAGE, most=PAGE_MAX), request.app[DB]
    before = text_of(request, NUMBER_CURSOR)
    # There are ENDPOINTS_MAX at the most, so all of them are read.
    found = [
        each
        for each in reversed(await endpoints.all_(db))
        if before is None or each.endpoint_id < int(before)
    ]
    waiting, shown = await endpoints.waiting(db), found[:limit]
    page = [_view(each, waiting.get(each.endpoint_id)) for each in shown]
    return json_response(WebhookList(page, str(shown[-1].endpoint_id) if found[limit:] else None))


@operation(
    "Add a webhook",
    ResponseSpec(200, "It is added. Keep the secret: no other call shows it.", _SECRET),
    tag="webhooks",
    parameters=[IDEMPOTENCY_KEY],
    identities=_WRITE,
    body=json_body(NewWebhook(_WEBHOOK.url, list(_WEBHOOK.events))),
    problems=[Problem.CONFLICT, Problem.RATE_LIMITED, Problem.UNAVAILABLE],
)
async def add_webhook(request: web.Request) -> web.Response:
    """Add an endpoint once for each key, with a secret of its own."""
    actor, body = request[CALLER].actor, await read_body(request)
    wanted = parse_json(body, _new)
    url = _checked_url(request, wanted.url)

    async def change(connection: asyncpg.Connection) -> bytes:
        made = await endpoints.add(connection, url, wanted.events, actor=actor)
        return msgspec.json.encode(WebhookSecret(_view(made), made.secret))

    return await change_once(request, body, change)


@operation(
    "Show a webhook",
    ResponseSpec(200, "The webhook.", _WEBHOOK),
    tag="webhooks",
    parameters=[WEBHOOK_ID],
    identities=_READ,
    problems=_LIMITED,
)
async def show_webhook(request: web.Request) -> web.Response:
    """Answer with one endpoint."""
    endpoint = await endpoints.find(request.app[DB], number_of(request, WEBHOOK_ID))
    return await _shown(request, endpoint)


@operation(
    "Change the address or the events of a webhook",
    ResponseSpec(200, "The webhook; what waits goes to the new address.", _WEBHOOK),
    tag="webhooks",
    parameters=[WEBHOOK_ID],
    identities=_WRITE,
    body=json_body(WebhookChange(url=_WEBHOOK.url)),
    problems=_LIMITED,
)
async def change_webhook(request: web.Request) -> web.Response:
    """Change what is named, and leave the rest."""
    endpoint_id = number_of(request, WEBHOOK_ID)
    wanted = await read_json(request, _change)
    if wanted.url is msgspec.UNSET and wanted.events is msgspec.UNSET:
        raise Refused(Problem.BAD_REQUEST, "give url, events, or both")
    changed = await endpoints.change(
        request.app[DB],
        endpoint_id,
        actor=request[CALLER].actor,
        url=None if wanted.url is msgspec.UNSET else _checked_url(request, wanted.url),
        topics=None if wanted.events is msgspec.UNSET else wanted.events,
    )
    return await _shown(request, changed)


@operation(
    "Pause a webhook: nothing is sent until it is resumed",
    ResponseSpec(
        200,
        "The webhook, paused; a second time changes nothing. Its events wait for three days.",
        msgspec.structs.replace(_WEBHOOK, state="paused", paused_because="the shop moves"),
    ),
    tag="webhooks",
    parameters=[WEBHOOK_ID],
    identities=_WRITE,
    body=json_body(WebhookPause("the shop moves")),
    problems=_LIMITED,
)
async def pause_webhook(request: web.Request) -> web.Response:
    """Let the events of an endpoint wait."""
    endpoint_id = number_of(request, WEBHOOK_ID)
    reason = (await read_json(request, _pause)).reason
    return await _switch(request, endpoint_id, on=False, reason=reason)


@operation(
    "Resume a paused webhook, beginning with what waits for it",
    ResponseSpec(200, "The webhook, active; a second time changes nothing.", _WEBHOOK),
    tag="webhooks",
    parameters=[WEBHOOK_ID],
    identities=_WRITE,
    problems=_LIMITED,
)
async def resume_webhook(request: web.Request) -> web.Response:
    """Send to an endpoint again."""
    return await _switch(request, number_of(request, WEBHOOK_ID), on=True, reason="")


@operation(
    "Make a new secret for a webhook",
    ResponseSpec(200, "The new secret, which no other call shows; for a while both sign.", _SECRET),
    tag="webhooks",
    parameters=[WEBHOOK_ID, IDEMPOTENCY_KEY],
    identities=_WRITE,
    body=json_body(NewSecret()),
    problems=_LIMITED,
)
async def rotate_webhook_secret(request: web.Request) -> web.Response:
    """Roll the secret once for each key."""
    endpoint_id = number_of(request, WEBHOOK_ID)
    actor, body = request[CALLER].actor, await read_body(request)
    keep = timedelta(seconds=parse_json(body, _new_secret).keep_old_s)

    async def change(connection: asyncpg.Connection) -> bytes:
        made = await endpoints.rotate(connection, endpoint_id, keep_old=keep, actor=actor)
        waiting = await endpoints.waiting(connection, endpoint_id)
        view = _view(made, waiting.get(endpoint_id))
        return msgspec.json.encode(WebhookSecret(view, made.secret))

    return await change_once(request, body, change)


@operation(
    "Remove a webhook",
    ResponseSpec(200, "It is removed: nothing is sent to it any more.", RemovedWebhook(0)),
    tag="webhooks",
    parameters=[WEBHOOK_ID, DROP],
    identities=_WRITE,
    problems=[Problem.CONFLICT, Problem.RATE_LIMITED],
)
async def remove_webhook(request: web.Request) -> web.Response:
    """Remove an endpoint; with deliveries that were not made only if that is asked for."""
    refuse_unknown(request, DROP)
    dropped = await endpoints.remove(
        request.app[DB],
        number_of(request, WEBHOOK_ID),
        drop=text_of(request, DROP) == "true",
        actor=request[CALLER].actor,
    )
    return json_response(RemovedWebhook(dropped))


async def _switch(request: web.Request, endpoint_id: int, *, on: bool, reason: str) -> web.Response:
    actor = request[CALLER].actor
    switched = await endpoints.switch(
        request.app[DB], endpoint_id, on=on, actor=actor, reason=reason
    )
    return await _shown(request, switched)


def _checked_url(request: web.Request, url: str) -> str:
    try:
        return check_url(url, private_allowed=request.app[SETTINGS].webhook_private)
    except UserMistake as error:
        raise Refused(Problem.BAD_REQUEST, str(error), field="url") from error


async def _shown(request: web.Request, endpoint: WebhookEndpoint) -> web.Response:
    waiting = await endpoints.waiting(request.app[DB], endpoint.endpoint_id)
    return json_response(_view(endpoint, waiting.get(endpoint.endpoint_id)))


def _view(endpoint: WebhookEndpoint, left: WaitingDeliveries | None = None) -> WebhookView:
    left = left or WaitingDeliveries()
    failing = "failing" if endpoint.failing_since else "active"
    return msgspec.convert(
        {
            "webhook_id": endpoint.endpoint_id,
            "url": endpoint.url,
            "events": endpoint.topics,
            "state": failing if endpoint.enabled else "paused",
            "paused_because": endpoint.disabled_because,
            "failing_since": endpoint.failing_since,
            "created_at": endpoint.created_at,
            "pending": left.pending,
            "dead": left.dead,
            "oldest_pending": left.oldest_pending,
        },
        WebhookView,
    )
