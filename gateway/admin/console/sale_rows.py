"""The sales as the console shows them: units by both stores, and the units left as a curve.

A second's work is bounded: with a thousand sales, those that move are read each second, and the
others in turn.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable
from datetime import datetime

import asyncpg
import msgspec

from seckill.currencies import digits_of
from seckill.inventory.reservations import Stock
from seckill.sales import listing
from seckill.sales.sales import Sale

#: Sales whose units are read in one step: 3 ms of this process.
STEP = 200
#: A sale whose units have changed in so many seconds counts as moving.
MOVING_S = 10.0
#: Of sales that no poller looks at (closed and quiet), so many of the newest are shown as well.
NEWEST = 50
#: Live sales that are shown: the newest of more.
SHOWN_MAX = 2_000
#: Points of a curve: ten minutes, if the units change each second.
POINTS = 600
#: Curves that are kept: of the sales that moved last.
CURVES = 50

_encode = msgspec.json.Encoder().encode


class SaleRows:
    """The rows, and what of them has changed."""

    def __init__(self) -> None:
        #: Sale -> its row as JSON, made when something of it was read.
        self.rows: dict[str, bytes] = {}
        #: Sale -> (Unix seconds, units left) at each change.
        self.curves: dict[str, deque[tuple[float, int]]] = {}
        self._sales: dict[str, Sale] = {}
        self._units: dict[str, tuple[int | None, listing.SoldUnits | None]] = {}
        #: Sale -> when its units changed last.
        self._moved_at: dict[str, float] = {}
        self._turn = 0
        self._sales_read_at = float("-inf")

    async def read_sales(self, db: asyncpg.Pool) -> None:
        """Read which sales there are, and their states: the less often, the more there are."""
        now = time.monotonic()
        if now - self._sales_read_at < len(self._sales) / STEP:
            return
        self._sales_read_at = now
        live = await listing.live_sales(db)
        newest = await listing.newest(db, limit=NEWEST)
        found = {sale.sale_id: sale for sale in (*newest, *live[-SHOWN_MAX:])}
        self._sales = found
        self._make_rows(found)
        for sale_id in self.rows.keys() - found.keys():
            for known in (self.rows, self._units, self._moved_at, self.curves):
                known.pop(sale_id, None)

    async def read_left(self, stock: Stock) -> None:
        """Read the units left in Redis of the sales whose turn it is."""
        due = self._due()
        for sale_id, left in zip(due, await stock.left_of(due), strict=True):
            before, sold = self._units.get(sale_id, (None, None))
            self._units[sale_id] = (left, sold)
            if left is not None and (before != left or sale_id not in self.curves):
                self._note(sale_id, left, moved=before is not None)
        self._make_rows(due)

    async def read_sold(self, db: asyncpg.Pool) -> None:
        """Read the units sold and held in PostgreSQL of the sales whose turn it is."""
        due = self._due()
        for sale_id, units in (await listing.units_of(db, due)).items():
            self._units[sale_id] = (self._units.get(sale_id, (None, None))[0], units)
        self._make_rows(due)
        self._turn += 1

    def running(self) -> list[str]:
        """Return the sales of which something may change, the newest first."""
        states = ("open", "paused", "fenced")
        live = [sale for sale in self._sales.values() if sale.state in states]
        return [sale.sale_id for sale in sorted(live, key=lambda sale: -sale.number)]

    def moving(self) -> list[str]:
        """Return the sales whose units changed, the last one first."""
        return sorted(self._moved_at, key=lambda sale_id: -self._moved_at[sale_id])

    def shown_curves(self) -> dict[str, list[tuple[float, int]]]:
        """Return the curves of the sales that moved last."""
        return {s: list(self.curves[s]) for s in self.moving()[:CURVES] if s in self.curves}

    def _due(self) -> list[str]:
        if len(self._sales) <= STEP:
            return list(self._sales)
        now = time.monotonic()
        moving = [s for s in self.moving() if now - self._moved_at[s] < MOVING_S][: STEP // 2]
        others = [sale_id for sale_id in self._sales if sale_id not in set(moving)]
        start = self._turn * (STEP // 2) % len(others)
        turned = itertools.islice(itertools.cycle(others), start, start + STEP // 2)
        return list(dict.fromkeys([*moving, *turned]))

    def _note(self, sale_id: str, left: int, *, moved: bool) -> None:
        curve = self.curves.setdefault(sale_id, deque(maxlen=POINTS))
        curve.append((round(time.time(), 1), left))
        if moved:
            self._moved_at[sale_id] = time.monotonic()

    def _make_rows(self, sale_ids: Iterable[str]) -> None:
        for sale_id in sale_ids:
            if sale := self._sales.get(sale_id):
                left, sold = self._units.get(sale_id, (None, None))
                self.rows[sale_id] = _encode(_row(sale, left, sold))


def _row(sale: Sale, left: int | None, units: listing.SoldUnits | None) -> dict[str, object]:
    return {
        "id": sale.sale_id,
        "n": sale.number,
        "name": sale.name,
        "hidden": sale.hidden,
        "announce": _unix(sale.announce_at),
        "state": "archived" if sale.archived else sale.state,
        "total": sale.total,
        # Before its opening Redis has no units of a sale.
        "left": left if sale.was_opened else sale.total,
        "sold": units.sold if units else None,
        "held": units.held if units else None,
        "cents": sale.price_cents,
        "currency": sale.currency,
        "digits": digits_of(sale.currency),
        "opens": _unix(sale.opens_at),
        "closes": _unix(sale.closes_at),
    }


def _unix(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment else None
