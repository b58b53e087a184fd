"""One consumer process: the chosen roles, their stores, and their end."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import asyncpg
import uvloop
from prometheus_client import start_http_server
from redis.asyncio import Redis

from config.settings import Settings
from config.timeouts import KEY_EXPIRY
from consumers import (
    dead_letters,
    publish_events,
    reconcile,
    recover,
    relay,
    return_stock,
    settle_payments,
    sweep,
)
from consumers.crew import Crew, assignments
from consumers.dead_letters import DeadLetters, LastRung, OpenLetters, Together
from consumers.expire_orders import ExpireOrders
from consumers.key_expiry import KeyExpiry
from consumers.ladder import Ladder
from consumers.place_orders import PlaceOrders
from consumers.publish_events import PublishEvents
from consumers.reconcile import Fence, Reconcile
from consumers.recover import Recover
from consumers.relay import Relay
from consumers.return_stock import ReturnStock
from consumers.runner import Handler, Message, PollRole, QueueRole, Role
from consumers.saga_steps import SagaSteps
from consumers.settle_payments import SettlePayments
from consumers.sweep import Sweep
from consumers.timers import Timers, ways_of
from seckill import checkout, database, fulfilment, messages, redis_client, topology
from seckill.broker import Broker, Publisher, count_waiting
from seckill.card_books import CardBooks
from seckill.card_payments import CardPayments
from seckill.errors import UserMistake
from seckill.lifecycle import listening, notify_ready, stop_on_signals
from seckill.provider import Provider
from seckill.reconcile import LOOKS_APART_S, Reconciler
from seckill.sales import SaleDirectory
from seckill.stock import Stock
from seckill.transactions.log import Log
from seckill.transactions.recovery import Engine, Recovery
from seckill.transactions.saga import Saga
from seckill.transactions.tcc import Coordinator

log = logging.getLogger(__name__)

#: Ids of one entry in a message take about this many bytes; weighs a message without decoding it.
GRAB_BYTES = 50
#: Orders cancelled in one transaction.
EXPIRE_BATCH_MAX = 1_000
#: Weight of the Saga steps taken together, about 100 messages: those at the same step are done in
#: one transaction, and its rows stay locked until the last of them.
STEPS_BATCH_MAX = 300
#: The role that only a shop with a card provider needs.
SETTLE_PAYMENTS = "settle_payments"


@dataclass(frozen=True, slots=True)
class Stores:
    """What the roles work with."""

    settings: Settings
    redis: Redis
    stock: Stock
    db: asyncpg.Pool
    sales: SaleDirectory
    publisher: Publisher
    consuming: Broker
    #: The card provider, where there is one.
    provider: Provider | None


def _place_orders(stores: Stores) -> Role:
    ways = ways_of(stores.settings.timeouts, stores.publisher, stores.redis)
    handler = PlaceOrders(stores.db, Timers(stores.sales, ways), stores.publisher)
    return _queue_role(
        stores,
        "place_orders",
        topology.ORDERS_PLACE,
        handler.handle,
        stores.settings.place_batch_max,
        key=lambda message: messages.sale_of(message.body),
    )


def _expire_orders(stores: Stores) -> Role:
    handler = ExpireOrders(stores.db)
    return _queue_role(
        stores, "expire_orders", topology.ORDERS_EXPIRE, handler.handle, EXPIRE_BATCH_MAX
    )


def _key_expiry(stores: Stores) -> Role:
    return PollRole("key_expiry", KeyExpiry(stores.redis, stores.db).run_once, idle_s=0)


def _return_stock(stores: Stores) -> Role:
    role = ReturnStock(stores.db, stores.stock)
    return PollRole("return_stock", role.run_once, idle_s=return_stock.IDLE_S)


def _relay(stores: Stores) -> Role:
    role = Relay(
        stores.redis,
        stores.stock,
        stores.sales,
        stores.publisher,
        age_ms=stores.settings.relay_age_ms,
    )
    return PollRole("relay", role.run_once, idle_s=relay.IDLE_S)


def _sweep(stores: Stores) -> Role:
    return PollRole("sweep", Sweep(stores.db).run_once, idle_s=sweep.IDLE_S)


def _publish_events(stores: Stores) -> Role:
    role = PublishEvents(stores.db, stores.publisher)
    return PollRole("publish_events", role.run_once, idle_s=publish_events.IDLE_S)


def _settle_payments(stores: Stores) -> Role:
    if stores.provider is None:
        raise UserMistake("settle_payments asks a card provider; set SECKILL_PROVIDER_URL")
    settings, books = (
        stores.settings,
        CardBooks(stores.db, on_paid=partial(fulfilment.begin, Log(stores.db))),
    )
    payments = CardPayments(
        books,
        stores.provider,
        call_timeout_s=settings.provider_timeout_s,
        grace_s=settings.payment_grace_s,
    )
    role = SettlePayments(payments, books)
    return PollRole("settle_payments", role.run_once, idle_s=settle_payments.IDLE_S)


def _dead_letters(stores: Stores) -> Role:
    """Move the dead letters of every work queue."""
    movers = [
        _queue_role(
            stores,
            f"dead_letters {queue}",
            topology.dead(queue),
            DeadLetters(stores.db, queue).handle,
            dead_letters.BATCH_MAX * GRAB_BYTES,
            ladder=LastRung(stores.publisher, queue),
        )
        for queue in topology.WORK_QUEUES
    ]
    counter = OpenLetters(stores.db)
    return Together(
        [*movers, PollRole("dead_letters", counter.run_once, idle_s=dead_letters.COUNT_S)]
    )


def _reconcile(stores: Stores) -> Role:
    count = partial(count_waiting, stores.consuming, *topology.HOMES_OF_GRABS)
    reconciler = Reconciler(stores.redis, stores.db, stores.publisher, count, actor="reconcile")
    role = Reconcile(
        stores.redis,
        stores.db,
        reconciler,
        age_ms=int(stores.settings.reconcile_age_s * 1000),
        applies=stores.settings.reconcile_applies,
    )
    fence = Fence(stores.redis, stores.db)
    return Together(
        [
            PollRole("reconcile", fence.run_once, idle_s=reconcile.FENCE_IDLE_S),
            PollRole("reconcile", role.run_once, idle_s=LOOKS_APART_S),
        ]
    )


def _saga_steps(stores: Stores) -> Role:
    handler = SagaSteps(_sagas(stores))
    return _queue_role(stores, "saga_steps", topology.SAGA_STEPS, handler.handle, STEPS_BATCH_MAX)


def _recover(stores: Stores) -> Role:
    log = Log(stores.db)
    engines: list[Engine] = [*_coordinators(stores, log), *_sagas(stores)]
    recovery = Recovery(log, engines, retention_s=stores.settings.transaction_retention_s)
    return PollRole("recover", Recover(recovery).run_once, idle_s=recover.IDLE_S)


def _coordinators(stores: Stores, log: Log) -> list[Coordinator]:
    return [Coordinator(checkout.definition(stores.db), log)]


def _sagas(stores: Stores) -> list[Saga]:
    fulfilling = fulfilment.definition(stores.db, stores.provider)
    return [Saga(fulfilling, Log(stores.db), stores.publisher)]


_BUILDERS: dict[str, Callable[[Stores], Role]] = {
    "place_orders": _place_orders,
    "expire_orders": _expire_orders,
    "key_expiry": _key_expiry,
    "return_stock": _return_stock,
    "relay": _relay,
    "sweep": _sweep,
    "publish_events": _publish_events,
    SETTLE_PAYMENTS: _settle_payments,
    "dead_letters": _dead_letters,
    "reconcile": _reconcile,
    "saga_steps": _saga_steps,
    "recover": _recover,
}
#: The names that `seckill consumers` takes.
ROLES = tuple(_BUILDERS)


def default_roles(settings: Settings) -> tuple[str, ...]:
    """Return the roles that run when none is named: all that have something to do."""
    idle = set() if KEY_EXPIRY in settings.timeouts else {KEY_EXPIRY}
    if not settings.provider_url:
        idle.add(SETTLE_PAYMENTS)
    return tuple(role for role in ROLES if role not in idle)


def known(roles: Sequence[str]) -> Sequence[str]:
    """Return the names, or raise UserMistake naming those that are no roles."""
    if unknown := [role for role in roles if role not in ROLES]:
        raise UserMistake(f"no role {', '.join(unknown)}; there are: {', '.join(ROLES)}")
    return roles


def run(settings: Settings, roles: Sequence[str], *, managed: bool = False) -> None:
    """Run roles until SIGTERM or SIGINT; raise SeckillError when a store is not there at start.

    A managed process begins with the given roles and then runs what comes on its stdin.
    """
    uvloop.run(_serve(settings, roles, managed=managed))


async def open_stores(settings: Settings, stack: AsyncExitStack) -> Stores:
    """Open all stores onto the stack, which closes them in reverse."""
    redis = redis_client.connect(settings.redis_url, timeout_s=settings.redis_timeout_s)
    stack.push_async_callback(redis.aclose)
    stock = Stock(redis)
    await stock.now_ms()  # is it there?
    db = await stack.enter_async_context(
        database.connect(
            settings.postgres_dsn,
            size=settings.postgres_pool_max,
            timeout_s=settings.postgres_timeout_s,
        )
    )
    url, timeout_s = settings.amqp_url, settings.connect_timeout_s
    publisher = await stack.enter_async_context(
        Publisher.open(
            Broker(url, "seckill-publishing", timeout_s), timeout_s=settings.confirm_timeout_s
        )
    )
    consuming = Broker(url, "seckill-consuming", timeout_s)
    provider = None
    if settings.provider_url:
        provider = await stack.enter_async_context(
            Provider.open(
                settings.provider_url,
                timeout_s=settings.provider_timeout_s,
                calls_max=settings.provider_calls_max,
            )
        )
    return Stores(settings, redis, stock, db, SaleDirectory(db), publisher, consuming, provider)


async def _serve(settings: Settings, roles: Sequence[str], *, managed: bool) -> None:
    stop = stop_on_signals()
    async with AsyncExitStack() as stack:
        stores = await open_stores(settings, stack)
        with listening(settings.admin_host, settings.admin_port, "SECKILL_ADMIN_PORT"):
            start_http_server(settings.admin_port, settings.admin_host)
        gc.freeze()
        async with asyncio.TaskGroup() as group:  # one role's death stops the process, loudly
            crew = Crew(lambda name: _BUILDERS[name](stores), group, died=stop.set)
            crew.assign(roles)
            following = group.create_task(_follow(crew, stop)) if managed else None
            notify_ready(settings.notify_socket)
            await stop.wait()
            if following:
                following.cancel()
            crew.assign(())


async def _follow(crew: Crew, stop: asyncio.Event) -> None:
    """Run what the pool manager assigns on our stdin; when it is gone, stop."""
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin
    )
    async for roles in assignments(stdin):
        crew.assign(known(roles))
    log.info("the pool manager is gone")
    stop.set()


def _queue_role(
    stores: Stores,
    name: str,
    queue: str,
    handle: Handler,
    batch_max: int,
    *,
    key: Callable[[Message], str] = lambda _: "",
    ladder: Ladder | None = None,
) -> QueueRole:
    return QueueRole(
        name,
        stores.consuming,
        queue,
        handle,
        ladder or Ladder(stores.publisher, queue),
        prefetch=stores.settings.prefetch,
        weigh=lambda message: 1 + len(message.body) // GRAB_BYTES,
        batch_max=batch_max,
        key=key,
    )
