"""Parts of card payments on their way back: the provider is asked until it has done each."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

import asyncpg

from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.backoff import Backoff
from seckill.errors import Unavailable
from seckill.payments.card_payment_store import CardPaymentStore
from seckill.payments.provider import ChargeRequest, Provider, RefundStatus

log = logging.getLogger(__name__)

#: A part of an order that was paid just now waits for its capture, half a second later.
BACKOFF = Backoff(0.5, 30.0)
#: Parts asked about at once; each waits for the slowest of them.
BATCH_MAX = 100


_NOT_YET = RefundStatus.NOT_YET
#: A charge whose order is taken back before its capture is not captured any more. Its parts would
#: wait for that for ever, and the refund of the whole for them. What the provider has done of a
#: part even so, the refund of the whole finds missing there, and books.
_END_UNCAPTURED = (
    "SELECT end_refund_parts(array_agg(r.refund_id), 'refused') FROM refund_parts r"
    "  JOIN transactions t ON t.tx_id = 'ful-' || r.order_id::text"
    " WHERE r.refund_id = ANY ($1) AND t.state IN ('COMPENSATING', 'FAILED')"
)


class _DuePart(NamedTuple):
    refund_id: str
    tx_id: str
    cents: int
    asks: int


class PartRefunds:
    """Asks the provider for the parts that are due."""

    def __init__(self, db: asyncpg.Pool, provider: Provider, *, lease_s: float) -> None:
        """Another process may ask for a part again after `lease_s`."""
        self._db = db
        self._provider = provider
        self._lease_s = lease_s

    async def ask_due(self) -> int:
        """Ask for one batch of due parts, and book what was done; return how many."""
        due = await self._take_due()
        if not due:
            return 0
        charges = await CardPaymentStore(self._db).charges([part.tx_id for part in due])
        said = await asyncio.gather(*(self._ask(charges[part.tx_id], part) for part in due))
        with database_errors_as_unavailable():
            for status in (RefundStatus.DONE, RefundStatus.REFUSED):
                ended = [p.refund_id for p, s in zip(due, said, strict=True) if s is status]
                if ended:
                    await self._db.execute("SELECT end_refund_parts($1, $2)", ended, status.value)
            for part, status_now in zip(due, said, strict=True):
                if status_now is RefundStatus.REFUSED:
                    log.warning("the provider refuses to give back %s", part.refund_id)
                elif status_now is not RefundStatus.DONE:
                    await self._put_off(part)
            waiting = [p.refund_id for p, s in zip(due, said, strict=True) if s is _NOT_YET]
            if waiting:
                await self._db.execute(_END_UNCAPTURED, waiting)
        return len(due)

    async def _ask(self, charge: ChargeRequest, part: _DuePart) -> RefundStatus | None:
        try:
            return await self._provider.refund(charge, part.refund_id, part.cents)
        except Unavailable:  # which the adapter has logged
            return None

    async def _take_due(self) -> list[_DuePart]:
        with database_errors_as_unavailable():
            rows = await self._db.fetch(
                "WITH due AS ("
                " SELECT refund_id FROM refund_parts WHERE next_ask_at <= now()"
                "  ORDER BY next_ask_at LIMIT $1 FOR UPDATE SKIP LOCKED)"
                " UPDATE refund_parts r"
                "    SET asks = asks + 1, next_ask_at = now() + make_interval(secs => $2)"
                "   FROM due WHERE r.refund_id = due.refund_id"
                " RETURNING r.refund_id, r.tx_id, r.cents, r.asks",
                BATCH_MAX,
                self._lease_s,
            )
        return [_DuePart(*row) for row in rows]

    async def _put_off(self, part: _DuePart) -> None:
        await self._db.execute(
            "UPDATE refund_parts SET next_ask_at = now() + make_interval(secs => $2)"
            " WHERE refund_id = $1 AND state = 'begun'",
            part.refund_id,
            BACKOFF.wait_s(part.asks),
        )
