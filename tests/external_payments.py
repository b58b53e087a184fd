"""Payments of a shop's own checkout for tests."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from functools import partial

import asyncpg

from seckill.orders.orders import Placement
from seckill.payments import fulfilment
from seckill.payments.external_payments import ExternalPayments, PaymentReport
from seckill.transactions.log import TransactionLog

PAID_AT = datetime(2026, 11, 27, 19, 14, tzinfo=UTC)

_numbers = itertools.count(1)


def new_reference() -> str:
    """Make a reference that no other test has."""
    return f"pi_{next(_numbers)}"


def report_of(
    order: Placement, *, reference: str = "", cents: int = 1999, currency: str = "EUR"
) -> PaymentReport:
    """Make the report of a payment of an order."""
    return PaymentReport(
        reference or new_reference(), order.order_id, order.sale_id, cents, currency, PAID_AT
    )


def external_payments(db: asyncpg.Pool) -> ExternalPayments:
    """Take reports as a gateway does."""
    return ExternalPayments(db, on_paid=partial(fulfilment.begin, TransactionLog(db)))
