"""Recover a sale of which PostgreSQL was restored without its last seconds (history.py).

| found | done |
|---|---|
| a holder in Redis without a row | it is placed again; with `give_back`, rejected, and for sale |
| a charge at the provider, its order not paid | the order is paid by it |
| a charge whose order cannot be paid | named; voided only if `void` says so |

Then the sale is rebuilt in Redis, which lifts the fence: PostgreSQL decides what there is to sell,
so nothing is oversold. A recovery that is cut off leaves the sale fenced, and a second run goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import asyncpg
from redis.asyncio import Redis

from seckill import audit
from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.consistency import charges, diff, fencing
from seckill.consistency.charges import OrphanCharge
from seckill.consistency.fencing import FenceReason
from seckill.consistency.rebuild import Rebuild, RebuildReport
from seckill.errors import Missing, WrongState
from seckill.order_ids import PATTERN
from seckill.orders import orders
from seckill.orders.orders import Placement
from seckill.payments.card_payments import CardPayments
from seckill.payments.payment import CARD, Payment
from seckill.payments.provider import Provider

#: An order whose charge is found gets so long to be paid by it: some calls to the provider.
PAY_S = 120

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CardAccess:
    """What charges are found and taken as payments with."""

    provider: Provider
    payments: CardPayments


@dataclass(slots=True)
class SaleRecoveryReport:
    """What one recovery found and did."""

    sale_id: str
    #: Orders of holders that were placed again.
    placed: list[str] = field(default_factory=list)
    #: Orders of holders that could not be placed, or were given back.
    rejected: list[str] = field(default_factory=list)
    #: Charges by which their orders are paid now.
    paid: list[OrphanCharge] = field(default_factory=list)
    #: Charges that no order can be paid by, and those of them that were voided.
    orphans: list[OrphanCharge] = field(default_factory=list)
    voided: list[OrphanCharge] = field(default_factory=list)
    #: Orders that are paid here, and whose money went back: their refunds were forgotten.
    unfunded: list[str] = field(default_factory=list)
    #: Whether the provider was asked: there is one, and it lists its charges.
    charges_compared: bool = False
    #: None for a sale that was not fenced.
    rebuilt: RebuildReport | None = None


class SaleRecovery:
    """Recovers sales, one at a time."""

    def __init__(self, redis: Redis, db: asyncpg.Pool, cards: CardAccess | None) -> None:
        self._redis = redis
        self._db = db
        self._cards = cards

    async def run(
        self, sale_id: str, *, actor: str, give_back: bool = False, void: bool = False
    ) -> SaleRecoveryReport:
        """Recover a sale; a sale that is not fenced keeps its orders, and its charges are compared.

        Raise WrongState if the sale needs a rebuild for another reason.
        """
        states = await fencing.survey(self._redis, self._db, [sale_id])
        if sale_id not in states:
            raise Missing(f"there is no sale {sale_id}; `seckill sale list` shows them")
        reason = states[sale_id].fence_reason
        if reason not in (None, FenceReason.RESTORED):
            raise WrongState(fencing.advice(sale_id, reason))
        report = SaleRecoveryReport(sale_id)
        if reason:
            await self._place_again(report, give_back=give_back)
        await self._compare_charges(report, actor)
        if void:
            await self._void(report, actor)
        if reason:
            rebuild = Rebuild(self._redis, self._db)
            await rebuild.fence([sale_id], force=True)
            report.rebuilt = await rebuild.run(sale_id, actor=actor, reason=FenceReason.RESTORED)
        return report

    async def _place_again(self, report: SaleRecoveryReport, *, give_back: bool) -> None:
        """Place the grabs of all holders without a row, as consumers did before the restore."""
        epoch = await fencing.epoch_in_redis(self._redis, report.sale_id)
        async for page in diff.holders_with_rows(self._redis, self._db, report.sale_id):
            lost = [
                Placement(h.holding.order_id, report.sale_id, h.buyer_id, h.holding.quantity, epoch)
                for h in page
                if h.state is None
            ]
            if give_back:  # the rebuild writes their rejected rows
                report.rejected += [each.order_id for each in lost]
            elif lost:
                with database_errors_as_unavailable():
                    refused = {each.order_id for each in await orders.place(self._db, lost)}
                report.placed += [e.order_id for e in lost if e.order_id not in refused]
                report.rejected += sorted(refused)

    async def _compare_charges(self, report: SaleRecoveryReport, actor: str) -> None:
        if self._cards is None:
            return
        compared = await charges.compare(self._db, self._cards.provider, report.sale_id)
        if compared is None:
            return
        report.charges_compared = True
        report.unfunded, found = compared.unfunded, compared.orphans
        payable = await self._payable(found)
        for orphan in found:
            paid = orphan.key in payable and await self._pay(orphan, payable[orphan.key])
            (report.paid if paid else report.orphans).append(orphan)
        if report.paid:
            await self._record(report, "sale.pay_by_charge", actor, report.paid)

    async def _payable(self, found: Sequence[OrphanCharge]) -> dict[str, Payment]:
        """Return the payments that charges are of: their orders wait to be paid as much.

        Their time to pay may be over, because PostgreSQL was away; they get some more.
        """
        ours = [each for each in found if PATTERN.match(each.order_id)]
        async with transaction(self._db) as connection:
            rows = await connection.fetch(
                "UPDATE orders o SET pay_by = greatest(pay_by, now() + make_interval(secs => $3))"
                "  FROM unnest($1::uuid[], $2::bigint[]) AS charge (order_id, cents), sales s"
                " WHERE o.order_id = charge.order_id AND o.state = 'pending'"
                "   AND o.amount_cents = charge.cents AND s.sale_id = o.sale_id"
                " RETURNING o.order_id::text, o.sale_id, o.buyer_id, s.currency",
                [each.order_id for each in ours],
                [each.cents for each in ours],
                PAY_S,
            )
        by_order = {row["order_id"]: _payment(*row) for row in rows}
        return {each.key: by_order[each.order_id] for each in found if each.order_id in by_order}

    async def _pay(self, orphan: OrphanCharge, payment: Payment) -> bool:
        if self._cards is None:
            raise AssertionError("bug: a charge without a provider")
        paying = replace(payment, ref=orphan.ref)
        # The key of the charge: the provider makes no second one.
        return (await self._cards.payments.pay(orphan.key, paying)).confirmed

    async def _void(self, report: SaleRecoveryReport, actor: str) -> None:
        """Give the money of orphans back."""
        if self._cards is None or not report.orphans:
            return
        for orphan in report.orphans:
            await self._cards.provider.void(orphan.charge)
        report.voided, report.orphans = report.orphans, []
        await self._record(report, "sale.void_charges", actor, report.voided)

    async def _record(
        self, report: SaleRecoveryReport, action: str, actor: str, found: Sequence[OrphanCharge]
    ) -> None:
        async with transaction(self._db) as connection:
            await audit.record(
                connection,
                action,
                actor=actor,
                reason="PostgreSQL was restored without their payments",
                sale_id=report.sale_id,
                details={"charges": [each.key for each in found], "cents": charges.total(found)},
            )


def _payment(order_id: str, sale_id: str, buyer_id: str, currency: str) -> Payment:
    return Payment(sale_id, order_id, buyer_id, CARD, currency=currency)
