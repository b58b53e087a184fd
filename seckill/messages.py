"""The messages on the broker: MessagePack, version 1. Within a version, fields are only added.

Events are JSON: their readers are other people's programs.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec

from seckill import order_ids
from seckill.adapters import topology
from seckill.errors import Permanent, Transient
from seckill.inventory.outbox import mark_of
from seckill.inventory.reservations import Grab

M = TypeVar("M")

VERSION = 1
#: Of a parcel: what carries orders.place messages is none, and older consumers leave it waiting.
PARCEL_VERSION = 2
#: Messages in a parcel. Small ones come to less than the grabs of one large message.
PARTS_MAX = 48
#: Grabs in one message: a consumer's SQL batch is about that large.
MESSAGE_GRABS_MAX = 1024

Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}\Z")]


class PlaceMessage(msgspec.Struct, frozen=True):
    """Grabs of one sale and epoch that Redis has accepted: make them orders."""

    sale: Id
    epoch: Annotated[int, msgspec.Meta(ge=1)]
    #: The outbox entries that this message carries.
    batch: list[str]
    grabs: list[Any]
    traceparent: str = ""
    v: int = VERSION


class MultiSaleMessage(msgspec.Struct, frozen=True):
    """Several orders.place messages that were sent as one: of sales that have little each."""

    parts: list[bytes]
    v: int


class ExpireMessage(msgspec.Struct, frozen=True):
    """Orders whose payment window ends now: cancel those still unpaid."""

    orders: list[str]
    v: int = VERSION


class SagaStep(msgspec.Struct, frozen=True):
    """A Saga has come to a step: do it, or undo it, if it is still there."""

    #: The definition that knows its steps.
    saga: str
    tx_id: str
    state: Annotated[str, msgspec.Meta(pattern="^(RUNNING|COMPENSATING)\\Z")]
    step: Annotated[int, msgspec.Meta(ge=0, le=2**15 - 1)]
    v: int = VERSION


class OrderChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """An order in an order.* event."""

    order_id: str
    sale_id: str
    buyer_id: str
    quantity: int
    amount_cents: int
    #: Grows with each change of the order.
    version: int
    #: Why it ended.
    reason: str | None = None


class EndedSaga(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Saga in a saga.* event."""

    tx_id: str
    name: str
    #: Why it was compensated.
    reason: str | None = None


class EventMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one statement changed."""

    v: int
    id: int
    topic: str
    at: datetime
    orders: Sequence[OrderChange] = ()
    sagas: Sequence[EndedSaga] = ()


class _OfSale(msgspec.Struct):
    sale: str


class _OfVersion(msgspec.Struct):
    v: int = VERSION


@dataclass(frozen=True, slots=True)
class BadGrab:
    """An entry that can never become an order, and why."""

    entry: Any
    reason: str


@dataclass(frozen=True, slots=True)
class DecodedPlace:
    """A decoded PlaceOrders: its good grabs, and its bad ones."""

    sale_id: str
    epoch: int
    grabs: list[Grab]
    bad: list[BadGrab] = field(default_factory=list)
    #: How far into the outbox it reaches (`seckill.inventory.outbox.mark_of`).
    outbox_mark: int = 0


class BadMessage(Permanent):
    """The message cannot be read."""


class NewerMessage(Transient):
    """The message is of a version that this process does not know; a newer one will."""


#: All that decoding hostile bytes raises: beside msgspec's own, text that is not UTF-8 and nesting
#: that never ends. Anything that got past this list would stop the consumer again and again.
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_encode = msgspec.msgpack.Encoder().encode
_decode_place = msgspec.msgpack.Decoder(PlaceMessage).decode
_decode_parcel = msgspec.msgpack.Decoder(MultiSaleMessage).decode
_decode_version = msgspec.msgpack.Decoder(_OfVersion).decode
_decode_sale = msgspec.msgpack.Decoder(_OfSale).decode
_decode_expire = msgspec.msgpack.Decoder(ExpireMessage).decode
_decode_saga_step = msgspec.msgpack.Decoder(SagaStep).decode


class _StrictGrab(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    order_id: Annotated[str, msgspec.Meta(pattern=rf"^{order_ids.PATTERN.pattern}")]
    buyer_id: Id
    #: Anything larger cannot be a quantity, and would not fit PostgreSQL's integer.
    quantity: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


def encode_place(sale_id: str, epoch: int, batch: Sequence[str], grabs: Iterable[Grab]) -> bytes:
    """Encode an orders.place message, as the start of a new trace (W3C traceparent)."""
    traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
    return _encode(PlaceMessage(sale_id, epoch, list(batch), list(grabs), traceparent))


def decode_place(body: bytes) -> DecodedPlace:
    """Decode an orders.place message and sort good entries from bad; else Bad- or NewerMessage."""
    message = _decode(_decode_place, body, topology.ORDERS_PLACE)
    placing = DecodedPlace(message.sale, message.epoch, [], outbox_mark=mark_of(message.batch))
    for entry in message.grabs:
        try:
            grab = msgspec.convert(entry, _StrictGrab)
        except msgspec.ValidationError as error:
            placing.bad.append(BadGrab(entry, str(error)))
        else:
            placing.grabs.append(Grab(grab.order_id, grab.buyer_id, grab.quantity))
    return placing


def encode_parcel(parts: Iterable[bytes]) -> bytes:
    """Encode orders.place messages into one."""
    return _encode(MultiSaleMessage(list(parts), PARCEL_VERSION))


def parts_of(body: bytes) -> list[bytes]:
    """Return the messages in a parcel; anything else is its own one part."""
    try:
        parcel = _decode_parcel(body)
    except _UNREADABLE:
        return [body]
    is_ours = parcel.v == PARCEL_VERSION and len(parcel.parts) <= PARTS_MAX
    return parcel.parts if is_ours else [body]


def sale_of(body: bytes) -> str:
    """Return the sale of an orders.place message; "" of a parcel, or when it cannot be told."""
    try:
        return _decode_sale(body).sale
    except _UNREADABLE:
        return ""


def encode_bad_grab(placing: DecodedPlace, bad: BadGrab) -> bytes:
    """Encode a message that holds only a bad entry of another, to lie in the dead queue."""
    try:
        return _encode(PlaceMessage(placing.sale_id, placing.epoch, [], [bad.entry]))
    except RecursionError:  # nested just deeply enough to be read, but not to be written again
        return _encode(PlaceMessage(placing.sale_id, placing.epoch, [], ["nested too deeply"]))


def encode_expire(order_ids_: Sequence[str]) -> bytes:
    """Encode an orders.expire message."""
    return _encode(ExpireMessage(list(order_ids_)))


def decode_expire(body: bytes) -> list[str]:
    """Decode an orders.expire message to order ids; else Bad- or NewerMessage."""
    message = _decode(_decode_expire, body, topology.ORDERS_EXPIRE)
    bad = [order_id for order_id in message.orders if not order_ids.PATTERN.match(order_id)]
    if bad:
        raise BadMessage(f"not an order id: {bad[0]!r}")
    return message.orders


def encode_saga_step(saga: str, tx_id: str, state: str, step: int) -> bytes:
    """Encode a saga.steps message."""
    return _encode(SagaStep(saga, tx_id, state, step))


def decode_saga_step(body: bytes) -> SagaStep:
    """Decode a saga.steps message; else Bad- or NewerMessage."""
    return _decode(_decode_saga_step, body, topology.SAGA_STEPS)


def encode_event(
    event_id: int,
    topic: str,
    at: datetime,
    *,
    orders: Sequence[OrderChange] = (),
    sagas: Sequence[EndedSaga] = (),
) -> bytes:
    """Encode an event, as JSON."""
    return msgspec.json.encode(EventMessage(VERSION, event_id, topic, at, orders, sagas))


def _decode(decode: Callable[[bytes], M], body: bytes, queue: str) -> M:
    """Decode, once the version is known to be one of ours: a newer one may look otherwise."""
    try:
        version = _decode_version(body).v
        if version > VERSION:
            raise NewerMessage(f"version {version} is newer than this consumer's {VERSION}")
        return decode(body)
    except _UNREADABLE as error:
        raise BadMessage(f"not an {queue} message: {error}") from error
