"""place_orders: accepted grabs become rows. Safe to repeat; ack follows commit."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

import asyncpg
from aio_pika.abc import AbstractIncomingMessage

from seckill import messages, orders, telemetry, topology
from seckill.broker import Publisher
from seckill.database import database_errors_as_unavailable
from seckill.errors import Unavailable
from seckill.messages import BadGrab, BadMessage, Placing
from seckill.orders import Placement
from seckill.sales import SaleDirectory

log = logging.getLogger(__name__)

#: A message delivered this often is placed alone: if it takes its consumer down, then not its
#: neighbours along with it.
SUSPECT_DELIVERIES = 2


class PlaceOrders:
    """The handler of orders.place."""

    def __init__(self, db: asyncpg.Pool, sales: SaleDirectory, publisher: Publisher) -> None:
        self._db = db
        self._sales = sales
        self._publisher = publisher

    async def handle(self, batch: Sequence[AbstractIncomingMessage]) -> None:
        """Place all grabs of the messages: one transaction, unless a message is suspect."""
        together: list[Placing] = []
        for message in batch:
            placing = await self._decode(message)
            if placing is None:
                continue
            if int(message.headers.get("x-delivery-count", 0)) >= SUSPECT_DELIVERIES:  # type: ignore[arg-type]  # RabbitMQ sends an integer
                await self._place([placing])
            else:
                together.append(placing)
        await self._place(together)

    async def _decode(self, message: AbstractIncomingMessage) -> Placing | None:
        """Decode a message, moving what can never be placed to the dead queue with its reason."""
        try:
            placing = messages.decode_place(message.body)
        except BadMessage as error:
            await self._bury(message.body, str(error))
            return None
        await self._bury_grabs(placing, placing.bad)
        return placing

    async def _place(self, placings: Sequence[Placing]) -> None:
        origin = {grab.order_id: placing for placing in placings for grab in placing.grabs}
        # By id, so that a copy within the batch counts once. Grab order is kept.
        wanted = {
            grab.order_id: Placement(
                grab.order_id, placing.sale_id, grab.buyer_id, grab.quantity, placing.epoch
            )
            for placing in placings
            for grab in placing.grabs
        }
        if not wanted:
            return
        telemetry.PLACE_BATCH.observe(len(wanted))
        refused, poison = await self._place_bisecting(list(wanted.values()))
        for placement, reason in poison:
            bad = BadGrab(list(placement[:1] + placement[2:4]), reason)
            await self._bury_grabs(origin[placement.order_id], [bad])
        placed = wanted.keys() - {r.order_id for r in refused} - {p.order_id for p, _ in poison}
        telemetry.PLACEMENTS.labels("placed").inc(len(placed))
        for not_placed in refused:
            telemetry.PLACEMENTS.labels(not_placed.why or not_placed.outcome).inc()
            if not_placed.outcome == "unknown_sale":
                placement = wanted[not_placed.order_id]
                bad = BadGrab(list(placement[:1] + placement[2:4]), "unknown sale")
                await self._bury_grabs(origin[not_placed.order_id], [bad])
        await self._start_timers([wanted[order_id] for order_id in wanted if order_id in placed])

    async def _place_bisecting(
        self, placements: list[Placement]
    ) -> tuple[list[orders.NotPlaced], list[tuple[Placement, str]]]:
        """Place; when PostgreSQL objects to a value, halve until only the bad entry is left out."""
        try:
            with database_errors_as_unavailable():
                return await orders.place(self._db, placements), []
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            if len(placements) == 1:
                return [], [(placements[0], f"PostgreSQL refuses it: {error}")]
            middle = len(placements) // 2
            refused, poison = await self._place_bisecting(placements[:middle])
            more_refused, more_poison = await self._place_bisecting(placements[middle:])
            return refused + more_refused, poison + more_poison

    async def _start_timers(self, placed: Sequence[Placement]) -> None:
        """Publish one timer a payment window. Should that fail, the sweep finds the orders."""
        by_window: dict[int, list[str]] = defaultdict(list)
        for placement in placed:
            sale = self._sales.known(placement.sale_id) or await self._sales.get(placement.sale_id)
            if sale is not None:
                by_window[sale.payment_window_s].append(placement.order_id)
        try:
            for window_s, order_ids in by_window.items():
                await self._publisher.publish_timer(window_s, messages.encode_expire(order_ids))
        except Unavailable as error:
            log.warning("no timer for %d orders, the sweep will find them: %s", len(placed), error)

    async def _bury_grabs(self, placing: Placing, bad: Sequence[BadGrab]) -> None:
        for grab in bad:
            await self._bury(messages.encode_bad_grabs(placing, [grab]), grab.reason)

    async def _bury(self, body: bytes, reason: str) -> None:
        """Move to the dead queue, confirmed, before the original is acknowledged."""
        queue = topology.dead(topology.ORDERS_PLACE)
        log.error("dead letter on %s: %s", queue, reason)
        telemetry.DEAD.labels(queue).inc()
        await self._publisher.publish(queue, body, {"x-reason": reason[:1000]})
