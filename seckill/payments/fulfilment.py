"""Fulfil a paid order: a Saga of capture, shipment and notice. Undone, it refunds the order.

It is begun in the transaction that makes the order paid, so that neither exists alone. It needs no
message to start: its row in the log falls due, and `recover` sends the first message. The functions
are in sql/0007_fulfilment.sql.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import Literal

import asyncpg

from seckill.errors import Permanent, Transient
from seckill.payments import refunds
from seckill.payments.card_payment_store import CardPaymentStore
from seckill.payments.provider import Charge, ChargeRequest, ChargeStatus, Provider
from seckill.spans import TRACEPARENT, TraceContext, trace_of_transaction, working_in
from seckill.tracing import order_traces
from seckill.transactions.branches import (
    Branch,
    Definition,
    Operation,
    PartlyDone,
    SqlBranch,
)
from seckill.transactions.log import TransactionLog
from seckill.transactions.states import BranchCall, BranchOp, TransactionState

#: The definition's name in the log.
FULFILMENT = "fulfilment"
#: From the order's Confirm to the first step: by then the payment's other branches are done. If
#: not, only a refund has to wait for them.
START_S = 0.5
#: The reason that a buyer reads of an order that was refunded because it could not be fulfilled.
UNFULFILLED = "unfulfilled"


class NotCharged(Permanent):
    """The provider will not do this with the payment."""


class NotYet(Transient):
    """The provider has not done it yet."""


class StillBooked(Transient):
    """The payment is still being booked; it can be refunded afterwards."""


def tx_id_of(order_id: str) -> str:
    """Return the id of an order's Saga; an order is paid once."""
    return f"ful-{order_id}"


async def begin(
    log: TransactionLog, connection: asyncpg.Connection, payments: Sequence[BranchCall]
) -> None:
    """Write down the Sagas of the orders that these payments paid, in the same transaction."""
    # A payment by card does not carry its context.
    order_ids = [p.args["order_id"] for p in payments if TRACEPARENT not in p.args]
    kept = await order_traces.find(connection, order_ids)
    calls = [
        BranchCall(
            tx_id_of(payment.args["order_id"]),
            _trace_of(payment, kept)
            | {
                "sale_id": payment.args["sale_id"],
                "order_id": payment.args["order_id"],
                "payment_tx": payment.tx_id,
            },
        )
        for payment in payments
    ]
    if calls:
        await log.begin(
            "saga",
            FULFILMENT,
            TransactionState.RUNNING,
            calls,
            lease_s=START_S,
            connection=connection,
        )


def _trace_of(payment: BranchCall, kept: Mapping[str, TraceContext]) -> dict[str, str]:
    """Return the argument with the context of a traced order; nothing for any other."""
    context = kept.get(payment.args["order_id"])
    text = payment.args.get(TRACEPARENT) or (context and context.traceparent)
    return {TRACEPARENT: text} if text else {}


def definition(db: asyncpg.Pool, provider: Provider | None) -> Definition:
    """Return the Saga that fulfils an order.

    Only the shipment refuses. Another step that cannot be done is undone from itself on.
    """
    steps: tuple[Branch, ...] = (
        Capture(db, provider),
        SqlBranch(
            "allocate_shipment",
            db,
            do=_allocate,
            undo=_on_orders("SELECT release_shipments($1)"),
        ),
        SqlBranch(
            "notify",
            db,
            do=_on_orders("SELECT notify_buyers($1, 'shipping')"),
            undo=_on_orders("SELECT notify_buyers($1, 'withdrawn')"),
        ),
    )
    return Definition(FULFILMENT, steps)


class Capture:
    """Takes the money that a card payment holds; undone, refunds a payment of any method.

    It passes no barrier, which would skip the refund of a payment that was not captured. Instead
    the order's state is compared and set, and the provider does each key once.
    """

    name = "capture"

    def __init__(self, db: asyncpg.Pool, provider: Provider | None) -> None:
        self._db = db
        self._provider = provider

    async def run(self, op: BranchOp, calls: Sequence[BranchCall]) -> Mapping[str, str]:
        """Capture or refund; raise PartlyDone if some calls have to be tried again."""
        failed = await (self._capture(calls) if op is BranchOp.DO else self._refund(calls))
        if failed:
            raise PartlyDone({}, failed)
        return {}

    async def _capture(self, calls: Sequence[BranchCall]) -> dict[str, Exception]:
        cards = await self._cards(calls)
        return await self._ask("capture", _holding(calls, cards), {ChargeStatus.CAPTURED})

    async def _refund(self, calls: Sequence[BranchCall]) -> dict[str, Exception]:
        booked = await refunds.begin(self._db, _orders(calls), UNFULFILLED)
        failed: dict[str, Exception] = {
            call.tx_id: StillBooked() for call in calls if call.args["order_id"] in booked
        }
        cards = await self._cards(calls)
        holding = _holding([call for call in calls if call.tx_id not in failed], cards)
        # Declined: there is no money to return.
        failed |= await self._ask("void", holding, {ChargeStatus.VOIDED, ChargeStatus.DECLINED})
        done = [call for call in calls if call.tx_id not in failed]
        await refunds.finish(
            self._db,
            _orders([call for call in done if call.args["payment_tx"] not in cards]),
            [call.args["payment_tx"] for call in done if call.args["payment_tx"] in cards],
        )
        return failed

    async def _cards(self, calls: Sequence[BranchCall]) -> dict[str, ChargeRequest]:
        """Return the charge of each card payment, by its tx_id."""
        tx_ids = [call.args["payment_tx"] for call in calls]
        return await CardPaymentStore(self._db).charges(tx_ids)

    async def _ask(
        self,
        what: Literal["capture", "void"],
        holding: Sequence[tuple[BranchCall, ChargeRequest]],
        wanted: Set[ChargeStatus],
    ) -> dict[str, Exception]:
        """Ask the provider for all payments at once; return tx_id -> why it is not as wanted."""
        provider = self._provider
        if provider is None:
            return {call.tx_id: NotYet("no card provider is set") for call, _ in holding}
        ask = provider.capture if what == "capture" else provider.void
        errors = await asyncio.gather(*(_failure(ask, *each, wanted) for each in holding))
        return {call.tx_id: e for (call, _), e in zip(holding, errors, strict=True) if e}


def _holding(
    calls: Sequence[BranchCall], cards: Mapping[str, ChargeRequest]
) -> list[tuple[BranchCall, ChargeRequest]]:
    """Return the calls with a charge; the provider does not know payments of 0."""
    found = [(call, cards.get(call.args["payment_tx"])) for call in calls]
    return [(call, charge) for call, charge in found if charge and charge.cents]


async def _failure(
    ask: Callable[[ChargeRequest], Awaitable[Charge]],
    call: BranchCall,
    charge: ChargeRequest,
    wanted: Set[ChargeStatus],
) -> Exception | None:
    try:
        with working_in(trace_of_transaction(call.tx_id, call.args)):
            status = (await ask(charge)).status
    except Transient as error:
        return error
    if status in wanted:
        return None
    # Declined, voided and unknown are final; any other status may change.
    changes = status in (ChargeStatus.AUTHORISED, ChargeStatus.PENDING, ChargeStatus.CAPTURED)
    return (NotYet if changes else NotCharged)(f"the provider says {status}")


async def _allocate(
    connection: asyncpg.Connection, calls: Sequence[BranchCall]
) -> Mapping[str, str]:
    rows = await connection.fetch(
        "SELECT tx, why FROM allocate_shipments($1, $2)",
        [call.tx_id for call in calls],
        _orders(calls),
    )
    return dict(rows)


def _on_orders(query: str) -> Operation:
    """Return an operation: a query on the orders of all calls, which refuses none."""

    async def run(connection: asyncpg.Connection, calls: Sequence[BranchCall]) -> Mapping[str, str]:
        await connection.execute(query, _orders(calls))
        return {}

    return run


def _orders(calls: Sequence[BranchCall]) -> list[str]:
    return [call.args["order_id"] for call in calls]
