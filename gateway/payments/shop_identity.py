"""How the shop's own server shows who it is: by a signature over what it sends, or by a token."""

from __future__ import annotations

import time

from aiohttp import web

from gateway.http.contract import Identity
from gateway.http.problems import Problem, Refused
from gateway.http.shop_auth import require_scope, shop_token
from seckill.auth.key_ring import KeyRing
from seckill.auth.webhook_signatures import SIGNATURE, is_signed
from seckill.shop.tokens import Scope

#: What the shop's server signs with; without it no signature is good.
SHOP_KEYS = web.AppKey("shop_keys", KeyRing)
#: Who the audit trail names for a signed call. No token's actor is this.
SIGNER = "shop (signed)"

_SIGNATURE = Identity(
    "shop_signature",
    {
        "type": "apiKey",
        "in": "header",
        "name": SIGNATURE,
        "description": "`t=<Unix seconds>,v1=<HMAC-SHA256 of t, a full stop and the body, in hex>`,"
        " at most five minutes old, with a key of `SECKILL_SHOP_KEYS`. A call without a body signs"
        " its method, a space and its path with the query in place of the body.",
    },
    (Problem.BAD_SIGNATURE,),
)
#: How a route declares that the shop's server calls it.
SHOP_SERVER = (_SIGNATURE, shop_token(Scope.MONEY))


async def shop_server_of(request: web.Request, body: bytes) -> str:
    """Return who the audit trail names for this call of the shop's server, or refuse."""
    if "Authorization" in request.headers:
        return (await require_scope(request, Scope.MONEY)).actor
    keys = request.app.get(SHOP_KEYS)
    signature = request.headers.get(SIGNATURE, "")
    # Without a body there would be nothing that ties a signature to its call.
    signed = body or f"{request.method} {request.raw_path}".encode(errors="surrogateescape")
    if keys is None or not is_signed(keys, signature, signed, now_s=time.time()):
        raise Refused(Problem.BAD_SIGNATURE)
    return SIGNER
