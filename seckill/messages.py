"""The messages on the broker: MessagePack, version 1. Within a version, fields are only added.

Events have a format of their own (seckill/events.py).

Every decoder raises BadMessage if the bytes cannot be read or go beyond a bound, and NewerMessage
if their version is newer than this process. No message of ours comes near a bound: what does is
not ours, and would keep the work of all sales waiting.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from seckill import order_ids
from seckill.adapters import topology
from seckill.errors import Permanent, Transient
from seckill.inventory.outbox import mark_of
from seckill.inventory.reservations import Grab
from seckill.spans import TraceContext, plain_traces, read_traces

M = TypeVar("M")

VERSION = 1
#: The version of a multi-sale message. It differs, so that a consumer that does not know multi-sale
#: messages retries one as a newer message.
MULTI_SALE_VERSION = 2
#: Parts of a multi-sale message: so many small messages hold fewer grabs than one large message.
PARTS_MAX = 48
#: Grabs in one message: about as many as a consumer places in one SQL batch.
MESSAGE_GRABS_MAX = 1024

#: Orders in one timer message; the timers of a busy second are several messages.
EXPIRE_ORDERS_MAX = 1024
#: Bytes of a body. Ours have at most 140 kB: 1,024 grabs of some 115 bytes, and their outbox ids.
BODY_BYTES_MAX = 1024 * 1024
#: Grabs, and outbox ids, that are read from one message: four times what is sent, and placed
#: within a tenth of the time limit of a statement.
PLACE_ENTRIES_MAX = 4 * MESSAGE_GRABS_MAX
#: Orders that are read from one timer message. Versions before 0.2 sent all that waited as one.
EXPIRE_ENTRIES_MAX = 16 * EXPIRE_ORDERS_MAX
#: Lua counts exactly up to here, and an epoch rises by one with each rebuild.
EPOCH_MAX = 2**53

Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}\Z")]
#: "milliseconds-number"; `seckill.inventory.outbox` has the exact form.
OutboxId = Annotated[str, msgspec.Meta(max_length=32)]


class PlaceMessage(msgspec.Struct, frozen=True):
    """Grabs of one sale and epoch that Redis has accepted, to become orders."""

    sale: Id
    epoch: Annotated[int, msgspec.Meta(ge=1, le=EPOCH_MAX)]
    #: The outbox entries that this message carries.
    batch: Annotated[list[OutboxId], msgspec.Meta(max_length=PLACE_ENTRIES_MAX)]
    grabs: list[Any]
    traceparent: str = ""
    #: order_id -> traceparent, of the orders that are traced. Of any type, because a message whose
    #: traces cannot be read is placed without them.
    traces: Any = msgspec.UNSET
    v: int = VERSION


class MultiSaleMessage(msgspec.Struct, frozen=True):
    """Several orders.place messages sent as one, because each of their sales has few grabs."""

    parts: Annotated[list[bytes], msgspec.Meta(max_length=PARTS_MAX)]
    v: int


class ExpireMessage(msgspec.Struct, frozen=True):
    """Orders whose payment window ends now; those still unpaid are to be cancelled."""

    orders: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=64)]],
        msgspec.Meta(max_length=EXPIRE_ENTRIES_MAX),
    ]
    v: int = VERSION


class SagaStep(msgspec.Struct, frozen=True):
    """A step that a Saga has reached, to be done or undone if the Saga is still at that step."""

    #: The name of the definition that lists the steps.
    saga: Id
    tx_id: Id
    state: Annotated[str, msgspec.Meta(pattern="^(RUNNING|COMPENSATING)\\Z")]
    step: Annotated[int, msgspec.Meta(ge=0, le=2**15 - 1)]
    v: int = VERSION


@dataclass(frozen=True, slots=True)
class BadGrab:
    """An entry that can never become an order, and why."""

    #: As it was read (`msgspec.Raw`), or a list of the same form.
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
    #: The contexts of its traced orders, by order_id.
    traces: Mapping[str, TraceContext] = field(default_factory=dict)


class BadMessage(Permanent):
    """The message cannot be read."""


class NewerMessage(Transient):
    """The message is of a version that only a newer process knows."""


def encode_place(
    sale_id: str,
    epoch: int,
    batch: Sequence[str],
    grabs: Iterable[Grab],
    traces: Mapping[str, TraceContext] | None = None,
) -> bytes:
    """Encode an orders.place message, with a traceparent of its own and those of its orders."""
    traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
    return _encode(
        PlaceMessage(sale_id, epoch, list(batch), list(grabs), traceparent, plain_traces(traces))
    )


def decode_place(body: bytes) -> DecodedPlace:
    """Decode an orders.place message, and separate its good entries from its bad ones."""
    message = _decode(_decode_place, body, topology.ORDERS_PLACE)
    placing = DecodedPlace(
        message.sale,
        message.epoch,
        [],
        outbox_mark=mark_of(message.batch),
        traces=read_traces(message.traces),
    )
    for entry in message.grabs:
        try:
            placing.grabs.append(Grab(*_decode_grab(entry)))
        except _UNREADABLE as error:
            placing.bad.append(BadGrab(entry, _reason(error)))
    return placing


def encode_multi_sale(parts: Iterable[bytes]) -> bytes:
    """Encode several orders.place messages as one multi-sale message."""
    return _encode(MultiSaleMessage(list(parts), MULTI_SALE_VERSION))


def parts_of(body: bytes) -> list[bytes]:
    """Return the parts of a multi-sale message; any other message is its own only part."""
    if len(body) > BODY_BYTES_MAX:
        return [body]
    try:
        message = _decode_multi_sale(body)
    except _UNREADABLE:
        return [body]
    return message.parts if message.v == MULTI_SALE_VERSION else [body]


def sale_of(body: bytes) -> str:
    """Return the sale of an orders.place message; "" if it is a multi-sale one or unreadable."""
    if len(body) > BODY_BYTES_MAX:
        return ""
    try:
        return _decode_sale(body).sale
    except _UNREADABLE:
        return ""


def traces_of(body: bytes) -> dict[str, TraceContext]:
    """Return the contexts that an orders.place message carries; none if it cannot be read."""
    found: dict[str, TraceContext] = {}
    for part in parts_of(body):
        try:
            found |= read_traces(_decode_traces(part).traces)
        except _UNREADABLE:
            continue
    return found


def encode_bad_grabs(placing: DecodedPlace, entries: Sequence[Any]) -> bytes:
    """Encode a message for the dead queue that holds only bad entries of another message."""
    traces = plain_traces(placing.traces)
    return _encode(PlaceMessage(placing.sale_id, placing.epoch, [], list(entries), traces=traces))


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


class _OfTraces(msgspec.Struct):
    traces: Any = msgspec.UNSET


class _OfVersion(msgspec.Struct):
    v: int = VERSION


class _RawPlace(PlaceMessage, frozen=True):
    """The entries stay MessagePack, so that each is read, or found to be bad, by itself."""

    grabs: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=PLACE_ENTRIES_MAX)]


class _StrictGrab(NamedTuple):
    order_id: Annotated[str, msgspec.Meta(pattern=rf"^{order_ids.PATTERN.pattern}")]
    buyer_id: Id
    #: Anything larger cannot be a quantity, and would not fit PostgreSQL's integer.
    quantity: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


#: Every error that decoding hostile bytes raises: those of msgspec, text that is not UTF-8, and
#: nesting without end. An error missing from this list would stop the consumer again and again.
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_encode = msgspec.msgpack.Encoder().encode
_decode_place = msgspec.msgpack.Decoder(_RawPlace).decode
_decode_grab = msgspec.msgpack.Decoder(_StrictGrab).decode
_decode_multi_sale = msgspec.msgpack.Decoder(MultiSaleMessage).decode
_decode_version = msgspec.msgpack.Decoder(_OfVersion).decode
_decode_sale = msgspec.msgpack.Decoder(_OfSale).decode
_decode_traces = msgspec.msgpack.Decoder(_OfTraces).decode
_decode_expire = msgspec.msgpack.Decoder(ExpireMessage).decode
_decode_saga_step = msgspec.msgpack.Decoder(SagaStep).decode


def _decode(decode: Callable[[bytes], M], body: bytes, queue: str) -> M:
    """Decode a body after its size and its version: a newer version may have any other form."""
    if len(body) > BODY_BYTES_MAX:
        raise BadMessage(
            f"not an {queue} message: it has {len(body):,} bytes, the most is {BODY_BYTES_MAX:,}"
        )
    try:
        version = _decode_version(body).v
        if version == MULTI_SALE_VERSION and queue == topology.ORDERS_PLACE:
            raise BadMessage(f"not a multi-sale message of at most {PARTS_MAX} messages")
        if version > VERSION:
            raise NewerMessage(f"version {version} is newer than this consumer's {VERSION}")
        return decode(body)
    except _UNREADABLE as error:
        raise BadMessage(f"not an {queue} message: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return why bytes cannot be read; equal mistakes have equal reasons."""
    if isinstance(error, RecursionError):
        return "nested deeper than Python reads"
    if isinstance(error, UnicodeDecodeError):
        return "text that is not UTF-8"
    return str(error)
