"""The admin application: health and metrics for all who reach the port, sales for operators."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from aiohttp import web

from gateway.admin import dead_letters, pool, trail, transactions, verify_process
from gateway.admin.auth import ADMIN_TOKEN, READ_TOKEN, for_operators
from gateway.admin.console.invariants import COUNTING
from gateway.admin.console.routes import add_console, console_routes
from gateway.admin.health import EDGE, health_ctx, livez, metrics, readyz
from gateway.admin.heartbeat import heartbeat_ctx
from gateway.admin.pool import POOL, RESTARTS, PoolControl
from gateway.admin.rate_limits import set_limits, show_limits
from gateway.admin.sales import (
    announce_sale,
    close_sale,
    create_sale,
    delete_sale,
    edit_sale,
    open_sale,
    pause_sale,
    restock_sale,
    resume_sale,
)
from gateway.app_keys import DB, REDIS, SETTINGS
from gateway.http import problem_pages, responses
from gateway.http.problems import Handler, Problem, Refused, add_routes
from gateway.http.requests import sale_id_of
from gateway.http.responses import json_response
from seckill.consistency import snapshots
from seckill.sales import listing, sales

#: Longest wait for a quiet ledger; to wait longer, a client asks again.
WAIT_MAX_S = 60.0
#: Sales of one list: some 400 kB, which this process takes 5 ms to write.
SHOWN_MAX = 1_000
#: What `show_sale` says of a sale in Redis.
SHOWN_OF_REDIS = ("state", "stock", "holders", "outbox", "corrections", "epoch", "total")


def create_admin_app(
    edge: web.Application, pool_control: PoolControl | None = None
) -> web.Application:
    """Build the application of the admin port, on the stores of the public one.

    `pool_control` is the way to the pool manager of this home, if there is one.
    """
    app = web.Application()
    responses.set_up(app, tls=False)
    app[EDGE] = edge
    app[ADMIN_TOKEN] = edge[SETTINGS].admin_token.get_secret_value()
    app[READ_TOKEN] = edge[SETTINGS].admin_read_token.get_secret_value()
    app[COUNTING] = asyncio.Lock()
    app[POOL], app[RESTARTS] = pool_control, set()
    app.cleanup_ctx.extend((health_ctx, heartbeat_ctx))
    add_console(app)
    health = (("/livez", livez), ("/readyz", readyz), ("/metrics", metrics))
    add_routes(
        app,
        [
            *(("GET", path, handler) for path, handler in health),
            *((method, path, for_operators(handler)) for method, path, handler in OPERATORS),
            (*problem_pages.ROUTE[:2], problem_pages.show_problem.handler),
            *console_routes(OPERATORS),
        ],
    )
    return app


async def list_sales(request: web.Request) -> web.Response:
    """Answer with the newest sales, newest first; archived ones only with `?all=1`."""
    found = await listing.newest(
        request.app[EDGE][DB], limit=SHOWN_MAX, archived=request.query.get("all") == "1"
    )
    return json_response({"sales": found})


async def show_sale(request: web.Request) -> web.Response:
    """Answer with a sale's row and what Redis says of it; null when Redis has lost it."""
    edge = request.app[EDGE]
    sale = await sales.find(edge[DB], sale_id_of(request))
    seen = await snapshots.read_change_marks(edge[REDIS], sale.sale_id)
    redis = seen and {name: getattr(seen, name) for name in SHOWN_OF_REDIS}
    return json_response({**asdict(sale), "redis": redis})


async def show_ledger(request: web.Request) -> web.Response:
    """Answer with the ledger of a sale; `?wait=SECONDS` waits for it to be quiet."""
    sale_id, wait_s = sale_id_of(request), _wait_of(request)
    edge, counting = request.app[EDGE], request.app[COUNTING]
    await sales.find(edge[DB], sale_id)  # is there such a sale?
    if counting.locked():  # the machine is there for buyers
        raise Refused(Problem.OVERLOADED, "this gateway is counting a ledger; ask again")
    async with counting:
        (ledger,) = await verify_process.count(edge[SETTINGS], [sale_id], wait_s=wait_s)
    return web.Response(body=ledger, content_type="application/json")


def _wait_of(request: web.Request) -> float:
    try:
        wait_s = float(request.query.get("wait", "0"))
    except ValueError:
        wait_s = -1
    if not 0 <= wait_s <= WAIT_MAX_S:  # false for NaN, too
        raise Refused(Problem.BAD_REQUEST, f"give 0 to {WAIT_MAX_S:g} seconds", field="wait")
    return wait_s


#: What operators may call, below `/admin` with a token, and below `/console/api` in a session.
OPERATORS: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/admin/sales", list_sales),
    ("POST", "/admin/sales", create_sale),
    ("GET", "/admin/sales/{sale_id}", show_sale),
    ("POST", "/admin/sales/{sale_id}/edit", edit_sale),
    ("POST", "/admin/sales/{sale_id}/delete", delete_sale),
    ("POST", "/admin/sales/{sale_id}/announce", announce_sale),
    ("POST", "/admin/sales/{sale_id}/open", open_sale),
    ("POST", "/admin/sales/{sale_id}/close", close_sale),
    ("POST", "/admin/sales/{sale_id}/pause", pause_sale),
    ("POST", "/admin/sales/{sale_id}/resume", resume_sale),
    ("POST", "/admin/sales/{sale_id}/restock", restock_sale),
    ("GET", "/admin/sales/{sale_id}/ledger", show_ledger),
    ("GET", "/admin/sales/{sale_id}/limits", show_limits),
    ("PUT", "/admin/sales/{sale_id}/limits", set_limits),
    ("GET", "/admin/dead-letters", dead_letters.list_letters),
    ("GET", "/admin/dead-letters/{letter_id}", dead_letters.show_letter),
    ("POST", "/admin/dead-letters/replay", dead_letters.replay_letters),
    ("POST", "/admin/dead-letters/discard", dead_letters.discard_letters),
    ("GET", "/admin/transactions", transactions.list_parked),
    ("GET", "/admin/transactions/{tx_id}", transactions.show_transaction),
    ("POST", "/admin/transactions/{tx_id}/retry", transactions.retry_transaction),
    ("POST", "/admin/transactions/{tx_id}/settle", transactions.settle_transaction),
    ("GET", "/admin/card-payments", trail.list_card_payments),
    ("POST", "/admin/card-payments/ask", trail.ask_about_card_payments),
    ("GET", "/admin/audit", trail.list_audit),
    ("GET", "/admin/pool", pool.show_pool),
    ("POST", "/admin/pool/scale", pool.scale_pool),
    ("POST", "/admin/pool/pause", pool.pause_pool),
    ("POST", "/admin/pool/resume", pool.resume_pool),
    ("POST", "/admin/pool/drain", pool.drain_pool),
    ("POST", "/admin/pool/restart", pool.restart_pool),
)
