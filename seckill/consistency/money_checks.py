"""The money check: every cent is where the payments of a sale say, and all postings sum to 0.

It reads one snapshot. A branch writes its effect, its entries and its payment's state in one
transaction, and the log ends a transaction after all of its branches. So a fault that is found here
is a fault, however much is under way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import asyncpg

from seckill.adapters.postgres import transaction

_TOTALS = """
SELECT coalesce(sum(-e.cents) FILTER (WHERE e.kind = 'payment'), 0)::bigint,
       coalesce(sum(-e.cents) FILTER (WHERE e.kind = 'discount'), 0)::bigint,
       coalesce(sum(e.cents) FILTER (WHERE e.kind = 'refund'), 0)::bigint
         + (SELECT coalesce(sum(r.cents), 0)::bigint FROM refund_parts r
             WHERE r.sale_id = $1 AND r.state = 'done')
  FROM payments p JOIN entries e ON e.tx = p.tx_id AND e.account <> 'revenue'
 WHERE p.sale_id = $1
"""

_WRONG_WALLETS = """
SELECT buyer_id
  FROM wallets w
  FULL JOIN (SELECT substr(account, 8) AS buyer_id, sum(cents) AS cents
               FROM entries WHERE account LIKE 'wallet:%' GROUP BY 1) e USING (buyer_id)
  LEFT JOIN (SELECT buyer_id, sum(cents) AS cents FROM wallet_holds GROUP BY 1) h USING (buyer_id)
 WHERE coalesce(w.available_cents + w.frozen_cents, 0) <> coalesce(e.cents, 0)
    OR coalesce(w.frozen_cents, 0) <> coalesce(h.cents, 0)
"""

# What was posted, and belongs to nothing that is on record, of all sales.
_STRAY_POSTINGS = """
SELECT DISTINCT e.tx
  FROM entries e
 WHERE e.kind <> 'top_up'
   AND NOT EXISTS (SELECT FROM payments p WHERE p.tx_id = e.tx)
   AND NOT EXISTS (SELECT FROM refund_parts r WHERE r.refund_id = e.tx)
   AND NOT EXISTS (SELECT FROM external_payments x WHERE 'ext-' || x.reference = e.tx)
 ORDER BY 1
"""

# Money that is frozen and coupons that are taken without a payment that has them, of all sales.
_STRAY_CLAIMS = """
SELECT h.tx_id FROM wallet_holds h
 WHERE NOT EXISTS (SELECT FROM payments p WHERE p.tx_id = h.tx_id AND p.buyer_id = h.buyer_id
                      AND p.amount_cents = h.cents)
 UNION
SELECT c.coupon_id FROM coupons c
 WHERE c.locked_by IS NOT NULL
   AND NOT EXISTS (SELECT FROM payments p WHERE p.tx_id = c.locked_by
                      AND p.coupon_id = c.coupon_id AND p.buyer_id = c.buyer_id)
"""

# Ended or parked: due_at is null. The two halves are the two partial indexes.
_OPEN = """
SELECT tx_id FROM transactions WHERE due_at IS NOT NULL AND args ->> 'sale_id' = $1
 UNION ALL
SELECT tx_id FROM transactions
 WHERE due_at IS NULL AND ended_at IS NULL AND args ->> 'sale_id' = $1
"""

# Card payments without an outcome, and parts of them on their way back.
_UNKNOWN = """
SELECT tx_id FROM payments WHERE next_ask_at IS NOT NULL AND sale_id = $1
 UNION ALL
SELECT tx_id FROM refund_parts WHERE next_ask_at IS NOT NULL AND sale_id = $1
"""

# An order and its payment are in the same state and of the same price, and no other payment holds
# the order. What pays from outside, and what went back in parts, names the same order.
_WRONG_ORDERS = """
SELECT o.order_id::text
  FROM orders o LEFT JOIN payments p ON p.tx_id = o.paying_tx
 WHERE o.sale_id = $1
   AND (o.paying_tx IS NOT NULL OR o.state IN ('paying', 'paid', 'refunding', 'refunded'))
   AND (p.state IS DISTINCT FROM CASE o.state WHEN 'paying' THEN 'trying' ELSE o.state END
        OR p.amount_cents + p.discount_cents <> o.amount_cents
        OR (p.order_id, p.sale_id, p.buyer_id) <> (o.order_id, o.sale_id, o.buyer_id)
        OR EXISTS (SELECT FROM external_payments x
                    WHERE 'ext-' || x.reference = p.tx_id AND p.method = 'external'
                      AND (x.order_id, x.sale_id) IS DISTINCT FROM (p.order_id, p.sale_id)))
 UNION
SELECT p.order_id::text
  FROM payments p JOIN orders o USING (order_id)
 WHERE p.sale_id = $1 AND p.state <> 'cancelled' AND o.paying_tx IS DISTINCT FROM p.tx_id
 UNION
SELECT r.order_id::text
  FROM refund_parts r LEFT JOIN payments p USING (tx_id)
 WHERE (r.sale_id = $1 OR p.sale_id = $1)
   AND (p.order_id, p.sale_id) IS DISTINCT FROM (r.order_id, r.sale_id)
"""

# A payment whose transaction has ended left exactly what its state says, and holds nothing.
_MISBOOKED = """
SELECT p.tx_id
  FROM payments p
  LEFT JOIN coupons c ON c.coupon_id = p.coupon_id AND c.locked_by = p.tx_id
 CROSS JOIN LATERAL (
   SELECT coalesce(sum(-cents) FILTER (WHERE account = CASE p.method
            WHEN 'card' THEN 'provider' WHEN 'external' THEN 'external'
            ELSE 'wallet:' || p.buyer_id END), 0) AS charged,
          coalesce(sum(-cents) FILTER (WHERE account = 'discount'), 0) AS given,
          coalesce(sum(cents) FILTER (WHERE account = 'revenue'), 0) AS earned
     FROM entries
    WHERE tx = ANY (p.tx_id || ARRAY(SELECT r.refund_id FROM refund_parts r
                                      WHERE r.tx_id = p.tx_id))) booked
 CROSS JOIN LATERAL (SELECT p.state IN ('paid', 'refunding') AS counts) due
 WHERE p.sale_id = $1 AND p.tx_id <> ALL ($2)
   AND (p.state = 'trying'
        OR EXISTS (SELECT FROM wallet_holds h WHERE h.tx_id = p.tx_id)
        OR c.state = 'locked'
        OR (c.state IS NOT NULL) <> (due.counts AND p.coupon_id IS NOT NULL)
        OR booked.charged <> CASE WHEN due.counts THEN p.amount_cents - parts_refunded(p.tx_id)
                                  ELSE 0 END
        OR booked.earned <> CASE WHEN p.state = 'refunding' AND p.method = 'external' THEN 0
                                 ELSE booked.charged + booked.given END
        OR parts_refunded(p.tx_id) > p.amount_cents
        OR (p.method = 'external' AND NOT EXISTS (SELECT FROM external_payments x
                                                   WHERE 'ext-' || x.reference = p.tx_id))
        OR booked.given <> CASE WHEN due.counts THEN p.discount_cents ELSE 0 END)
"""

# What the shop's own checkout took, and where it is, by currency.
_EXTERNAL = """
SELECT x.currency, coalesce(x.currency = s.currency, false),
       sum(x.amount_cents)::bigint,
       coalesce(sum(x.amount_cents) FILTER (WHERE x.state = 'paid'), 0)::bigint,
       coalesce(sum(x.amount_cents) FILTER (WHERE x.state = 'refund_due'), 0)::bigint,
       coalesce(sum(x.amount_cents) FILTER (WHERE x.state = 'refunded'), 0)::bigint
  FROM external_payments x JOIN sales s USING (sale_id)
 WHERE x.sale_id = $1 GROUP BY 1, 2 ORDER BY 1
"""

# Each such payment is where its entries say: with the shop as revenue, due back, or gone back. One
# that pays has the order's payment beside it. Those of no sale are looked at with every sale.
_WRONG_EXTERNAL = """
SELECT x.reference
  FROM external_payments x
 CROSS JOIN LATERAL (
   SELECT coalesce(sum(-cents) FILTER (
            WHERE account = external_account('external', x.sale_id, x.currency)), 0) AS taken,
          coalesce(sum(cents) FILTER (WHERE account = 'revenue'), 0) AS earned,
          coalesce(sum(cents) FILTER (
            WHERE account = external_account('due_back', x.sale_id, x.currency)), 0) AS owed
     FROM entries WHERE tx = 'ext-' || x.reference) booked
  LEFT JOIN payments p ON p.tx_id = 'ext-' || x.reference
 WHERE (x.sale_id = $1 OR x.sale_id IS NULL)
   AND (booked.taken <> CASE x.state WHEN 'refunded' THEN 0 ELSE x.amount_cents END
        OR booked.earned <> CASE x.state WHEN 'paid' THEN x.amount_cents ELSE 0 END
        OR booked.owed <> CASE x.state WHEN 'refund_due' THEN x.amount_cents ELSE 0 END
        OR (x.state = 'paid' OR x.reason = 'order_refunded') <> (p.tx_id IS NOT NULL)
        OR p.state <> CASE x.state WHEN 'refund_due' THEN 'refunding' ELSE x.state END)
"""


class ExternalMoney(NamedTuple):
    """What the shop's own checkout took in one currency, and where it is."""

    currency: str
    #: Whether it is the sale's.
    is_of_sale: bool
    taken_cents: int
    earned_cents: int
    due_back_cents: int
    sent_back_cents: int


@dataclass(frozen=True, slots=True)
class MoneyCheck:
    """The sums of a sale's payments, and every fault in their postings."""

    charged_cents: int
    discounted_cents: int
    refunded_cents: int
    #: Transactions that have not ended, parked ones included.
    open_txs: list[str]
    #: Card payments without an outcome.
    unknown_txs: list[str]
    #: The sum of all entries, of all sales.
    balance_cents: int
    #: What was posted for nothing on record, of all sales.
    stray_postings: list[str]
    #: Holds of wallets, and coupons, that no payment has, of all sales.
    stray_claims: list[str]
    #: Buyers whose wallet differs from its entries.
    wrong_wallets: list[str]
    wrong_orders: list[str]
    misbooked_txs: list[str]
    external: list[ExternalMoney]
    #: References of external payments that are not as booked.
    wrong_external: list[str]


async def read_money(db: asyncpg.Pool | asyncpg.Connection, sale_id: str) -> MoneyCheck:
    """Check the payments of a sale, and the wallets and postings of all sales."""
    async with transaction(db, snapshot=True) as connection:

        async def column(query: str, *args: object) -> list[str]:
            return [row[0] for row in await connection.fetch(query, *args)]

        charged, discounted, refunded = await connection.fetchrow(_TOTALS, sale_id)
        open_txs = await column(_OPEN, sale_id)
        unknown_txs = await column(_UNKNOWN, sale_id)
        return MoneyCheck(
            charged_cents=charged,
            discounted_cents=discounted,
            refunded_cents=refunded,
            open_txs=open_txs,
            unknown_txs=unknown_txs,
            balance_cents=await connection.fetchval(
                "SELECT coalesce(sum(cents), 0)::bigint FROM entries"
            ),
            stray_postings=await column(_STRAY_POSTINGS),
            stray_claims=await column(_STRAY_CLAIMS),
            wrong_wallets=await column(_WRONG_WALLETS),
            wrong_orders=await column(_WRONG_ORDERS, sale_id),
            misbooked_txs=await column(_MISBOOKED, sale_id, open_txs + unknown_txs),
            external=[ExternalMoney(*row) for row in await connection.fetch(_EXTERNAL, sale_id)],
            wrong_external=await column(_WRONG_EXTERNAL, sale_id),
        )
