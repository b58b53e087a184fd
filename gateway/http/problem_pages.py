"""`GET /problems/{code}`: what the `type` of each problem leads to, a page that says what to do.

The address begins with a slash, so it is on the server that answered, whatever that is called.
"""

from __future__ import annotations

import re
from html import escape

from aiohttp import web

from gateway.http.contract import Parameter, ResponseSpec, operation
from gateway.http.problems import Problem, Refused
from gateway.http.responses import COMMON

_STORES = "A store does not do its work; `detail` may say which."
_AGAIN = "Send the same request again: that is always safe."
_ENDED = "Nothing more can be done with this order. The buyer may grab again."
_WAIT = "Come back after `Retry-After` seconds."
_BODY = "Send JSON of at most 4 KiB as application/json, not compressed."
_TOKEN = "Send `Authorization: Bearer …`."  # noqa: S105 - no token
#: What somebody does who gets a problem.
ADVICE: dict[Problem, str] = {
    Problem.BAD_REQUEST: "`field` names the value and `detail` says what it has to be.",
    Problem.MALFORMED: f"The request is no HTTP, or its body no JSON. {_BODY}",
    Problem.BAD_TICKET: "Ask for a ticket for this sale (POST /v1/sales/{sale_id}/tickets) and "
    "send it in the header Seckill-Ticket.",
    Problem.UNAUTHORIZED: f"{_TOKEN} It is the login token that the shop has issued.",
    Problem.BAD_SHOP_TOKEN: f"{_TOKEN} An operator makes one: seckill shop-token create.",
    Problem.SHOP_TOKEN_EXPIRED: "`detail` says since when. An operator makes another one: "
    "seckill shop-token create.",
    Problem.MISSING_SCOPE: "`detail` names the scope. An operator makes another token that has it.",
    Problem.BAD_ADMIN_TOKEN: f"{_TOKEN} It is that of SECKILL_ADMIN_TOKEN.",
    Problem.ADMIN_OFF: "Set SECKILL_ADMIN_TOKEN and start the gateway again.",
    Problem.READ_ONLY: "Use the token that may change something.",
    Problem.NOT_SIGNED_IN: "Open /console and sign in.",
    Problem.BAD_CSRF_TOKEN: "Load the page of the console again.",
    Problem.NO_POOL: f"The pool manager of this gateway's home does not answer. {_WAIT}",
    Problem.INSUFFICIENT_FUNDS: "Put money into the wallet, or pay in another way.",
    Problem.DECLINED: "Pay with another card, or in another way.",
    Problem.BAD_SIGNATURE: "Sign the body as docs/http-api.md says, with a clock that is right.",
    Problem.COUPON_REFUSED: "Pay without the coupon, or with another one.",
    Problem.NOT_OPEN: "The sale's `opens_at` says when it opens.",
    Problem.TOO_EARLY: "Ask for the ticket later: minutes before the sale opens.",
    Problem.PROOF_NEEDED: "Ask for a challenge and send its solution with the request.",
    Problem.BAD_PROOF: "Ask for a new challenge: this solution is wrong, or of another buyer.",
    Problem.NOT_FOUND: "Look at the path and the id. Buyers see their own orders alone.",
    Problem.METHOD_NOT_ALLOWED: "`Allow` has the methods of this path.",
    Problem.TOO_SLOW: f"The body took too long to arrive. {_AGAIN}",
    Problem.SOLD_OUT: "Unpaid orders expire, and their units are for sale again.",
    Problem.TOO_FEW_LEFT: "Ask for no more units than `detail` says.",
    Problem.PROOF_USED: "Ask for a new challenge.",
    Problem.CONFLICT: "`detail` says which state it is in, and what would help.",
    Problem.PAYMENT_IN_PROGRESS: "Read the order until it is no longer paying.",
    Problem.QUEUED: f"The order has no row yet. {_WAIT}",
    Problem.NO_CARDS: "Pay in another way.",
    Problem.WRONG_CURRENCY: "Pay in another way: wallets have one currency, the shop's.",
    Problem.REFUND_DUE: "Send the money back, and report that it is gone: POST …/refunded.",
    Problem.SENT_BACK: "Nothing is left to be done: the money went back before.",
    Problem.REFERENCE_USED: "Each payment has a reference of its own. Look which one this is.",
    Problem.NOT_DUE: "The payment paid its order. To give it back, refund the order.",
    Problem.NOT_PAYABLE: _ENDED,
    Problem.CANCELLED_TOO_OFTEN: "The order ends by itself when its time to pay is over.",
    Problem.NOT_CANCELLABLE: "The shop can refund it.",
    Problem.CLOSED: "No more orders are taken. Orders that are open may still be paid.",
    Problem.EXPIRED: _ENDED,
    Problem.TOO_LARGE: _BODY,
    Problem.IDEMPOTENCY_KEY_NEEDED: "Send an Idempotency-Key: one for each thing to be done, and "
    "the same one when the request is sent again.",
    Problem.IDEMPOTENCY_KEY_REUSED: "The request differs from the first one with this key. Make a "
    "new key for what is not a repeat.",
    Problem.UNSUPPORTED_MEDIA_TYPE: _BODY,
    Problem.RATE_LIMITED: f"{_WAIT} Coming earlier gains nothing.",
    Problem.HTTP_VERSION: "Speak HTTP/1.1.",
    Problem.INTERNAL: f"Tell the operator the Request-Id of this answer. {_AGAIN}",
    Problem.OVERLOADED: f"Nothing was done. {_WAIT}",
    Problem.NOT_READY: "`detail` says what is wrong with the stores; an operator has to act.",
    Problem.PAUSED: f"An operator has paused the sale. {_WAIT}",
    Problem.UNAVAILABLE: f"{_STORES} {_AGAIN}",
}
CODE = Parameter(
    "code",
    "The `code` of a problem.",
    re.compile(r"[a-z_]{1,64}\Z"),
    "sold_out",
    (Problem.NOT_FOUND,),
)
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{code}</title>
<meta name="viewport" content="width=device-width">
<h1>{title}</h1>
<p>Code <code>{code}</code>, status {status}.</p>
<p>{advice}</p>
</html>
"""
_HEADERS = {**COMMON, "Cache-Control": "public, max-age=3600"}


@operation(
    "Read about a kind of problem",
    ResponseSpec(
        200,
        "A page: what it means, and what to do.",
        "",
        content_type="text/html",
        headers=["Cache-Control"],
    ),
    tag="docs",
    parameters=[CODE],
)
async def show_problem(request: web.Request) -> web.Response:
    """Answer with the page of a problem."""
    page = PAGES.get(request.match_info["code"])
    if page is None:
        raise Refused(Problem.NOT_FOUND, "there is no problem of this code")
    return web.Response(body=page, content_type="text/html", charset="utf-8", headers=_HEADERS)


def _page_of(problem: Problem) -> bytes:
    kind = problem.value
    advice = re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(ADVICE.get(problem, "")))
    text = _PAGE.format(
        code=problem.code, title=escape(kind.title), status=kind.status, advice=advice
    )
    return text.encode()


#: By code, written once at start.
PAGES = {problem.code: _page_of(problem) for problem in Problem}
#: The route, on every port: answers of each lead to it.
ROUTE = ("GET", "/problems/{code}", show_problem)
