"""`POST /v1/webhooks/payments`: the card provider reports that a charge has changed.

The report is a hint: the provider is asked at once, and what it answers counts. So a webhook that
comes twice, late, or out of order changes nothing, and none can claim a payment. The signature
keeps strangers from causing such calls.
"""

from __future__ import annotations

import logging
import time

from aiohttp import web

from gateway.app_keys import CARD_PAYMENTS
from gateway.http.contract import Identity, ResponseSpec, operation
from gateway.http.problems import Problem, Refused
from gateway.http.requests import json_body, read_body
from gateway.http.responses import COMMON
from gateway.overload.aiohttp_protocol import in_flight
from seckill import metrics
from seckill.auth.webhook_signatures import SIGNATURE
from seckill.payments.provider import BadSignature, BadWebhook, WebhookReader
from seckill.payments.sandbox_client import PaymentEvent

log = logging.getLogger(__name__)

#: Reads the webhooks of the provider that the shop has.
READER: web.AppKey[WebhookReader] = web.AppKey("webhook_reader")
#: Stripe sends a whole object with what happened to it: some kilobytes, and more with metadata.
BODY_MAX = 64 * 1024

_SIGNED = Identity(
    "signature",
    {
        "type": "apiKey",
        "in": "header",
        "name": SIGNATURE,
        "description": "`t=<Unix seconds>,v1=<HMAC-SHA256 of t, a full stop and the body, in hex>`,"
        " at most five minutes old. Stripe's come with `Stripe-Signature` of the same form, and "
        "with a body of Stripe's own.",
    },
    (Problem.BAD_SIGNATURE,),
)


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
    body = await read_body(request, BODY_MAX)
    try:
        key = request.app[READER](request.headers, body, now_s=time.time())
    except BadSignature as error:
        metrics.WEBHOOKS.labels("refused").inc()
        raise Refused(Problem.BAD_SIGNATURE) from error
    except BadWebhook as error:
        raise Refused(Problem.BAD_REQUEST, str(error)) from error
    with in_flight(request):
        known = key is not None and await request.app[CARD_PAYMENTS].ask_now(key)
    metrics.WEBHOOKS.labels("taken" if known else "unknown_key").inc()
    if not known:  # it is signed: an operator should see where it comes from
        log.warning("webhook for a charge that is not ours: %s", key)
    return web.Response(status=204, headers=COMMON)
