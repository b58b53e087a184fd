"""The invariants as lights: counted from both stores, off the request, and seldom.

A count is the work of `seckill verify`, in a process of its own at low priority. It rests sixty
times as long as it worked, so it takes less than 2 % of a core.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from config.settings import Settings
from gateway.admin import verify_process
from seckill.errors import SeckillError

#: Held while ledgers are counted: the machine is there for buyers.
COUNTING = web.AppKey("counting", asyncio.Lock)
#: Sales of one count.
SALES_MAX = 8
#: Least rest between two counts, and the rest as a multiple of the work.
REST_S = 60.0
REST_SHARE = 60

#: Invariant -> what it promises, and the lines of the ledger that are behind it.
INVARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "I1": (
        "Units are conserved",
        ("total", "available", "frozen", "sold", "redis_stock", "redis_held_units"),
    ),
    "I2": ("Nothing is oversold", ("total", "frozen", "sold")),
    "I3": ("A buyer has one live order", ("redis_holders", "orders_pending", "orders_paid")),
    "I4": ("No accepted grab is lost", ("in_flight", "oldest_in_flight_s", "outbox_entries")),
    "I5": ("No unit is stranded", ("on_dead_letters", "return_pending", "available")),
    "I6": ("Each unit returns once", ("returns_pending", "redis_corrections", "restock_pending")),
    "I7": (
        "Payments agree with orders",
        ("charged_cents", "refunded_cents", "card_payments_unknown", "external_due_back_cents"),
    ),
    "I8": ("Each transaction ends", ("transactions_open",)),
}
#: Lines that are no violation, and want a look if they are above this.
WATCHED: dict[str, tuple[str, int]] = {
    "I4": ("oldest_in_flight_s", 30),
    "I5": ("on_dead_letters", 0),
    "I7": ("card_payments_unknown", 0),
}
#: Lines of which the largest counts, not the sum.
LARGEST = frozenset({"oldest_in_flight_s"})
_NAMED = re.compile(r"(I\d): ")
#: Words of the violations that name no invariant. What says nothing else is about the units.
_MONEY = re.compile(r"postings|wallets|charges")


class LedgerSummary(msgspec.Struct):
    """What the process that counts says of one sale."""

    balanced: bool
    lines: dict[str, int]
    violations: list[str]


_decode = msgspec.json.Decoder(LedgerSummary).decode


@dataclass(slots=True)
class InvariantLights:
    """The last count of each sale, and the lights that follow from them."""

    settings: Settings
    counting: asyncio.Lock
    counted: dict[str, tuple[float, LedgerSummary]] = field(default_factory=dict)
    took_s: float = 0.0
    trouble: str = ""

    async def count(self, sale_ids: Sequence[str]) -> float:
        """Count these sales; return how long to rest. Another count of this gateway goes first."""
        began = time.monotonic()
        self.counted = {s: each for s, each in self.counted.items() if s in sale_ids}
        if sale_ids:
            async with self.counting:
                began = time.monotonic()
                try:
                    answers = await verify_process.count(self.settings, list(sale_ids))
                except SeckillError as error:
                    self.trouble = str(error)
                else:
                    self.trouble, now = "", time.time()
                    summaries = map(_decode, answers)
                    self.counted |= zip(sale_ids, ((now, s) for s in summaries), strict=True)
        self.took_s = time.monotonic() - began
        return max(REST_S, REST_SHARE * self.took_s)

    def shown(self) -> dict[str, object]:
        """Return a light each, and the sales that were counted."""
        summaries = {sale_id: summary for sale_id, (_, summary) in self.counted.items()}
        return {
            "lights": [light(name, summaries) for name in INVARIANTS],
            "sales": sorted(summaries),
            "counted_at": max((at for at, _ in self.counted.values()), default=None),
            "trouble": self.trouble,
        }


def light(name: str, summaries: dict[str, LedgerSummary]) -> dict[str, object]:
    """Return the light of an invariant over some sales: its state, numbers, and what is wrong."""
    title, lines = INVARIANTS[name]
    says = [
        f"{sale_id}: {text}"
        for sale_id, summary in summaries.items()
        for text in summary.violations
        if invariant_of(text) == name
    ]
    numbers = {}
    for line in lines:
        values = [s.lines[line] for s in summaries.values() if line in s.lines]
        if values:
            numbers[line] = max(values) if line in LARGEST else sum(values)
    watched, bound = WATCHED.get(name, ("", 0))
    state = "unknown"
    if says:
        state = "broken"
    elif numbers.get(watched, 0) > bound:
        state = "watch"
    elif summaries:
        state = "holds"
    return {"id": name, "title": title, "state": state, "numbers": numbers, "says": says[:20]}


def invariant_of(violation: str) -> str:
    """Return the invariant that a violation breaks."""
    if found := _NAMED.match(violation):
        return found[1] if found[1] in INVARIANTS else "I1"
    return "I7" if _MONEY.search(violation) else "I1"
