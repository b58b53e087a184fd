-- Replaces the function of 0022_refund_parts.sql: one key for parts of two orders at the same time
-- is key_used for the later one. The order's lock does not keep two orders apart, the key does.
CREATE OR REPLACE FUNCTION begin_refund_part(p_refund_id text, p_order_id uuid, p_cents bigint,
                                             p_reason text)
RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  known  refund_parts;
  wanted orders;
  paid   payments;
BEGIN
  SELECT * INTO wanted FROM orders WHERE order_id = p_order_id FOR UPDATE;
  SELECT * INTO known FROM refund_parts WHERE refund_id = p_refund_id;
  IF known.refund_id IS NOT NULL THEN
    RETURN CASE WHEN (known.order_id, known.cents) = (p_order_id, p_cents) THEN known.state
                ELSE 'key_used' END;
  END IF;
  IF wanted.order_id IS NULL THEN RETURN 'no_order'; END IF;
  IF wanted.state <> 'paid' THEN RETURN 'not_paid'; END IF;
  SELECT * INTO paid FROM payments WHERE tx_id = wanted.paying_tx;
  IF paid.method = 'external' THEN RETURN 'external'; END IF;
  IF EXISTS (SELECT FROM wallet_holds h WHERE h.tx_id = paid.tx_id) THEN
    RETURN 'still_booked';
  END IF;
  IF p_cents + (SELECT coalesce(sum(r.cents), 0) FROM refund_parts r
                 WHERE r.tx_id = paid.tx_id AND r.state <> 'refused') > paid.amount_cents THEN
    RETURN 'too_much';
  END IF;
  INSERT INTO refund_parts (refund_id, tx_id, order_id, sale_id, cents, state, reason, next_ask_at)
  VALUES (p_refund_id, paid.tx_id, p_order_id, paid.sale_id, p_cents, 'begun', p_reason, now())
  ON CONFLICT (refund_id) DO NOTHING;
  IF NOT FOUND THEN RETURN 'key_used'; END IF;  -- this order's lock is ours: it is another order's
  IF paid.method = 'card' THEN RETURN 'begun'; END IF;
  UPDATE wallets SET available_cents = available_cents + p_cents, version = version + 1
   WHERE buyer_id = paid.buyer_id;
  PERFORM end_refund_parts(ARRAY[p_refund_id], 'done');
  RETURN 'done';
END $$;
