-- Refunds of parts. The order stays paid, and keeps its units: a part is money alone. All parts
-- together are at most what the payment charged, and a refund of the whole gives back the rest.
-- Lock order: orders sorted by id, then wallets by buyer.

-- A part of a card payment is begun here, and done when the provider has given it back. One of a
-- wallet is done at once. refund_id is what its posting has as tx: 'part-' and the caller's key.
CREATE TABLE refund_parts (
  -- Text keys compare by bytes (0013_text_by_bytes.sql).
  refund_id   text        COLLATE "C" PRIMARY KEY CHECK (refund_id ~ '^part-[A-Za-z0-9_.-]{1,64}$'),
  tx_id       text        COLLATE "C" NOT NULL,
  order_id    uuid        NOT NULL,
  sale_id     text        NOT NULL,
  cents       bigint      NOT NULL CHECK (cents > 0),
  state       text        NOT NULL CHECK (state IN ('begun', 'done', 'refused')),
  reason      text        NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  changed_at  timestamptz NOT NULL DEFAULT now(),
  -- How often the provider was asked, and when it is asked next; null once it has decided.
  asks        integer     NOT NULL DEFAULT 0,
  next_ask_at timestamptz,
  CHECK ((state = 'begun') = (next_ask_at IS NOT NULL))
);
CREATE INDEX refund_parts_of_payment ON refund_parts (tx_id);
CREATE INDEX refund_parts_to_ask ON refund_parts (next_ask_at) WHERE next_ask_at IS NOT NULL;

-- What of a payment went back in parts.
CREATE OR REPLACE FUNCTION parts_refunded(p_tx text) RETURNS bigint
LANGUAGE sql STABLE AS $$
  SELECT coalesce(sum(cents), 0)::bigint FROM refund_parts WHERE tx_id = p_tx AND state = 'done'
$$;

-- End parts as the provider decided, and book those that it gave back. The order's version grows,
-- for the event. Returns those that this call ended.
CREATE OR REPLACE FUNCTION end_refund_parts(p_refund_ids text[], p_state text)
RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
  ended text[];
BEGIN
  PERFORM FROM orders
    WHERE order_id IN (SELECT r.order_id FROM refund_parts r WHERE r.refund_id = ANY (p_refund_ids))
    ORDER BY order_id FOR UPDATE;
  WITH done AS (
    UPDATE refund_parts SET state = p_state, changed_at = now(), next_ask_at = NULL
     WHERE refund_id = ANY (p_refund_ids) AND state = 'begun' RETURNING refund_id
  )
  SELECT coalesce(array_agg(refund_id), '{}') INTO ended FROM done;
  IF p_state = 'done' THEN
    INSERT INTO entries (tx, kind, account, cents)
    SELECT r.refund_id, 'refund', side.account, side.cents
      FROM refund_parts r JOIN payments p USING (tx_id),
           LATERAL (VALUES (CASE p.method WHEN 'card' THEN 'provider'
                                          ELSE 'wallet:' || p.buyer_id END, r.cents),
                           ('revenue', -r.cents)) AS side (account, cents)
     WHERE r.refund_id = ANY (ended);
    WITH grown AS (
      UPDATE orders SET version = version + 1
       WHERE order_id IN (SELECT r.order_id FROM refund_parts r WHERE r.refund_id = ANY (ended))
      RETURNING order_id, version
    )
    INSERT INTO events (topic, order_ids, versions)
    SELECT 'order.partly_refunded', array_agg(order_id), array_agg(version)
      FROM grown HAVING count(*) > 0;
  END IF;
  RETURN QUERY SELECT unnest(ended);
END $$;

-- Begin to give a part of what a payment charged back. Returns the state of the part, or why there
-- is none: no_order, not_paid, external (the shop's checkout took the money), still_booked,
-- too_much, key_used (for another part).
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
  VALUES (p_refund_id, paid.tx_id, p_order_id, paid.sale_id, p_cents, 'begun', p_reason, now());
  IF paid.method = 'card' THEN RETURN 'begun'; END IF;
  UPDATE wallets SET available_cents = available_cents + p_cents, version = version + 1
   WHERE buyer_id = paid.buyer_id;
  PERFORM end_refund_parts(ARRAY[p_refund_id], 'done');
  RETURN 'done';
END $$;

-- The three functions below replace those of 0005_payments.sql and 0006_card_payments.sql, so that a
-- process of the version before, which calls them in an upgrade, gives back no part twice.
-- A refund of the whole does not begin while a part is on its way: both would give it back.
CREATE OR REPLACE FUNCTION begin_refunds(p_order_ids uuid[], p_reason text)
RETURNS SETOF uuid
LANGUAGE plpgsql AS $$
DECLARE
  back record;
BEGIN
  PERFORM FROM orders WHERE order_id = ANY (p_order_ids) ORDER BY order_id FOR UPDATE;
  FOR back IN
    WITH ended AS (
      UPDATE orders o
         SET state = 'refunding', reason = p_reason, version = version + 1, ended_at = now()
       WHERE order_id = ANY (p_order_ids) AND state = 'paid'
         AND NOT EXISTS (SELECT FROM wallet_holds h WHERE h.tx_id = o.paying_tx)
         AND NOT EXISTS (SELECT FROM payments p JOIN coupons c USING (coupon_id)
                          WHERE p.tx_id = o.paying_tx AND c.locked_by = p.tx_id
                            AND c.state = 'locked')
         AND NOT EXISTS (SELECT FROM refund_parts r
                          WHERE r.tx_id = o.paying_tx AND r.state = 'begun')
      RETURNING order_id, sale_id, buyer_id, quantity, paying_tx
    ), noted AS (
      INSERT INTO stock_returns (order_id, sale_id, buyer_id, quantity, units)
      SELECT order_id, sale_id, buyer_id, quantity, quantity FROM ended
    ), owed AS (
      UPDATE payments SET state = 'refunding', changed_at = now()
        FROM ended WHERE tx_id = paying_tx
    )
    SELECT sale_id, sum(quantity) AS units, array_agg(order_id) AS ids FROM ended
     GROUP BY sale_id ORDER BY sale_id COLLATE "C"
  LOOP
    UPDATE inventory
       SET available = available + back.units, sold = sold - back.units, version = version + 1
     WHERE sale_id = back.sale_id;
    RETURN QUERY SELECT unnest(back.ids);
  END LOOP;
END $$;

-- What went back in parts does not go back again.
CREATE OR REPLACE FUNCTION refund_to_wallets(p_order_ids uuid[])
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

  PERFORM FROM wallets
    WHERE buyer_id IN (SELECT p.buyer_id FROM payments p WHERE p.tx_id = ANY (txs))
    ORDER BY buyer_id FOR UPDATE;
  UPDATE wallets w SET available_cents = available_cents + p.cents, version = version + 1
    FROM (SELECT buyer_id, sum(amount_cents - parts_refunded(tx_id)) AS cents FROM payments
           WHERE tx_id = ANY (txs) GROUP BY buyer_id) p
   WHERE w.buyer_id = p.buyer_id AND p.cents > 0;
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
         LATERAL (SELECT p.amount_cents - parts_refunded(p.tx_id) AS cents) rest,
         LATERAL (VALUES ('wallet:' || p.buyer_id, rest.cents), ('discount', p.discount_cents),
                         ('revenue', -rest.cents - p.discount_cents)) AS side (account, cents)
   WHERE p.tx_id = ANY (txs) AND side.cents <> 0;
  RETURN QUERY SELECT p.order_id FROM payments p WHERE p.tx_id = ANY (txs);
END $$;

-- What went back in parts does not go back again.
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
         LATERAL (SELECT p.amount_cents - parts_refunded(p.tx_id) AS cents) rest,
         LATERAL (VALUES ('provider', rest.cents), ('discount', p.discount_cents),
                         ('revenue', -rest.cents - p.discount_cents)) AS side (account, cents)
   WHERE p.tx_id = ANY (txs) AND side.cents <> 0;
END $$;
