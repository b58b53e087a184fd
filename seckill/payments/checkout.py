"""Pay an order: a TCC over the order with its units, the buyer's coupon and the buyer's wallet.

The branch `order` comes first: its Try wins or loses the race against timeout, cancellation and
other payments, and writes down the amount. The functions are in sql/0005_payments.sql.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from seckill.adapters import redis_keys
from seckill.payments import fulfilment
from seckill.payments.payment import CARD, Payment, PaymentRefusal, new_tx_id
from seckill.transactions.branches import Definition, Operation, SqlBranch
from seckill.transactions.log import TransactionLog
from seckill.transactions.states import BranchCall, TransactionOutcome, TransactionState
from seckill.transactions.tcc import Coordinator

#: The definition's name in the log.
PAYMENT = "payment"
#: If a process dies with the lock, its order can be paid again after this long: a few times what a
#: payment takes.
LOCK_S = 2.0

#: Pays by card (seckill/payments/card_payments.py).
PayByCard = Callable[[Payment], Awaitable[TransactionOutcome]]


def definition(db: asyncpg.Pool) -> Definition:
    """Return the transaction that pays an order.

    A refused Confirm means that its Try is missing: the engine parks it for an operator.
    """
    return Definition(
        PAYMENT,
        (
            SqlBranch(
                "order",
                db,
                try_=_try_order,
                confirm=_confirm_order(TransactionLog(db)),
                cancel=_cancel_order,
            ),
            SqlBranch(
                "coupon",
                db,
                try_=_with_coupon(_function_that_may_refuse("lock_coupons")),
                confirm=_with_coupon(_function_that_may_refuse("use_coupons")),
                cancel=_with_coupon(_function("unlock_coupons")),
            ),
            SqlBranch(
                "wallet",
                db,
                try_=_function_that_may_refuse("freeze_funds"),
                confirm=_function_that_may_refuse("charge_funds"),
                cancel=_function("unfreeze_funds"),
            ),
        ),
    )


class Checkout:
    """Pays orders."""

    def __init__(
        self,
        coordinator: Coordinator,
        redis: Redis,
        *,
        locking: bool = True,
        pay_by_card: PayByCard | None = None,
    ) -> None:
        self._coordinator = coordinator
        self._pay_by_card = pay_by_card
        self._redis = redis
        self._locking = locking

    async def pay(self, payment: Payment) -> TransactionOutcome:
        """Pay an order once; the reason of a cancel is a PaymentRefusal, or a word of the engine.

        Raise CoordinatorFull if too much is in flight, and Unavailable if the outcome is unknown.
        """
        if not self._locking:
            return await self._submit(payment)
        # Without the lock, two payments of one order would both be logged and tried, and one be
        # canceled. It saves work and decides nothing, so a payment goes on without Redis.
        key = redis_keys.paying(payment.sale_id, payment.order_id)
        lock = self._redis.lock(key, timeout=LOCK_S, blocking=False)
        try:
            if not await lock.acquire():
                return TransactionOutcome(
                    TransactionState.CANCELED, PaymentRefusal.PAYMENT_IN_PROGRESS
                )
        except (RedisError, OSError):
            return await self._submit(payment)
        try:
            return await self._submit(payment)
        finally:
            with suppress(RedisError, OSError):  # it ends by itself, or has ended
                await lock.release()

    async def _submit(self, payment: Payment) -> TransactionOutcome:
        if payment.method == CARD:
            if self._pay_by_card is None:
                return TransactionOutcome(TransactionState.CANCELED, PaymentRefusal.NO_CARDS)
            return await self._pay_by_card(payment)
        return await self._coordinator.submit(new_tx_id(), payment.args())


async def _try_order(
    connection: asyncpg.Connection, calls: Sequence[BranchCall]
) -> Mapping[str, str]:
    rows = await connection.fetch(
        "SELECT tx, why FROM try_payments($1, $2, $3, $4, $5)",
        *_txs_and_orders(calls),
        [call.args["buyer_id"] for call in calls],
        [call.args["method"] for call in calls],
        [call.args["coupon_id"] for call in calls],
    )
    return dict(rows)


def _confirm_order(log: TransactionLog) -> Operation:
    """Return the operation that makes orders paid and begins to fulfil them, in one step."""

    async def run(connection: asyncpg.Connection, calls: Sequence[BranchCall]) -> Mapping[str, str]:
        query = "SELECT tx, why FROM confirm_payments($1, $2)"
        refused = dict(await connection.fetch(query, *_txs_and_orders(calls)))
        await fulfilment.begin(log, connection, [w for w in calls if w.tx_id not in refused])
        return refused

    return run


async def _cancel_order(
    connection: asyncpg.Connection, calls: Sequence[BranchCall]
) -> Mapping[str, str]:
    await connection.execute("SELECT cancel_payments($1, $2)", *_txs_and_orders(calls))
    return {}


def _txs_and_orders(calls: Sequence[BranchCall]) -> tuple[list[str], list[str]]:
    return [call.tx_id for call in calls], [call.args["order_id"] for call in calls]


def _with_coupon(operation: Operation) -> Operation:
    """Return an operation for only the payments that use a coupon."""

    async def run(connection: asyncpg.Connection, calls: Sequence[BranchCall]) -> Mapping[str, str]:
        asking = [call for call in calls if call.args["coupon_id"] is not None]
        return await operation(connection, asking) if asking else {}

    return run


def _function_that_may_refuse(function: str) -> Operation:
    """Return an operation: an SQL function of transactions, which returns those it refuses."""

    async def run(connection: asyncpg.Connection, calls: Sequence[BranchCall]) -> Mapping[str, str]:
        query = f"SELECT tx, why FROM {function}($1)"  # noqa: S608 - a constant
        return dict(await connection.fetch(query, [call.tx_id for call in calls]))

    return run


def _function(function: str) -> Operation:
    """Return an operation: an SQL function of transactions, which refuses none."""

    async def run(connection: asyncpg.Connection, calls: Sequence[BranchCall]) -> Mapping[str, str]:
        await connection.execute(f"SELECT {function}($1)", [call.tx_id for call in calls])
        return {}

    return run
