"""Read a dead message: why it died, when, and which orders it names.

Nothing here fails, whatever the message holds: what cannot be read is None. PostgreSQL accepts all
text that is returned, so that a letter is never refused. Of a body beyond the bounds of a message
only the beginning is kept, so that each letter is written within the time limit of a statement.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from seckill import order_ids
from seckill.adapters import topology
from seckill.auth import tickets
from seckill.messages import BODY_BYTES_MAX
from seckill.sales.terms import UNITS_MAX

#: 9999-12-31: the last day that a datetime can hold.
_MS_MAX = 253_402_214_400_000
_BIGINT_MAX = 2**63 - 1
#: How many bytes a body had of which only the beginning was kept.
CUT_HEADER = "x-bytes"
#: RabbitMQ's reason for moving a message -> our words.
_BROKER_REASONS = {
    "delivery_limit": f"delivered {topology.DELIVERY_LIMIT} times without an answer:"
    " it may take its consumers down",
    "rejected": "rejected by its consumer",
    "expired": "expired",
    "maxlen": "the queue was full",
}


class NamedOrder(NamedTuple):
    """An order that a message names; a bad buyer or quantity is None."""

    order_id: str
    buyer_id: str | None
    quantity: int | None


@dataclass(frozen=True, slots=True)
class DeadMessage:
    """A message as it goes into `dead_letters`; a time that the message lacks is None."""

    #: The work queue on which it died.
    queue: str
    body: bytes
    #: JSON.
    headers: str
    reason: str
    stack: str | None
    attempts: int | None
    first_at: datetime | None
    last_at: datetime | None
    sale_id: str | None
    orders: tuple[NamedOrder, ...]

    @property
    def digest(self) -> bytes:
        """The identity of the message: its copies have the same queue and body."""
        return hashlib.sha256(self.queue.encode() + b"\0" + self.body).digest()


def read(queue: str, body: bytes, headers: Mapping[str, Any]) -> DeadMessage:
    """Read a message that died on a work queue."""
    death = _death_on(queue, headers)
    died_at = death.get("time")
    died_at = died_at.astimezone(UTC) if isinstance(died_at, datetime) else None
    if len(body) > BODY_BYTES_MAX:
        headers = {**headers, CUT_HEADER: len(body)}
        body = body[:BODY_BYTES_MAX]
    content = _decode(body)
    content = content if isinstance(content, dict) else {}
    stack = headers.get("x-stack")
    return DeadMessage(
        queue=queue,
        body=body,
        headers=msgspec.json.encode(_plain(dict(headers)), enc_hook=repr).decode(),
        reason=_reason(headers, death),
        stack=str(_plain(stack)) if stack else None,
        attempts=_attempts(headers, death),
        first_at=_moment(headers.get("x-first-failed-ms")) or died_at,
        last_at=_moment(headers.get("x-last-failed-ms")) or died_at,
        sale_id=_id_or_none(content.get("sale")),
        orders=_orders(content),
    )


def decode(body: bytes) -> object | None:
    """Return a body's content in types of JSON; None if it cannot be read."""
    try:
        plain: object = msgspec.json.decode(msgspec.json.encode(_decode(body), enc_hook=repr))
    except (
        TypeError,
        ValueError,
        RecursionError,
    ):  # not keys of JSON, or nested too deeply
        return None
    return plain


def first_line(text: str) -> str:
    """Return the first line of an error; PostgreSQL puts whole rows into the next lines."""
    return text.partition("\n")[0]


def _decode(body: bytes) -> object | None:
    try:
        content: object = msgspec.msgpack.decode(body)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return None
    return content


def _reason(headers: Mapping[str, Any], death: Mapping[str, Any]) -> str:
    given = headers.get("x-reason")
    if given is not None:
        return str(_plain(given))
    word = str(_plain(death.get("reason", "unknown")))
    return _BROKER_REASONS.get(word, f"moved by the broker: {word}")


def _attempts(headers: Mapping[str, Any], death: Mapping[str, Any]) -> int | None:
    attempts = headers.get("x-attempts")
    if isinstance(attempts, int) and 0 <= attempts <= _BIGINT_MAX:
        return attempts
    return topology.DELIVERY_LIMIT if death.get("reason") == "delivery_limit" else None


def _death_on(queue: str, headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return RabbitMQ's note on this queue; it also notes other moves, such as a timer's."""
    deaths = headers.get("x-death")
    for death in deaths if isinstance(deaths, list) else ():
        if isinstance(death, dict) and death.get("queue") == queue:
            return death
    return {}


def _orders(content: Mapping[Any, Any]) -> tuple[NamedOrder, ...]:
    """Return the orders that an orders.place or orders.expire message names, each once."""
    grabs, expiring = content.get("grabs"), content.get("orders")
    entries = [
        *(entry for entry in (grabs if isinstance(grabs, list) else ()) if isinstance(entry, list)),
        *([order_id] for order_id in (expiring if isinstance(expiring, list) else ())),
    ]
    named = {}
    for order_id, buyer_id, quantity in ([*entry, None, None, None][:3] for entry in entries):
        if isinstance(order_id, str) and order_ids.PATTERN.match(order_id):
            named[order_id] = NamedOrder(order_id, _id_or_none(buyer_id), _units(quantity))
    return tuple(named.values())


def _id_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and tickets.ID.match(value) else None


def _units(value: object) -> int | None:
    return value if type(value) is int and 1 <= value <= UNITS_MAX else None


def _moment(ms: object) -> datetime | None:
    if isinstance(ms, int) and 0 <= ms <= _MS_MAX:
        return datetime.fromtimestamp(ms / 1000, UTC)
    return None


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever AMQP can carry
    """Return a header in types of JSON. NUL, which PostgreSQL refuses, becomes visible."""
    if isinstance(value, bytes | bytearray):
        value = value.decode(errors="backslashreplace")
    if isinstance(value, str):
        return value.replace("\0", "\\0").encode(errors="backslashreplace").decode()
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
