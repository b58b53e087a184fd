"""One sale as all buyers see it: the same bytes for everyone, made once a second at most.

They say the whole second in which they were made (`server_time`). So gateways whose clocks agree
give the same bytes, and the same strong `ETag`, for a sale that has not changed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from datetime import UTC, datetime
from hashlib import blake2b

import msgspec
from aiohttp import web

from gateway.grabs.sale_views import EncodedView
from gateway.sales.pages import view_of
from gateway.sales.remaining_units import RemainingUnits, SaleAndUnits
from gateway.sales.units_back import UnitsBack

#: Sales whose bytes are kept: 3 MB, if each has as much metadata as it may have.
KEPT_MAX = 1024


class SaleViews:
    """The bytes of the sales that were asked for lately."""

    def __init__(
        self, remaining: RemainingUnits, units_back: UnitsBack, ticket_lead_s: float
    ) -> None:
        self._remaining = remaining
        self._units_back = units_back
        self._ticket_lead_s = ticket_lead_s
        #: What was found, and its bytes.
        self._kept: OrderedDict[str, tuple[SaleAndUnits, EncodedView]] = OrderedDict()

    def peek(self, sale_id: str) -> EncodedView | None:
        """Return a sale's bytes if they are known without asking a store."""
        found = self._remaining.peek(sale_id)
        return None if found is None else self._encoded(found)

    async def read(self, sale_id: str) -> EncodedView | None:
        """Return a sale's bytes; None if there is no such sale, or buyers do not see it."""
        found = await self._remaining.read(sale_id)
        return None if found is None else self._encoded(found)

    def _encoded(self, found: SaleAndUnits) -> EncodedView | None:
        sale, left = found
        now = time.time()
        second = int(now)
        kept = self._kept.get(sale.sale_id)
        if kept is not None and kept[1].second == second and kept[0] == found:
            return kept[1]
        moment = datetime.fromtimestamp(second, UTC)
        if not sale.was_opened or sale.is_hidden(datetime.fromtimestamp(now, UTC)):
            return None
        view = view_of(sale, left, moment, self._ticket_lead_s)
        if view.sold_out and sale.state == "open":
            view.units_back_from = self._units_back.of(sale.sale_id)
        body = msgspec.json.encode(view)
        tag = f'"{blake2b(body, digest_size=12).hexdigest()}"'
        made = EncodedView(second, body, tag)
        self._kept[sale.sale_id] = found, made
        self._kept.move_to_end(sale.sale_id)
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return made


SALE_VIEWS = web.AppKey("sale_views", SaleViews)
