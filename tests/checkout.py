"""Payments for tests: the branches one by one, or whole payments, on the real stores."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

from seckill.orders.orders import Placement
from seckill.payments import checkout, wallets
from seckill.payments.checkout import Checkout
from seckill.payments.payment import Payment, new_tx_id
from seckill.payments.wallets import Coupon, TopUp
from seckill.transactions.log import TransactionLog
from seckill.transactions.recovery import Recovery
from seckill.transactions.states import BranchCall, BranchOp, TransactionOutcome
from seckill.transactions.tcc import Coordinator
from tests.transactions import Fuse, MortalPool

BRANCHES = ("order", "coupon", "wallet")
YEAR_S = 365 * 86_400

_numbers = itertools.count(1)


def payer() -> str:
    """Name a buyer whom no other test knows: wallets outlive sales."""
    return f"payer-{next(_numbers)}"


class CheckoutBench:
    """One process that takes payments."""

    def __init__(self, db: Any, store: Redis, *, locking: bool = True) -> None:
        self.db = db
        self._store = store
        definition = checkout.definition(db)
        self._branches = {branch.name: branch for branch in definition.branches}
        self.log = TransactionLog(db)
        self.coordinator = Coordinator(definition, self.log)
        self._checkout = Checkout(self.coordinator, store, locking=locking)

    def another(self, *, locking: bool = True) -> CheckoutBench:
        """Open the checkout of another process."""
        return CheckoutBench(self.db, self._store, locking=locking)

    def mortal(self, dies_at: int | None) -> CheckoutBench:
        """Open the checkout of a process that dies at the n-th point between two statements."""
        return CheckoutBench(MortalPool(self.db, Fuse(dies_at)), self._store)

    async def give(self, buyer_id: str, cents: int) -> None:
        """Top up a wallet."""
        assert await wallets.top_up(self.db, [TopUp(new_tx_id(), buyer_id, cents)])

    async def coupon(self, buyer_id: str, cents: int) -> str:
        """Hand out a coupon; return its id."""
        coupon_id = f"coupon-{next(_numbers)}"
        assert await wallets.issue_coupons(self.db, [Coupon(coupon_id, buyer_id, cents)])
        return coupon_id

    async def pay(self, order: Placement, *, coupon: str | None = None) -> TransactionOutcome:
        """Pay an order."""
        return await self._checkout.pay(
            Payment(order.sale_id, order.order_id, order.buyer_id, coupon_id=coupon)
        )

    def call(
        self, order: Placement, *, buyer_id: str = "", coupon: str | None = None
    ) -> BranchCall:
        """Make a payment as the log would hand it to a branch."""
        payment = Payment(
            order.sale_id, order.order_id, buyer_id or order.buyer_id, coupon_id=coupon
        )
        return BranchCall(new_tx_id(), payment.args())

    async def run(self, branch: str, op: BranchOp, *calls: BranchCall) -> Mapping[str, str]:
        """Run an operation of a branch; return tx_id -> why of those refused."""
        return dict(await self._branches[branch].run(op, calls))

    async def recover(self, sale_id: str) -> None:
        """Finish the payments of a sale that were left, as if their leases had run out."""
        await self.db.execute(
            "UPDATE transactions SET due_at = now()"
            " WHERE due_at IS NOT NULL AND args ->> 'sale_id' = $1",
            sale_id,
        )
        recovery = Recovery(self.log, [self.coordinator], retention_s=YEAR_S)
        while (await recovery.run_once()).taken:
            pass
