-- What follows a payment: a shipment from the warehouse, and a notice to the buyer. Both are simple
-- stand-ins; a shop has services of its own. Every function takes a batch, in one round trip.
-- Lock order: orders sorted by id, then shipping_capacity sorted by sale.

-- How many units of a sale the warehouse can ship. An operator writes it; no row means no limit.
CREATE TABLE shipping_capacity (
  sale_id text    PRIMARY KEY,
  units   integer NOT NULL CHECK (units >= 0)
);

CREATE TABLE shipments (
  order_id   uuid        PRIMARY KEY,
  sale_id    text        NOT NULL,
  buyer_id   text        NOT NULL,
  quantity   integer     NOT NULL CHECK (quantity > 0),
  state      text        NOT NULL DEFAULT 'allocated' CHECK (state IN ('allocated', 'released')),
  created_at timestamptz NOT NULL DEFAULT now(),
  changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX shipments_allocated ON shipments (sale_id) WHERE state = 'allocated';

-- The notices that buyers got, in place of mail. The key allows each notice once.
CREATE TABLE notifications (
  order_id uuid        NOT NULL,
  kind     text        NOT NULL CHECK (kind IN ('shipping', 'withdrawn')),
  buyer_id text        NOT NULL,
  at       timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (order_id, kind)
);

-- Allocate the units of paid orders, as far as capacity reaches.
-- Returns what is refused, and why: not_paid (refunded in the meantime), no_capacity.
CREATE OR REPLACE FUNCTION allocate_shipments(p_txs text[], p_order_ids uuid[])
RETURNS TABLE (tx text, why text)
LANGUAGE plpgsql AS $$
BEGIN
  -- This lock and that of begin_refunds() exclude each other: a refunded order is never shipped.
  PERFORM FROM orders WHERE order_id = ANY (p_order_ids) ORDER BY order_id FOR UPDATE;
  PERFORM FROM shipping_capacity
    WHERE sale_id IN (SELECT o.sale_id FROM orders o WHERE o.order_id = ANY (p_order_ids))
    ORDER BY sale_id FOR UPDATE;
  INSERT INTO shipments (order_id, sale_id, buyer_id, quantity)
  SELECT order_id, sale_id, buyer_id, quantity
    FROM (SELECT o.*, c.units,
                 sum(o.quantity) OVER (PARTITION BY o.sale_id ORDER BY o.order_id) AS wanted
            FROM orders o LEFT JOIN shipping_capacity c USING (sale_id)
           WHERE o.order_id = ANY (p_order_ids) AND o.state = 'paid') o
   WHERE units IS NULL
      OR units >= wanted + (SELECT coalesce(sum(s.quantity), 0) FROM shipments s
                             WHERE s.sale_id = o.sale_id AND s.state = 'allocated')
  ON CONFLICT (order_id) DO NOTHING;
  RETURN QUERY
  SELECT a.tx_id, CASE WHEN o.state = 'paid' THEN 'no_capacity' ELSE 'not_paid' END
    FROM unnest(p_txs, p_order_ids) AS a (tx_id, order_id)
    JOIN orders o USING (order_id)
   WHERE NOT EXISTS (SELECT FROM shipments s WHERE s.order_id = a.order_id
                        AND s.state = 'allocated');
END $$;

-- Put the units of shipments back.
CREATE OR REPLACE FUNCTION release_shipments(p_order_ids uuid[])
RETURNS void
LANGUAGE sql AS $$
  UPDATE shipments SET state = 'released', changed_at = now()
   WHERE order_id = ANY (p_order_ids) AND state = 'allocated'
$$;

-- Send the buyers of orders a notice of this kind, once.
CREATE OR REPLACE FUNCTION notify_buyers(p_order_ids uuid[], p_kind text)
RETURNS void
LANGUAGE sql AS $$
  INSERT INTO notifications (order_id, kind, buyer_id)
  SELECT order_id, p_kind, buyer_id FROM orders WHERE order_id = ANY (p_order_ids) ORDER BY order_id
  ON CONFLICT DO NOTHING
$$;
