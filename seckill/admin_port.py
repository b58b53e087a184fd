"""The admin port of a process that serves no buyers, and the connections of every admin port.

These are few, so that whoever opens many cannot starve health. When there is one too many, another
is closed to make room, and never refused: probes come last. Answers come from the event loop of the
work, so that a process whose loop hangs does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

import msgspec
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import _ErrInfo
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

from config.settings import Settings
from seckill.process import listening
from seckill.spans import SPANS

#: Connections at once. Prometheus, a balancer or two, the pool manager and an operator need ten; a
#: gateway keeps a hundred open files back for these and its stores.
CONNECTIONS_MAX = 40
#: How long a connection may stay without a whole request: longer than the usual 15 s between two
#: scrapes.
KEEPALIVE_S = 30.0
#: Time for the answers that are being written when the process ends.
SHUTDOWN_S = 0.5


#: A status of HTTP, and how it stands.
Readiness = Callable[[], tuple[int, dict[str, object]]]

_encode = msgspec.json.Encoder().encode

_VERSIONS = {HttpVersion10, HttpVersion11}
#: What clients do wrong: no HTTP, or another version of it. Anyone may, so no line says it.
CLIENTS_MISTAKES = (400, 505)


@asynccontextmanager
async def answering_health(settings: Settings, readiness: Readiness) -> AsyncIterator[None]:
    """Answer `/livez`, `/readyz` and `/metrics` on the admin port inside the block."""

    async def livez(_: web.Request) -> web.Response:
        return _json(200, {"status": "alive"})

    async def readyz(_: web.Request) -> web.Response:
        return _json(*readiness())

    async def metrics(request: web.Request) -> web.Response:
        return metrics_response(request)

    app = web.Application()
    app.add_routes([web.get(f"/{each.__name__}", each) for each in (livez, readyz, metrics)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        make = partial(
            HealthProtocol,
            cast(web.Server, runner.server),
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None, and says so elsewhere
            keepalive_timeout=KEEPALIVE_S,
        )
        port = AdminPort(make)
        with listening(settings.admin_host, settings.admin_port, "SECKILL_ADMIN_PORT"):
            server = await asyncio.get_running_loop().create_server(
                port, settings.admin_host, settings.admin_port
            )
        yield
        server.close()
    finally:
        await runner.cleanup()


def metrics_response(request: web.Request) -> web.Response:
    """Return the metrics of this process.

    While it traces they are in OpenMetrics, if the scraper reads that: it has exemplars, which are
    the traces of single observations. Otherwise in text, which takes two thirds of the time.
    """
    encode, content_type = choose_encoder(request.headers.get("Accept", "") if SPANS.on else "")
    return web.Response(body=encode(REGISTRY), headers={"Content-Type": content_type})


def _json(status: int, body: dict[str, object]) -> web.Response:
    return web.Response(status=status, body=_encode(body), content_type="application/json")


class VersionProtocol(web.RequestHandler):
    """aiohttp's protocol of one connection, which speaks HTTP/1.1 and HTTP/1.0 alone.

    aiohttp would answer in the version that was asked, which no client reads.
    """

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Pass bytes to aiohttp, and refuse the requests of another version that are in them."""
        asked = self._request_count
        super().data_received(data)
        if self._request_count == asked:
            return
        for at, (message, _) in enumerate(self._messages):
            if not isinstance(message, _ErrInfo) and message.version not in _VERSIONS:
                self._messages[at] = _ErrInfo(505, ValueError(), ""), EMPTY_PAYLOAD


class HealthProtocol(VersionProtocol):
    """Answers what is no HTTP in the same form as all else, and without a line in the log."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer that the request could not be read; only our own mistakes are logged."""
        if status not in CLIENTS_MISTAKES:
            return super().handle_error(request, status, exc, message)
        response = _json(status, {"status": "no request of HTTP/1.1 or HTTP/1.0"})
        response.force_close()
        return response


class AdminPort:
    """Makes the protocol of each connection, and closes the idlest when there are too many."""

    def __init__(
        self, make: Callable[[], asyncio.Protocol], *, connections_max: int = CONNECTIONS_MAX
    ) -> None:
        self._make = make
        self._connections_max = connections_max
        #: The connections in the order in which they last sent something: those that never did
        #: are closed first, of the others the one that has been quiet longest.
        self._silent: dict[AdminConnection, None] = {}
        self._heard: dict[AdminConnection, None] = {}

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return AdminConnection(self._make(), self)

    def __len__(self) -> int:
        """Return how many connections are open."""
        return len(self._silent) + len(self._heard)

    def enter(self, connection: AdminConnection) -> None:
        """Count a new connection, and close another one if that is one too many."""
        if len(self) >= self._connections_max:
            idlest = next(iter(self._silent or self._heard))
            self.leave(idlest)  # it may take a turn of the loop to close
            idlest.abort()
        self._silent[connection] = None

    def hear(self, connection: AdminConnection) -> None:
        """Note that a connection has sent something."""
        if connection in self._silent or connection in self._heard:
            self.leave(connection)
            self._heard[connection] = None

    def leave(self, connection: AdminConnection) -> None:
        """Count a connection no more."""
        self._silent.pop(connection, None)
        self._heard.pop(connection, None)


class AdminConnection(asyncio.Protocol):
    """Passes everything on to the protocol that answers, and reports what it sees."""

    def __init__(self, answering: asyncio.Protocol, port: AdminPort) -> None:
        self._answering = answering
        self._port = port

    def abort(self) -> None:
        """Close it at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Enter the port."""
        self._transport = cast(asyncio.Transport, transport)
        self._port.enter(self)
        self._answering.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass on what was sent."""
        self._port.hear(self)
        self._answering.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on that the client sends no more."""
        return self._answering.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the client does not read."""
        self._answering.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client reads again."""
        self._answering.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the port."""
        self._port.leave(self)
        self._answering.connection_lost(exc)
