"""How each role is made from the stores: the one place that knows all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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
from consumers.stores import Stores
from consumers.sweep import Sweep
from consumers.timers import Timers, ways_of
from seckill import checkout, fulfilment, messages, topology
from seckill.broker import count_waiting
from seckill.card_books import CardBooks
from seckill.card_payments import CardPayments
from seckill.reconcile import Reconciler
from seckill.transactions.log import Log
from seckill.transactions.recovery import Engine, Recovery
from seckill.transactions.saga import Saga
from seckill.transactions.tcc import Coordinator

#: Ids of one entry in a message take about this many bytes; weighs a message without decoding it.
GRAB_BYTES = 50
#: Orders cancelled in one transaction.
EXPIRE_BATCH_MAX = 1_000
#: Weight of the Saga steps taken together, about 100 messages: those at the same step are done in
#: one transaction, and its rows stay locked until the last of them.
STEPS_BATCH_MAX = 300
#: The role that only a shop with a card provider needs.
SETTLE_PAYMENTS = "settle_payments"


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
        spacing_s=stores.settings.place_spacing_s,
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
    role = PublishEvents(stores.db, stores.telling)
    return PollRole(
        "publish_events",
        role.run_once,
        idle_s=publish_events.IDLE_S,
        busy_s=publish_events.BUSY_S,
    )


def _settle_payments(stores: Stores) -> Role:
    if stores.provider is None:
        raise AssertionError("bug: settle_payments is run without a provider")
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
            role,
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


BUILDERS: dict[str, Callable[[Stores], Role]] = {
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


def _queue_role(
    stores: Stores,
    name: str,
    queue: str,
    handle: Handler,
    batch_max: int,
    *,
    key: Callable[[Message], str] = lambda _: "",
    ladder: Ladder | None = None,
    spacing_s: float = 0.0,
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
        spacing_s=spacing_s,
    )
