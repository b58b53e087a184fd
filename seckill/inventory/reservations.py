"""Reservations in Redis: one typed method for each script of a sale's stock in lua/.

Redis gates, PostgreSQL decides: Redis may refuse too much for a moment, but never sells too much.
Every method raises Unavailable if Redis did not answer; whether it acted is then unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis

import lua
from seckill.adapters import redis_keys
from seckill.adapters.redis import read_sales, redis_errors_as_unavailable, run_script
from seckill.spans import TraceContext, plain_traces

#: Items of one script call: far below the stack limit of `unpack` in Lua (8,000), and so few that
#: Redis answers other clients every millisecond or two.
CALL_MAX = 512

_STOCK_AND_SALE = (redis_keys.stock, redis_keys.sale)
_WITH_HOLDERS = (*_STOCK_AND_SALE, redis_keys.holders)
_ALL_KEYS = (*_WITH_HOLDERS, redis_keys.outbox)

_pack = msgspec.msgpack.Encoder().encode


class Grab(NamedTuple):
    """One buyer's request for `quantity` units, with the order_id of its order if accepted."""

    order_id: str
    buyer_id: str
    quantity: int


class Verdict(StrEnum):
    """The verdict of a script on one grab (the letters of grab.lua), or on the whole call."""

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
    """The reply to a batch of grabs; `verdicts` has one item a grab, in their order."""

    now_ms: int
    verdicts: Sequence[Verdict]
    epoch: int = 0
    left: int = 0
    #: The outbox entry of exactly the accepted grabs; "" if there are none.
    outbox_id: str = ""
    #: The first order_id of each duplicate, in order.
    known_ids: Sequence[str] = ()
    #: Calls of this process that took something, of which Redis knows no more: it went back in
    #: time, and has fenced the sale.
    lost_calls: int = 0


class CallCount:
    """How many calls of this process took something from a sale, as its replies said."""

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.epoch = self.seen = 0

    def note(self, reply: GrabReply) -> None:
        """Count a reply; a rebuild begins anew."""
        if reply.epoch > self.epoch:
            self.epoch, self.seen = reply.epoch, 0
        if reply.outbox_id and reply.epoch == self.epoch:
            self.seen += 1


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
    """What buyers hold (one item a buyer, in order), and the verdict on a new grab now."""

    verdict: Verdict
    left: int = 0
    holdings: Sequence[Holding | None] = ()


class UnitReturn(NamedTuple):
    """A holder to delete, and the units to put back into stock in the same step."""

    buyer_id: str
    holding: str
    units: int


class RestockOutcome(StrEnum):
    """The outcome of restock.lua for a step from one total to another."""

    OK = "OK"
    #: Fewer units are unsold than the step takes away; `units` is how many.
    SHORT = "SHORT"
    #: Redis has neither of the two totals, but `units`.
    MOVED = "MOVED"
    #: Redis has lost the sale, or it is being rebuilt.
    LATER = "LATER"


class ChangeOutcome(StrEnum):
    """The outcome of change_terms.lua and remove_sale.lua."""

    OK = "OK"
    #: Its opening is over, or buyers hold units of it.
    BEGUN = "BEGUN"
    #: Redis has lost the sale, or it is being rebuilt.
    LATER = "LATER"
    #: It was opened in Redis alone: its opening broke off.
    OPENED = "OPENED"


class RestockReply(NamedTuple):
    """The reply to a restock; `units` are left for sale, unless the outcome says otherwise."""

    outcome: RestockOutcome
    units: int = 0


@dataclass(frozen=True, slots=True)
class SaleTerms:
    """What Redis needs to open a sale. Times are Unix milliseconds, 0 for none."""

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
        self._change_terms = lua.register(redis, "change_terms")
        self._remove_sale = lua.register(redis, "remove_sale")

    async def grab(
        self,
        sale_id: str,
        grabs: Sequence[Grab],
        *,
        deadline_ms: int,
        settled: Sequence[str] = (),
        outbox_max: int,
        traces: Mapping[str, TraceContext] | None = None,
        count: CallCount | None = None,
    ) -> GrabReply:
        """Reserve for up to CALL_MAX grabs in one atomic step; drop `settled` outbox entries.

        Past `deadline_ms` (Redis time) the script touches nothing. Running it again with the same
        grabs changes nothing: each is then a duplicate of itself. The outbox keeps `traces`, the
        contexts of traced grabs by order_id. With the count of this process's calls the script
        notices that Redis has lost one of them.
        """
        packed = _pack(plain_traces(traces)) if traces else b""
        seen = (count.caller, count.seen, count.epoch) if count else ("", 0, 0)
        args = [_pack(grabs), deadline_ms, _pack(settled), outbox_max, packed, *seen]
        reply = await run_script(self._grab, sale_id, _ALL_KEYS, args)
        if not _is_ok(reply, b"LATE", b"MISSING", b"FENCED", b"BEHIND"):
            lost = count.seen - reply[2] if count and reply[0] == b"BEHIND" else 0
            verdicts = [Verdict.UNAVAILABLE] * len(grabs)
            return GrabReply(now_ms=reply[1], verdicts=verdicts, lost_calls=lost)
        _, now_ms, epoch, left, outbox_id, letters, *known = reply
        return GrabReply(
            now_ms=now_ms,
            epoch=epoch,
            left=left,
            outbox_id=outbox_id.decode(),
            verdicts=[VERDICTS[letter] for letter in letters.decode()],
            known_ids=[order_id.decode() for order_id in known],
        )

    async def ack_outbox(self, sale_id: str, outbox_ids: Sequence[str]) -> None:
        """Drop outbox entries that the broker has confirmed."""
        await run_script(self._ack_outbox, sale_id, [redis_keys.outbox], [_pack(outbox_ids)])

    async def find_holders(self, sale_id: str, buyer_ids: Sequence[str]) -> HoldersReply:
        """Return what up to CALL_MAX buyers hold, and the verdict on a new grab."""
        reply = await run_script(self._find_holders, sale_id, _WITH_HOLDERS, [_pack(buyer_ids)])
        if not _is_ok(reply, b"MISSING", b"FENCED"):
            return HoldersReply(Verdict.UNAVAILABLE, holdings=[None] * len(buyer_ids))
        _, letter, left, holders = reply
        holdings = [Holding.parse(h.decode()) if h else None for h in holders]
        return HoldersReply(VERDICTS[letter.decode()], left, holdings)

    async def return_units(self, sale_id: str, epoch: int, returns: Sequence[UnitReturn]) -> bool:
        """Delete up to CALL_MAX holders and return their units; False means "later".

        True means that every holder is gone, by this call or by an earlier one.
        """
        args = [epoch, _pack(returns)]
        return _is_ok(await run_script(self._return_units, sale_id, _WITH_HOLDERS, args), b"LATER")

    async def announce(self, sale_id: str, terms: SaleTerms) -> bool:
        """Write a new sale in state created; return False if Redis has a sale of this id.

        A sale that was announced but never opened is overwritten: it holds nothing.
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
        """Open a sale for the first time; return False if Redis has keys of another epoch."""
        args = [
            terms.stock,
            terms.opens_at_ms,
            terms.closes_at_ms,
            terms.per_order_max,
            terms.number,
            terms.epoch,
        ]
        reply = await run_script(self._open_sale, sale_id, _WITH_HOLDERS, args)
        _expect(reply, b"OPENED", b"REOPENED", b"CONFLICT")
        return bool(reply[0] != b"CONFLICT")

    async def change_terms(self, sale_id: str, terms: SaleTerms) -> ChangeOutcome:
        """Change when an opened sale opens and closes, and its units an order, before it begins."""
        args = [terms.epoch, terms.opens_at_ms, terms.closes_at_ms, terms.per_order_max]
        reply = await run_script(self._change_terms, sale_id, _WITH_HOLDERS, args)
        return ChangeOutcome(reply[0].decode())

    async def remove_sale(self, sale_id: str, *, was_opened: bool) -> ChangeOutcome:
        """Remove all keys of a sale that has not begun."""
        reply = await run_script(self._remove_sale, sale_id, _ALL_KEYS, [int(was_opened)])
        return ChangeOutcome(reply[0].decode())

    async def set_sale_state(self, sale_id: str, state: str) -> bool:
        """Set the state of a sale that has stock; return False if it is missing or fenced."""
        reply = await run_script(self._set_sale_state, sale_id, _STOCK_AND_SALE, [state])
        return _is_ok(reply, b"MISSING", b"FENCED")

    async def restock(self, sale_id: str, epoch: int, before: int, after: int) -> RestockReply:
        """Change a sale's total, and its stock by the difference; the same step twice is one."""
        reply = await run_script(self._restock, sale_id, _STOCK_AND_SALE, [epoch, before, after])
        return RestockReply(RestockOutcome(reply[0].decode()), *reply[1:])

    async def left_of(self, sale_ids: Sequence[str]) -> list[int | None]:
        """Return the units left of each sale; None if Redis has no stock of it."""
        return _numbers(
            await read_sales(self._redis, sale_ids, lambda pipe, s: pipe.get(redis_keys.stock(s)))
        )

    async def totals_of(self, sale_ids: Sequence[str]) -> list[int | None]:
        """Return the total of each sale; None if Redis has none written down."""
        return _numbers(
            await read_sales(
                self._redis, sale_ids, lambda pipe, s: pipe.hget(redis_keys.sale(s), "total")
            )
        )

    async def now_ms(self) -> int:
        """Return Redis's own clock, in Unix milliseconds."""
        with redis_errors_as_unavailable():
            seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000


def _numbers(values: list[bytes | None]) -> list[int | None]:
    return [None if value is None else int(value) for value in values]


def _is_ok(reply: list[Any], *other_outcomes: bytes) -> bool:
    _expect(reply, b"OK", *other_outcomes)
    return bool(reply[0] == b"OK")


def _expect(reply: list[Any], *outcomes: bytes) -> None:
    if reply[0] not in outcomes:
        raise AssertionError(f"bug: script answered {reply[0]!r}, expected one of {outcomes}")
