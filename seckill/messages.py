"""The messages on the broker: MessagePack, version 1. Within a version, fields are only added.

Events have a format of their own (seckill/events.py).

Every decoder raises BadMessage if the bytes cannot be read, and NewerMessage if their version is
newer than this process.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import msgspec

from seckill import order_ids
from seckill.adapters import topology
from seckill.errors import Permanent, Transient
from seckill.inventory.outbox import mark_of
from seckill.inventory.reservations import Grab

M = TypeVar("M")

VERSION = 1
#: The version of a multi-sale message. It differs, so that a consumer that does not know multi-sale
#: messages retries one as a newer message.
MULTI_SALE_VERSION = 2
#: Parts of a multi-sale message: so many small messages hold fewer grabs than one large message.
PARTS_MAX = 48
#: Grabs in one message: about as many as a consumer places in one SQL batch.
MESSAGE_GRABS_MAX = 1024

Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}\Z")]


class PlaceMessage(msgspec.Struct, frozen=True):
    """Grabs of one sale and epoch that Redis has accepted, to become orders."""

    sale: Id
    epoch: Annotated[int, msgspec.Meta(ge=1)]
    #: The outbox entries that this message carries.
    batch: list[str]
    grabs: list[Any]
    traceparent: str = ""
    v: int = VERSION


class MultiSaleMessage(msgspec.Struct, frozen=True):
    """Several orders.place messages sent as one, because each of their sales has few grabs."""

    parts: list[bytes]
    v: int


class ExpireMessage(msgspec.Struct, frozen=True):
    """Orders whose payment window ends now; those still unpaid are to be cancelled."""

    orders: list[str]
    v: int = VERSION


class SagaStep(msgspec.Struct, frozen=True):
    """A step that a Saga has reached, to be done or undone if the Saga is still at that step."""

    #: The name of the definition that lists the steps.
    saga: str
    tx_id: str
    state: Annotated[str, msgspec.Meta(pattern="^(RUNNING|COMPENSATING)\\Z")]
    step: Annotated[int, msgspec.Meta(ge=0, le=2**15 - 1)]
    v: int = VERSION


@dataclass(frozen=True, slots=True)
class BadGrab:
    """An entry that can never become an order, and why."""

    entry: Any
    reason: str


@dataclass(frozen=True, slots=True)
class DecodedPlace:
    """A decoded PlaceMessage: its good grabs, and its bad ones."""

    sale_id: str
    epoch: int
    grabs: list[Grab]
    bad: list[BadGrab] = field(default_factory=list)
    #: The newest outbox entry of the message, as a number (`seckill.inventory.outbox.mark_of`).
    outbox_mark: int = 0


class BadMessage(Permanent):
    """The message cannot be read."""


class NewerMessage(Transient):
    """The message is of a version that only a newer process knows."""


def encode_place(sale_id: str, epoch: int, batch: Sequence[str], grabs: Iterable[Grab]) -> bytes:
    """Encode an orders.place message, as the start of a new trace (W3C traceparent)."""
    traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
    return _encode(PlaceMessage(sale_id, epoch, list(batch), list(grabs), traceparent))


def decode_place(body: bytes) -> DecodedPlace:
    """Decode an orders.place message, and separate its good entries from its bad ones."""
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


def encode_multi_sale(parts: Iterable[bytes]) -> bytes:
    """Encode several orders.place messages as one multi-sale message."""
    return _encode(MultiSaleMessage(list(parts), MULTI_SALE_VERSION))


def parts_of(body: bytes) -> list[bytes]:
    """Return the parts of a multi-sale message; any other message is its own only part."""
    try:
        message = _decode_multi_sale(body)
    except _UNREADABLE:
        return [body]
    is_ours = message.v == MULTI_SALE_VERSION and len(message.parts) <= PARTS_MAX
    return message.parts if is_ours else [body]


def sale_of(body: bytes) -> str:
    """Return the sale of an orders.place message; "" if it is a multi-sale one or unreadable."""
    try:
        return _decode_sale(body).sale
    except _UNREADABLE:
        return ""


def encode_bad_grab(placing: DecodedPlace, bad: BadGrab) -> bytes:
    """Encode a message for the dead queue that holds only the bad entry of another message."""
    try:
        return _encode(PlaceMessage(placing.sale_id, placing.epoch, [], [bad.entry]))
    except RecursionError:  # nested so deeply that it can be read but not written
        return _encode(PlaceMessage(placing.sale_id, placing.epoch, [], ["nested too deeply"]))


def encode_expire(ids: Sequence[str]) -> bytes:
    """Encode an orders.expire message."""
    return _encode(ExpireMessage(list(ids)))


def decode_expire(body: bytes) -> list[str]:
    """Decode an orders.expire message, and return its order ids."""
    message = _decode(_decode_expire, body, topology.ORDERS_EXPIRE)
    bad = [order_id for order_id in message.orders if not order_ids.PATTERN.match(order_id)]
    if bad:
        raise BadMessage(f"not an order id: {bad[0]!r}")
    return message.orders


def encode_saga_step(saga: str, tx_id: str, state: str, step: int) -> bytes:
    """Encode a saga.steps message."""
    return _encode(SagaStep(saga, tx_id, state, step))


def decode_saga_step(body: bytes) -> SagaStep:
    """Decode a saga.steps message."""
    return _decode(_decode_saga_step, body, topology.SAGA_STEPS)


class _OfSale(msgspec.Struct):
    sale: str


class _OfVersion(msgspec.Struct):
    v: int = VERSION


class _StrictGrab(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    order_id: Annotated[str, msgspec.Meta(pattern=rf"^{order_ids.PATTERN.pattern}")]
    buyer_id: Id
    #: Anything larger cannot be a quantity, and would not fit PostgreSQL's integer.
    quantity: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


#: Every error that decoding hostile bytes raises: those of msgspec, text that is not UTF-8, and
#: nesting without end. An error missing from this list would stop the consumer again and again.
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_encode = msgspec.msgpack.Encoder().encode
_decode_place = msgspec.msgpack.Decoder(PlaceMessage).decode
_decode_multi_sale = msgspec.msgpack.Decoder(MultiSaleMessage).decode
_decode_version = msgspec.msgpack.Decoder(_OfVersion).decode
_decode_sale = msgspec.msgpack.Decoder(_OfSale).decode
_decode_expire = msgspec.msgpack.Decoder(ExpireMessage).decode
_decode_saga_step = msgspec.msgpack.Decoder(SagaStep).decode


def _decode(decode: Callable[[bytes], M], body: bytes, queue: str) -> M:
    """Decode a body after its version: a newer version may have any other form."""
    try:
        version = _decode_version(body).v
        if version > VERSION:
            raise NewerMessage(f"version {version} is newer than this consumer's {VERSION}")
        return decode(body)
    except _UNREADABLE as error:
        raise BadMessage(f"not an {queue} message: {error}") from error
