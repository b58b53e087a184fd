"""Wallets and coupons of buyers. All amounts are whole cents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg

from seckill.adapters.postgres import database_errors_as_unavailable

#: Most that one top-up or coupon is worth: above any sensible price, and far from an overflow.
CENTS_MAX = 10**12


@dataclass(frozen=True, slots=True)
class Wallet:
    """A buyer's money: free to spend, and frozen by payments under way."""

    buyer_id: str
    available_cents: int = 0
    frozen_cents: int = 0


@dataclass(frozen=True, slots=True)
class Coupon:
    """A buyer's coupon. It is used as a whole: its value beyond the price is lost."""

    coupon_id: str
    buyer_id: str
    cents: int
    state: str = "available"


class TopUp(NamedTuple):
    """Money from outside; it is posted once for each transaction id."""

    tx_id: str
    buyer_id: str
    cents: int


async def top_up(db: asyncpg.Pool | asyncpg.Connection, top_ups: Iterable[TopUp]) -> list[str]:
    """Post top-ups; return the transactions that were not posted before."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT top_up FROM top_up($1, $2, $3)",
            *(list(column) for column in zip(*top_ups, strict=True)),
        )
    return [row[0] for row in rows]


async def find_wallet(db: asyncpg.Pool | asyncpg.Connection, buyer_id: str) -> Wallet:
    """Return a buyer's wallet; an empty one if the buyer never had money."""
    with database_errors_as_unavailable():
        row = await db.fetchrow(
            "SELECT buyer_id, available_cents, frozen_cents FROM wallets WHERE buyer_id = $1",
            buyer_id,
        )
    return Wallet(*row) if row else Wallet(buyer_id)


async def issue_coupons(
    db: asyncpg.Pool | asyncpg.Connection, coupons: Iterable[Coupon]
) -> list[str]:
    """Issue coupons; return the ids of those that did not exist before."""
    issued = list(coupons)
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "INSERT INTO coupons (coupon_id, buyer_id, cents)"
            " SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])"
            " ON CONFLICT DO NOTHING RETURNING coupon_id",
            [coupon.coupon_id for coupon in issued],
            [coupon.buyer_id for coupon in issued],
            [coupon.cents for coupon in issued],
        )
    return [row[0] for row in rows]


async def coupons_of(db: asyncpg.Pool, buyer_id: str) -> list[Coupon]:
    """Return all coupons of a buyer, used ones included."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT coupon_id, buyer_id, cents, state FROM coupons"
            " WHERE buyer_id = $1 ORDER BY coupon_id",
            buyer_id,
        )
    return [Coupon(*row) for row in rows]
