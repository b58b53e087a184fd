"""The hot path: one sale's grabs in this process, from a verified buyer to a verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aiohttp import web

from gateway.grabs.publisher import GrabPublisher
from seckill import metrics
from seckill.clock import monotonic_ms
from seckill.errors import Unavailable
from seckill.inventory.reservations import CALL_MAX, Grab, GrabReply, Holding, Stock, Verdict
from seckill.micro_batcher import MicroBatcher, Waiter, answering_each
from seckill.order_ids import new_order_id
from seckill.sales.sales import Sale

#: Confirmed outbox entries wait this long for a grab call to carry them along.
SETTLE_IDLE_S = 0.05
#: Refusals that everybody without an order gets, whatever he asks for.
SALE_WIDE = {Verdict.NOT_OPEN, Verdict.CLOSED, Verdict.PAUSED}


class GrabResult(NamedTuple):
    """The answer to one grab. `order_id` is "" unless the buyer has one."""

    verdict: Verdict
    order_id: str = ""


def told_by(verdict: Verdict, holding: Holding | None) -> GrabResult:
    """Return what a look-up means for a grab; ACCEPTED if it is worth trying."""
    if holding is not None:
        return GrabResult(Verdict.DUPLICATE, holding.order_id)
    return GrabResult(verdict)


class RedisClock:
    """Redis's time as this process knows it: each reply tells how far the clocks are apart.

    Redis read its clock between the question and the answer. What was known before is kept where it
    agrees with that: an answer that lay here for a second, because the process stood still, would
    else put us a second behind, and the next call would come too late for its deadline.
    """

    def __init__(self) -> None:
        self._offset_ms = 0

    def observe(self, redis_now_ms: int, *, asked_ms: int) -> None:
        """Note a time that Redis has just told, to a question sent at `asked_ms` (monotonic)."""
        least_ms, most_ms = redis_now_ms - monotonic_ms(), redis_now_ms - asked_ms
        if not least_ms <= self._offset_ms <= most_ms:
            self._offset_ms = least_ms

    def now_ms(self) -> int:
        """Return Redis's time, at most one reply's way behind it."""
        return monotonic_ms() + self._offset_ms


class SaleReservations:
    """Takes the grabs of one sale."""

    def __init__(
        self,
        sale: Sale,
        stock: Stock,
        clock: RedisClock,
        make_handover: Callable[[str, Callable[[list[str]], None]], GrabPublisher],
        *,
        batch_max: int,
        calls_max: int,
        spacing_s: float,
        call_timeout_s: float,
        outbox_max: int,
    ) -> None:
        self._sale = sale
        self._stock = stock
        self._clock = clock
        self._handover = make_handover(sale.sale_id, self._note_settled)
        self._batch_max = batch_max
        self._call_timeout_ms = int(call_timeout_s * 1000)
        self._outbox_max = outbox_max
        self._grabs = MicroBatcher(
            self._call_script, max_batch=batch_max, max_calls=calls_max, spacing_s=spacing_s
        )
        self._look_ups = MicroBatcher(
            answering_each(self._call_look_up), max_batch=CALL_MAX, max_calls=1
        )
        self._settled: list[str] = []
        self._settling: asyncio.Task[None] | None = None
        #: The latch. False until Redis has said that there are units for sale, and again once it
        #: has said that nobody can grab now: nothing is left, or the sale is not open. Buyers are
        #: then looked up first (reads only); the first look-up that sees units for sale lifts it.
        self.selling = False
        #: Units left, as the last reply said.
        self.left = sale.total

    def grab(self, buyer_id: str, quantity: int) -> asyncio.Future[GrabResult]:
        """Reserve for one buyer; Unavailable when the outcome is not known (a retry is safe)."""
        return self._grabs.submit(self.new_grab(buyer_id, quantity))

    def new_grab(self, buyer_id: str, quantity: int) -> Grab:
        """Give a buyer's wish the order_id that it will have if it is granted."""
        return Grab(new_order_id(self._sale.number), buyer_id, quantity)

    def take(self, waiter: Waiter[Grab, GrabResult]) -> None:
        """Do as `grab` for one who waits in a way of his own."""
        self._grabs.put(waiter)

    def take_look(self, waiter: Waiter[str, tuple[Verdict, Holding | None]]) -> None:
        """Do as `find_holding` for one who waits in a way of his own."""
        self._look_ups.put(waiter)

    async def look_up(self, buyer_id: str) -> GrabResult:
        """Return what a grab would be told, without touching anything."""
        return told_by(*await self.find_holding(buyer_id))

    def find_holding(self, buyer_id: str) -> asyncio.Future[tuple[Verdict, Holding | None]]:
        """Look up what a buyer holds; the verdict is UNAVAILABLE when Redis has lost the sale."""
        return self._look_ups.submit(buyer_id)

    async def drain(self) -> None:
        """Finish what is under way and drop what the broker has confirmed."""
        await self._handover.drain()
        if self._settling is not None:
            self._settling.cancel()
        await self._settle()

    async def _call_look_up(
        self, buyer_ids: Sequence[str]
    ) -> Sequence[tuple[Verdict, Holding | None]]:
        found = await self._stock.look_up(self._sale.sale_id, buyer_ids)
        if found.verdict is not Verdict.UNAVAILABLE:
            self.selling, self.left = found.verdict is Verdict.ACCEPTED, found.left
        return [(found.verdict, holding) for holding in found.holdings]

    async def _call_script(self, batch: Sequence[Waiter[Grab, GrabResult]]) -> None:
        metrics.GRAB_BATCH.observe(len(batch))
        settled, self._settled = self._settled[:CALL_MAX], self._settled[CALL_MAX:]
        asked_ms = monotonic_ms()
        try:
            reply = await self._stock.grab(
                self._sale.sale_id,
                [waiter.item for waiter in batch],
                deadline_ms=self._clock.now_ms() + self._call_timeout_ms,
                settled=settled,
                outbox_max=self._outbox_max,
            )
        except Unavailable:
            self._settled += settled  # naming an entry twice is harmless
            raise
        self._clock.observe(reply.now_ms, asked_ms=asked_ms)
        if Verdict.UNAVAILABLE in reply.verdicts:
            self._settled += settled
        else:
            self.left = reply.left
            told = set(reply.verdicts)
            if told & SALE_WIDE or (reply.left == 0 and Verdict.SOLD_OUT in told):
                self.selling = False
        self._answer(batch, reply)

    def _answer(self, batch: Sequence[Waiter[Grab, GrabResult]], reply: GrabReply) -> None:
        """Answer the refused at once, and the accepted when their batch has been handed over."""
        accepted = []
        known = iter(reply.known_ids)
        for waiter, verdict in zip(batch, reply.verdicts, strict=True):
            if verdict is Verdict.ACCEPTED:
                accepted.append(waiter)
            elif verdict is Verdict.DUPLICATE:
                waiter.answer(GrabResult(verdict, next(known)))
            else:
                waiter.answer(GrabResult(verdict))
        if not accepted:
            return

        def on_taken() -> None:
            for waiter in accepted:
                waiter.answer(GrabResult(Verdict.ACCEPTED, waiter.item.order_id))

        grabs = [waiter.item for waiter in accepted]
        self._handover.hand_over(reply.outbox_id, reply.epoch, grabs, on_taken)

    def _note_settled(self, outbox_ids: list[str]) -> None:
        self._settled += outbox_ids
        if self._settling is None:
            self._settling = asyncio.create_task(self._settle_when_idle(), name="settle")

    async def _settle_when_idle(self) -> None:
        try:
            while self._settled:
                await asyncio.sleep(SETTLE_IDLE_S)
                if not self._grabs.calls:  # else the next grab call takes them along
                    await self._settle()
        except Unavailable:
            pass  # they stay noted for the next call; should this process die, the relay drops them
        finally:
            self._settling = None

    async def _settle(self) -> None:
        while self._settled:
            settled, self._settled = self._settled[:CALL_MAX], self._settled[CALL_MAX:]
            try:
                await self._stock.settle(self._sale.sale_id, settled)
            except Unavailable:
                self._settled += settled
                raise


class ReservationsBySale:
    """The desks of all sales in this process, made when a sale gets its first request."""

    def __init__(self, make: Callable[[Sale], SaleReservations]) -> None:
        self._make = make
        self._by_sale: dict[str, SaleReservations] = {}

    def of(self, sale: Sale) -> SaleReservations:
        """Return the desk of a sale."""
        desk = self._by_sale.get(sale.sale_id)
        if desk is None:
            desk = self._by_sale[sale.sale_id] = self._make(sale)
        return desk

    async def drain(self) -> None:
        """Finish what is under way at every desk."""
        for desk in self._by_sale.values():
            await desk.drain()


RESERVATIONS = web.AppKey("desks", ReservationsBySale)
