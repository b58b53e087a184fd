"""What the public application holds while it runs: one cleanup context for each resource."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial

from aiohttp import web

from gateway.app_keys import (
    CARD_PAYMENTS,
    DB,
    EXTERNAL_PAYMENTS,
    INSTALLATION_ID,
    LIMITS,
    PUBLISHER,
    REDIS,
    SALES,
    SETTINGS,
    STOCK,
)
from gateway.grabs.pipeline import PIPELINE, GrabPipeline
from gateway.grabs.publisher import (
    BATCHED_PUBLISHER,
    BREAKER,
    BatchedPublisher,
    Breaker,
    GrabPublisher,
)
from gateway.grabs.reservations import (
    RESERVATIONS,
    RedisClock,
    ReservationsBySale,
    SaleReservations,
)
from gateway.grabs.sale_views import KNOWN_VIEWS
from gateway.http.shop_auth import SHOP_TOKENS
from gateway.orders.lookup import ORDER_LOOKUP, OrderLookup
from gateway.orders.watcher import ORDER_WATCHER, OrderWatcher
from gateway.overload.concurrency_limit import (
    GRABS_IN_FLIGHT,
    LEAST,
    OTHERS_IN_FLIGHT,
    ConcurrencyLimit,
)
from gateway.overload.rate_limiter import LIMITER, RateLimiter
from gateway.payments.tasks import PAYMENT_TASKS, PaymentTasks
from gateway.sales.pages import SALE_PAGES, SalePages
from gateway.sales.remaining_units import REMAINING_UNITS, RemainingUnits
from gateway.sales.units_back import UnitsBack
from gateway.sales.views import SALE_VIEWS, SaleViews
from seckill import metrics
from seckill.adapters import installation, postgres
from seckill.adapters import redis as redis_client
from seckill.adapters.publisher import Publisher
from seckill.adapters.rabbitmq import Broker
from seckill.adapters.redis_replicas import replica_wait
from seckill.clock import monotonic_ms
from seckill.errors import Unavailable
from seckill.inventory.reservations import Stock
from seckill.orders import orders
from seckill.payments import checkout, fulfilment
from seckill.payments.card_payment_store import CardPaymentStore
from seckill.payments.card_payments import CardPayments
from seckill.payments.checkout import Checkout
from seckill.payments.external_payments import ExternalPayments
from seckill.payments.providers import access_of, open_provider
from seckill.sales.archived import ArchivedSales
from seckill.sales.directory import SaleDirectory
from seckill.sales.sales import Sale
from seckill.sales.token_buckets import TokenBuckets
from seckill.shop.tokens import ShopTokens
from seckill.transactions.log import TransactionLog
from seckill.transactions.tcc import Coordinator


async def in_flight_ctx(app: web.Application) -> AsyncIterator[None]:
    """Bounds on the requests in flight."""
    settings = app[SETTINGS]
    most = settings.requests_in_hand_max
    # aiohttp takes about four times as long for a request as a connection takes for a plain grab.
    for key, kind, bound in (
        (GRABS_IN_FLIGHT, "grabs", most),
        (OTHERS_IN_FLIGHT, "others", max(LEAST, most // 4)),
    ):
        limit = app[key] = ConcurrencyLimit(bound, settings.wait_max_s)
        metrics.IN_FLIGHT.labels(kind).set_function(partial(getattr, limit, "in_flight"))
        metrics.IN_FLIGHT_LIMIT.labels(kind).set_function(partial(getattr, limit, "limit"))
    yield


async def postgres_ctx(app: web.Application) -> AsyncIterator[None]:
    """PostgreSQL: the pool, the sales cached from it, and whose stores these are."""
    settings = app[SETTINGS]
    async with postgres.connect(
        settings.postgres_dsn,
        size=settings.postgres_pool_max,
        timeout_s=settings.postgres_timeout_s,
    ) as pool:
        app[DB] = pool
        app[INSTALLATION_ID] = await installation.join(pool, settings.namespace)
        on_paid = partial(fulfilment.begin, TransactionLog(pool))
        app[CARD_PAYMENTS] = CardPaymentStore(pool, on_paid=on_paid)
        app[EXTERNAL_PAYMENTS] = ExternalPayments(pool, on_paid=on_paid)
        app[SALES] = SaleDirectory(pool)
        app[SHOP_TOKENS] = ShopTokens(pool)
        yield


async def redis_ctx(app: web.Application) -> AsyncIterator[None]:
    """Redis: the client and the scripts."""
    settings = app[SETTINGS]
    app[REDIS] = redis_client.connect(
        settings.redis_url,
        timeout_s=settings.redis_timeout_s,
        kind=redis_client.PipeliningRedis,
        installation_id=app[INSTALLATION_ID],
        wait=replica_wait(
            settings.redis_min_replicas,
            on_disk=settings.redis_replicas_fsync,
            timeout_s=settings.redis_timeout_s,
        ),
    )
    app[STOCK] = Stock(app[REDIS])
    app[LIMITER] = RateLimiter(app[LIMITS], TokenBuckets(app[REDIS]))
    app[REMAINING_UNITS] = RemainingUnits(app[DB], app[SALES], app[STOCK])
    lead_s = settings.ticket_lead_s
    app[KNOWN_VIEWS] = app[SALE_VIEWS] = SaleViews(
        app[REMAINING_UNITS], UnitsBack(partial(orders.next_expiries, app[DB])), lead_s
    )
    app[SALE_PAGES] = SalePages(app[DB], app[STOCK], lead_s)
    async with installation.watched(app[REDIS], app[INSTALLATION_ID]):
        yield
    await app[REDIS].aclose()


async def broker_ctx(app: web.Application) -> AsyncIterator[None]:
    """RabbitMQ: a connection for publishing alone. Until it is there, grabs wait in the outbox."""
    settings = app[SETTINGS]
    broker = Broker(
        settings.amqp_url, "seckill-gateway", settings.connect_timeout_s, app[INSTALLATION_ID]
    )
    timeout_s = settings.confirm_timeout_s
    async with Publisher.open(broker, timeout_s=timeout_s, at_once=False) as publisher:
        app[PUBLISHER] = publisher
        app[BATCHED_PUBLISHER] = BatchedPublisher(publisher, timeout_s=timeout_s)
        app[BREAKER] = Breaker()
        yield


async def grabs_ctx(app: web.Application) -> AsyncIterator[None]:
    """Reservations and their pipeline: drained before the stores that they use are closed."""
    settings = app[SETTINGS]
    archived = ArchivedSales(app[DB])
    clock, asked_ms = RedisClock(), monotonic_ms()
    with suppress(Unavailable):  # Redis may be unavailable when a gateway starts
        clock.observe(await app[STOCK].now_ms(), asked_ms=asked_ms)

    def make_publisher(sale_id: str, on_confirmed: Callable[[list[str]], None]) -> GrabPublisher:
        return GrabPublisher(sale_id, app[BATCHED_PUBLISHER], app[BREAKER], on_confirmed)

    def make_reservations(sale: Sale) -> SaleReservations:
        return SaleReservations(
            sale,
            app[STOCK],
            clock,
            make_publisher,
            archived.holdings,
            batch_max=settings.grab_batch_max,
            calls_max=settings.grab_calls_in_flight,
            spacing_s=settings.grab_spacing_s,
            call_timeout_s=settings.redis_timeout_s,
            outbox_max=settings.outbox_max,
        )

    app[RESERVATIONS] = ReservationsBySale(make_reservations)
    app[PIPELINE] = GrabPipeline(app)
    app[ORDER_LOOKUP] = OrderLookup(
        app[DB], app[SALES], app[RESERVATIONS].of, cancels_max=app[SETTINGS].cancels_max
    )
    yield
    with suppress(Unavailable):  # what is not acknowledged stays in the outbox, for the relay
        await app[RESERVATIONS].drain()


async def payments_ctx(app: web.Application) -> AsyncIterator[None]:
    """Payments: those in flight end before the stores are closed."""
    settings = app[SETTINGS]
    payments_max = settings.payments_in_hand_max
    coordinator = Coordinator(
        checkout.definition(app[DB]), TransactionLog(app[DB]), capacity=payments_max
    )
    async with AsyncExitStack() as stack:
        cards = None
        provider = await stack.enter_async_context(
            open_provider(access_of(settings), calls_max=settings.provider_calls_max)
        )
        if provider:
            cards = CardPayments(
                app[CARD_PAYMENTS],
                provider,
                call_timeout_s=settings.provider_timeout_s,
                grace_s=settings.payment_grace_s,
            )
        paying = Checkout(
            coordinator,
            app[REDIS],
            locking=settings.payment_lock,
            pay_by_card=cards.pay_order if cards else None,
        )
        app[PAYMENT_TASKS] = PaymentTasks(
            app[LIMITER],
            paying,
            in_flight_max=payments_max,
            card_wait_s=settings.card_wait_s,
        )
        yield
        await app[PAYMENT_TASKS].drain(settings.drain_s)


async def order_watcher_ctx(app: web.Application) -> AsyncIterator[None]:
    """Event streams: a bound on their number, and the watcher of their orders."""
    watcher = OrderWatcher(
        app[ORDER_LOOKUP].find_changed, slots_max=app[SETTINGS].event_streams_max
    )
    metrics.EVENT_STREAMS.set_function(lambda: watcher.slots_taken)
    app[ORDER_WATCHER] = watcher
    yield


async def end_event_streams(app: web.Application) -> None:
    """At shutdown, before handlers are waited for: a stream would use up the time to drain."""
    app[ORDER_WATCHER].close()
