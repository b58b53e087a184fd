"""Calls of operators: the admin token, the problem of each refusal, the line in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from hmac import compare_digest

from aiohttp import web

from gateway.http.problems import Handler, Problem, Refused
from gateway.http.refusals import answer_refusals

log = logging.getLogger(__name__)

ADMIN_TOKEN = web.AppKey("admin_token", str)
#: Empty: there is none.
READ_TOKEN = web.AppKey("read_token", str)
#: Who changes something, for the audit trail, where it is known more closely than by the token.
ACTOR = web.RequestKey("actor", str)
#: The admin token is one for all operators.
ADMIN_API = "admin API"
#: Methods that change nothing.
READING = frozenset({"GET", "HEAD"})


def is_token(token: str, header: str) -> bool:
    """Tell whether an Authorization header carries the token, in constant time."""
    scheme, _, given = header.partition(" ")
    # As the bytes that came: compare_digest takes no text but ASCII, a header any byte.
    given_bytes = given.lstrip(" ").encode(errors="surrogateescape")
    return compare_digest(given_bytes, token.encode()) and scheme.lower() == "bearer"


def for_operators(handler: Handler) -> Handler:
    """Let a handler answer operators alone, with the reason where a call is refused.

    Unlike buyers, operators learn which store does not answer.
    """

    @wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        token = request.app[ADMIN_TOKEN]
        if not token:
            raise Refused(
                Problem.ADMIN_OFF,
                "set SECKILL_ADMIN_TOKEN and start the gateway again; `seckill up` makes a token",
            )
        header, reading = request.headers.get("Authorization", ""), request.app[READ_TOKEN]
        if not is_token(token, header):
            if not (reading and is_token(reading, header)):
                raise Refused(Problem.BAD_ADMIN_TOKEN)
            if request.method not in READING:
                raise Refused(Problem.READ_ONLY)
        return await answer_refusals(handler, request)

    return answer


def actor_of(request: web.Request) -> str:
    """Return who changes something, for the audit trail."""
    actor: str = request.get(ACTOR, ADMIN_API)
    return actor


@contextmanager
def on_record(call: str, subject: str) -> Iterator[None]:
    """Log a change that an operator asked for, once, whatever becomes of it."""
    outcome = "done"
    try:
        yield
    except BaseException as error:  # cut off, too: the change may have been made
        outcome = type(error).__name__
        raise
    finally:
        log.info("admin: %s %s: %s", call, subject, outcome)
