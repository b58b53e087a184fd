"""The application of the shop's own programs: its routes, and the stores that it uses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from gateway.app_keys import CARD_PAYMENTS, DB, LIMITS, REDIS, SALES, SETTINGS, STOCK
from gateway.http import openapi, problem_pages, responses
from gateway.http.contract import Route
from gateway.http.problems import add_routes
from gateway.http.shop_auth import SHOP_TOKENS
from gateway.shop import (
    export,
    money,
    order_changes,
    orders,
    sales,
    webhook_deliveries,
    webhook_endpoints,
)
from gateway.shop.calls import LIMITS_OF_CALLS, CallLimits, for_programs
from seckill.adapters import postgres

#: Connections to PostgreSQL per process, beside those for buyers: a long list of orders must not
#: keep a buyer waiting.
POOL_MAX = 2
#: What is shared with the public application.
SHARED: tuple[web.AppKey[Any], ...] = (
    SETTINGS,
    LIMITS,
    REDIS,
    STOCK,
    SALES,
    CARD_PAYMENTS,
    SHOP_TOKENS,
)
DESCRIPTION = (
    "For the shop's own programs, each with a token of its own. A retry is safe: calls that move "
    "money or units take an Idempotency-Key. Answers may gain members, and refusals codes."
)
_WEBHOOK = "/shop/v1/webhooks/{webhook_id}"

#: Every route of the port, and so the whole contract. Each declares the scope that it needs by
#: `identities=[shop_token(Scope.…)]`; that is checked before its handler runs.
ROUTES: tuple[Route, ...] = (
    ("GET", "/shop/v1/orders", orders.list_orders),
    ("GET", "/shop/v1/orders/{order_id}", orders.show_shop_order),
    ("GET", "/shop/v1/orders/{order_id}/life", orders.show_life),
    ("POST", "/shop/v1/orders/{order_id}/cancel", order_changes.cancel_shop_order),
    ("POST", "/shop/v1/orders/{order_id}/refunds", order_changes.refund_order),
    ("GET", "/shop/v1/buyers/{buyer_id}/wallet", money.show_wallet),
    ("POST", "/shop/v1/buyers/{buyer_id}/wallet/top-ups", money.top_up_wallet),
    ("GET", "/shop/v1/buyers/{buyer_id}/coupons", money.list_coupons),
    ("POST", "/shop/v1/buyers/{buyer_id}/coupons", money.issue_coupon),
    ("GET", "/shop/v1/sales", sales.list_shop_sales),
    ("GET", "/shop/v1/sales/{sale_id}", sales.show_shop_sale),
    ("GET", "/shop/v1/sales/{sale_id}/orders.csv", export.export_orders),
    ("POST", "/shop/v1/sales/{sale_id}/pause", sales.pause_shop_sale),
    ("POST", "/shop/v1/sales/{sale_id}/resume", sales.resume_shop_sale),
    ("POST", "/shop/v1/sales/{sale_id}/restock", sales.restock_shop_sale),
    ("GET", "/shop/v1/sales/{sale_id}/limits", sales.show_sale_limits),
    ("PUT", "/shop/v1/sales/{sale_id}/limits", sales.set_sale_limits),
    ("GET", "/shop/v1/webhooks", webhook_endpoints.list_webhooks),
    ("POST", "/shop/v1/webhooks", webhook_endpoints.add_webhook),
    ("GET", _WEBHOOK, webhook_endpoints.show_webhook),
    ("PATCH", _WEBHOOK, webhook_endpoints.change_webhook),
    ("DELETE", _WEBHOOK, webhook_endpoints.remove_webhook),
    ("POST", f"{_WEBHOOK}/pause", webhook_endpoints.pause_webhook),
    ("POST", f"{_WEBHOOK}/resume", webhook_endpoints.resume_webhook),
    ("POST", f"{_WEBHOOK}/rotate", webhook_endpoints.rotate_webhook_secret),
    ("POST", f"{_WEBHOOK}/replay", webhook_deliveries.replay_dead_deliveries),
    ("GET", f"{_WEBHOOK}/deliveries", webhook_deliveries.list_webhook_deliveries),
    (
        "POST",
        f"{_WEBHOOK}/deliveries/{{delivery_id}}/replay",
        webhook_deliveries.replay_webhook_delivery,
    ),
    ("GET", "/shop/openapi.json", openapi.read_contract),
    problem_pages.ROUTE,
)


def create_shop_app(edge: web.Application) -> web.Application:
    """Build the application, on the stores of the public one, which starts before it."""
    app = web.Application()
    responses.set_up(app, tls=bool(edge[SETTINGS].tls_cert))
    app[LIMITS_OF_CALLS] = CallLimits(edge[SETTINGS].shop_rate_per_s)
    app[openapi.DOCUMENT] = openapi.build(ROUTES, title="Seckill shop API", description=DESCRIPTION)

    async def stores_ctx(app: web.Application) -> AsyncIterator[None]:
        for key in SHARED:
            app[key] = edge[key]
        settings = edge[SETTINGS]
        async with postgres.connect(
            settings.postgres_dsn,
            size=POOL_MAX,
            timeout_s=settings.postgres_timeout_s,
            at_once=False,
        ) as pool:
            app[DB] = pool
            yield

    app.cleanup_ctx.append(stores_ctx)
    add_routes(app, [(method, path, for_programs(declared)) for method, path, declared in ROUTES])
    return app
