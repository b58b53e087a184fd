"""Every error answer: one table of problems (RFC 9457), and routes that answer with them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import wraps
from http import HTTPStatus

import asyncpg
import msgspec
from aiohttp import HttpVersion11, web

from gateway.http.request_ids import begin_request, name_answer
from gateway.http.responses import COMMON
from seckill.adapters.failures import store_failure
from seckill.errors import Conflict
from seckill.outages import OUTAGES, summary_of

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CONTENT_TYPE = "application/problem+json"
#: PostgreSQL keeps no zero byte in a text, and a client may send one in a path or in JSON.
NOT_TEXT = (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError)


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """A kind of problem: what is always the same about it."""

    status: int
    title: str
    #: Seconds a client should wait before the same request may succeed.
    retry_after_s: int | None = None
    #: Value of WWW-Authenticate, which a 401 owes where HTTP has a scheme for it.
    challenge: str = ""


class Problem(Enum):
    """The problems by their stable `code`, which is the lower-case name."""

    BAD_REQUEST = ProblemKind(422, "The request has a value that cannot be used")
    MALFORMED = ProblemKind(400, "The request is not well-formed")
    BAD_TICKET = ProblemKind(401, "The ticket is missing, has expired or is not for this sale")
    UNAUTHORIZED = ProblemKind(
        401, "A login token (or, to read, a ticket) is needed", challenge="Bearer"
    )
    BAD_ADMIN_TOKEN = ProblemKind(401, "The admin token is missing or wrong", challenge="Bearer")
    BAD_SHOP_TOKEN = ProblemKind(
        401, "The token of the shop's program is missing, wrong or revoked", challenge="Bearer"
    )
    SHOP_TOKEN_EXPIRED = ProblemKind(
        401, "The token of the shop's program has ended", challenge="Bearer"
    )
    MISSING_SCOPE = ProblemKind(403, "The token lacks the scope that this call needs")
    ADMIN_OFF = ProblemKind(403, "The admin API is turned off")
    READ_ONLY = ProblemKind(403, "This token may look, and change nothing")
    NOT_SIGNED_IN = ProblemKind(401, "Sign in to the console first")
    BAD_CSRF_TOKEN = ProblemKind(403, "The change does not come from a page of the console")
    NO_POOL = ProblemKind(503, "The pool manager cannot be reached from this gateway", 5)
    INSUFFICIENT_FUNDS = ProblemKind(402, "There is too little money in the wallet")
    DECLINED = ProblemKind(402, "The card was declined")
    BAD_SIGNATURE = ProblemKind(401, "The signature is missing, wrong or too old")
    COUPON_REFUSED = ProblemKind(402, "The coupon is not good for this payment")
    NOT_OPEN = ProblemKind(403, "The sale is not open yet")
    TOO_EARLY = ProblemKind(403, "Tickets for this sale are not handed out yet")
    PROOF_NEEDED = ProblemKind(403, "Tickets for this sale need a proof of work")
    BAD_PROOF = ProblemKind(403, "The proof of work is not good for this ticket")
    NOT_FOUND = ProblemKind(404, "There is no such thing")
    METHOD_NOT_ALLOWED = ProblemKind(405, "This method is not allowed here")
    TOO_SLOW = ProblemKind(408, "The request took too long to arrive")
    SOLD_OUT = ProblemKind(409, "The sale is sold out")
    TOO_FEW_LEFT = ProblemKind(409, "Fewer units are left than the grab asks for")
    PROOF_USED = ProblemKind(409, "This proof of work has been used already")
    CONFLICT = ProblemKind(409, "The present state does not allow this")
    PAYMENT_IN_PROGRESS = ProblemKind(409, "The order is being paid")
    QUEUED = ProblemKind(409, "The order is still being placed", 1)
    WRONG_CURRENCY = ProblemKind(409, "Wallets and coupons are in another currency")
    NO_CARDS = ProblemKind(409, "This shop takes no cards")
    NOT_PAYABLE = ProblemKind(409, "The order has ended and can no longer be paid")
    REFUND_DUE = ProblemKind(409, "The money cannot pay the order: send it back")
    SENT_BACK = ProblemKind(409, "The money did not pay the order, and has gone back")
    REFERENCE_USED = ProblemKind(409, "Another payment was reported under this reference")
    NOT_DUE = ProblemKind(409, "The money of this payment is not to be sent back")
    CANCELLED_TOO_OFTEN = ProblemKind(
        409, "The buyer has cancelled as many orders of this sale as it allows"
    )
    NOT_CANCELLABLE = ProblemKind(409, "The order is paid and can no longer be cancelled")
    CLOSED = ProblemKind(410, "The sale is closed")
    EXPIRED = ProblemKind(410, "The time to pay has passed")
    TOO_LARGE = ProblemKind(413, "The request body is too large")
    IDEMPOTENCY_KEY_NEEDED = ProblemKind(400, "This call needs an Idempotency-Key of its own")
    IDEMPOTENCY_KEY_REUSED = ProblemKind(422, "This Idempotency-Key was used for another call")
    UNSUPPORTED_MEDIA_TYPE = ProblemKind(415, "The request body must be application/json")
    RATE_LIMITED = ProblemKind(
        429, "Too many requests; come back when told, and it is your turn", 1
    )
    HTTP_VERSION = ProblemKind(505, "The gateway speaks HTTP/1.1 and HTTP/1.0")
    INTERNAL = ProblemKind(500, "The gateway made a mistake")
    OVERLOADED = ProblemKind(503, "More requests are in hand than can be answered soon", 1)
    NOT_READY = ProblemKind(503, "The stores are set up so that something could be lost", 10)
    PAUSED = ProblemKind(503, "The sale is paused", 5)
    UNAVAILABLE = ProblemKind(503, "The outcome is not known; sending the request again is safe", 1)

    @property
    def code(self) -> str:
        """The stable code that clients compare."""
        return self.name.lower()


class Refused(Exception):
    """Answer this request with a problem; `close` where the next one's beginning is not known."""

    def __init__(
        self,
        problem: Problem,
        detail: str = "",
        *,
        field: str = "",
        close: bool = False,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail or problem.value.title)
        self.problem, self.detail, self.field, self.close = problem, detail, field, close
        self.headers, self.members = headers or {}, members or {}


def retry_after(moment_s: float) -> dict[str, str]:
    """Return the header that asks a client to come back at a moment (Unix seconds), at least 1 s.

    Rounded up: whoever came a fraction of a second early would come twice.
    """
    return {"Retry-After": str(max(1, math.ceil(moment_s - time.time())))}


def problem_body(
    problem: Problem,
    detail: str = "",
    field: str = "",
    members: Mapping[str, object] | None = None,
) -> bytes:
    """Build the JSON of a problem; `field` names the value at fault, `members` are its own."""
    kind = problem.value
    body: dict[str, object] = {
        "type": f"/problems/{problem.code}",
        "title": kind.title,
        "status": kind.status,
        "code": problem.code,
    }
    if detail:
        body["detail"] = detail
    if field:
        body["field"] = field
    return msgspec.json.encode({**body, **(members or {})})


def problem_headers(problem: Problem) -> dict[str, str]:
    """Build the headers that a problem needs, with those of every answer."""
    kind = problem.value
    headers = dict(COMMON)
    if kind.retry_after_s is not None:
        headers["Retry-After"] = str(kind.retry_after_s)
    if kind.challenge:
        headers["WWW-Authenticate"] = kind.challenge
    return headers


def raw_problem(problem: Problem, extra: Mapping[str, str] | None = None) -> bytes:
    """Build the whole answer for a problem as bytes, to be written where no request is parsed."""
    body, status = problem_body(problem), problem.value.status
    headers = {
        "Content-Type": CONTENT_TYPE,
        "Content-Length": str(len(body)),
        **problem_headers(problem),
        **(extra or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{head}\r\n".encode() + body


def problem_response(
    problem: Problem,
    detail: str = "",
    field: str = "",
    members: Mapping[str, object] | None = None,
) -> web.Response:
    """Build the answer for a problem."""
    return web.Response(
        status=problem.value.status,
        body=problem_body(problem, detail, field, members),
        content_type=CONTENT_TYPE,
        headers=problem_headers(problem),
    )


def answering_problems(handler: Handler) -> Handler:
    """Turn whatever a handler raises into a problem; only our own mistakes are logged.

    A decorator rather than a middleware, which would cost the hot path two more coroutines.
    """

    @wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        begin_request(request)
        try:
            return await handler(request)
        except Refused as refused:
            response = problem_response(
                refused.problem, refused.detail, refused.field, refused.members
            )
            response.headers.update(refused.headers)
            if refused.close:
                response.force_close()
            return response
        except Conflict:
            return problem_response(Problem.UNAVAILABLE)
        except NOT_TEXT:
            return problem_response(Problem.BAD_REQUEST, "a text has a zero byte in it")
        except Exception as error:
            if failure := store_failure(error):
                OUTAGES.failed(failure)
                return problem_response(Problem.UNAVAILABLE, summary_of(failure))
            # A mistake of ours: a traceback for us, an answer for the client.
            log.exception("%s %s failed", request.method, request.path)
            return problem_response(Problem.INTERNAL)

    return answer


def add_routes(
    app: web.Application,
    routes: Sequence[tuple[str, str, Handler]],
    preflight: Callable[[str], Handler] | None = None,
) -> None:
    """Add (method, path, handler) routes; other methods there are a 405, other paths a 404.

    `preflight` makes the handler of OPTIONS from a path's methods; without it, that is a 405 too.
    """
    by_path: dict[str, list[str]] = {}
    for method, path, handler in routes:
        # aiohttp leaves out the body of an answer to HEAD.
        for each in ("GET", "HEAD") if method == "GET" else (method,):
            app.router.add_route(each, path, answering_problems(handler), expect_handler=_expect)
            by_path.setdefault(path, []).append(each)
    for path, methods in by_path.items():
        if preflight:
            app.router.add_route("OPTIONS", path, preflight(", ".join(methods)))
            methods.append("OPTIONS")
        refuse = _refusing_method(", ".join(methods))
        app.router.add_route("*", path, refuse, expect_handler=_expect)
    app.router.add_route("*", "/{path:.*}", _not_found, expect_handler=_expect)
    app.on_response_prepare.extend((_as_problem, name_answer))


async def _as_problem(_: web.Request, response: web.StreamResponse) -> None:
    """Give a target that no route can match (`OPTIONS *`) the answer of one that none matches."""
    if isinstance(response, web.HTTPNotFound):
        response.body = body = problem_body(Problem.NOT_FOUND)
        response.content_type, response.charset = CONTENT_TYPE, None
        # aiohttp has written the length of its own text.
        length = {"Content-Length": str(len(body))}
        response.headers.update({**problem_headers(Problem.NOT_FOUND), **length})


async def _expect(request: web.Request) -> None:
    """Ask for the body where the client waits for that; other expectations may be ignored.

    aiohttp's own would answer those with a 417 in plain text (RFC 9110 section 10.1.1 allows both).
    """
    waits = request.headers["Expect"].lower() == "100-continue"
    if waits and request.version == HttpVersion11 and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _refusing_method(allow: str) -> Handler:
    async def refuse(_: web.Request) -> web.Response:
        response = problem_response(Problem.METHOD_NOT_ALLOWED)
        response.headers["Allow"] = allow
        return response

    return refuse


async def _not_found(_: web.Request) -> web.Response:
    return problem_response(Problem.NOT_FOUND)
