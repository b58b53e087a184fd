"""place_orders: accepted grabs become rows in PostgreSQL.

Safe to repeat: an order_id becomes a row once. Ack follows commit. A grab that can never become a
row is dead-lettered by name, and does not stop the grabs beside it.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import asyncpg
from aio_pika.abc import AbstractIncomingMessage
from redis.asyncio import Redis

from consumers.resources import Resources
from consumers.runtime.queue_role import is_suspect, queue_role
from consumers.runtime.retries import (
    FailedMessage,
    FailureAction,
    attempts_of,
    dead_letter,
    failure_action,
)
from consumers.runtime.role import Role
from consumers.timers import Timers, timer_kinds
from seckill import messages, metrics
from seckill.adapters import topology
from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.adapters.publisher import Publisher
from seckill.clock import now_ms
from seckill.consistency.claims import ClaimCheck
from seckill.dead_letters.parser import first_line
from seckill.errors import Unavailable
from seckill.log_lines import log_orders
from seckill.messages import BadGrab, DecodedPlace
from seckill.order_ids import created_ms_of
from seckill.orders import orders
from seckill.orders.orders import NotPlaced, Placement
from seckill.spans import SPANS, SpanKind, TraceContext, queue_attributes, traced
from seckill.tracing import order_traces

#: Statements that PostgreSQL may refuse while bad entries are looked for by halving: enough for a
#: few in a full batch. Each bad entry alone would cost two statements for each halving.
REFUSALS_MAX = 32
#: Grabs that are then placed one by one in a statement: some 0.1 s, of the 2 s that it may take.
EACH_MAX = 64

log = logging.getLogger(__name__)


class PlaceOrders:
    """The handler of orders.place."""

    def __init__(
        self, db: asyncpg.Pool, redis: Redis, timers: Timers, publisher: Publisher
    ) -> None:
        self._db = db
        self._claims = ClaimCheck(redis, db)
        self._timers = timers
        self._publisher = publisher

    async def handle(self, batch: Sequence[AbstractIncomingMessage]) -> None:
        """Place all grabs of the messages in one transaction.

        A multi-sale message that fails, or that may have killed a consumer, is published again part
        by part, so that the failure of one part does not touch the others.
        """
        parts = [part for message in batch for part in messages.parts_of(message.body)]
        is_multi_sale = len(parts) > len(batch) == 1
        # As a whole it is only retried when it takes too long.
        if is_multi_sale and (is_suspect(batch[0]) or attempts_of(batch[0])):
            await self._publish_parts(parts, "it was delivered or tried too often")
            return
        try:
            await self._place_messages(parts)
        except Exception as error:
            if not is_multi_sale or failure_action(error) is FailureAction.HOLD:
                raise
            await self._publish_parts(parts, repr(error))

    async def _publish_parts(self, parts: Sequence[bytes], why: str) -> None:
        log.warning("a message of %d parts is published again part by part: %s", len(parts), why)
        for part in parts:
            await self._publisher.publish(topology.ORDERS_PLACE, part)

    async def _place_messages(self, bodies: Sequence[bytes]) -> None:
        placings = [messages.decode_place(body) for body in bodies]
        false = await self._claims.false_claims(placings)
        believed = [placing for n, placing in enumerate(placings) if n not in false]
        await self._place(believed)
        dead = [letter for placing in believed for letter in _letters(placing)]
        dead += [FailedMessage(bodies[n], reason) for n, reason in false.items()]
        await dead_letter(self._publisher, topology.ORDERS_PLACE, dead)

    async def _place(self, placings: Sequence[DecodedPlace]) -> None:
        """Place, start the timers, and count what PostgreSQL will never take as bad entries."""
        # By id, so that a copy within the batch counts once. The order of the grabs is kept.
        origin = {grab.order_id: placing for placing in placings for grab in placing.grabs}
        wanted = {
            grab.order_id: Placement(
                grab.order_id,
                placing.sale_id,
                grab.buyer_id,
                grab.quantity,
                placing.epoch,
                placing.outbox_mark,
            )
            for placing in placings
            for grab in placing.grabs
        }
        if not wanted:
            return
        metrics.PLACE_BATCH.observe(len(wanted))
        members = await self._keep_traces(placings, wanted) if SPANS.on else {}
        began_at = time.monotonic()
        start_ns = time.time_ns()
        refused, reasons = await self._place_halving(list(wanted.values()))
        metrics.PLACE_CALL_SECONDS.labels().observe(time.monotonic() - began_at)
        for not_placed in refused:
            metrics.PLACEMENTS.labels(not_placed.why or not_placed.outcome).inc()
            if not_placed.outcome == "unknown_sale":
                reasons[not_placed.order_id] = "unknown sale"
        if members:
            SPANS.record_batch(
                "process orders.place",
                members,
                start_ns,
                size=len(wanted),
                kind=SpanKind.CONSUMER,
                attributes=queue_attributes(topology.ORDERS_PLACE, "process"),
                errors={r.order_id: f"{r.outcome}: {r.why or ''}" for r in refused} | reasons,
            )
        placed = wanted.keys() - {r.order_id for r in refused} - reasons.keys()
        metrics.PLACEMENTS.labels("placed").inc(len(placed))
        _log(placed, refused)
        _observe_waits(placings, placed)
        self._timers.start([p for p in wanted.values() if p.order_id in placed])
        for order_id, reason in reasons.items():
            origin[order_id].bad.append(BadGrab(_entry(wanted[order_id]), reason))

    async def _keep_traces(
        self, placings: Sequence[DecodedPlace], order_ids: Collection[str]
    ) -> dict[str, TraceContext]:
        """Keep the contexts of traced orders for what comes later, and return them.

        Before the orders are placed: their events are sent at once, and would find no context.
        """
        contexts = {k: context for placing in placings for k, context in placing.traces.items()}
        members = traced(order_ids, contexts)
        try:
            await order_traces.keep(self._db, members)
        except Unavailable as error:  # no trace may hold an order
            log.debug("the traces of %d orders are not kept: %s", len(members), error)
        return members

    async def _place_halving(
        self, placements: list[Placement]
    ) -> tuple[list[NotPlaced], dict[str, str]]:
        """Place; if PostgreSQL refuses a value, halve until the bad entry stands alone.

        Return what was not placed, and order_id -> reason of each bad entry. Of n entries at most
        2 * REFUSALS_MAX + 1 + n / EACH_MAX statements are asked for, whichever are bad.
        """
        refused: list[NotPlaced] = []
        reasons: dict[str, str] = {}
        left, refusals = [placements], 0
        while left and refusals < REFUSALS_MAX:
            part = left.pop()
            try:
                with database_errors_as_unavailable():
                    refused += await orders.place(self._db, part)
            except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
                refusals += 1
                if len(part) == 1:
                    reasons[part[0].order_id] = _refusal(str(error))
                else:
                    middle = len(part) // 2
                    left += part[middle:], part[:middle]  # the first grabs first
        rest = [placement for part in reversed(left) for placement in part]
        for start in range(0, len(rest), EACH_MAX):
            with database_errors_as_unavailable():
                found = await orders.place_each(self._db, rest[start : start + EACH_MAX])
            reasons |= {n.order_id: _refusal(n.why or "") for n in found if n.outcome == "refused"}
            refused += [n for n in found if n.outcome != "refused"]
        return refused, reasons


def _log(placed: Collection[str], refused: Sequence[NotPlaced]) -> None:
    """Log what was placed, for debugging, and what was rejected."""
    log_orders(log, logging.DEBUG, "orders_placed", "placed", placed)
    rejected: dict[str, list[str]] = defaultdict(list)
    for each in refused:
        if each.outcome == "rejected":
            rejected[each.why or "unknown"].append(each.order_id)
    for why, order_ids in rejected.items():
        log_orders(log, logging.INFO, "orders_rejected", f"rejected ({why})", order_ids)


def build(stores: Resources) -> Role:
    """Return the role over the stores of this process."""
    kinds = timer_kinds(stores.settings.timeouts, stores.publisher, stores.redis)
    handler = PlaceOrders(stores.db, stores.redis, Timers(stores.sales, kinds), stores.publisher)
    return queue_role(
        stores,
        "place_orders",
        topology.ORDERS_PLACE,
        handler.handle,
        batch_max=stores.settings.place_batch_max,
        key=lambda message: messages.sale_of(message.body),
        spacing_s=stores.settings.place_spacing_s,
    )


def _observe_waits(placings: Sequence[DecodedPlace], placed: Collection[str]) -> None:
    """Count how long the grabs of each message have waited for their rows, by its first new one.

    The id tells when the gateway made it, by the clock of its host.
    """
    now = now_ms()
    for placing in placings:
        if new := [grab.order_id for grab in placing.grabs if grab.order_id in placed]:
            wait_s = max(now - created_ms_of(new[0]), 0) / 1000
            waits = metrics.PLACEMENT_SECONDS.labels()
            waits.observe(wait_s, len(new))
            if context := placing.traces.get(new[0]):
                waits.exemplify(wait_s, context.trace_id)


def _refusal(words: str) -> str:
    return f"PostgreSQL refuses it: {first_line(words)}"


def _entry(placement: Placement) -> list[str | int]:
    return [placement.order_id, placement.buyer_id, placement.quantity]


def _letters(placing: DecodedPlace) -> list[FailedMessage]:
    """Return the bad entries of a message, those with the same reason together.

    There are some twenty reasons. A letter for each entry would keep the other sales waiting, as
    each has to be confirmed.
    """
    by_reason: dict[str, list[Any]] = defaultdict(list)
    for bad in placing.bad:
        by_reason[bad.reason].append(bad.entry)
    return [
        FailedMessage(messages.encode_bad_grabs(placing, entries), reason)
        for reason, entries in by_reason.items()
    ]
