"""Limits of one sale, set by an operator while it runs: PostgreSQL keeps and Redis applies them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import asyncpg

from config.limits import OPS, RATE_MAX, Limits, Op, burst_of
from seckill import audit
from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.errors import UserMistake
from seckill.sales import sales
from seckill.sales.token_buckets import GRACE_US, LEASE_US, TokenBuckets


@dataclass(frozen=True, slots=True)
class SaleLimit:
    """The requests a second, and the requests at once after a pause."""

    rate: int
    burst: int

    def __str__(self) -> str:
        return f"{self.rate}/s, burst {self.burst}"

    @property
    def keeps_turns(self) -> bool:
        """Whether take_tokens.lua can keep tokens in the bucket for names that come late."""
        kept_back = self.rate * LEASE_US / 1_000_000
        if not 1 <= kept_back <= self.burst / 2:
            kept_back = 0.0
        return self.burst - kept_back >= self.rate * GRACE_US / 1_000_000 + 1

    @classmethod
    def of(cls, rate: int, burst: int | None = None) -> SaleLimit:
        """Check a limit that an operator gives; the default burst is twice the rate and one."""
        burst = burst_of(rate) if burst is None else burst
        if not (1 <= rate <= RATE_MAX and 1 <= burst <= RATE_MAX):
            raise UserMistake(f"a rate and a burst lie between 1 and {RATE_MAX}")
        return cls(rate, burst)


async def set_limit(
    db: asyncpg.Pool,
    buckets: TokenBuckets,
    sale_id: str,
    op: Op,
    limit: SaleLimit | None,
    *,
    by: str | None = None,
) -> None:
    """Give a sale a limit of its own for an operation; all gateways apply it from their next call.

    None takes its own limit away: what is configured is in force again. With `by`, the audit trail
    has who did it.

    Redis is written before the commit. If Redis is unavailable nothing has changed, and if the
    commit fails the same command again makes both stores equal.
    """
    async with transaction(db) as connection:
        await sales.lock_kept(connection, sale_id)
        if by is not None:
            await audit.record(
                connection,
                "sale.limit",
                actor=by,
                reason=f"{op}: {limit or 'as configured'}",
                sale_id=sale_id,
            )
        if limit is None:
            await connection.execute(
                "DELETE FROM sale_limits WHERE sale_id = $1 AND op = $2", sale_id, op
            )
            await buckets.unset_limit(sale_id, op)
            return
        await connection.execute(
            "INSERT INTO sale_limits (sale_id, op, rate, burst) VALUES ($1, $2, $3, $4)"
            " ON CONFLICT (sale_id, op) DO UPDATE"
            " SET rate = excluded.rate, burst = excluded.burst, set_at = now()",
            sale_id,
            op,
            limit.rate,
            limit.burst,
        )
        await buckets.set_limit(sale_id, op, rate=limit.rate, burst=limit.burst)


async def limits_of(db: asyncpg.Pool, sale_id: str) -> Mapping[str, SaleLimit]:
    """Return the own limits of a sale, by operation."""
    await sales.find(db, sale_id)
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT op, rate, burst FROM sale_limits WHERE sale_id = $1 ORDER BY op", sale_id
        )
    return {op: SaleLimit(rate, burst) for op, rate, burst in rows}


def in_force(configured: Limits, own: Mapping[str, SaleLimit]) -> dict[str, dict[str, object]]:
    """Return rate, burst, mode and whether the limit is the sale's own, by operation."""
    shown: dict[str, dict[str, object]] = {}
    for op in OPS:
        tier = configured.tier(op)
        limit = own.get(op, SaleLimit(tier.rate, tier.burst))
        shown[op] = {**asdict(limit), "own": op in own, "mode": tier.mode}
    return shown
