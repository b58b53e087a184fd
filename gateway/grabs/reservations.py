"""One sale's grabs in this process, from a verified buyer to the verdict of the script."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from aiohttp import web

from gateway.grabs.publisher import GrabPublisher
from gateway.grabs.traces import contexts_of
from seckill import metrics
from seckill.clock import monotonic_ms, now_ms
from seckill.consistency import fencing
from seckill.consistency.fencing import FenceReason
from seckill.errors import Unavailable
from seckill.inventory.reservations import (
    CALL_MAX,
    CallCount,
    Grab,
    GrabReply,
    Holding,
    Stock,
    Verdict,
)
from seckill.micro_batcher import MicroBatcher, Waiter
from seckill.order_ids import new_order_id
from seckill.sales.sales import Sale
from seckill.stage_times import StageTimes

#: Confirmed outbox entries wait this long for a grab call to carry them along. In a busy sale the
#: next starts some 16 ms later (`grab_spacing_s`), so only a quiet sale pays for a call of its own.
#: It is far less than the 2 s (`relay_age_ms`) after which the relay would send the entries again.
ACK_IDLE_S = 0.05
#: The name under which this process counts its calls: another start has another one.
PROCESS = secrets.token_hex(4)
#: Refusals that every buyer without an order gets, whatever quantity they ask for.
SALE_WIDE = {Verdict.NOT_OPEN, Verdict.CLOSED, Verdict.PAUSED}
_QUEUED, _CALLED, _WAITED_TO_PUBLISH, _CONFIRMED, _ANSWERED, _LOOKED_UP = (
    metrics.GRAB_STAGE_SECONDS.labels(stage)
    for stage in ("queue", "call", "wait_publish", "confirm", "answer", "look_up")
)

_item = attrgetter("item")

log = logging.getLogger(__name__)


#: Returns what buyers hold of an archived sale, by id; None if the sale is not archived.
FindArchived = Callable[[str, Sequence[str]], Awaitable[list[Holding | None] | None]]


class GrabResult(NamedTuple):
    """The answer to one grab. `order_id` is "" unless the buyer has one."""

    verdict: Verdict
    order_id: str = ""


def result_of_look_up(verdict: Verdict, holding: Holding | None) -> GrabResult:
    """Return what a look-up means for a grab; ACCEPTED if the grab is worth trying."""
    if holding is not None:
        return GrabResult(Verdict.DUPLICATE, holding.order_id)
    return GrabResult(verdict)


class RedisClock:
    """Redis's time as this process knows it: each reply shows how far the clocks are apart.

    Redis read its clock between the call and the reply. What was known before is kept where it
    agrees with that. Otherwise a reply that lay unread for a second, because the process stood
    still, would put this clock a second behind, and the next call would miss its deadline.
    """

    def __init__(self) -> None:
        # Until Redis has replied: our own clock, which is near Redis's where both are set right.
        self._offset_ms = now_ms() - monotonic_ms()

    def observe(self, redis_now_ms: int, *, asked_ms: int) -> None:
        """Note a time that Redis has replied, to a call sent at `asked_ms` (monotonic)."""
        least_ms, most_ms = redis_now_ms - monotonic_ms(), redis_now_ms - asked_ms
        if not least_ms <= self._offset_ms <= most_ms:
            self._offset_ms = least_ms

    def now_ms(self) -> int:
        """Return Redis's time, behind it by at most the way of one reply."""
        return monotonic_ms() + self._offset_ms


class SaleReservations:
    """Reserves units of one sale, batch by batch."""

    def __init__(
        self,
        sale: Sale,
        stock: Stock,
        clock: RedisClock,
        make_publisher: Callable[[str, Callable[[list[str]], None]], GrabPublisher],
        find_archived: FindArchived,
        *,
        batch_max: int,
        calls_max: int,
        spacing_s: float,
        call_timeout_s: float,
        outbox_max: int,
    ) -> None:
        self.sale = sale
        self._stock = stock
        self._count = CallCount(PROCESS)
        self._clock = clock
        self._find_archived = find_archived
        self._publisher = make_publisher(sale.sale_id, self._note_confirmed)
        self._batch_max = batch_max
        self._call_timeout_ms = int(call_timeout_s * 1000)
        self._outbox_max = outbox_max
        self._grabs = MicroBatcher(
            self._call_script, max_batch=batch_max, max_calls=calls_max, spacing_s=spacing_s
        )
        self._look_ups = MicroBatcher(
            self._call_look_up, max_batch=CALL_MAX, max_calls=1, spacing_s=spacing_s
        )
        #: Outbox entries that the broker has confirmed, and that Redis still holds.
        self._confirmed: list[str] = []
        self._acking: asyncio.Task[None] | None = None
        #: The latch. False until Redis has said that there are units for sale, and again once it
        #: has said that there are none: nothing is left, or the sale is not open. Buyers are then
        #: looked up first (reads only); the first look-up that sees units for sale lifts it.
        self.selling = False
        #: Units left, as the last reply said.
        self.left = sale.total

    def new_grab(self, buyer_id: str, quantity: int) -> Grab:
        """Return a grab, with the order_id that it will have if it is granted."""
        return Grab(new_order_id(self.sale.number), buyer_id, quantity)

    def put(self, waiter: Waiter[Grab, GrabResult]) -> None:
        """Reserve for one buyer; fails as Unavailable when the outcome is not known."""
        self._grabs.put(waiter)

    def put_look_up(self, waiter: Waiter[str, tuple[Verdict, Holding | None]]) -> None:
        """Do as `find_holding`, for a waiter that is no future."""
        self._look_ups.put(waiter)

    def find_holding(self, buyer_id: str) -> asyncio.Future[tuple[Verdict, Holding | None]]:
        """Look up what a buyer holds, and what a grab of theirs would be answered; touch nothing.

        The verdict is UNAVAILABLE when Redis has lost the sale.
        """
        return self._look_ups.submit(buyer_id)

    async def drain(self) -> None:
        """Finish what is in flight and drop what the broker has confirmed."""
        await self._publisher.drain()
        if self._acking is not None:
            self._acking.cancel()
        await self._ack()

    async def _call_look_up(
        self, batch: Sequence[Waiter[str, tuple[Verdict, Holding | None]]]
    ) -> None:
        times = _begin_call(batch)
        found = await self._find_holdings([waiter.item for waiter in batch])
        times.replied_at = time.monotonic()
        _LOOKED_UP.observe(times.replied_at - times.called_at, len(batch))
        for waiter, result in zip(batch, found, strict=True):
            waiter.answer(result)

    async def _find_holdings(
        self, buyer_ids: Sequence[str]
    ) -> Sequence[tuple[Verdict, Holding | None]]:
        found = await self._stock.find_holders(self.sale.sale_id, buyer_ids)
        if found.verdict is not Verdict.UNAVAILABLE:
            self.selling, self.left = found.verdict is Verdict.ACCEPTED, found.left
        elif (holdings := await self._find_archived(self.sale.sale_id, buyer_ids)) is not None:
            self.selling = False
            return [(Verdict.CLOSED, holding) for holding in holdings]
        return [(found.verdict, holding) for holding in found.holdings]

    async def _call_script(self, batch: Sequence[Waiter[Grab, GrabResult]]) -> None:
        metrics.GRAB_BATCH.observe(len(batch))
        times = _begin_call(batch)
        _QUEUED.observe(times.called_at - batch[0].since, len(batch))
        confirmed, self._confirmed = self._confirmed[:CALL_MAX], self._confirmed[CALL_MAX:]
        asked_ms = monotonic_ms()
        try:
            reply = await self._stock.grab(
                self.sale.sale_id,
                [waiter.item for waiter in batch],
                deadline_ms=self._clock.now_ms() + self._call_timeout_ms,
                settled=confirmed,
                outbox_max=self._outbox_max,
                traces=contexts_of(map(_item, batch)),
                count=self._count,
            )
        except Unavailable:
            self._confirmed += confirmed  # naming an entry twice is harmless
            raise
        times.replied_at = time.monotonic()
        _CALLED.observe(times.replied_at - times.called_at, len(batch))
        self._clock.observe(reply.now_ms, asked_ms=asked_ms)
        if Verdict.UNAVAILABLE in reply.verdicts:
            self._confirmed += confirmed
            if reply.lost_calls:
                self._report_lost(reply.lost_calls)
            # A process that had no grab since the closing does not know of it.
            buyer_ids = [waiter.item.buyer_id for waiter in batch]
            if holdings := await self._find_archived(self.sale.sale_id, buyer_ids):
                self.selling, self._confirmed = False, []
                for waiter, holding in zip(batch, holdings, strict=True):
                    waiter.answer(result_of_look_up(Verdict.CLOSED, holding))
                return
        else:
            self._count.note(reply)
            self.left = reply.left
            verdicts = set(reply.verdicts)
            if verdicts & SALE_WIDE or (reply.left == 0 and Verdict.SOLD_OUT in verdicts):
                self.selling = False
        self._answer(batch, reply, times)

    def _report_lost(self, calls: int) -> None:
        """Say that Redis has lost what buyers were answered; the script has fenced the sale."""
        metrics.LOST_CALLS.inc(calls)
        log.error(
            "Redis has lost the last %d batches of grabs that this process took: a replica without "
            "them was promoted, or an older file was loaded. %s",
            calls,
            fencing.advice(self.sale.sale_id, FenceReason.BEHIND),
        )

    def _answer(
        self, batch: Sequence[Waiter[Grab, GrabResult]], reply: GrabReply, times: StageTimes
    ) -> None:
        """Answer the refused at once, and the accepted when their batch has been published."""
        accepted = []
        known = iter(reply.known_ids)
        for waiter, verdict in zip(batch, reply.verdicts, strict=True):
            if verdict is Verdict.ACCEPTED:
                accepted.append(waiter)
            elif verdict is Verdict.DUPLICATE:
                waiter.answer(GrabResult(verdict, next(known)))
            else:
                waiter.answer(GrabResult(verdict))
        if refused := len(batch) - len(accepted):
            _ANSWERED.observe(time.monotonic() - times.replied_at, refused)
        if not accepted:
            return

        def on_published() -> None:
            since = time.monotonic()
            for waiter in accepted:
                waiter.answer(GrabResult(Verdict.ACCEPTED, waiter.item.order_id))
            _ANSWERED.observe(time.monotonic() - since, len(accepted))
            if times.published_at:
                _WAITED_TO_PUBLISH.observe(times.published_at - times.replied_at, len(accepted))
            if times.confirmed_at:
                _CONFIRMED.observe(times.confirmed_at - times.published_at, len(accepted))

        grabs = [waiter.item for waiter in accepted]
        self._publisher.enqueue(reply.outbox_id, reply.epoch, grabs, times, on_published)

    def _note_confirmed(self, outbox_ids: list[str]) -> None:
        self._confirmed += outbox_ids
        if self._acking is None:
            self._acking = asyncio.create_task(self._ack_when_idle(), name="ack outbox")

    async def _ack_when_idle(self) -> None:
        try:
            while self._confirmed:
                await asyncio.sleep(ACK_IDLE_S)
                if not self._grabs.calls:  # else the next grab call takes them along
                    await self._ack()
        except Unavailable:
            pass  # they stay noted for the next call; should this process die, the relay drops them
        finally:
            self._acking = None

    async def _ack(self) -> None:
        while self._confirmed:
            confirmed, self._confirmed = self._confirmed[:CALL_MAX], self._confirmed[CALL_MAX:]
            try:
                await self._stock.ack_outbox(self.sale.sale_id, confirmed)
            except Unavailable:
                self._confirmed += confirmed
                raise


def _begin_call(batch: Sequence[Waiter[Any, Any]]) -> StageTimes:
    times = StageTimes(time.monotonic())
    for waiter in batch:
        waiter.times = times
    return times


class ReservationsBySale:
    """The reservations of all sales in this process, made when a sale gets its first request."""

    def __init__(self, make: Callable[[Sale], SaleReservations]) -> None:
        self._make = make
        self._by_sale: dict[str, SaleReservations] = {}

    def of(self, sale: Sale) -> SaleReservations:
        """Return the reservations of a sale."""
        reservations = self._by_sale.get(sale.sale_id)
        if reservations is None:
            reservations = self._by_sale[sale.sale_id] = self._make(sale)
        reservations.sale = sale  # until it is opened its terms may change
        return reservations

    async def drain(self) -> None:
        """Finish what is in flight for every sale."""
        for reservations in self._by_sale.values():
            await reservations.drain()


RESERVATIONS = web.AppKey("reservations", ReservationsBySale)
