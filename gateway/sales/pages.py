"""The pages of `GET /v1/sales`: read and encoded at most once a second, however many ask."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import blake2b
from typing import Annotated

import asyncpg
import msgspec
from aiohttp import web

from gateway.http.responses import Moment
from seckill.currencies import digits_of
from seckill.errors import Unavailable
from seckill.inventory.reservations import Stock
from seckill.outages import OUTAGES
from seckill.sales import listing
from seckill.sales.description import Metadata
from seckill.sales.sales import Sale
from seckill.single_flight import SingleFlight

#: The contract lets `remaining` lag this much; so long a browser or a proxy may keep a page.
LAG_S = 1.0
#: A page that a client still has is good for so long: its `server_time` is never older.
TAG_S = 10
#: Sales of one page: 50 kB, and half a megabyte where all of them have as much metadata as may be.
LIMIT_MAX = 100
#: Pages that are kept; clients who walk through all sales may ask for many.
PAGES_MAX = 64

STATES = msgspec.Meta(extra_json_schema={"enum": ["created", "open", "paused", "closed"]})


class SaleView(msgspec.Struct):
    """One sale as buyers see it. `remaining` may lag a second; null while it is not known.

    `proof_bits` above 0: a ticket needs a solved challenge first. Tickets are handed out from
    `tickets_from`; null where there is no opening to wait for. `units_back_from` is when the next
    unpaid order of a sale that is sold out runs out; null where that is not known, and in lists.
    `metadata` is the shop's own.
    """

    sale_id: str
    name: str | None
    sku: str | None
    picture_url: str | None
    metadata: Metadata
    state: Annotated[str, STATES]
    price_cents: int
    #: ISO 4217, and how many digits it has behind the point: price_cents counts the last of them.
    currency: str
    currency_digits: int
    per_order_max: int
    opens_at: Moment | None
    closes_at: Moment | None
    payment_window_s: int
    proof_bits: int
    server_time: Moment
    sold_out: bool
    remaining: int | None
    tickets_from: Moment | None = None
    units_back_from: Moment | None = None


class SaleList(msgspec.Struct):
    """Some sales, the newest first. `next` is the cursor of the next page, null on the last."""

    sales: list[SaleView]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One encoded page, and what a client compares its copy by."""

    body: bytes
    tag: str


class SalePages:
    """The pages that were asked for lately."""

    def __init__(self, db: asyncpg.Pool, stock: Stock, ticket_lead_s: float) -> None:
        self._db = db
        self._ticket_lead_s = ticket_lead_s
        self._stock = stock
        self._pages: OrderedDict[tuple[int, int], SingleFlight[Page]] = OrderedDict()
        #: One reading at a time, so that made-up cursors take one link of the pool.
        self._reading = asyncio.Lock()

    async def read(self, *, before: int, limit: int) -> Page:
        """Return up to `limit` sales with a number under `before`."""
        key = (before, limit)
        page = self._pages.pop(key, None) or SingleFlight(
            partial(self._read, before, limit), interval_s=LAG_S
        )
        self._pages[key] = page
        if len(self._pages) > PAGES_MAX:
            self._pages.popitem(last=False)
        return await page.recent()

    async def _read(self, before: int, limit: int) -> Page:
        async with self._reading:
            sales = await listing.listed_page(self._db, before=before, limit=limit + 1)
            shown = sales[:limit]
            left = await units_left(self._stock, [sale.sale_id for sale in shown])
        more = str(shown[-1].number) if len(sales) > limit else None
        now = datetime.now(UTC)
        views = [
            view_of(sale, units, now, self._ticket_lead_s)
            for sale, units in zip(shown, left, strict=True)
        ]
        return Page(msgspec.json.encode(SaleList(views, more)), _tag_of(views, more))


async def units_left(stock: Stock, sale_ids: Sequence[str]) -> list[int | None]:
    """Return the units left of each sale; None where Redis has none, or does not answer."""
    try:
        return await stock.left_of(sale_ids)
    except Unavailable as error:
        OUTAGES.failed(error)
        return [None] * len(sale_ids)


def view_of(sale: Sale, left: int | None, now: datetime, ticket_lead_s: float) -> SaleView:
    """Return a sale as buyers see it."""
    return SaleView(
        sale_id=sale.sale_id,
        name=sale.name,
        sku=sale.sku,
        picture_url=sale.picture_url,
        metadata=sale.metadata,
        state=sale.state,
        price_cents=sale.price_cents,
        currency=sale.currency,
        currency_digits=digits_of(sale.currency),
        per_order_max=sale.per_order_max,
        opens_at=sale.opens_at,
        closes_at=sale.closes_at,
        payment_window_s=sale.payment_window_s,
        proof_bits=sale.proof_bits,
        server_time=now,
        sold_out=left == 0,
        remaining=left,
        tickets_from=sale.opens_at and sale.opens_at - timedelta(seconds=ticket_lead_s),
    )


def _tag_of(views: list[SaleView], more: str | None) -> str:
    """Return the same tag for the same sales at the same time, whichever process is asked."""
    period = datetime.fromtimestamp(time.time() // TAG_S * TAG_S, UTC)
    timeless = [msgspec.structs.replace(view, server_time=period) for view in views]
    encoded = msgspec.json.encode((period, SaleList(timeless, more)))
    return blake2b(encoded, digest_size=12).hexdigest()


SALE_PAGES = web.AppKey("sale_pages", SalePages)
