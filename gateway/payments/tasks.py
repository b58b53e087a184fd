"""The payments of this process that are under way.

A payment that has begun goes on when its client leaves: half a payment helps no one.
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from gateway.overload.rate_limiter import RateLimited, RateLimiter
from seckill import metrics
from seckill.errors import Transient
from seckill.payments.checkout import Checkout
from seckill.payments.payment import CARD, Payment
from seckill.transactions.states import TransactionOutcome
from seckill.transactions.tcc import CoordinatorFull

log = logging.getLogger(__name__)

#: Longest wait for an outcome: what a person still takes as at once.
WAIT_S = 0.5

Paying = asyncio.Task[TransactionOutcome | RateLimited]


class PaymentTasks:
    """Takes payments, at most `in_flight_max` at a time, each in its turn of the `confirm` tier."""

    def __init__(
        self,
        limiter: RateLimiter,
        checkout: Checkout,
        *,
        in_flight_max: int,
        card_wait_s: float = WAIT_S,
    ) -> None:
        self._card_wait_s = card_wait_s
        self._limiter = limiter
        self._checkout = checkout
        self._in_flight_max = in_flight_max
        self._under_way: set[Paying] = set()

    async def pay(self, payment: Payment) -> TransactionOutcome | RateLimited | None:
        """Pay; return the outcome or the limit that refused, None if it goes on longer.

        Raise CoordinatorFull when too many are under way, Unavailable when the outcome is unknown.
        """
        if len(self._under_way) >= self._in_flight_max:
            raise CoordinatorFull
        paying = asyncio.create_task(self._pay(payment), name="payment")
        self._under_way.add(paying)
        paying.add_done_callback(self._finish)
        wait_s = self._card_wait_s if payment.method == CARD else WAIT_S
        done, _ = await asyncio.wait({paying}, timeout=wait_s)
        return paying.result() if done else None

    async def drain(self, within_s: float) -> None:
        """Wait until every payment has ended; what has not by then is left to `recover`."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=within_s)

    async def _pay(self, payment: Payment) -> TransactionOutcome | RateLimited:
        refusal = await self._limiter.refusal(payment.sale_id, "confirm", payment.buyer_id)
        if refusal:
            return refusal
        outcome = await self._checkout.pay(payment)
        metrics.PAYMENTS.labels(outcome.reason or outcome.state.lower()).inc()
        log.info(
            "payment of order %s by %s: %s",
            payment.order_id,
            payment.method,
            outcome.reason or outcome.state.lower(),
            extra={
                "event": "payment",
                "order_id": payment.order_id,
                "sale_id": payment.sale_id,
                "outcome": outcome.reason or outcome.state.lower(),
            },
        )
        return outcome

    def _finish(self, paying: Paying) -> None:
        self._under_way.discard(paying)
        error = None if paying.cancelled() else paying.exception()
        if error and not isinstance(error, Transient):  # its client may be gone: log it here
            log.error("a payment failed", exc_info=error)


PAYMENT_TASKS = web.AppKey("payment_tasks", PaymentTasks)
