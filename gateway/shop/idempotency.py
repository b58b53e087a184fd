"""`Idempotency-Key`: a call that moves money or units happens once, however often it is sent."""

from __future__ import annotations

import re
from hashlib import sha256

from aiohttp import web

from gateway.app_keys import DB
from gateway.http.contract import Parameter
from gateway.http.problems import Problem, Refused
from gateway.http.responses import COMMON
from gateway.shop.calls import CALLER
from seckill.shop import kept_answers
from seckill.shop.kept_answers import Change, KeptAnswer, KeyedCall, KeyReused

#: Printable ASCII: what every client can send in a header.
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "Names this call: the same key and call again change nothing more, and get the same answer.",
    re.compile(r"[!-~]{1,255}\Z"),
    "refund-1042-1",
    (Problem.IDEMPOTENCY_KEY_NEEDED, Problem.IDEMPOTENCY_KEY_REUSED),
    "header",
    required=True,
)
#: Says that an answer is that of an earlier call.
REPLAYED = "Idempotent-Replayed"


async def change_once(request: web.Request, body: bytes, change: Change) -> web.Response:
    """Answer with what a change in one transaction returns, or what it returned before."""
    try:
        kept = await kept_answers.once(request.app[DB], keyed_call(request, body), change)
    except KeyReused as error:
        raise Refused(Problem.IDEMPOTENCY_KEY_REUSED, str(error)) from error
    return answer_of(kept)


async def answered_before(request: web.Request, call: KeyedCall) -> web.Response | None:
    """Return the answer that was kept of a call; None if there is none."""
    try:
        answer = await kept_answers.find(request.app[DB], call)
    except KeyReused as error:
        raise Refused(Problem.IDEMPOTENCY_KEY_REUSED, str(error)) from error
    return None if answer is None else answer_of(KeptAnswer(answer, replayed=True))


def keyed_call(request: web.Request, body: bytes) -> KeyedCall:
    """Return by what a call is known, or refuse."""
    key = request.headers.get(IDEMPOTENCY_KEY.name, "")
    if IDEMPOTENCY_KEY.pattern is None or not IDEMPOTENCY_KEY.pattern.match(key):
        said = "send 1 to 255 printable characters, another for each thing to be done"
        raise Refused(Problem.IDEMPOTENCY_KEY_NEEDED, said, field=IDEMPOTENCY_KEY.name)
    asked = f"{request.method} {request.path}\n".encode() + body
    return KeyedCall(request[CALLER].name, key, sha256(asked).digest())


def answer_of(kept: KeptAnswer) -> web.Response:
    """Return an answer as it is sent."""
    headers = {**COMMON, REPLAYED: "true"} if kept.replayed else COMMON
    return web.Response(body=kept.answer, content_type="application/json", headers=headers)
