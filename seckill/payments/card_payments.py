"""Paying by card: our books first, then the provider, then our books again.

The provider may not answer. Then the outcome is unknown, the order stays `paying`, and the payment
is asked for again under the same key, until the provider says yes or no:

| the provider says | and the payment | then |
|---|---|---|
| authorised, captured | waits | it is paid |
| authorised, captured | was given up or cancelled | the charge is voided |
| declined, voided | waits or was given up | it is cancelled, the order payable again or expired |
| voided | is being refunded | it is refunded |
| pending, or no such key | waits, in time | ask again; a key that never arrived is sent again |
| pending, or no such key | waits, too late | it is given up, then the charge is voided |
| nothing | whatever it is | ask again |

To give up is a compare-and-set against paying, in PostgreSQL, before the provider is told: so no
charge is voided whose order another process has just found paid.
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
from seckill.payments.provider_client import ChargeStatus, Provider
from seckill.transactions.states import TransactionOutcome, TransactionState

log = logging.getLogger(__name__)

#: Beyond two calls to the provider, for the books: then another process may ask.
LEASE_MARGIN_S = 5.0
#: Between asking again: a lost reply is known soon, a bank that is away is not hammered.
BACKOFF = Backoff(0.5, 30.0)
#: Payments asked about at once; each waits for the slowest of them.
BATCH_MAX = 100

_DECIDED = frozenset(
    {ChargeStatus.AUTHORISED, ChargeStatus.CAPTURED, ChargeStatus.DECLINED, ChargeStatus.VOIDED}
)


class CardPayments:
    """Begins card payments, and asks about those without an outcome."""

    def __init__(
        self, books: CardPaymentStore, provider: Provider, *, call_timeout_s: float, grace_s: float
    ) -> None:
        """Give up `grace_s` after the end of the payment window."""
        self._books = books
        self._provider = provider
        self._lease_s = 2 * call_timeout_s + LEASE_MARGIN_S
        self._grace_s = grace_s
        #: Of the last call without an answer, for the log.
        self._trouble: Unavailable | None = None
        self._begin: MicroBatcher[tuple[str, Payment], StartedCardPayment] = MicroBatcher(
            answering_each(self._begin_all), max_batch=512, max_calls=2
        )
        self._settle: MicroBatcher[tuple[str, ChargeStatus], str] = MicroBatcher(
            answering_each(self._settle_all), max_batch=512, max_calls=2
        )

    async def pay(self, tx_id: str, payment: Payment) -> TransactionOutcome:
        """Pay once; TRYING means that the outcome is unknown, and asked for again.

        Raises Unavailable when it is not even known whether the payment has begun.
        """
        begun = await self._begin.submit((tx_id, payment))
        if begun.why or begun.asks_at is None:
            return TransactionOutcome(TransactionState.CANCELED, begun.why)
        due = DueCardPayment(
            tx_id, begun.cents, ending=False, left_s=inf, asks=1, asks_at=begun.asks_at
        )
        said = await self._authorise(due)
        try:
            if said in _DECIDED:
                return _outcome(said, await self._settle.submit((tx_id, said)))
            _count("unknown", 1)
            await self._books.put_off([_put_off(due, said)])
        except Unavailable as error:  # the lease brings it back
            log.warning("card payment %s is left to the poller: %s", tx_id, error)
        return TransactionOutcome(TransactionState.TRYING)

    async def ask_due(self) -> int:
        """Ask about one batch of payments, and book what is said; return how many."""
        taken = await self._books.take_due(BATCH_MAX, lease_s=self._lease_s, grace_s=self._grace_s)
        if not taken:
            return 0
        answers = await asyncio.gather(*map(self._ask, taken))
        asked = list(zip(taken, answers, strict=True))
        decided = {due.tx_id: said for due, said in asked if said in _DECIDED}
        # A charge that may not be is void only when the provider says so.
        late = [d.tx_id for d, said in asked if d.left_s <= 0 and not d.ending and _is_open(said)]
        if decided:
            await self._settle_all(list(decided.items()))
        if late:
            await self._books.give_up(late)
            _count("given_up", len(late))
        again = [(d, s) for d, s in asked if d.tx_id not in decided and d.tx_id not in late]
        if again:
            await self._books.put_off([_put_off(due, said) for due, said in again])
            _count("unknown", len(again))
        if silent := sum(said is None for said in answers):
            log.warning("%d of %d not answered, such as: %s", silent, len(taken), self._trouble)
        return len(taken)

    async def _ask(self, due: DueCardPayment) -> ChargeStatus | None:
        """Ask what became of a payment, or have it voided; None without an answer."""
        if due.ending:
            return await self._void(due)
        if not due.cents:
            return ChargeStatus.CAPTURED
        said = await self._answer(self._provider.find(due.tx_id))
        # It never arrived. Sent again under its key it is charged once, should it still come.
        return (
            await self._authorise(due) if said is ChargeStatus.UNKNOWN and due.left_s > 0 else said
        )

    async def _authorise(self, due: DueCardPayment) -> ChargeStatus | None:
        if not due.cents:  # the coupon pays all of it: nothing to ask for
            return ChargeStatus.CAPTURED
        return await self._answer(self._provider.authorise(due.tx_id, due.cents))

    async def _void(self, due: DueCardPayment) -> ChargeStatus | None:
        if not due.cents:
            return ChargeStatus.VOIDED
        said = await self._answer(self._provider.void(due.tx_id))
        # Any other answer to this is none.
        return said if said in (ChargeStatus.VOIDED, ChargeStatus.DECLINED) else None

    async def _answer(self, reply: Awaitable[ChargeStatus]) -> ChargeStatus | None:
        """Return what the provider says; None, with the trouble noted, when it says nothing."""
        try:
            return await reply
        except Unavailable as error:
            self._trouble = error
            return None

    async def _begin_all(self, payments: Sequence[tuple[str, Payment]]) -> list[StartedCardPayment]:
        return await self._books.begin(payments, lease_s=self._lease_s)

    async def _settle_all(self, decided: Sequence[tuple[str, ChargeStatus]]) -> list[str]:
        states = await self._books.settle(dict(decided))
        for tx_id, _ in decided:
            _count(states[tx_id], 1)
        return [states[tx_id] for tx_id, _ in decided]


def _is_open(said: ChargeStatus | None) -> bool:
    return said in (ChargeStatus.PENDING, ChargeStatus.UNKNOWN)


def _put_off(due: DueCardPayment, said: ChargeStatus | None) -> PostponedCardPayment:
    wait_s = BACKOFF.wait_s(due.asks)
    if due.left_s > 0:  # its units are for sale again when its time is over, not some while later
        wait_s = min(wait_s, due.left_s)
    return PostponedCardPayment(due.tx_id, due.asks_at, said, wait_s)


def _outcome(said: ChargeStatus, state: str) -> TransactionOutcome:
    if state == "trying":  # given up: it ends as soon as the provider has voided it
        return TransactionOutcome(TransactionState.TRYING)
    if state == "cancelled":
        declined = said in (ChargeStatus.DECLINED, ChargeStatus.VOIDED)
        return TransactionOutcome(
            TransactionState.CANCELED,
            PaymentRefusal.DECLINED if declined else PaymentRefusal.EXPIRED,
        )
    return TransactionOutcome(TransactionState.CONFIRMED)


def _count(outcome: str, number: int) -> None:
    metrics.CARD_PAYMENTS.labels(outcome).inc(number)
