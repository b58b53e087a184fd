"""Stock in Redis: one typed method for each script in lua/.

Redis gates, PostgreSQL judges: what is decided here may refuse too much for a moment, never sell
too much. Every method raises Unavailable when Redis did not answer; what it did is then unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis

import lua
from seckill.adapters import redis_keys
from seckill.adapters.redis import redis_errors_as_unavailable

#: Items of one script call: keeps `unpack` in Lua far below its stack limit (8,000), and Redis
#: answering others at least every millisecond or two.
CALL_MAX = 512

_pack = msgspec.msgpack.Encoder().encode


class Grab(NamedTuple):
    """One buyer's wish for `quantity` units, under the order_id it will get if it is granted."""

    order_id: str
    buyer_id: str
    quantity: int


class Verdict(StrEnum):
    """What a script says of one grab (the letters of grab.lua), or of the whole call."""

    ACCEPTED = "A"
    DUPLICATE = "D"
    NOT_OPEN = "N"
    CLOSED = "C"
    PAUSED = "P"
    QUANTITY = "Q"
    SOLD_OUT = "S"
    OUTBOX_FULL = "F"
    #: The sale is not in Redis, is fenced, or the call came too late: nothing was done.
    UNAVAILABLE = "U"


VERDICTS = {verdict.value: verdict for verdict in Verdict}


@dataclass(frozen=True, slots=True)
class GrabReply:
    """Answer to a batch of grabs; `verdicts` has one item a grab, in their order."""

    now_ms: int
    verdicts: Sequence[Verdict]
    epoch: int = 0
    left: int = 0
    #: Entry that holds exactly the accepted grabs; "" when there are none.
    outbox_id: str = ""
    #: The first order_id of each duplicate, in order.
    known_ids: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Holding:
    """A buyer's reservation."""

    order_id: str
    quantity: int

    @classmethod
    def parse(cls, text: str) -> Holding:
        """Read "order_id:quantity"."""
        order_id, _, quantity = text.partition(":")
        return cls(order_id, int(quantity))

    def __str__(self) -> str:
        return f"{self.order_id}:{self.quantity}"


@dataclass(frozen=True, slots=True)
class HoldersReply:
    """What buyers hold (one item a buyer, in order) and what a new grab would be told now."""

    verdict: Verdict
    left: int = 0
    holdings: Sequence[Holding | None] = ()


class UnitReturn(NamedTuple):
    """A holder to delete, and the units that go back to stock with it."""

    buyer_id: str
    holding: str
    units: int


class RestockOutcome(StrEnum):
    """What restock.lua says of a step from one total to another."""

    OK = "OK"
    #: Fewer units are unsold than it would take; `units` says how many.
    SHORT = "SHORT"
    #: Redis counts neither the one total nor the other, but `units`.
    MOVED = "MOVED"
    #: Redis has lost the sale, or it is being rebuilt.
    LATER = "LATER"


class RestockReply(NamedTuple):
    """Answer to a restock; `units` is what is left for sale, unless the outcome says otherwise."""

    outcome: RestockOutcome
    units: int = 0


@dataclass(frozen=True, slots=True)
class SaleTerms:
    """What Redis must know of a sale to open it. Times are Unix milliseconds, 0 for none."""

    number: int
    stock: int
    per_order_max: int
    epoch: int
    opens_at_ms: int = 0
    closes_at_ms: int = 0


class Stock:
    """The scripts, bound to one Redis client."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._grab = lua.register(redis, "grab")
        self._ack_outbox = lua.register(redis, "ack_outbox")
        self._find_holders = lua.register(redis, "find_holders")
        self._return_units = lua.register(redis, "return_units")
        self._open_sale = lua.register(redis, "open_sale")
        self._set_sale_state = lua.register(redis, "set_sale_state")
        self._restock = lua.register(redis, "restock")

    async def grab(
        self,
        sale_id: str,
        grabs: Sequence[Grab],
        *,
        deadline_ms: int,
        settled: Sequence[str] = (),
        outbox_max: int,
    ) -> GrabReply:
        """Reserve for up to CALL_MAX grabs in one atomic step; drop `settled` outbox entries.

        Past `deadline_ms` (Redis time) the script touches nothing. Running it again with the same
        grabs changes nothing: each is then a duplicate of itself.
        """
        reply = await self._run(
            self._grab,
            [
                redis_keys.stock(sale_id),
                redis_keys.sale(sale_id),
                redis_keys.holders(sale_id),
                redis_keys.outbox(sale_id),
            ],
            [_pack(grabs), deadline_ms, _pack(settled), outbox_max],
        )
        if reply[0] != b"OK":
            _expect(reply, b"LATE", b"MISSING", b"FENCED")
            return GrabReply(now_ms=reply[1], verdicts=[Verdict.UNAVAILABLE] * len(grabs))
        _, now_ms, epoch, left, outbox_id, letters, *known = reply
        return GrabReply(
            now_ms=now_ms,
            epoch=epoch,
            left=left,
            outbox_id=outbox_id.decode(),
            verdicts=[VERDICTS[letter] for letter in letters.decode()],
            known_ids=[order_id.decode() for order_id in known],
        )

    async def ack_outbox(self, sale_id: str, settled: Sequence[str]) -> None:
        """Drop outbox entries that the broker has confirmed."""
        await self._run(self._ack_outbox, [redis_keys.outbox(sale_id)], [_pack(settled)])

    async def find_holders(self, sale_id: str, buyer_ids: Sequence[str]) -> HoldersReply:
        """Read what up to CALL_MAX buyers hold, and what a grab would be told."""
        reply = await self._run(
            self._find_holders,
            [redis_keys.stock(sale_id), redis_keys.sale(sale_id), redis_keys.holders(sale_id)],
            [_pack(buyer_ids)],
        )
        if reply[0] != b"OK":
            _expect(reply, b"MISSING", b"FENCED")
            return HoldersReply(Verdict.UNAVAILABLE, holdings=[None] * len(buyer_ids))
        _, letter, left, holders = reply
        holdings = [Holding.parse(h.decode()) if h else None for h in holders]
        return HoldersReply(VERDICTS[letter.decode()], left, holdings)

    async def return_units(self, sale_id: str, epoch: int, returns: Sequence[UnitReturn]) -> bool:
        """Delete up to CALL_MAX holders with their units; False means "later", never "done".

        True means that every holder is gone, by this call or an earlier one.
        """
        reply = await self._run(
            self._return_units,
            [redis_keys.stock(sale_id), redis_keys.sale(sale_id), redis_keys.holders(sale_id)],
            [epoch, _pack(returns)],
        )
        _expect(reply, b"OK", b"LATER")
        return bool(reply[0] == b"OK")

    async def announce(self, sale_id: str, terms: SaleTerms) -> bool:
        """Write a new sale in state created; False when Redis holds a sale of this id already.

        One that was announced but never opened is written over: it holds nothing.
        """
        fields: dict[Any, Any] = {
            "state": "created",
            "opens_at_ms": terms.opens_at_ms,
            "closes_at_ms": terms.closes_at_ms,
            "per_order_max": terms.per_order_max,
            "number": terms.number,
            "epoch": terms.epoch,
            "corrections": 0,
        }
        with redis_errors_as_unavailable():
            if await self._redis.hget(redis_keys.sale(sale_id), "state") not in (None, b"created"):
                return False
            await self._redis.hset(redis_keys.sale(sale_id), mapping=fields)
        return True

    async def open_sale(self, sale_id: str, terms: SaleTerms) -> bool:
        """Open a sale that was never opened; False when Redis holds part of another life."""
        reply = await self._run(
            self._open_sale,
            [redis_keys.stock(sale_id), redis_keys.sale(sale_id), redis_keys.holders(sale_id)],
            [
                terms.stock,
                terms.opens_at_ms,
                terms.closes_at_ms,
                terms.per_order_max,
                terms.number,
                terms.epoch,
            ],
        )
        _expect(reply, b"OPENED", b"REOPENED", b"CONFLICT")
        return bool(reply[0] != b"CONFLICT")

    async def set_sale_state(self, sale_id: str, state: str) -> bool:
        """Set the state of a sale that has stock; False when it is missing or fenced."""
        reply = await self._run(
            self._set_sale_state, [redis_keys.stock(sale_id), redis_keys.sale(sale_id)], [state]
        )
        _expect(reply, b"OK", b"MISSING", b"FENCED")
        return bool(reply[0] == b"OK")

    async def restock(self, sale_id: str, epoch: int, before: int, after: int) -> RestockReply:
        """Move a sale's total, and its stock by the difference; the same step twice is one."""
        reply = await self._run(
            self._restock,
            [redis_keys.stock(sale_id), redis_keys.sale(sale_id)],
            [epoch, before, after],
        )
        return RestockReply(RestockOutcome(reply[0].decode()), *reply[1:])

    async def left_of(self, sale_ids: Sequence[str]) -> list[int | None]:
        """Return the units left of each sale; None where Redis has no stock of it."""
        with redis_errors_as_unavailable():
            async with self._redis.pipeline(transaction=False) as pipe:
                for sale_id in sale_ids:
                    pipe.get(redis_keys.stock(sale_id))
                return _numbers(await pipe.execute())

    async def totals_of(self, sale_ids: Sequence[str]) -> list[int | None]:
        """Return the total of each sale; None where Redis has none written down."""
        with redis_errors_as_unavailable():
            async with self._redis.pipeline(transaction=False) as pipe:
                for sale_id in sale_ids:
                    pipe.hget(redis_keys.sale(sale_id), "total")
                return _numbers(await pipe.execute())

    async def now_ms(self) -> int:
        """Return Redis's own clock, in Unix milliseconds."""
        with redis_errors_as_unavailable():
            seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def _run(self, script: Any, key_names: list[str], args: list[Any]) -> list[Any]:  # noqa: ANN401 - untyped in redis-py
        with redis_errors_as_unavailable():
            reply: list[Any] = await script(keys=key_names, args=args)
        return reply


def _numbers(values: list[bytes | None]) -> list[int | None]:
    return [None if value is None else int(value) for value in values]


def _expect(reply: list[Any], *outcomes: bytes) -> None:
    if reply[0] not in outcomes:
        raise AssertionError(f"bug: script answered {reply[0]!r}, expected one of {outcomes}")
