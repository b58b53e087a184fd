"""Payments that the shop's own checkout takes and reports, and the money of them that must go back.

Each is known by the shop's reference. A report may come again, late, or twice under two references:
one of them pays the order, and the others are on the list of what is due. The functions are in
sql/0017_external_payments.sql.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import asyncpg

from seckill import audit
from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.errors import Missing, WrongState
from seckill.payments.card_payment_store import OnPaid
from seckill.payments.payment import EXTERNAL, Payment
from seckill.transactions.states import BranchCall

#: What a reference may be: it stands in a path, in logs, and as an argument of a command.
REFERENCE = r"[A-Za-z0-9][A-Za-z0-9_.:~=+@-]{0,127}\Z"
#: Most that one payment may be worth: JavaScript still counts it exactly.
CENTS_MAX = 2**53 - 1

_COLUMNS = """
SELECT x.number, x.reference, x.order_id::text, x.sale_id, x.amount_cents, x.currency, x.paid_at,
       x.state, x.reason, x.reported_at, x.changed_at, o.amount_cents, s.currency
  FROM external_payments x
  LEFT JOIN orders o USING (order_id)
  LEFT JOIN sales s ON s.sale_id = x.sale_id
"""
_PAGE = (
    _COLUMNS
    + " WHERE x.number > $1 AND (NOT $2 OR x.state = 'refund_due') ORDER BY x.number LIMIT $3"
)


class ReportOutcome(StrEnum):
    """What became of a report, in the words of the SQL function."""

    NEW = "new"
    KNOWN = "known"
    REFERENCE_USED = "reference_used"
    NO_ORDER = "no_order"
    PAYMENT_IN_PROGRESS = "payment_in_progress"


class PaymentReport(NamedTuple):
    """What the shop reports; its order id may be any."""

    reference: str
    order_id: str
    #: The sale that the order id belongs to, if there is one.
    sale_id: str | None
    amount_cents: int
    currency: str
    paid_at: datetime


@dataclass(frozen=True, slots=True)
class ExternalPayment:
    """A payment that was reported."""

    #: The order of the reports.
    number: int
    reference: str
    order_id: str
    sale_id: str | None
    amount_cents: int
    currency: str
    paid_at: datetime
    #: `paid`, `refund_due` or `refunded`.
    state: str
    #: Why the money must go back, or went.
    reason: str | None
    reported_at: datetime
    changed_at: datetime
    #: What the order costs; None without an order.
    order_cents: int | None
    order_currency: str | None


class HeldOrder(NamedTuple):
    """An order as the shop's checkout needs it, and why it is not held, if it is not."""

    why: str | None
    sale_id: str
    amount_cents: int
    currency: str
    pay_by: datetime


class MoneyDue(NamedTuple):
    """The number of payments whose money must go back, and the age of the oldest in seconds."""

    payments: int
    oldest_s: float


class ExternalPayments:
    """The payments of the shop's own checkout in PostgreSQL."""

    def __init__(self, db: asyncpg.Pool, *, on_paid: OnPaid | None = None) -> None:
        self._db = db
        self._on_paid = on_paid

    async def take(
        self, report: PaymentReport, *, is_unknown: bool = False
    ) -> tuple[ReportOutcome, ExternalPayment | None]:
        """Take a report; return the payment as it is now, unless nothing was done.

        `is_unknown` means that neither store knows the order: then its money must go back. What
        follows a payment begins in the same transaction.
        """
        async with transaction(self._db) as connection:
            outcome = ReportOutcome(
                await connection.fetchval(
                    "SELECT take_external_payment($1, $2, $3, $4, $5, $6, $7)",
                    report.reference,
                    report.order_id,
                    report.sale_id,
                    report.amount_cents,
                    report.currency,
                    report.paid_at,
                    is_unknown,
                )
            )
            if outcome in (ReportOutcome.NO_ORDER, ReportOutcome.PAYMENT_IN_PROGRESS):
                return outcome, None
            payment = await _read(connection, report.reference)
            if outcome is ReportOutcome.NEW and payment.state == "paid" and self._on_paid:
                await self._on_paid(connection, [await _call(connection, payment)])
        return outcome, payment

    async def hold(self, order_id: str, hold_s: float) -> HeldOrder | None:
        """Keep an order while its buyer is at the bank, once; None without an order."""
        async with transaction(self._db) as connection:
            why = await connection.fetchval("SELECT hold_for_bank($1, $2)", order_id, hold_s)
            row = await connection.fetchrow(
                "SELECT sale_id, o.amount_cents, s.currency, o.pay_by"
                "  FROM orders o JOIN sales s USING (sale_id) WHERE order_id = $1",
                order_id,
            )
        return HeldOrder(None if why == "held" else why, *row) if row else None

    async def send_back(
        self, reference: str, *, actor: str, order_id: str | None = None
    ) -> ExternalPayment:
        """Note, on record, that the shop has sent the money of a payment back; again is harmless.

        Raise Missing if there is no such payment (of this order), WrongState if it is not due.
        """
        async with transaction(self._db) as connection:
            payment = await _find(connection, reference)
            if payment is None or order_id not in (None, payment.order_id):
                raise Missing(f"there is no external payment {reference}")
            outcome = await connection.fetchval("SELECT return_external_payment($1)", reference)
            if outcome == "paid":
                raise WrongState(
                    f"external payment {reference} pays order {payment.order_id}: its money is not "
                    "due; refund the order first"
                )
            payment = await _read(connection, reference)
            if outcome == "returned":
                await audit.record(
                    connection,
                    "external_payment.refunded",
                    actor=actor,
                    sale_id=payment.sale_id,
                    reason=payment.reason or "",
                    details=_details(payment),
                )
        return payment

    async def due(self) -> MoneyDue:
        """Count the payments whose money must go back."""
        with database_errors_as_unavailable():
            row = await self._db.fetchrow(
                "SELECT count(*), coalesce(extract(epoch FROM now() - min(changed_at)), 0)::float8"
                "  FROM external_payments WHERE state = 'refund_due'"
            )
        return MoneyDue(*row)

    async def page(self, *, after: int, due_only: bool, limit: int) -> list[ExternalPayment]:
        """Return payments behind a number in the order of their reports."""
        with database_errors_as_unavailable():
            rows = await self._db.fetch(_PAGE, after, due_only, limit)
        return [ExternalPayment(*row) for row in rows]


async def _find(connection: asyncpg.Connection, reference: str) -> ExternalPayment | None:
    row = await connection.fetchrow(_COLUMNS + " WHERE x.reference = $1", reference)
    return ExternalPayment(*row) if row else None


async def _read(connection: asyncpg.Connection, reference: str) -> ExternalPayment:
    payment = await _find(connection, reference)
    if payment is None:
        raise AssertionError(f"bug: external payment {reference} is gone")
    return payment


async def _call(connection: asyncpg.Connection, payment: ExternalPayment) -> BranchCall:
    """Return a payment as what follows it knows payments."""
    buyer_id = await connection.fetchval(
        "SELECT buyer_id FROM orders WHERE order_id = $1", payment.order_id
    )
    paid = Payment(payment.sale_id or "", payment.order_id, buyer_id, EXTERNAL)
    return BranchCall(f"ext-{payment.reference}", paid.args())


def _details(payment: ExternalPayment) -> Mapping[str, object]:
    return {
        "reference": payment.reference,
        "order_id": payment.order_id,
        "cents": payment.amount_cents,
        "currency": payment.currency,
    }
