"""The whole life of one order, as the stores have it, by time: for an operator.

Reads only. What was removed is not there: transactions after their retention, events once they
were published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
from redis.asyncio import Redis

from seckill import order_ids
from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.errors import Missing
from seckill.inventory import holders

# Each query returns (at, what, details); $1 is the order's id.
_MOMENTS = """
SELECT created_at, 'placed: ' || quantity || ' for ' || amount_cents || ' cents, to be paid by '
       || to_char(pay_by AT TIME ZONE 'UTC', 'HH24:MI:SS'), '{}'::jsonb
  FROM orders WHERE order_id = $1
UNION ALL
SELECT ended_at, state || coalesce(' (' || reason || ')', ''),
       jsonb_build_object('version', version)
  FROM orders WHERE order_id = $1 AND ended_at IS NOT NULL
UNION ALL
SELECT created_at, 'payment ' || tx_id || ' by ' || method,
       jsonb_strip_nulls(jsonb_build_object('cents', amount_cents, 'coupon', coupon_id,
                                            'provider_ref', provider_ref))
  FROM payments WHERE order_id = $1
UNION ALL
SELECT changed_at, 'payment ' || tx_id || ': ' || state,
       CASE WHEN asks > 0 THEN jsonb_strip_nulls(jsonb_build_object('asks', asks, 'said', said,
                                                                    'next_ask_at', next_ask_at))
            ELSE '{}' END
  FROM payments WHERE order_id = $1 AND (changed_at > created_at OR asks > 0)
UNION ALL
SELECT e.at, 'booked ' || e.kind || ' on ' || e.account, jsonb_build_object('cents', e.cents)
  FROM entries e JOIN payments p ON p.tx_id = e.tx WHERE p.order_id = $1
UNION ALL
SELECT r.changed_at, 'refund of a part, ' || r.refund_id || ': ' || r.state,
       jsonb_build_object('cents', r.cents, 'reason', r.reason)
  FROM refund_parts r WHERE r.order_id = $1
UNION ALL
SELECT reported_at, 'external payment ' || reference || ' reported: ' || amount_cents || ' '
         || currency, jsonb_build_object('paid_at', paid_at)
  FROM external_payments WHERE order_id = $1
UNION ALL
SELECT changed_at, 'external payment ' || reference || ': ' || state
         || coalesce(' (' || reason || ')', ''), '{}'
  FROM external_payments WHERE order_id = $1
UNION ALL
SELECT e.at, 'booked ' || e.kind || ' on ' || e.account, jsonb_build_object('cents', e.cents)
  FROM entries e JOIN external_payments x ON e.tx = 'ext-' || x.reference
 WHERE x.order_id = $1 AND NOT EXISTS (SELECT FROM payments p WHERE p.tx_id = e.tx)
UNION ALL
SELECT at, 'held for the bank', jsonb_build_object('until', ends_at)
  FROM external_holds WHERE order_id = $1
UNION ALL
SELECT t.created_at, t.engine || ' ' || t.name || ' ' || t.tx_id || ' begun', '{}'
  FROM transactions t WHERE t.tx_id = ANY ($2)
UNION ALL
SELECT coalesce(t.ended_at, t.updated_at),
       t.engine || ' ' || t.name || ' ' || t.tx_id || ': ' || t.state
         || coalesce(' (' || t.reason || ')', ''),
       CASE WHEN t.due_at IS NOT NULL THEN jsonb_build_object('due_at', t.due_at)
            WHEN t.parked_in IS NOT NULL THEN jsonb_build_object('parked_in', t.parked_in)
            ELSE '{}' END
  FROM transactions t WHERE t.tx_id = ANY ($2)
UNION ALL
SELECT coalesce(b.done_at, b.last_at), b.op || ' ' || b.branch
         || CASE WHEN b.done_at IS NULL THEN ' failed' ELSE '' END,
       jsonb_strip_nulls(jsonb_build_object('tx_id', b.tx_id, 'attempts', b.attempts,
                                            'error', b.error))
  FROM branches b WHERE b.tx_id = ANY ($2)
UNION ALL
SELECT r.done_at, r.op || ' ' || r.branch, jsonb_build_object('tx_id', r.tx_id)
  FROM barriers r
 WHERE r.tx_id = ANY ($2) AND r.done_at IS NOT NULL
   AND NOT EXISTS (SELECT FROM branches b
                    WHERE b.tx_id = r.tx_id AND b.branch = r.branch AND b.op = r.op)
UNION ALL
SELECT created_at, 'shipment allocated', jsonb_build_object('quantity', quantity)
  FROM shipments WHERE order_id = $1
UNION ALL
SELECT changed_at, 'shipment ' || state, '{}'
  FROM shipments WHERE order_id = $1 AND state <> 'allocated'
UNION ALL
SELECT at, 'notice ' || kind || ' sent to the buyer', '{}' FROM notifications WHERE order_id = $1
UNION ALL
SELECT due_at, 'units on their way back to Redis', jsonb_build_object('units', units)
  FROM stock_returns WHERE order_id = $1
UNION ALL
SELECT d.last_at, 'dead letter ' || d.letter_id || ' on ' || d.queue || ': '
         || split_part(d.reason, E'\\n', 1),
       jsonb_build_object('state', d.state, 'deaths', d.deaths, 'replays', d.replays)
  FROM dead_letters d JOIN dead_letter_orders o USING (letter_id) WHERE o.order_id = $1
UNION ALL
SELECT d.closed_at, 'dead letter ' || d.letter_id || ' ' || d.state || ' by ' || d.closed_by,
       jsonb_strip_nulls(jsonb_build_object('reason', d.closed_reason))
  FROM dead_letters d JOIN dead_letter_orders o USING (letter_id)
 WHERE o.order_id = $1 AND d.closed_at IS NOT NULL
UNION ALL
SELECT at, action || ' by ' || actor || ': ' || reason, details
  FROM audit WHERE sale_id = $3 AND strpos(details::text, $1::uuid::text) > 0
UNION ALL
SELECT at, 'event ' || topic || ' waits to be published', jsonb_build_object('id', id)
  FROM events WHERE $1 = ANY (order_ids)
"""
_TRANSACTIONS = """
SELECT tx_id FROM payments WHERE order_id = $1
UNION SELECT 'ful-' || $1::uuid::text
"""


@dataclass(frozen=True, slots=True)
class LifeMoment:
    """Something that happened to an order."""

    at: datetime
    what: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OrderLife:
    """An order, and all that happened to it, oldest first."""

    order_id: str
    sale_id: str
    buyer_id: str | None
    #: Of its row; `queued` if Redis alone has it, `unknown` if only a dead letter names it.
    state: str
    #: What Redis holds for the buyer: None for nothing, or nothing that can be read.
    holder: str | None
    trace_id: str | None
    moments: list[LifeMoment]


async def of_order(redis: Redis, db: asyncpg.Pool, order_id: str) -> OrderLife:
    """Return the life of an order; raise Missing if neither store has anything of it."""
    with database_errors_as_unavailable():
        sale_id = await db.fetchval(
            "SELECT sale_id FROM sales WHERE number = $1", order_ids.sale_number_of(order_id)
        )
        row = await db.fetchrow("SELECT buyer_id, state FROM orders WHERE order_id = $1", order_id)
        tx_ids = [found[0] for found in await db.fetch(_TRANSACTIONS, order_id)]
        rows = await db.fetch(_MOMENTS, order_id, tx_ids, sale_id)
        traceparent = await db.fetchval(
            "SELECT traceparent FROM order_traces WHERE order_id = $1", order_id
        )
    buyer_id = row["buyer_id"] if row else None
    held = await holders.find_holdings(redis, sale_id, {order_id: buyer_id}) if sale_id else {}
    if not row and not held and not rows:
        raise Missing(f"there is no order {order_id}")
    if order_id in held:
        buyer_id, holding = held[order_id]
    made_at = datetime.fromtimestamp(order_ids.created_ms_of(order_id) / 1000, UTC)
    moments = [LifeMoment(made_at, "grabbed")]
    moments += [LifeMoment(at, what, msgspec.json.decode(details)) for at, what, details in rows]
    return OrderLife(
        order_id,
        sale_id or "unknown",
        buyer_id,
        row["state"] if row else "queued" if held else "unknown",
        str(holding) if order_id in held else None,
        traceparent.split("-")[1] if traceparent else None,
        sorted(moments, key=lambda moment: moment.at),
    )
