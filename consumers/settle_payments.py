"""settle_payments: asks the card provider about payments whose outcome is unknown."""

from __future__ import annotations

from consumers.runner import Polled
from seckill import telemetry
from seckill.card_books import CardBooks
from seckill.card_payments import BATCH_MAX, CardPayments

#: What a webhook announces waits so long for being asked about.
IDLE_S = 0.2


class SettlePayments:
    """Polls for payments that are due to be asked about."""

    def __init__(self, payments: CardPayments, books: CardBooks) -> None:
        self._payments = payments
        self._books = books

    async def run_once(self) -> Polled:
        """Ask about one batch."""
        asked = await self._payments.ask_due()
        unknown = await self._books.unknown()
        telemetry.CARD_PAYMENTS_UNKNOWN.set(unknown.payments)
        telemetry.CARD_PAYMENTS_UNKNOWN_OLDEST.set(unknown.oldest_s)
        return Polled(asked, more=asked == BATCH_MAX)
