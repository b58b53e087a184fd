"""Card payments for tests: a sandbox provider on a real socket, and processes that ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from ops.sandbox_provider import Sandbox, SandboxBehaviour, SandboxCharge
from seckill.orders.orders import Placement
from seckill.payments.card_payment_store import CardPaymentStore, OnPaid
from seckill.payments.card_payments import CardPayments
from seckill.payments.checkout import CARD
from seckill.payments.payment import Payment, new_tx_id
from seckill.payments.provider import Provider
from seckill.payments.sandbox_client import SandboxClient
from seckill.sales.sales import Sale
from seckill.transactions.states import TransactionOutcome

TIMEOUT_S = 1.0
GRACE_S = 60.0


class CardPaymentBench:
    """One process that takes cards."""

    def __init__(self, db: asyncpg.Pool, sandbox: Sandbox, provider: Provider) -> None:
        self.db = db
        self.sandbox = sandbox
        self.provider = provider
        self.store = CardPaymentStore(db)
        self.payments = self.another()

    @classmethod
    @asynccontextmanager
    async def open(cls, db: asyncpg.Pool) -> AsyncIterator[CardPaymentBench]:
        """Open the process, and the provider that it asks."""
        sandbox = Sandbox(SandboxBehaviour())
        async with (
            sandbox.serving() as url,
            SandboxClient.open(url, timeout_s=TIMEOUT_S, calls_max=100) as provider,
        ):
            yield cls(db, sandbox, provider)

    def another(self, *, on_paid: OnPaid | None = None) -> CardPayments:
        """Take cards in another process."""
        return CardPayments(
            CardPaymentStore(self.db, on_paid=on_paid),
            self.provider,
            call_timeout_s=TIMEOUT_S,
            grace_s=GRACE_S,
        )

    async def pay(
        self, order: Placement, *, tx_id: str = "", coupon: str | None = None
    ) -> TransactionOutcome:
        """Pay an order by card."""
        payment = Payment(order.sale_id, order.order_id, order.buyer_id, CARD, coupon)
        return await self.payments.pay(tx_id or new_tx_id(), payment)

    async def pay_order(self, order: Placement, *, coupon: str | None = None) -> TransactionOutcome:
        """Pay an order by card under its own key, as gateways do."""
        payment = Payment(order.sale_id, order.order_id, order.buyer_id, CARD, coupon)
        return await self.payments.pay_order(payment)

    async def hasten(self, sale: Sale) -> int:
        """Let whatever is still to be asked about in a sale be due now; return how many."""
        status = await self.db.execute(
            "UPDATE payments SET next_ask_at = now()"
            " WHERE next_ask_at IS NOT NULL AND sale_id = $1",
            sale.sale_id,
        )
        return int(status.split()[1])

    async def settle(self, sale: Sale) -> None:
        """Ask until nothing of a sale is unknown."""
        while await self.hasten(sale):
            await self.payments.ask_due()

    def charges(self) -> list[SandboxCharge]:
        """Return what the provider has on record."""
        return list(self.sandbox.charges.values())

    def held(self) -> int:
        """Return the cents that the provider has from buyers."""
        return sum(charge.held_cents + charge.taken_cents for charge in self.charges())
