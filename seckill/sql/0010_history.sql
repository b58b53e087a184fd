-- How far PostgreSQL has come, so that a restored backup is noticed; and card payments whose keys
-- a restored backup uses again, so that no card is charged twice.

-- One row. The mark only grows, and Redis remembers it after each commit
-- (seckill/consistency/history.py). A mark below the remembered one is that of a restored backup.
CREATE TABLE history (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  mark     bigint  NOT NULL
);
INSERT INTO history (mark) VALUES (0);

-- Sales of which this database has forgotten something. They sell nothing, and none of their orders
-- expires, until `seckill sale recover`.
CREATE TABLE restored_sales (
  sale_id text        PRIMARY KEY REFERENCES sales,
  at      timestamptz NOT NULL DEFAULT now()
);

-- As in 0002_place_and_release.sql, but an order of a restored sale does not expire: its payment
-- may be among what was forgotten.
CREATE OR REPLACE FUNCTION release(p_order_ids uuid[], p_to_state text, p_reason text,
                                   p_overdue_only boolean)
RETURNS SETOF uuid
LANGUAGE plpgsql AS $$
DECLARE
  back record;
BEGIN
  PERFORM FROM orders WHERE order_id = ANY (p_order_ids) ORDER BY order_id FOR UPDATE;
  FOR back IN
    WITH ended AS (
      UPDATE orders o
         SET state = p_to_state, reason = p_reason, version = version + 1, ended_at = now()
       WHERE order_id = ANY (p_order_ids) AND state = 'pending'
         AND (NOT p_overdue_only
              OR pay_by <= now()
                 AND NOT EXISTS (SELECT FROM restored_sales r WHERE r.sale_id = o.sale_id))
      RETURNING order_id, sale_id, buyer_id, quantity
    ), noted AS (
      INSERT INTO stock_returns (order_id, sale_id, buyer_id, quantity, units)
      SELECT order_id, sale_id, buyer_id, quantity, quantity FROM ended
    )
    SELECT sale_id, sum(quantity) AS units, array_agg(order_id) AS ids FROM ended
     GROUP BY sale_id ORDER BY sale_id
  LOOP
    UPDATE inventory
       SET available = available + back.units, frozen = frozen - back.units, version = version + 1
     WHERE sale_id = back.sale_id;
    RETURN QUERY SELECT unnest(back.ids);
  END LOOP;
END $$;

-- As in 0006_card_payments.sql, with two differences. A tx_id is made of the order and the number
-- of the attempt, so two calls may bring the same one: when the first has ended meanwhile, the
-- second is refused. And an attempt that its coupon stopped leaves no row: its number was never
-- sent to the provider, so the next attempt has to use it. Else a restored database could use a
-- number that the provider does not know, after a later one that was charged.
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
