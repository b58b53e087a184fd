"""`SeckillClient`: the connection to a gateway, and what needs no login."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from seckill_client.buyer import BuyerClient
from seckill_client.clock import SALE_STALE_S, ServerClock
from seckill_client.retries import spread_s
from seckill_client.transport import ApiCall, ApiTransport, part
from seckill_client.views import SaleInfo, SalePage, read_view

#: The gateway answers within two seconds; after so long there is no answer.
TIMEOUT_S = 10.0
#: How long a call is repeated: longer than a gateway takes to start, or a store to fail over.
PATIENCE_S = 30.0
#: Spread of the clients that wait for one opening: less than a person notices, and enough that
#: programs do not all come in one millisecond.
SPREAD_S = 0.2
#: So long before the opening the clock is compared once more: what was measured hours ago has
#: drifted, and the shop may have moved the opening.
COMPARE_S = 20.0
#: A clock that may be off by more is compared again, some times and at random moments: a sale
#: names the whole second, a ticket the exact time.
OFF_S, COMPARES_MAX = 0.1, 8
#: The longest wait without a look at the sale: the shop may move the opening to an earlier time.
FAR_LOOK_S = 300.0
#: How often a sale is looked at that the shop opens by hand.
LOOK_S = 2.0


class SeckillClient:
    """A gateway, for the duration of an `async with`.

    `timeout_s` bounds one try of a call, `patience_s` the repeats of it: with 0 there are none.
    """

    def __init__(
        self, base_url: str, *, timeout_s: float = TIMEOUT_S, patience_s: float = PATIENCE_S
    ) -> None:
        self._transport = ApiTransport(base_url, timeout_s=timeout_s, patience_s=patience_s)
        #: The server's clock, as known from the answers that name its time: tickets, and sales.
        self.clock = ServerClock()

    async def __aenter__(self) -> Self:
        await self._transport.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        await self._transport.close()

    def buyer(self, login: str) -> BuyerClient:
        """Return the calls of a buyer; `login` is their login token, as the shop issues it."""
        return BuyerClient(self._transport, login, self.clock)

    async def sale(self, sale_id: str) -> SaleInfo:
        """Return a sale as it is now, and compare the clocks by the way."""
        call = ApiCall("GET", f"/v1/sales/{part(sale_id)}")
        timed = await self._transport.insist(call)
        sale = read_view(SaleInfo, str(call), timed.answer)
        at_s = sale.server_time.timestamp()
        self.clock.note(timed.sent_s, timed.received_s, at_s, stale_s=SALE_STALE_S)
        return sale

    async def sales(self) -> AsyncIterator[SaleInfo]:
        """Yield the sales that the shop shows, the newest first."""
        cursor = ""
        while True:
            call = ApiCall("GET", f"/v1/sales{cursor and f'?cursor={part(cursor)}'}")
            page = read_view(SalePage, str(call), (await self._transport.insist(call)).answer)
            for sale in page.sales:
                yield sale
            if not (cursor := page.next):
                return

    async def wait_for_opening(self, sale_id: str, *, within_s: float = SPREAD_S) -> SaleInfo:
        """Wait until a sale opens by the server's clock, and up to `within_s` more; return it.

        It follows an opening that the shop moves, and returns at once if the sale is closed. It
        waits as much longer as the clock may be off: who comes early is sent away for a second.
        """
        compares = 0
        while True:
            sale = await self.sale(sale_id)
            if sale.state == "closed":
                return sale
            # Until it is open for sure.
            sure_s = self.clock.now_s() - self.clock.error_s
            opens_s = sale.opens_at.timestamp() - sure_s if sale.opens_at else 0.0
            if opens_s > COMPARE_S:
                far_s = min(FAR_LOOK_S, opens_s - COMPARE_S)
                await asyncio.sleep(far_s + spread_s(COMPARE_S / 2))
            elif opens_s > 1 and self.clock.error_s > OFF_S and compares < COMPARES_MAX:
                compares += 1
                await asyncio.sleep(spread_s(1.0))
            elif opens_s > 0:
                await asyncio.sleep(opens_s + spread_s(within_s))
            elif sale.state != "created":
                return sale
            else:  # the shop opens it by hand
                await asyncio.sleep(LOOK_S / 2 + spread_s(LOOK_S))
