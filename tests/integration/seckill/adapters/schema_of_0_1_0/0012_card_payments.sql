-- Card payments: the money is with a provider, who may not answer. A payment that was begun and has no outcome yet
-- stays in state trying, with its order paying, and is asked for again when next_ask_at has come.
-- Every function takes a batch, in one round trip. Lock order: orders by id, inventory by sale, coupons by id.

ALTER TABLE payments
  -- Times that the provider was asked since it last made progress, the last time, and what it said; null: nothing.
  ADD COLUMN asks        integer NOT NULL DEFAULT 0,
  ADD COLUMN asked_at    timestamptz,
  ADD COLUMN said        text,
  -- When it is to be asked again, or the lease of who is asking ends. Null when nothing is left to ask.
  ADD COLUMN next_ask_at timestamptz,
  -- It was given up: the provider is being told never to charge it, so whatever it says, it is not paid.
  ADD COLUMN voiding     boolean NOT NULL DEFAULT false,
  ADD CHECK (NOT voiding OR state IN ('trying', 'cancelled'));
CREATE INDEX payments_to_ask ON payments (next_ask_at) WHERE next_ask_at IS NOT NULL;

-- The books get an account more:  provider  what the card provider brought in (below 0), as funding does.

-- Begin card payments: pending -> paying, the coupon locked; this comes before the provider hears of it.
-- Returns each with what it costs, and why it is refused: the words of try_payments and lock_coupons.
CREATE FUNCTION begin_card_payments(p_txs text[], p_order_ids uuid[], p_buyer_ids text[], p_coupon_ids text[],
                                    p_lease_s float8)
RETURNS TABLE (tx text, why text, cents bigint, asks_at timestamptz)
LANGUAGE plpgsql AS $$
DECLARE
  no      jsonb;
  no_more jsonb;
BEGIN
  SELECT coalesce(jsonb_object_agg(t.tx, t.why), '{}') INTO no
    FROM try_payments(p_txs, p_order_ids, p_buyer_ids,
                      array_fill('card'::text, ARRAY[cardinality(p_txs)]), p_coupon_ids) t;
  SELECT coalesce(jsonb_object_agg(l.tx, l.why), '{}') INTO no_more
    FROM lock_coupons(ARRAY(SELECT a.tx_id FROM unnest(p_txs, p_coupon_ids) AS a (tx_id, coupon_id)
                             WHERE a.coupon_id IS NOT NULL AND NOT no ? a.tx_id)) l;
  IF no_more <> '{}' THEN
    PERFORM cancel_payments(array_agg(p.tx_id), array_agg(p.order_id))
       FROM payments p WHERE p.tx_id IN (SELECT jsonb_object_keys(no_more));
  END IF;
  no := no || no_more;
  UPDATE payments p SET next_ask_at = now() + make_interval(secs => p_lease_s)
   WHERE p.tx_id = ANY (p_txs) AND p.state = 'trying';
  RETURN QUERY
  SELECT a.tx_id, no ->> a.tx_id, coalesce(p.amount_cents, 0), p.next_ask_at
    FROM unnest(p_txs) WITH ORDINALITY AS a (tx_id, position) LEFT JOIN payments p USING (tx_id)
   ORDER BY a.position;
END $$;

-- The money is there: paying -> paid, and booked. One that was given up or has ended is asked for
-- again at once, so that this money goes back. Returns what this call has paid.
CREATE FUNCTION confirm_card_payments(p_txs text[])
RETURNS SETOF payments
LANGUAGE plpgsql AS $$
DECLARE
  txs text[];
BEGIN
  PERFORM FROM orders WHERE order_id IN (SELECT p.order_id FROM payments p WHERE p.tx_id = ANY (p_txs))
    ORDER BY order_id FOR UPDATE;
  txs := ARRAY(SELECT p.tx_id FROM payments p
                WHERE p.tx_id = ANY (p_txs) AND p.method = 'card' AND p.state = 'trying' AND NOT p.voiding);
  PERFORM confirm_payments(array_agg(p.tx_id), array_agg(p.order_id)) FROM payments p WHERE p.tx_id = ANY (txs);
  PERFORM use_coupons(array_agg(p.tx_id)) FROM payments p WHERE p.tx_id = ANY (txs) AND p.coupon_id IS NOT NULL;
  INSERT INTO entries (tx, kind, account, cents)
  SELECT p.tx_id, 'payment', side.account, side.cents
    FROM payments p, LATERAL (VALUES ('provider', -p.amount_cents), ('revenue', p.amount_cents)) AS side (account, cents)
   WHERE p.tx_id = ANY (txs) AND p.state = 'paid' AND p.amount_cents > 0;
  UPDATE payments p SET next_ask_at = CASE p.state WHEN 'paid' THEN NULL ELSE now() END
   WHERE p.tx_id = ANY (p_txs) AND p.state IN ('paid', 'cancelled', 'trying');
  RETURN QUERY SELECT p.* FROM payments p WHERE p.tx_id = ANY (txs) AND p.state = 'paid';
END $$;

-- The provider has not charged it and never will: paying -> pending, or cancelled when the window has closed.
CREATE FUNCTION cancel_card_payments(p_txs text[])
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM cancel_payments(array_agg(p.tx_id), array_agg(p.order_id))
     FROM payments p WHERE p.tx_id = ANY (p_txs) AND p.method = 'card';
  PERFORM unlock_coupons(array_agg(p.tx_id)) FROM payments p WHERE p.tx_id = ANY (p_txs) AND p.state = 'cancelled';
  UPDATE payments p SET next_ask_at = NULL WHERE p.tx_id = ANY (p_txs) AND p.state = 'cancelled';
END $$;

-- Decide, against confirm_card_payments, that these are not paid any more. Only then may they be voided.
CREATE FUNCTION give_up_card_payments(p_txs text[])
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM orders WHERE order_id IN (SELECT p.order_id FROM payments p WHERE p.tx_id = ANY (p_txs))
    ORDER BY order_id FOR UPDATE;
  UPDATE payments p SET voiding = true, asks = 0, next_ask_at = now() WHERE p.tx_id = ANY (p_txs) AND p.state = 'trying';
END $$;

-- The provider has given the money back: refunding -> refunded, the coupon is good again.
CREATE FUNCTION refund_card_payments(p_txs text[])
RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  txs text[];
BEGIN
  PERFORM FROM orders WHERE order_id IN (SELECT p.order_id FROM payments p WHERE p.tx_id = ANY (p_txs))
    ORDER BY order_id FOR UPDATE;
  WITH ended AS (
    UPDATE payments p SET state = 'refunded', changed_at = now(), next_ask_at = NULL
     WHERE p.tx_id = ANY (p_txs) AND p.method = 'card' AND p.state = 'refunding'
    RETURNING p.tx_id, p.order_id
  ), noted AS (
    UPDATE orders o SET state = 'refunded', version = version + 1 FROM ended e
     WHERE o.order_id = e.order_id AND o.state = 'refunding' AND o.paying_tx = e.tx_id
  )
  SELECT coalesce(array_agg(tx_id), '{}') INTO txs FROM ended;
  PERFORM FROM coupons WHERE coupon_id IN (SELECT p.coupon_id FROM payments p WHERE p.tx_id = ANY (txs))
    ORDER BY coupon_id FOR UPDATE;
  UPDATE coupons c SET state = 'available', locked_by = NULL
    FROM payments p
   WHERE p.tx_id = ANY (txs) AND c.coupon_id = p.coupon_id AND c.locked_by = p.tx_id AND c.state = 'used';
  INSERT INTO entries (tx, kind, account, cents)
  SELECT p.tx_id, 'refund', side.account, side.cents
    FROM payments p,
         LATERAL (VALUES ('provider', p.amount_cents), ('discount', p.discount_cents),
                         ('revenue', -p.amount_cents - p.discount_cents)) AS side (account, cents)
   WHERE p.tx_id = ANY (txs) AND side.cents <> 0;
END $$;

-- Give the money of refunding orders back to their buyers' wallets, and their coupons: refunding -> refunded.
-- One posting undoes both the payment and the discount. Returns the ids that this call refunded.
-- Those that were paid by card stay refunding: the provider is to be told, and refund_card_payments books it.
CREATE FUNCTION refund_to_wallets(p_order_ids uuid[])
RETURNS SETOF uuid
LANGUAGE plpgsql AS $$
DECLARE
  txs text[];
BEGIN
  PERFORM FROM orders WHERE order_id = ANY (p_order_ids) ORDER BY order_id FOR UPDATE;
  WITH ended AS (
    UPDATE orders o SET state = 'refunded', version = version + 1
     WHERE order_id = ANY (p_order_ids) AND state = 'refunding'
       AND NOT EXISTS (SELECT FROM payments p WHERE p.tx_id = o.paying_tx AND p.method = 'card')
    RETURNING paying_tx
  ), noted AS (
    UPDATE payments SET state = 'refunded', changed_at = now() FROM ended WHERE tx_id = paying_tx
    RETURNING tx_id
  )
  SELECT coalesce(array_agg(tx_id), '{}') INTO txs FROM noted;
  UPDATE payments SET asks = 0, next_ask_at = now()
   WHERE tx_id IN (SELECT o.paying_tx FROM orders o WHERE o.order_id = ANY (p_order_ids))
     AND state = 'refunding' AND method = 'card' AND next_ask_at IS NULL;

  PERFORM FROM wallets WHERE buyer_id IN (SELECT p.buyer_id FROM payments p WHERE p.tx_id = ANY (txs))
    ORDER BY buyer_id FOR UPDATE;
  UPDATE wallets w SET available_cents = available_cents + p.cents, version = version + 1
    FROM (SELECT buyer_id, sum(amount_cents) AS cents FROM payments WHERE tx_id = ANY (txs) GROUP BY buyer_id) p
   WHERE w.buyer_id = p.buyer_id AND p.cents > 0;
  PERFORM FROM coupons WHERE coupon_id IN (SELECT p.coupon_id FROM payments p WHERE p.tx_id = ANY (txs))
    ORDER BY coupon_id FOR UPDATE;
  UPDATE coupons c SET state = 'available', locked_by = NULL
    FROM payments p
   WHERE p.tx_id = ANY (txs) AND c.coupon_id = p.coupon_id AND c.locked_by = p.tx_id AND c.state = 'used';
  INSERT INTO entries (tx, kind, account, cents)
  SELECT p.tx_id, 'refund', side.account, side.cents
    FROM payments p,
         LATERAL (VALUES ('wallet:' || p.buyer_id, p.amount_cents), ('discount', p.discount_cents),
                         ('revenue', -p.amount_cents - p.discount_cents)) AS side (account, cents)
   WHERE p.tx_id = ANY (txs) AND side.cents <> 0;
  RETURN QUERY SELECT p.order_id FROM payments p WHERE p.tx_id = ANY (txs);
END $$;
