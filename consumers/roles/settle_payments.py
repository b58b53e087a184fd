"""settle_payments: asks the card provider about payments whose outcome is unknown."""

from __future__ import annotations

from functools import partial

from consumers.resources import Resources
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.role import Role
from seckill import metrics
from seckill.payments import fulfilment
from seckill.payments.card_payment_store import CardPaymentStore
from seckill.payments.card_payments import BATCH_MAX, CardPayments
from seckill.transactions.log import TransactionLog

#: What a webhook announces waits so long for being asked about.
IDLE_S = 0.2


class SettlePayments:
    """Polls for payments that are due to be asked about."""

    def __init__(self, payments: CardPayments, books: CardPaymentStore) -> None:
        self._payments = payments
        self._books = books

    async def run_once(self) -> Polled:
        """Ask about one batch."""
        asked = await self._payments.ask_due()
        unknown = await self._books.unknown()
        metrics.CARD_PAYMENTS_UNKNOWN.set(unknown.payments)
        metrics.CARD_PAYMENTS_UNKNOWN_OLDEST.set(unknown.oldest_s)
        return Polled(asked, more=asked == BATCH_MAX)


def build(stores: Resources) -> Role:
    """Return the role, on the stores of this process."""
    if stores.provider is None:
        raise AssertionError("bug: settle_payments is run without a provider")
    settings, books = (
        stores.settings,
        CardPaymentStore(stores.db, on_paid=partial(fulfilment.begin, TransactionLog(stores.db))),
    )
    payments = CardPayments(
        books,
        stores.provider,
        call_timeout_s=settings.provider_timeout_s,
        grace_s=settings.payment_grace_s,
    )
    role = SettlePayments(payments, books)
    return PollRole("settle_payments", role.run_once, idle_s=IDLE_S)
