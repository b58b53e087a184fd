"""Sessions of the console: a signed cookie, so that each gateway of an installation takes it.

The key of the signature is derived from the token with which an operator signed in. A token that
is changed ends all sessions that began with it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass

from aiohttp import web

from gateway.admin.auth import ADMIN_TOKEN, READ_TOKEN
from gateway.http.problems import Problem, Refused

#: How long a session lasts, whatever happens in it: a working day with its handover.
SESSION_S = 10 * 3600
COOKIE = "seckill_console"
PATH = "/console"
CSRF_HEADER = "X-CSRF-Token"
#: Who signs in: a word for the audit trail. The token is one for all, so this is only their word.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,39}")

#: What an operator may do.
WRITER, READER = "rw", "ro"


@dataclass(frozen=True, slots=True)
class ConsoleSession:
    """Who is signed in, until when, and what they may do."""

    role: str
    name: str
    expires_at: int
    nonce: str
    #: What a change has to bring along in a header: no other site can know it.
    csrf_token: str

    @property
    def may_change(self) -> bool:
        """Whether this session may change something."""
        return self.role == WRITER

    @property
    def actor(self) -> str:
        """Return who it is, for the audit trail."""
        return f"console: {self.name}" if self.name else "console"


def begin(app: web.Application, token: str, name: str) -> tuple[ConsoleSession, str] | None:
    """Return a new session and its cookie; None if the token is neither of the two."""
    given = token.encode(errors="surrogateescape")
    for role, known in ((WRITER, app[ADMIN_TOKEN]), (READER, app[READ_TOKEN])):
        if known and hmac.compare_digest(given, known.encode()):
            fields = (role, str(int(time.time()) + SESSION_S), secrets.token_hex(16), name)
            text = "|".join(fields)
            cookie = f"{text}|{_mac(known, 'session', text)}"
            session = parse(app, cookie)
            return (session, cookie) if session else None
    return None


def parse(app: web.Application, cookie: str) -> ConsoleSession | None:
    """Return the session of a cookie; None if it is not ours, or over."""
    text, _, mac = cookie.rpartition("|")
    role, _, rest = text.partition("|")
    key = {WRITER: app[ADMIN_TOKEN], READER: app[READ_TOKEN]}.get(role)
    # The bytes that came: compare_digest takes no text but ASCII.
    given = mac.encode(errors="surrogateescape")
    if not key or not hmac.compare_digest(given, _mac(key, "session", text).encode()):
        return None
    expires_at, nonce, name = rest.split("|", 2)  # signed by us, so of this form
    if int(expires_at) <= time.time():
        return None
    return ConsoleSession(role, name, int(expires_at), nonce, _mac(key, "csrf", nonce))


def require(request: web.Request) -> ConsoleSession:
    """Return the session of a request, or refuse."""
    session = parse(request.app, request.cookies.get(COOKIE, ""))
    if session is None:
        raise Refused(Problem.NOT_SIGNED_IN)
    return session


def require_csrf(request: web.Request) -> ConsoleSession:
    """Return the session of a request that a page of ours sent, or refuse."""
    session = require(request)
    given = request.headers.get(CSRF_HEADER, "").encode(errors="surrogateescape")
    if not hmac.compare_digest(given, session.csrf_token.encode()):
        raise Refused(Problem.BAD_CSRF_TOKEN)
    return session


def require_change(request: web.Request) -> ConsoleSession:
    """Return a session that may change something, in a request that a page of ours sent."""
    session = require_csrf(request)
    if not session.may_change:
        raise Refused(Problem.READ_ONLY)
    return session


def keep(response: web.Response, cookie: str, *, secure: bool) -> None:
    """Let the browser keep a session: no script reads it, and no other site makes it be sent."""
    response.set_cookie(
        COOKIE,
        cookie,
        path=PATH,
        max_age=SESSION_S,
        httponly=True,
        samesite="Strict",
        secure=secure,
    )


def drop(response: web.Response) -> None:
    """Let the browser forget its session."""
    response.del_cookie(COOKIE, path=PATH, httponly=True, samesite="Strict")


def _mac(token: str, use: str, text: str) -> str:
    key = hashlib.sha256(f"console {use} {token}".encode()).digest()
    return hmac.new(key, text.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()
