"""aiohttp's protocol of a connection, with load shedding added: it refuses before it parses.

A refusal through aiohttp costs half of a whole grab. Here it is a search in a buffer and one write.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from aiohttp import StreamReader, web

from gateway.http.problems import Problem, problem_response, raw_problem
from gateway.http.request_ids import HEADER, new_request_id
from gateway.overload.concurrency_limit import OTHERS_IN_FLIGHT, ConcurrencyLimit
from gateway.overload.connection_limits import ConnectionLimits, is_grab
from seckill.admin_port import VersionProtocol

#: A request that has waited longer for its turn is refused.
TURN_WAIT_MAX_S = 0.5
_OTHER_VERSION = re.compile(rb"[A-Z]+ \S+ HTTP/(?!1\.[01]\r\n)[0-9.]+\r\n")
#: The whole answer to another version of HTTP.
HTTP_VERSION = raw_problem(Problem.HTTP_VERSION, {"Connection": "close"})


def is_end_of(data: bytes, payload: StreamReader) -> bool:
    """Tell whether `data`, which brought one request alone, ends where that one ends.

    A head ends at the first empty line, unless that began before `data`: no letter comes first
    then. A chunked body takes more bytes than its payload, so it is never found to end.
    """
    head = data.find(b"\r\n\r\n")
    return payload.is_eof() and head + 4 + payload.total_bytes == len(data) and data[0] > 32


def is_mistake(status: int) -> bool:
    """Tell whether an answer says that the client was wrong, and not that it came too late."""
    return 400 <= status < 500 and status not in (409, 410, 425, 429)


class ProblemProtocol(VersionProtocol):
    """aiohttp's protocol of one connection, whose errors are problems like any other."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is not HTTP with a problem like any other, and without a line in the log."""
        if status == Problem.HTTP_VERSION.value.status:
            response = problem_response(Problem.HTTP_VERSION)
        elif status == Problem.MALFORMED.value.status:
            response = problem_response(Problem.MALFORMED, "not HTTP as we speak it")
        else:
            return super().handle_error(request, status, exc, message)
        response.headers[HEADER] = new_request_id()
        response.force_close()
        return response


class AiohttpProtocol(ProblemProtocol):
    """aiohttp's protocol of one connection, which refuses before parsing when too much waits."""

    __slots__ = (
        "_answered",
        "_grabs",
        "_is_between",
        "_limits",
        "_others",
        "came_at",
        "rested",
        "waited_since",
    )

    def __init__(
        self,
        server: web.Server,
        limits: ConnectionLimits,
        *,
        grabs: ConcurrencyLimit,
        others: ConcurrencyLimit,
        **kwargs: Any,  # noqa: ANN401 - passed on to aiohttp
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **kwargs)
        self._limits, self._grabs, self._others = limits, grabs, others
        #: When the last bytes came, or the request that waited for its turn: it waits from then on.
        self.came_at = 0.0
        #: Whether what comes next has waited because we did not read it.
        self.rested = False
        #: Since when what comes next has waited for its turn (the loop's time); 0.0 if it did not.
        self.waited_since = 0.0
        self._answered = 0
        self._is_between = True  # what comes next is the beginning of a request, for certain

    @property
    def idle(self) -> bool:
        """Tell whether all was answered and the next bytes begin a request, both for certain."""
        return self._is_between and self._answered == self._request_count

    def extend_keepalive(self) -> None:
        """Count the time without a request from now on: there was one that aiohttp has not seen."""
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    def data_received(self, data: bytes) -> None:
        """Pass bytes to aiohttp or, with too much in flight, refuse the request that they are."""
        if not data:  # aiohttp's way to go on with what it has kept back
            super().data_received(data)
            return
        transport = cast(asyncio.Transport, self.transport)
        if self.idle and _OTHER_VERSION.match(data):
            transport.write(HTTP_VERSION)
            transport.close()
            return
        limit = self._grabs if is_grab(data) else self._others
        asked, now = self._request_count, asyncio.get_running_loop().time()
        came_at, self.waited_since = self.waited_since or now, 0.0
        is_full = limit.full or now - came_at > TURN_WAIT_MAX_S
        if is_full and self.idle and self._limits.refuse(transport, data):
            if not transport.is_closing():
                self._limits.rest(transport)
            return
        self.came_at = came_at
        super().data_received(data)
        is_one = self._request_count == asked + 1
        self._is_between = is_one and is_end_of(data, self._messages[-1][1])
        if self._is_between:  # a slow client's request may be whole at any time, or never
            limit.expect()

    def log_access(
        self, request: web.BaseRequest, response: web.StreamResponse, time: float | None
    ) -> None:
        """Count an answer: aiohttp calls this when it has written one.

        A client that is wrong again and again, as with a token that is none, would take the time of
        all others: each such answer is a whole request of aiohttp.
        """
        self._answered += 1
        transport = self.transport
        if (
            is_mistake(response.status)
            and transport is not None
            and not transport.is_closing()
            and self._limits.note_mistake(transport)
        ):
            self.rested = True
        super().log_access(request, response, time)


def came_at_of(request: web.Request) -> float:
    """Return when a request came, in the loop's time."""
    return cast(AiohttpProtocol, request.protocol).came_at


@contextmanager
def in_flight(request: web.Request) -> Iterator[None]:
    """Count a request (other than a grab) as in flight; raise Refused when too many are.

    Enter it after all that a client can make slow (a body in pieces, an id that waits for the next
    reading of the sales): otherwise a few clients would fill the limit and make the wait look long.
    """
    others, came_at = request.app[OTHERS_IN_FLIGHT], came_at_of(request)
    others.begin()
    try:
        yield
    finally:
        others.end(came_at)
