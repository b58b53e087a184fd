"""Compare the charges of the card provider with the payments in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import asyncpg

from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.payments.provider_client import Charge, Provider

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


async def find_orphans(
    db: asyncpg.Pool, provider: Provider, sale_id: str
) -> list[OrphanCharge] | None:
    """Return the charges of a sale without a payment; None if the provider lists no charges.

    PostgreSQL is read after the provider, and has a payment before the provider has its charge. A
    charge that was voided meanwhile is asked for again.
    """
    charges = await provider.charges_of(sale_id)
    if charges is None:
        return None
    with_money = [charge for charge in charges if charge.has_money]
    known = await _known(db, [charge.key for charge in with_money])
    found = [charge for charge in with_money if charge.key not in known]
    return [_orphan(each) for each in found if await _still_has_money(provider, each)]


def total(orphans: Collection[OrphanCharge]) -> int:
    """Return the cents of charges."""
    return sum(each.cents or 0 for each in orphans)


async def _known(db: asyncpg.Pool, keys: Sequence[str]) -> set[str]:
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT tx_id FROM payments WHERE tx_id = ANY ($1)"
            # Money that came for a cancelled payment is given back when the provider is asked.
            "   AND (state = ANY ($2) OR next_ask_at IS NOT NULL)",
            keys,
            list(_KNOWN),
        )
    return {row[0] for row in rows}


async def _still_has_money(provider: Provider, charge: Charge) -> bool:
    return Charge(await provider.find(charge.key)).has_money


def _orphan(charge: Charge) -> OrphanCharge:
    return OrphanCharge(charge.key, charge.order_id, charge.amount_cents, charge.status)
