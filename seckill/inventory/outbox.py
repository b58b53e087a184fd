"""The outbox of a sale: batches that the script accepted and the broker has not confirmed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from redis.asyncio import Redis

from seckill.adapters import redis_keys
from seckill.adapters.redis import read_sales, redis_errors_as_unavailable
from seckill.inventory.reservations import CALL_MAX, Grab
from seckill.spans import TraceContext, read_traces

_unpack = msgspec.msgpack.Decoder(
    Annotated[list[Grab], msgspec.Meta(min_length=1, max_length=CALL_MAX)]
).decode
_unpack_traces = msgspec.msgpack.Decoder().decode
_pack = msgspec.msgpack.Encoder().encode

#: Milliseconds, and a number within the millisecond: more than Redis can run scripts in.
_ID = re.compile(r"([0-9]{1,13})-([0-9]{1,5})\Z")
_SEQUENCE_BITS = 17


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One accepted batch, exactly as grab.lua wrote it."""

    outbox_id: str
    epoch: int
    grabs: list[Grab]
    #: The contexts of its traced grabs, by order_id.
    traces: Mapping[str, TraceContext] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UnreadableEntry:
    """An entry that grab.lua has not written, and why it cannot be read."""

    outbox_id: str
    #: MessagePack with the sale and all fields of the entry.
    body: bytes
    reason: str


def mark_of(outbox_ids: Iterable[str]) -> int:
    """Return the newest of some outbox ids as a number that PostgreSQL can compare; 0 for none.

    A text that is not an outbox id is left out.
    """
    matches = filter(None, map(_ID.match, outbox_ids))
    return max((int(m[1]) << _SEQUENCE_BITS | int(m[2]) for m in matches), default=0)


def written_ms(mark: int) -> int:
    """Return when the entry of a mark was written, in Unix milliseconds by Redis's clock."""
    return mark >> _SEQUENCE_BITS


def id_of(mark: int) -> str:
    """Return the outbox id that a mark stands for."""
    return f"{written_ms(mark)}-{mark & (1 << _SEQUENCE_BITS) - 1}"


async def read_older_than(
    redis: Redis, sale_id: str, before_ms: int, *, limit: int
) -> tuple[list[OutboxEntry], list[UnreadableEntry]]:
    """Return up to `limit` entries written before `before_ms` (Redis time), oldest first."""
    with redis_errors_as_unavailable():
        entries: Any = await redis.xrange(
            redis_keys.outbox(sale_id), "-", f"({before_ms}-0", count=limit
        )
    readable, unreadable = [], []
    for raw_id, fields in entries:
        outbox_id = raw_id.decode()
        try:
            epoch, grabs = int(fields[b"epoch"]), _unpack(fields[b"grabs"])
            traces = _traces(fields.get(b"traces"))
            readable.append(OutboxEntry(outbox_id, epoch, grabs, traces))
        except (KeyError, ValueError, msgspec.MsgspecError, RecursionError) as error:
            body = _pack({"sale": sale_id, "batch": [outbox_id], "fields": list(fields.items())})
            reason = f"outbox entry {outbox_id} cannot be read: {error!r}"
            unreadable.append(UnreadableEntry(outbox_id, body, reason))
    return readable, unreadable


async def sizes(redis: Redis, sale_ids: Sequence[str]) -> list[int]:
    """Return how many entries the outbox of each sale holds, in their order; 0 of a broken one."""
    found = await read_sales(redis, sale_ids, lambda pipe, s: pipe.xlen(redis_keys.outbox(s)))
    return [size or 0 for size in found]


async def oldest_ms(redis: Redis, sale_ids: Sequence[str]) -> int | None:
    """Return the Redis time of the oldest entry in all these outboxes; None if they are empty."""
    firsts = await read_sales(
        redis, sale_ids, lambda pipe, s: pipe.xrange(redis_keys.outbox(s), count=1)
    )
    written = [int(first[0][0].split(b"-")[0]) for first in firsts if first]
    return min(written, default=None)


def _traces(packed: bytes | None) -> dict[str, TraceContext]:
    """Return the contexts of an entry; none if they cannot be read: its grabs count."""
    try:
        return read_traces(_unpack_traces(packed)) if packed else {}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
