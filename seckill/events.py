"""The events as other programs read them: JSON, described field by field in docs/events.md."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

#: Within a version, fields are only added.
VERSION = 1
#: All topics; docs/events.md says when each is sent.
TOPICS = (
    "order.placed",
    "order.rejected",
    "order.paid",
    "order.cancelled",
    "order.refunded",
    "order.partly_refunded",
    "saga.completed",
    "saga.compensated",
    "saga.parked",
    "payment.refund_due",
    "payment.refunded",
    "sale.opened",
    "sale.paused",
    "sale.closed",
    "sale.sold_out",
)


class OrderChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """An order in an order.* event."""

    order_id: str
    sale_id: str
    buyer_id: str
    quantity: int
    amount_cents: int
    #: ISO 4217; amount_cents counts its smallest unit.
    currency: str
    #: Grows with each change of the order.
    version: int
    #: Why the order ended.
    reason: str | None = None
    #: The trace of the order (W3C traceparent), if it has one.
    traceparent: str | None = None


class EndedSaga(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Saga in a saga.* event."""

    tx_id: str
    name: str
    #: Why the Saga was compensated.
    reason: str | None = None
    #: The trace of the order that the Saga belongs to, if it has one.
    traceparent: str | None = None


class PaymentChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """A payment of the shop's own checkout in a payment.* event."""

    reference: str
    order_id: str
    amount_cents: int
    currency: str
    #: Why its money must go back, or went.
    reason: str
    sale_id: str | None = None


class ChangedSale(msgspec.Struct, frozen=True, omit_defaults=True):
    """A sale in a sale.* event."""

    sale_id: str
    #: Between these it sells; null where there is no such limit.
    opens_at: datetime | None = None
    closes_at: datetime | None = None


class EventMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event: what one SQL statement changed."""

    v: int
    id: int
    topic: str
    at: datetime
    orders: Sequence[OrderChange] = ()
    sagas: Sequence[EndedSaga] = ()
    payments: Sequence[PaymentChange] = ()
    sales: Sequence[ChangedSale] = ()


#: Encode an event, as JSON.
encode_event = msgspec.json.Encoder().encode
