"""The routes of the console: its page, sessions and events, and the admin API for its buttons."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from functools import wraps
from typing import Annotated

import msgspec
from aiohttp import web

from gateway.admin.auth import ACTOR, ADMIN_TOKEN, READING
from gateway.admin.console import sessions
from gateway.admin.console.assets import FILES, ConsoleFiles
from gateway.admin.console.hub import HUB, Hub
from gateway.admin.console.invariants import COUNTING, InvariantLights
from gateway.admin.console.sessions import ConsoleSession
from gateway.admin.health import EDGE
from gateway.app_keys import SETTINGS
from gateway.http.problems import Handler, Problem, Refused
from gateway.http.refusals import answer_refusals
from gateway.http.requests import read_json
from gateway.http.responses import json_response

#: Wrong tokens that a gateway looks at in a minute. One has 32 characters or more and cannot be
#: guessed, so this only keeps the log short.
WRONG_MAX, WRONG_S = 10, 60.0
#: For one event to a page; a page that does not read loses its connection, and comes back.
SEND_S = 10.0
#: When a page comes back after its connection broke.
RETRY = b"retry: 2000\n\n"

_EVENT_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back until a page is full
}
#: When wrong tokens came.
WRONG = web.AppKey("wrong_tokens", deque[float])

log = logging.getLogger(__name__)


class SignIn(msgspec.Struct, forbid_unknown_fields=True):
    """What an operator types to begin a session."""

    token: Annotated[str, msgspec.Meta(max_length=1000)]
    name: Annotated[str, msgspec.Meta(max_length=40)] = ""


_sign_in = msgspec.json.Decoder(SignIn)


def add_console(app: web.Application) -> None:
    """Give an admin application what the console needs; a hub that reads nothing yet."""
    edge = app[EDGE]
    app[FILES] = ConsoleFiles()
    app[HUB] = Hub(app, edge, InvariantLights(edge[SETTINGS], app[COUNTING]))
    app[WRONG] = deque(maxlen=WRONG_MAX)
    app.cleanup_ctx.append(_hub_ctx)


def console_routes(
    operators: Iterable[tuple[str, str, Handler]],
) -> list[tuple[str, str, Handler]]:
    """Return the routes, of which those below `/console/api` are calls of the admin API."""
    return [
        ("GET", "/console", show_page),
        ("GET", "/console/files/{digest}/{name}", load_file),
        ("GET", "/console/session", show_session),
        ("POST", "/console/session", begin_session),
        ("POST", "/console/session/end", end_session),
        ("GET", "/console/events", stream_events),
        *(
            (
                "GET" if method in READING else "POST",
                path.replace("/admin", "/console/api", 1),
                for_console(handler),
            )
            for method, path, handler in operators
        ),
    ]


def for_console(handler: Handler) -> Handler:
    """Let a call of the admin API answer a page of the console; a change needs its token."""

    @wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        changes = request.method not in READING
        session = sessions.require_change(request) if changes else sessions.require(request)
        request[ACTOR] = session.actor
        return await answer_refusals(handler, request)

    return answer


async def show_page(request: web.Request) -> web.Response:
    """Answer with the page, which asks for the token by itself."""
    if not request.app[ADMIN_TOKEN]:
        raise Refused(Problem.ADMIN_OFF, "set SECKILL_ADMIN_TOKEN and start the gateway again")
    return request.app[FILES].page()


async def load_file(request: web.Request) -> web.Response:
    """Answer with a script or the style sheet."""
    return request.app[FILES].file(request)


async def begin_session(request: web.Request) -> web.Response:
    """Take a token, and answer with the session and its cookie."""
    wrong, now = request.app[WRONG], time.monotonic()
    if len(wrong) == WRONG_MAX and now - wrong[0] < WRONG_S:
        raise Refused(Problem.RATE_LIMITED, "too many wrong tokens; wait a minute")
    typed = await read_json(request, _sign_in)
    if typed.name and not sessions.NAME.fullmatch(typed.name):
        raise Refused(Problem.BAD_REQUEST, "use letters, digits, space and . _ @ -", field="name")
    begun = sessions.begin(request.app, typed.token.strip(), typed.name)
    if begun is None:
        wrong.append(now)
        log.warning("console: a wrong token from %s", request.remote)
        raise Refused(Problem.BAD_ADMIN_TOKEN)
    session, cookie = begun
    log.info("console: %s signed in (%s)", session.actor, session.role)
    response = json_response(_shown(session))
    # Behind a proxy with TLS. A header that someone made up only makes the cookie stricter.
    forwarded = request.headers.get("X-Forwarded-Proto", "").strip().lower() == "https"
    sessions.keep(response, cookie, secure=request.secure or forwarded)
    return response


async def show_session(request: web.Request) -> web.Response:
    """Answer with who is signed in, if that is so, and the token for changes."""
    session = sessions.parse(request.app, request.cookies.get(sessions.COOKIE, ""))
    return json_response(_shown(session) if session else {"signed_in": False})


async def end_session(request: web.Request) -> web.Response:
    """Let the browser forget the session, which one that may only look may do as well."""
    sessions.require_csrf(request)
    response = json_response({"ok": True})
    sessions.drop(response)
    return response


async def stream_events(request: web.Request) -> web.StreamResponse:
    """Send a snapshot a second until the page or its session ends."""
    session, hub = sessions.require(request), request.app[HUB]
    async with hub.watching():
        response = web.StreamResponse(headers=_EVENT_HEADERS)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        with suppress(ConnectionError, TimeoutError):
            await response.write(RETRY)
            async for event in hub.events():
                if session.expires_at <= time.time():
                    break
                async with asyncio.timeout(SEND_S):
                    await response.write(event)
        return response


async def _hub_ctx(app: web.Application) -> AsyncIterator[None]:
    yield
    await app[HUB].end()


def _shown(session: ConsoleSession) -> dict[str, object]:
    return {
        "signed_in": True,
        "name": session.name,
        "may_change": session.may_change,
        "expires_at": session.expires_at,
        "csrf_token": session.csrf_token,
    }
