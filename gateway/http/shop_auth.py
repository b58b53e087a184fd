"""Which of the shop's own programs sends a request, and whether it may: a bearer token.

@operation(…, identities=[shop_token(Scope.MONEY)])
async def refund_order(request: web.Request) -> web.Response:
    caller = await require_scope(request, Scope.MONEY)
"""

from __future__ import annotations

from aiohttp import web

from gateway.http.contract import Identity
from gateway.http.problems import Problem, Refused
from seckill.shop.tokens import PREFIX, Scope, ShopToken, ShopTokens

SHOP_TOKENS = web.AppKey("shop_tokens", ShopTokens)


def shop_token(scope: Scope) -> Identity:
    """Declare that a route takes tokens of the shop's programs that have this scope."""
    return Identity(
        "shop_token",
        {
            "type": "http",
            "scheme": "bearer",
            "description": f"A token of the shop's own program, `{PREFIX}…`, from "
            "`seckill shop-token create`.",
        },
        (
            Problem.BAD_SHOP_TOKEN,
            Problem.SHOP_TOKEN_EXPIRED,
            Problem.MISSING_SCOPE,
            Problem.UNAVAILABLE,
        ),
        (scope,),
    )


async def require_scope(request: web.Request, scope: Scope) -> ShopToken:
    """Return whose token the request carries, or refuse.

    While PostgreSQL does not answer no token can be judged, and the answer is 503, never 401: a
    program must not take its token for revoked.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    found = None
    if scheme.lower() == "bearer":
        found = await request.app[SHOP_TOKENS].find(token.strip())
    if found is None:
        raise Refused(Problem.BAD_SHOP_TOKEN)
    if found.is_over:
        said = f"token {found.name} ended at {found.expires_at:%Y-%m-%dT%H:%M:%SZ}"
        raise Refused(Problem.SHOP_TOKEN_EXPIRED, said)
    if scope not in found.scopes:
        raise Refused(Problem.MISSING_SCOPE, f"token {found.name} lacks the scope {scope}")
    return found
