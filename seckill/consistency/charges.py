"""Compare the charges of the card provider with the payments in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.payments.provider import Charge, ChargeRequest, ChargeStatus, Provider

#: States of a payment that will end as the charge does: it is paid, or the provider is still asked.
_KNOWN = ("trying", "paid", "refunding")


@dataclass(frozen=True, slots=True)
class OrphanCharge:
    """A buyer's money with the provider, of which PostgreSQL knows no payment."""

    key: str
    order_id: str
    #: None if the provider does not say.
    cents: int | None
    status: str
    #: The provider's own id of it, if it has one.
    ref: str = ""

    @property
    def charge(self) -> ChargeRequest:
        """Return it as the provider is asked for it."""
        return ChargeRequest(self.key, order_id=self.order_id, ref=self.ref)


@dataclass(frozen=True, slots=True)
class ChargeComparison:
    """What differs between the provider and PostgreSQL in one sale."""

    orphans: list[OrphanCharge]
    #: Orders that are paid in PostgreSQL by a charge whose money went back.
    unfunded: list[str]
    #: Keys of charges of which another part went back than is booked.
    wrong_parts: list[str]
    #: Keys of charges of another amount than the payments that they pay.
    wrong_amounts: list[str]


async def compare(db: asyncpg.Pool, provider: Provider, sale_id: str) -> ChargeComparison | None:
    """Compare the charges of a sale with its payments; None if the provider lists no charges.

    PostgreSQL is read after the provider, has a payment before the provider has its charge, and
    takes a payment back before its charge is voided. So a payment that is missing is certain, and
    so is one that is paid by a voided charge. An orphan is asked about again: it may be voided.
    """
    charges = await provider.charges_of(sale_id)
    if charges is None:
        return None
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT tx_id, order_id::text, state, amount_cents,"
            "       next_ask_at IS NOT NULL AS is_asked,"
            "       parts_refunded(tx_id) AS parts,"
            "       (SELECT coalesce(sum(cents), 0)::bigint FROM refund_parts r"
            "         WHERE r.tx_id = p.tx_id AND r.state <> 'refused') AS parts_max"
            "  FROM payments p WHERE tx_id = ANY ($1)",
            [charge.key for charge in charges],
        )
    # Money that came for a cancelled payment is given back when the provider is asked.
    known = {row["tx_id"] for row in rows if row["state"] in _KNOWN or row["is_asked"]}
    # A charge that went back whole in parts looks like a voided one.
    paid = {
        row["tx_id"]: row["order_id"]
        for row in rows
        if row["state"] == "paid" and row["parts_max"] < row["amount_cents"]
    }
    rows_of = {row["tx_id"]: row for row in rows}
    found = [charge for charge in charges if charge.has_money and charge.key not in known]
    return ChargeComparison(
        [_orphan(each) for each in found if await _still_has_money(provider, each)],
        [paid[each.key] for each in charges if each.is_over and each.key in paid],
        await _wrong_parts(provider, charges, rows_of),
        [each.key for each in charges if _is_of_other_amount(each, rows_of.get(each.key))],
    )


async def _wrong_parts(
    provider: Provider, charges: Sequence[Charge], rows: Mapping[str, asyncpg.Record]
) -> list[str]:
    """Return the keys of captured charges of which more, or less, went back than in PostgreSQL.

    A part has its row before the provider is asked. It is booked afterwards, so a charge that seems
    to lack a part is asked about again.
    """
    wrong = []
    for charge in charges:
        row = rows.get(charge.key)
        if row is None or row["state"] != "paid" or charge.status is not ChargeStatus.CAPTURED:
            continue
        too_little = charge.refunded_cents < row["parts"]
        if too_little:
            now = await provider.find(_orphan(charge).charge)
            too_little = now.refunded_cents < row["parts"]
        if too_little or charge.refunded_cents > row["parts_max"]:
            wrong.append(charge.key)
    return wrong


def _is_of_other_amount(charge: Charge, row: asyncpg.Record | None) -> bool:
    if row is None or row["state"] != "paid" or not charge.has_money:
        return False
    return charge.amount_cents not in (None, row["amount_cents"])


def total(orphans: Collection[OrphanCharge]) -> int:
    """Return the cents of charges."""
    return sum(each.cents or 0 for each in orphans)


async def _still_has_money(provider: Provider, charge: Charge) -> bool:
    return (await provider.find(_orphan(charge).charge)).has_money


def _orphan(charge: Charge) -> OrphanCharge:
    return OrphanCharge(charge.key, charge.order_id, charge.amount_cents, charge.status, charge.ref)
