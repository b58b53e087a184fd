"""The public application: its routes, and what it is made of."""

from __future__ import annotations

from aiohttp import web

from config.limits import load_limits
from config.settings import Settings
from gateway import resources
from gateway.app_keys import LIMITS, SETTINGS
from gateway.grabs import routes as grabs
from gateway.http import cors, docs, openapi, problem_pages, responses
from gateway.http.auth import TICKET_KEYS
from gateway.http.client_address import TRUSTED_PROXIES
from gateway.http.contract import Route
from gateway.http.logins import LOGINS, logins_ctx, logins_of
from gateway.http.problems import add_routes
from gateway.orders import event_stream
from gateway.orders import routes as orders
from gateway.overload.poll_schedule import POLL_SCHEDULE, PollSchedule
from gateway.payments import external, shop_identity, webhooks
from gateway.payments import routes as payments
from gateway.sales import challenges, tickets
from gateway.sales import routes as sales
from seckill.auth.key_ring import KeyRing, parse_all
from seckill.payments.providers import webhooks_of

#: Settings that are key rings.
KEY_RINGS = ("ticket_keys", "jwt_keys", "webhook_keys", "shop_keys")
#: Those without which the gateway works: what they sign is then refused.
OPTIONAL_RINGS = ("webhook_keys", "shop_keys")

#: Every route of the public port, and so the whole contract.
ROUTES: tuple[Route, ...] = (
    ("POST", "/v1/sales/{sale_id}/grabs", grabs.grab),  # first: the router tries in order
    ("GET", "/v1/sales", sales.list_sales),
    ("GET", "/v1/sales/{sale_id}", sales.show_sale),
    ("POST", "/v1/sales/{sale_id}/tickets", tickets.issue_ticket),
    ("GET", "/v1/sales/{sale_id}/orders/mine", orders.show_mine),
    ("GET", "/v1/orders/{order_id}", orders.show_order),
    ("POST", "/v1/sales/{sale_id}/challenges", challenges.issue_challenge),
    ("GET", "/proof-worker.js", challenges.show_worker),
    ("DELETE", "/v1/orders/{order_id}", orders.cancel_order),
    ("GET", "/v1/orders/{order_id}/events", event_stream.stream_order),
    ("POST", "/v1/orders/{order_id}/stream-tokens", event_stream.issue_stream_token),
    ("POST", "/v1/orders/{order_id}/payments", payments.pay_order),
    ("POST", "/v1/orders/{order_id}/payments/external", external.take_external_payment),
    ("POST", "/v1/orders/{order_id}/payments/external/begin", external.begin_external_payment),
    (
        "POST",
        "/v1/orders/{order_id}/payments/external/{reference}/refunded",
        external.return_external_payment,
    ),
    ("GET", "/v1/payments/external", external.list_external_payments),
    ("POST", "/v1/webhooks/payments", webhooks.take_payment_event),
    ("GET", "/openapi.json", openapi.read_contract),
    problem_pages.ROUTE,
    ("GET", "/docs", docs.show_docs),
    ("GET", "/docs/{asset}", docs.load_asset),
)


def create_app(settings: Settings) -> web.Application:
    """Build the public application. Its stores are opened when it starts."""
    app = web.Application()
    app[SETTINGS] = settings
    app[LIMITS] = load_limits(settings.limits_profile, settings.limits_file)
    rings = _key_rings(settings)
    app[TICKET_KEYS] = rings["ticket_keys"]
    app[LOGINS] = logins_of(settings, rings.get("jwt_keys"))
    if "shop_keys" in rings:
        app[shop_identity.SHOP_KEYS] = rings["shop_keys"]
    app[webhooks.READER] = webhooks_of(settings, rings.get("webhook_keys"))
    app[POLL_SCHEDULE] = PollSchedule(settings.poll_budget_per_s)
    app[TRUSTED_PROXIES] = settings.trusted_proxies
    responses.set_up(app, tls=bool(settings.tls_cert))
    if settings.cors_origins:
        cors.allow_origins(app, settings.cors_origins)
    app.cleanup_ctx.extend(
        (
            resources.in_flight_ctx,
            logins_ctx,
            resources.postgres_ctx,
            resources.redis_ctx,
            challenges.burns_ctx,
            resources.broker_ctx,
            resources.grabs_ctx,
            resources.payments_ctx,
            resources.order_watcher_ctx,
        )
    )
    app.on_shutdown.append(resources.end_event_streams)
    app[docs.FILES] = docs.load()
    app[openapi.DOCUMENT] = openapi.build(ROUTES)
    add_routes(
        app,
        [(method, path, declared.handler) for method, path, declared in ROUTES],
        preflight=cors.preflight if settings.cors_origins else None,
    )
    return app


def _key_rings(settings: Settings) -> dict[str, KeyRing]:
    texts = {name: getattr(settings, name).get_secret_value() for name in KEY_RINGS}
    without = {name for name in OPTIONAL_RINGS if not texts[name]}
    if not texts["jwt_keys"] and settings.checks_logins:  # by public keys alone
        without.add("jwt_keys")
    return parse_all({name: text for name, text in texts.items() if name not in without})
