"""One gateway process. Several share one port; the kernel spreads connections over them."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import socket
import ssl
from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

import uvloop
from aiohttp import web

from config.settings import Settings
from gateway.admin.app import create_admin_app
from gateway.admin.pool import PoolControl
from gateway.app import create_app
from gateway.app_keys import SETTINGS, STOPPING
from gateway.grabs.connection import ConnectionFactory
from gateway.overload.aiohttp_protocol import AiohttpProtocol, ProblemProtocol
from gateway.overload.concurrency_limit import GRABS_IN_FLIGHT, OTHERS_IN_FLIGHT
from gateway.overload.connection_limits import ConnectionLimits
from gateway.overload.listeners import Listeners
from gateway.overload.tls_acceptor import HANDSHAKES_MAX
from gateway.shop.app import create_shop_app
from gateway.tls import public_context
from seckill import metrics
from seckill.admin_port import KEEPALIVE_S, AdminPort
from seckill.consistency import requirements
from seckill.health.waiting import until_startable
from seckill.process import listening, notify_ready, stop_on_signals
from seckill.tracing.starting import tracing

log = logging.getLogger(__name__)

#: Time to read what connections have sent that were accepted last, before idle ones are closed.
LAST_READ_S = 0.1
#: New objects between collections of the youngest generation. A busy loop makes the default 700
#: in a few requests, and nearly all die by reference count alone.
GC_THRESHOLD = 20_000
#: Time to read and drop the rest of a body that was refused, so that the client gets the answer.
LINGER_S = 1.0
#: Open files that are not buyers' connections: stores, log, listener, the admin port.
FILES_RESERVED = 100
#: Connections of the shop's own programs, which keep theirs open and are a few.
SHOP_CONNECTIONS_MAX = 100
#: An operator's change takes some milliseconds. Buyers drain only after this, in what is left of a
#: supervisor's time limit, so a ledger that a client waits for is cut off.
ADMIN_DRAIN_S = 0.5


def run(settings: Settings, pool: PoolControl | None = None) -> None:
    """Serve until SIGTERM or SIGINT; raise SeckillError if it cannot start.

    `pool` is the way to the pool manager of this home, for the admin port.
    """
    uvloop.run(serve(settings, pool))


def check(settings: Settings) -> None:
    """Raise SeckillError or BadSettings if a gateway never starts with these settings and stores.

    For a supervisor of several, which would all fail with the same line.
    """
    create_app(settings)
    uvloop.run(requirements.require_no_faults(settings))


async def serve(settings: Settings, pool: PoolControl | None = None) -> None:
    """Open the ports, report readiness, and stop gracefully at a signal."""
    stop = stop_on_signals()
    tls = public_context(settings)
    app = create_app(settings)
    app[STOPPING] = stop
    app.on_response_prepare.append(_close_while_stopping)
    if not await until_startable(settings, stop):
        return
    with tracing(settings, "gateway"):
        shop_app = create_shop_app(app) if settings.shop_port else None
        await _serve(settings, app, create_admin_app(app, pool), shop_app, tls, stop)


async def _serve(
    settings: Settings,
    app: web.Application,
    admin_app: web.Application,
    shop_app: web.Application | None,
    tls: ssl.SSLContext | None,
    stop: asyncio.Event,
) -> None:
    edge, admin = _runner(app, settings.drain_s), _runner(admin_app, ADMIN_DRAIN_S)
    shop = _runner(shop_app, ADMIN_DRAIN_S) if shop_app else None
    runners = [runner for runner in (edge, admin, shop) if runner]
    try:
        for runner in runners:
            await runner.setup()
        connections = _connections(app, cast(web.Server, edge.server))
        listeners = await _listen(settings, connections, tls)
        own = [await _listen_for_operators(settings, cast(web.Server, admin.server))]
        if shop:
            own.append(await _listen_for_programs(settings, cast(web.Server, shop.server), tls))
        # What is alive now lives as long as the process: the collector need not look at it again.
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        notify_ready(settings.notify_socket)
        scheme = "https" if tls else "http"
        log.info("gateway on %s://%s:%d", scheme, settings.gateway_host, settings.gateway_port)
        await stop.wait()
        log.info("stopping: unready for %g s, then closed", settings.stop_delay_s)
        await asyncio.sleep(settings.stop_delay_s)
        await listeners.close()
        await asyncio.sleep(LAST_READ_S)
        await connections.drain(settings.drain_s)
        for server in own:
            server.close()
    finally:
        # Health answers end first, so that balancers send no more. Then: stop listening, finish
        # the requests in flight (up to drain_s), drain the reservations, close the stores.
        for runner in (admin, *([shop] if shop else []), edge):
            await runner.cleanup()


def _runner(app: web.Application, shutdown_timeout_s: float) -> web.AppRunner:
    # A handler is cancelled when its client leaves: its grab leaves the batch, and no ledger is
    # counted for it.
    return web.AppRunner(
        app, access_log=None, handler_cancellation=True, shutdown_timeout=shutdown_timeout_s
    )


async def _close_while_stopping(request: web.Request, response: web.StreamResponse) -> None:
    """Tell a client whose connection would end soon that this answer is its last."""
    if request.app[STOPPING].is_set():
        response.force_close()
        response.headers["Connection"] = "close"


async def _listen_for_operators(settings: Settings, server: web.Server) -> asyncio.Server:
    """Open the admin port, whose refusals of what is not HTTP are no lines in the log."""
    with listening(settings.admin_host, settings.admin_port, "SECKILL_ADMIN_PORT"):
        return await asyncio.get_running_loop().create_server(
            AdminPort(_few_connections(server)), settings.admin_host, settings.admin_port
        )


async def _listen_for_programs(
    settings: Settings, server: web.Server, tls: ssl.SSLContext | None
) -> asyncio.Server:
    """Open the port of the shop's programs, which the processes of a host share."""
    port = AdminPort(_few_connections(server), connections_max=SHOP_CONNECTIONS_MAX)
    with listening(settings.shop_host, settings.shop_port, "SECKILL_SHOP_PORT"):
        listener = await asyncio.get_running_loop().create_server(
            port, settings.shop_host, settings.shop_port, reuse_port=True, ssl=tls
        )
    _drop_clients_that_read_nothing(listener.sockets, settings.keepalive_s)
    return listener


def _few_connections(server: web.Server) -> Callable[[], ProblemProtocol]:
    return partial(
        ProblemProtocol,
        server,
        loop=asyncio.get_running_loop(),
        access_log=None,  # type: ignore[arg-type]  # aiohttp takes None, and says so elsewhere
        keepalive_timeout=KEEPALIVE_S,
    )


async def _listen(
    settings: Settings, connections: ConnectionFactory, tls: ssl.SSLContext | None
) -> Listeners:
    listeners = Listeners(
        connections,
        settings.gateway_host,
        settings.gateway_port,
        tls=tls,
        prepare=partial(_drop_clients_that_read_nothing, patience_s=settings.keepalive_s),
    )
    with listening(settings.gateway_host, settings.gateway_port, "SECKILL_GATEWAY_PORT"):
        await listeners.open()
    return listeners


def _connections(app: web.Application, server: web.Server) -> ConnectionFactory:
    settings = app[SETTINGS]
    handshakes = HANDSHAKES_MAX if settings.tls_cert else 0
    reserved = FILES_RESERVED + handshakes + (SHOP_CONNECTIONS_MAX if settings.shop_port else 0)
    limits = ConnectionLimits(
        min(settings.connections_max, _open_files_max() - reserved),
        cors=bool(settings.cors_origins),
    )
    metrics.CONNECTIONS.set_function(lambda: limits.connections)
    metrics.CONNECTIONS_MAX.set(limits.connections_max)
    make_aiohttp = partial(
        AiohttpProtocol,
        server,
        limits,
        grabs=app[GRABS_IN_FLIGHT],
        others=app[OTHERS_IN_FLIGHT],
        access_log=None,
        lingering_time=LINGER_S,
        auto_decompress=False,  # nothing compressed is taken, and AiohttpProtocol counts what came
        keepalive_timeout=settings.keepalive_s,
    )
    return ConnectionFactory(
        app,
        limits,
        make_aiohttp,
        keepalive_s=settings.keepalive_s,
        takes_grabs=settings.fast_lane,
    )


def _drop_clients_that_read_nothing(
    listening_sockets: Iterable[socket.socket], patience_s: float
) -> None:
    """Bound how long a client may leave an answer unread, or be gone; the kernel then closes.

    Each connection inherits both options from the listener.
    """
    for listening_socket in listening_sockets:
        listening_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listening_socket.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(patience_s * 1000)
        )


def _open_files_max() -> int:
    """Raise the limit on open files as far as an ordinary user may, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
