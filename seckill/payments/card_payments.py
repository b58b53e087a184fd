"""Pay by card: PostgreSQL first, then the provider, then PostgreSQL again.

The provider may not answer. Then the outcome is unknown, the order stays `paying`, and the provider
is asked again under the same key, until it says yes or no:

| the provider says | and the payment | then |
|---|---|---|
| authorised, captured | waits | it is paid |
| authorised, captured | was given up or cancelled | the charge is voided |
| declined, voided | waits or was given up | it is cancelled, the order payable again or expired |
| voided | is being refunded | it is refunded |
| pending, needs the buyer, no such key | waits, in time | ask again; send a lost key again |
| pending, needs the buyer, no such key | waits, too late | give it up, then void the charge |
| nothing | in any state | ask again |

Giving up is a compare-and-set against paying, in PostgreSQL, before the provider voids the charge.
So no charge is voided after another process has found its order paid.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from math import inf

from seckill import metrics
from seckill.backoff import Backoff
from seckill.errors import Unavailable
from seckill.micro_batcher import MicroBatcher, answering_each
from seckill.payments.card_payment_store import (
    CardPaymentStore,
    DueCardPayment,
    PostponedCardPayment,
    StartedCardPayment,
)
from seckill.payments.payment import Payment, PaymentRefusal
from seckill.payments.provider import Charge, ChargeStatus, Provider
from seckill.spans import TraceContext, span_of
from seckill.transactions.states import TransactionOutcome, TransactionState

log = logging.getLogger(__name__)

#: Beyond two calls to the provider, for PostgreSQL; then another process may ask.
LEASE_MARGIN_S = 5.0
#: Waits between questions: a lost reply is found soon, and a bank in trouble is not overloaded.
BACKOFF = Backoff(0.5, 30.0)
#: Payments asked about at once; each waits for the slowest of them.
BATCH_MAX = 100

_DECIDED = frozenset(
    {ChargeStatus.AUTHORISED, ChargeStatus.CAPTURED, ChargeStatus.DECLINED, ChargeStatus.VOIDED}
)
_OPEN = frozenset({ChargeStatus.PENDING, ChargeStatus.REQUIRES_ACTION, ChargeStatus.UNKNOWN})


def lease_s(call_timeout_s: float) -> float:
    """Return how long a process may take to ask about a payment, which is two calls at most."""
    return 2 * call_timeout_s + LEASE_MARGIN_S


class CardPayments:
    """Begins card payments, and asks about those without an outcome."""

    def __init__(
        self, store: CardPaymentStore, provider: Provider, *, call_timeout_s: float, grace_s: float
    ) -> None:
        """Give up `grace_s` after the end of the payment window."""
        self._store = store
        self._provider = provider
        self._lease_s = lease_s(call_timeout_s)
        self._grace_s = grace_s
        self._begin: MicroBatcher[tuple[str, Payment], StartedCardPayment] = MicroBatcher(
            answering_each(self._begin_all), max_batch=512, max_calls=2
        )
        self._settle: MicroBatcher[tuple[str, Charge], str] = MicroBatcher(
            answering_each(self._settle_all), max_batch=512, max_calls=2
        )

    async def pay_order(self, payment: Payment) -> TransactionOutcome:
        """Pay under the order's own key, so that no order is charged twice; see `pay`."""
        return await self.pay(await self._store.next_tx_id(payment.order_id), payment)

    async def pay(self, tx_id: str, payment: Payment) -> TransactionOutcome:
        """Pay once; TRYING means that the outcome is unknown, and that the poller asks again.

        Raise Unavailable if it is not even known whether the payment has begun.
        """
        begun = await self._begin.submit((tx_id, payment))
        if begun.why or begun.asks_at is None:
            return TransactionOutcome(TransactionState.CANCELED, begun.why)
        due = DueCardPayment(
            tx_id,
            begun.cents,
            ending=False,
            left_s=inf,
            asks=1,
            asks_at=begun.asks_at,
            sale_id=payment.sale_id,
            order_id=payment.order_id,
            currency=payment.currency,
            token=payment.token,
            return_url=payment.return_url,
            ref=payment.ref,
        )
        said = await self._authorise(due)
        try:
            if said and said.status in _DECIDED:
                return _outcome(said, await self._settle.submit((tx_id, said)))
            _count("unknown", 1)
            await self._store.put_off([_put_off(due, said)])
        except Unavailable as error:  # the lease brings it back
            log.debug("card payment %s is left to the poller: %s", tx_id, error)
        detail = said.redirect_url if said else ""
        return TransactionOutcome(TransactionState.TRYING, detail=detail)

    async def ask_due(self) -> int:
        """Ask about one batch of due payments, and settle the answers; return how many."""
        taken = await self._store.take_due(BATCH_MAX, lease_s=self._lease_s, grace_s=self._grace_s)
        if not taken:
            return 0
        contexts = await self._store.traces_of(taken)
        answers = await asyncio.gather(
            *(self._ask_traced(due, contexts.get(due.order_id)) for due in taken)
        )
        asked = list(zip(taken, answers, strict=True))
        decided = {due.tx_id: said for due, said in asked if said and said.status in _DECIDED}
        # A charge that came too late is void only when the provider says so.
        late = [d.tx_id for d, said in asked if d.left_s <= 0 and not d.ending and _is_open(said)]
        if decided:
            await self._settle_all(list(decided.items()))
        if late:
            await self._store.give_up(late)
            _count("given_up", len(late))
        again = [(d, s) for d, s in asked if d.tx_id not in decided and d.tx_id not in late]
        if again:
            await self._store.put_off([_put_off(due, said) for due, said in again])
            _count("unknown", len(again))
        return len(taken)

    async def _ask_traced(self, due: DueCardPayment, context: TraceContext | None) -> Charge | None:
        attributes = {"seckill.order_id": due.order_id, "seckill.tx_id": due.tx_id}
        with span_of(context, "settle card payment", attributes=attributes):
            return await self._ask(due)

    async def _ask(self, due: DueCardPayment) -> Charge | None:
        """Return the charge of a payment, or void it; None without an answer."""
        if due.ending:
            return await self._void(due)
        if not due.cents:
            return Charge(ChargeStatus.CAPTURED)
        said = await self._answer(self._provider.find(due.charge))
        if said is None:
            return None
        # A charge of another amount is not the one that was asked for: authorise() voids it.
        if said.has_money and said.amount_cents not in (None, due.cents):
            return await self._authorise(due)
        # The charge never arrived. Sent again under its key it is charged once, even if both come.
        is_lost = said.status is ChargeStatus.UNKNOWN
        return await self._authorise(due) if is_lost and due.left_s > 0 else said

    async def _authorise(self, due: DueCardPayment) -> Charge | None:
        if not due.cents:  # the coupon pays all of it: no charge is needed
            return Charge(ChargeStatus.CAPTURED)
        return await self._answer(self._provider.authorise(due.charge))

    async def _void(self, due: DueCardPayment) -> Charge | None:
        if not due.cents:
            return Charge(ChargeStatus.VOIDED)
        said = await self._answer(self._provider.void(due.charge))
        # Any other status is no answer to a void.
        return said if said and said.is_over else None

    async def _answer(self, reply: Awaitable[Charge]) -> Charge | None:
        """Return the provider's charge; None without an answer, which the client has logged."""
        try:
            return await reply
        except Unavailable:
            return None

    async def _begin_all(self, payments: Sequence[tuple[str, Payment]]) -> list[StartedCardPayment]:
        return await self._store.begin(payments, lease_s=self._lease_s)

    async def _settle_all(self, decided: Sequence[tuple[str, Charge]]) -> list[str]:
        states = await self._store.settle(dict(decided))
        for tx_id, _ in decided:
            _count(states[tx_id], 1)
            log.info(
                "card payment %s: %s",
                tx_id,
                states[tx_id],
                extra={"event": "card_payment", "tx_id": tx_id, "outcome": states[tx_id]},
            )
        return [states[tx_id] for tx_id, _ in decided]


def _is_open(said: Charge | None) -> bool:
    return said is not None and said.status in _OPEN


def _put_off(due: DueCardPayment, said: Charge | None) -> PostponedCardPayment:
    wait_s = BACKOFF.wait_s(due.asks)
    if due.left_s > 0:  # its units are for sale again as soon as its time is over
        wait_s = min(wait_s, due.left_s)
    return PostponedCardPayment(due.tx_id, due.asks_at, said, wait_s)


def _outcome(said: Charge, state: str) -> TransactionOutcome:
    if state == "trying":  # given up: it ends when the provider has voided it
        return TransactionOutcome(TransactionState.TRYING)
    if state == "cancelled":
        reason = PaymentRefusal.DECLINED if said.is_over else PaymentRefusal.EXPIRED
        return TransactionOutcome(TransactionState.CANCELED, reason, said.decline_code)
    return TransactionOutcome(TransactionState.CONFIRMED)


def _count(outcome: str, number: int) -> None:
    metrics.CARD_PAYMENTS.labels(outcome).inc(number)
