"""settle_payments: asks the card provider about payments whose outcome is unknown."""

from __future__ import annotations

from functools import partial

from consumers.resources import Resources
from consumers.runtime.activity import REST_S
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.role import Role
from seckill import metrics
from seckill.payments import fulfilment
from seckill.payments.card_payment_store import CardPaymentStore
from seckill.payments.card_payments import BATCH_MAX, CardPayments, lease_s
from seckill.payments.part_refunds import PartRefunds
from seckill.transactions.log import TransactionLog

#: A payment that a webhook announces waits so long until the provider is asked about it.
IDLE_S = 0.2


class SettlePayments:
    """Polls for payments that are due for a question."""

    def __init__(self, payments: CardPayments, store: CardPaymentStore, parts: PartRefunds) -> None:
        self._payments = payments
        self._parts = parts
        self._store = store

    async def run_once(self) -> Polled:
        """Ask about one batch."""
        asked = await self._payments.ask_due()
        parts = await self._parts.ask_due()
        unknown = await self._store.unknown()
        metrics.CARD_PAYMENTS_UNKNOWN.set(unknown.payments)
        metrics.CARD_PAYMENTS_UNKNOWN_OLDEST.set(unknown.oldest_s)
        return Polled(asked + parts, more=BATCH_MAX in (asked, parts))


def build(stores: Resources) -> Role:
    """Return the role over the stores of this process, which must have a provider."""
    if stores.provider is None:
        raise AssertionError("bug: settle_payments is run without a provider")
    on_paid = partial(fulfilment.begin, TransactionLog(stores.db))
    store = CardPaymentStore(stores.db, on_paid=on_paid)
    payments = CardPayments(
        store,
        stores.provider,
        call_timeout_s=stores.settings.provider_timeout_s,
        grace_s=stores.settings.payment_grace_s,
    )
    lease = lease_s(stores.settings.provider_timeout_s)
    parts = PartRefunds(stores.db, stores.provider, lease_s=lease)
    role = SettlePayments(payments, store, parts)
    return PollRole("settle_payments", role.run_once, idle_s=IDLE_S, rest_s=REST_S)
