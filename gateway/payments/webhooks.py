"""`POST /v1/webhooks/payments`: the card provider reports that a charge has changed.

The report is a hint: the provider is asked at once, and what it answers counts. So a webhook that
comes twice, late, or out of order changes nothing, and none can claim a payment. The signature
keeps strangers from causing such calls.
"""

from __future__ import annotations

import logging
import time
from typing import Annotated

import msgspec
from aiohttp import web

from gateway.app_keys import CARD_PAYMENTS
from gateway.http.contract import Identity, ResponseSpec, operation
from gateway.http.problems import Problem, Refused
from gateway.http.requests import json_body, parse_json, read_body
from gateway.http.responses import COMMON
from gateway.overload.aiohttp_protocol import in_flight
from seckill import metrics
from seckill.auth.key_ring import KeyRing
from seckill.auth.tickets import ID
from seckill.auth.webhook_signatures import SIGNATURE, is_signed

log = logging.getLogger(__name__)

#: What webhooks are signed with; without it none is taken.
KEYS = web.AppKey("webhook_keys", KeyRing)

_SIGNED = Identity(
    "signature",
    {
        "type": "apiKey",
        "in": "header",
        "name": SIGNATURE,
        "description": "`t=<Unix seconds>,v1=<HMAC-SHA256 of t, a full stop and the body, in hex>`,"
        " at most five minutes old.",
    },
    (Problem.BAD_SIGNATURE,),
)


class PaymentEvent(msgspec.Struct):
    """What happened to a charge; other members are ignored."""

    #: Our idempotency key.
    key: Annotated[str, msgspec.Meta(pattern=f"^{ID.pattern}")]
    status: str


_decoder = msgspec.json.Decoder(PaymentEvent)


@operation(
    "Tell what became of a charge",
    ResponseSpec(204, "Taken, whether it was known before or not.", None),
    tag="webhooks",
    identities=[_SIGNED],
    body=json_body(PaymentEvent("pay-019aab2f4c00-5d3c1f0a2b7e9d41", "authorised")),
    problems=[Problem.UNAVAILABLE],
)
async def take_payment_event(request: web.Request) -> web.Response:
    """Have the provider asked about the charge; accept and log a key that is not ours."""
    body = await read_body(request)
    keys = request.app.get(KEYS)
    signature = request.headers.get(SIGNATURE, "")
    if keys is None or not is_signed(keys, signature, body, now_s=time.time()):
        metrics.WEBHOOKS.labels("refused").inc()
        raise Refused(Problem.BAD_SIGNATURE)
    event = parse_json(body, _decoder)
    with in_flight(request):
        known = await request.app[CARD_PAYMENTS].ask_now(event.key)
    metrics.WEBHOOKS.labels("taken" if known else "unknown_key").inc()
    if not known:  # it is signed: an operator should see where it comes from
        log.warning("webhook for a charge that is not ours: %s", event.key)
    return web.Response(status=204, headers=COMMON)
