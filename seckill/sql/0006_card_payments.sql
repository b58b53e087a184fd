-- Card payments: the money is with a provider, and the provider may not answer. A payment that was
-- begun and has no outcome yet stays in state trying, with its order paying. The provider is asked
-- for it again when next_ask_at has come.
-- Every function takes a batch, in one round trip.
-- Lock order: orders sorted by id, inventory sorted by sale, coupons by id.

-- Begin card payments: pending -> paying, the coupon locked. This comes before any call to the
-- provider. Returns each payment with its price, and why it is refused, in the words of
-- try_payments and lock_coupons.
CREATE OR REPLACE FUNCTION begin_card_payments(p_txs text[], p_order_ids uuid[],
                                               p_buyer_ids text[], p_coupon_ids text[],
                                               p_lease_s float8)
RETURNS TABLE (tx text, why text, cents bigint, asks_at timestamptz)
LANGUAGE plpgsql AS $$
DECLARE
  no      jsonb;
  no_more jsonb;
  ended   jsonb;
BEGIN
  PERFORM FROM orders WHERE order_id = ANY (p_order_ids) ORDER BY order_id FOR UPDATE;
  SELECT coalesce(jsonb_object_agg(p.tx_id, CASE p.state WHEN 'paid' THEN 'paid'
                                              WHEN 'cancelled' THEN 'payment_in_progress'
                                              ELSE 'not_payable' END), '{}') INTO ended
    FROM payments p WHERE p.tx_id = ANY (p_txs) AND p.state <> 'trying';
  SELECT coalesce(jsonb_object_agg(t.tx, t.why), '{}') INTO no
    FROM (SELECT array_agg(a.tx_id ORDER BY a.position) AS txs,
                 array_agg(a.order_id ORDER BY a.position) AS order_ids,
                 array_agg(a.buyer_id ORDER BY a.position) AS buyer_ids,
                 array_agg(a.coupon_id ORDER BY a.position) AS coupon_ids
            FROM unnest(p_txs, p_order_ids, p_buyer_ids, p_coupon_ids) WITH ORDINALITY
                   AS a (tx_id, order_id, buyer_id, coupon_id, position)
           WHERE NOT ended ? a.tx_id
          HAVING count(*) > 0) fresh,
         LATERAL try_payments(fresh.txs, fresh.order_ids, fresh.buyer_ids,
                              array_fill('card'::text, ARRAY[cardinality(fresh.txs)]),
                              fresh.coupon_ids) t;
  no := no || ended;
  SELECT coalesce(jsonb_object_agg(l.tx, l.why), '{}') INTO no_more
    FROM lock_coupons(ARRAY(SELECT a.tx_id FROM unnest(p_txs, p_coupon_ids) AS a (tx_id, coupon_id)
                             WHERE a.coupon_id IS NOT NULL AND NOT no ? a.tx_id)) l;
  IF no_more <> '{}' THEN
    PERFORM cancel_payments(array_agg(p.tx_id), array_agg(p.order_id))
       FROM payments p WHERE p.tx_id IN (SELECT jsonb_object_keys(no_more));
    DELETE FROM payments p WHERE p.tx_id IN (SELECT jsonb_object_keys(no_more));
  END IF;
  no := no || no_more;
  UPDATE payments p SET next_ask_at = now() + make_interval(secs => p_lease_s)
   WHERE p.tx_id = ANY (p_txs) AND p.state = 'trying';
  RETURN QUERY
  SELECT a.tx_id, no ->> a.tx_id, coalesce(p.amount_cents, 0), p.next_ask_at
    FROM unnest(p_txs) WITH ORDINALITY AS a (tx_id, position) LEFT JOIN payments p USING (tx_id)
   ORDER BY a.position;
END $$;

-- The provider has the money: paying -> paid, and booked. A payment that was given up or has ended
-- is due again at once, so that this money is given back. Returns what this call has paid.
CREATE OR REPLACE FUNCTION confirm_card_payments(p_txs text[])
RETURNS SETOF payments
LANGUAGE plpgsql AS $$
DECLARE
  txs text[];
BEGIN
  PERFORM FROM orders
    WHERE order_id IN (SELECT p.order_id FROM payments p WHERE p.tx_id = ANY (p_txs))
    ORDER BY order_id FOR UPDATE;
  txs := ARRAY(SELECT p.tx_id FROM payments p
                WHERE p.tx_id = ANY (p_txs) AND p.method = 'card' AND p.state = 'trying'
                  AND NOT p.voiding);
  PERFORM confirm_payments(array_agg(p.tx_id), array_agg(p.order_id))
     FROM payments p WHERE p.tx_id = ANY (txs);
  PERFORM use_coupons(array_agg(p.tx_id))
     FROM payments p WHERE p.tx_id = ANY (txs) AND p.coupon_id IS NOT NULL;
  INSERT INTO entries (tx, kind, account, cents)
  SELECT p.tx_id, 'payment', side.account, side.cents
    FROM payments p,
         LATERAL (VALUES ('provider', -p.amount_cents), ('revenue', p.amount_cents))
           AS side (account, cents)
   WHERE p.tx_id = ANY (txs) AND p.state = 'paid' AND p.amount_cents > 0;
  UPDATE payments p SET next_ask_at = CASE p.state WHEN 'paid' THEN NULL ELSE now() END
   WHERE p.tx_id = ANY (p_txs) AND p.state IN ('paid', 'cancelled', 'trying');
  RETURN QUERY SELECT p.* FROM payments p WHERE p.tx_id = ANY (txs) AND p.state = 'paid';
END $$;

-- The provider has not charged it and never will: paying -> pending, or cancelled when the payment
-- window has closed.
CREATE OR REPLACE FUNCTION cancel_card_payments(p_txs text[])
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM cancel_payments(array_agg(p.tx_id), array_agg(p.order_id))
     FROM payments p WHERE p.tx_id = ANY (p_txs) AND p.method = 'card';
  PERFORM unlock_coupons(array_agg(p.tx_id))
     FROM payments p WHERE p.tx_id = ANY (p_txs) AND p.state = 'cancelled';
  UPDATE payments p SET next_ask_at = NULL WHERE p.tx_id = ANY (p_txs) AND p.state = 'cancelled';
END $$;

-- Decide, against confirm_card_payments, that these will not become paid. Only then may the
-- provider be asked to void them.
CREATE OR REPLACE FUNCTION give_up_card_payments(p_txs text[])
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM orders
    WHERE order_id IN (SELECT p.order_id FROM payments p WHERE p.tx_id = ANY (p_txs))
    ORDER BY order_id FOR UPDATE;
  UPDATE payments p SET voiding = true, asks = 0, next_ask_at = now()
   WHERE p.tx_id = ANY (p_txs) AND p.state = 'trying';
END $$;

-- The provider has given the money back: refunding -> refunded, the coupon is available again.
CREATE OR REPLACE FUNCTION refund_card_payments(p_txs text[])
RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  txs text[];
BEGIN
  PERFORM FROM orders
    WHERE order_id IN (SELECT p.order_id FROM payments p WHERE p.tx_id = ANY (p_txs))
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
  PERFORM FROM coupons
    WHERE coupon_id IN (SELECT p.coupon_id FROM payments p WHERE p.tx_id = ANY (txs))
    ORDER BY coupon_id FOR UPDATE;
  UPDATE coupons c SET state = 'available', locked_by = NULL
    FROM payments p
   WHERE p.tx_id = ANY (txs) AND c.coupon_id = p.coupon_id AND c.locked_by = p.tx_id
     AND c.state = 'used';
  INSERT INTO entries (tx, kind, account, cents)
  SELECT p.tx_id, 'refund', side.account, side.cents
    FROM payments p,
         LATERAL (VALUES ('provider', p.amount_cents), ('discount', p.discount_cents),
                         ('revenue', -p.amount_cents - p.discount_cents)) AS side (account, cents)
   WHERE p.tx_id = ANY (txs) AND side.cents <> 0;
END $$;
