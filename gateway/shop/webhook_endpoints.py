"""`/shop/v1/webhooks`: where the shop is sent its events, as its programs set that up.

They call what `seckill webhook` calls. A secret is only in the answer that made it.
"""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import msgspec
from aiohttp import web

from gateway.app_keys import DB, SETTINGS
from gateway.http.contract import ResponseSpec, operation
from gateway.http.problems import Problem, Refused
from gateway.http.requests import json_body, parse_json, read_body, read_json
from gateway.http.responses import json_response
from gateway.http.shop_auth import shop_token
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
from gateway.shop.webhook_bodies import (
    SECRET,
    WEBHOOK,
    NewSecret,
    NewWebhook,
    RemovedWebhook,
    WebhookChange,
    WebhookList,
    WebhookPause,
    WebhookSecret,
    view_of,
)
from seckill.errors import UserMistake
from seckill.shop.tokens import Scope
from seckill.webhooks import endpoints
from seckill.webhooks.addresses import check_url
from seckill.webhooks.endpoints import WebhookEndpoint

#: Endpoints of a page for who does not say, and the most.
PAGE, PAGE_MAX = 50, 100
_READ = [shop_token(Scope.WEBHOOKS_READ)]
_WRITE = [shop_token(Scope.WEBHOOKS_WRITE)]
_LIMITED = [Problem.RATE_LIMITED]

_new = msgspec.json.Decoder(NewWebhook)
_change = msgspec.json.Decoder(WebhookChange)
_pause = msgspec.json.Decoder(WebhookPause)
_new_secret = msgspec.json.Decoder(NewSecret)


@operation(
    "List webhooks, newest first",
    ResponseSpec(200, "A page.", WebhookList([WEBHOOK], None)),
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
    page = [view_of(each, waiting.get(each.endpoint_id)) for each in shown]
    return json_response(WebhookList(page, str(shown[-1].endpoint_id) if found[limit:] else None))


@operation(
    "Add a webhook",
    ResponseSpec(200, "It is added. Keep the secret: no other call shows it.", SECRET),
    tag="webhooks",
    parameters=[IDEMPOTENCY_KEY],
    identities=_WRITE,
    body=json_body(NewWebhook(WEBHOOK.url, list(WEBHOOK.events))),
    problems=[Problem.CONFLICT, Problem.RATE_LIMITED, Problem.UNAVAILABLE],
)
async def add_webhook(request: web.Request) -> web.Response:
    """Add an endpoint once for each key, with a secret of its own."""
    actor, body = request[CALLER].actor, await read_body(request)
    wanted = parse_json(body, _new)
    url = _checked_url(request, wanted.url)

    async def change(connection: asyncpg.Connection) -> bytes:
        made = await endpoints.add(connection, url, wanted.events, actor=actor)
        return msgspec.json.encode(WebhookSecret(view_of(made), made.secret))

    return await change_once(request, body, change)


@operation(
    "Show a webhook",
    ResponseSpec(200, "The webhook.", WEBHOOK),
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
    ResponseSpec(200, "The webhook; what waits goes to the new address.", WEBHOOK),
    tag="webhooks",
    parameters=[WEBHOOK_ID],
    identities=_WRITE,
    body=json_body(WebhookChange(url=WEBHOOK.url)),
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
        msgspec.structs.replace(WEBHOOK, state="paused", paused_because="the shop moves"),
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
    ResponseSpec(200, "The webhook, active; a second time changes nothing.", WEBHOOK),
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
    ResponseSpec(200, "The new secret, which no other call shows; for a while both sign.", SECRET),
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
        view = view_of(made, waiting.get(endpoint_id))
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
    return json_response(view_of(endpoint, waiting.get(endpoint.endpoint_id)))
