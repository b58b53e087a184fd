-- Paying: wallets, coupons, the payments of orders, and the double-entry ledger. All amounts are
-- cents. Every function takes a batch, in one round trip, and belongs to one branch of a payment's
-- TCC, or to a refund.
-- Lock order: orders sorted by id, inventory sorted by sale, wallets by buyer, coupons by id.

CREATE TABLE wallets (
  buyer_id        text   PRIMARY KEY CHECK (buyer_id ~ '^[A-Za-z0-9_.-]{1,64}$'),
  available_cents bigint NOT NULL DEFAULT 0 CHECK (available_cents >= 0),
  frozen_cents    bigint NOT NULL DEFAULT 0 CHECK (frozen_cents >= 0),
  version         bigint NOT NULL DEFAULT 0
);

-- What frozen_cents is made of. A charge or an unfreeze deletes exactly one hold, so neither can
-- happen twice.
CREATE TABLE wallet_holds (
  tx_id    text   PRIMARY KEY,
  buyer_id text   NOT NULL,
  cents    bigint NOT NULL CHECK (cents > 0)
);

CREATE TABLE coupons (
  coupon_id text   PRIMARY KEY CHECK (coupon_id ~ '^[A-Za-z0-9_.-]{1,64}$'),
  buyer_id  text   NOT NULL CHECK (buyer_id ~ '^[A-Za-z0-9_.-]{1,64}$'),
  cents     bigint NOT NULL CHECK (cents > 0),
  state     text   NOT NULL DEFAULT 'available' CHECK (state IN ('available', 'locked', 'used')),
  -- The transaction that has locked or used it.
  locked_by text,
  CHECK ((state = 'available') = (locked_by IS NULL))
);
CREATE INDEX coupons_of_buyer ON coupons (buyer_id);

-- One row for each attempt to pay. tx_id is the TCC's, and the idempotency key for a provider.
-- amount_cents + discount_cents is the price of the order; try_payments decides both once.
CREATE TABLE payments (
  tx_id          text    PRIMARY KEY,
  order_id       uuid    NOT NULL,
  sale_id        text    NOT NULL,
  buyer_id       text    NOT NULL,
  method         text    NOT NULL,
  amount_cents   bigint  NOT NULL CHECK (amount_cents >= 0),
  coupon_id      text,
  discount_cents bigint  NOT NULL CHECK (discount_cents >= 0),
  state          text    NOT NULL DEFAULT 'trying'
                   CHECK (state IN ('trying', 'paid', 'cancelled', 'refunding', 'refunded')),
  -- The provider's own id for it.
  provider_ref   text,
  created_at     timestamptz NOT NULL DEFAULT now(),
  changed_at     timestamptz NOT NULL DEFAULT now(),
  -- The columns below are for payments by card (0006_card_payments.sql).
  -- How often the provider was asked since the payment last made progress; when it was asked last,
  -- and what it answered, null for no answer.
  asks           integer NOT NULL DEFAULT 0,
  asked_at       timestamptz,
  said           text,
  -- When to ask again, or when the lease of the process that asks now ends. Null when there is
  -- nothing left to ask.
  next_ask_at    timestamptz,
  -- The payment was given up: the provider gets the order never to charge it. Whatever the provider
  -- answers then, the payment does not become paid.
  voiding        boolean NOT NULL DEFAULT false,
  CHECK (NOT voiding OR state IN ('trying', 'cancelled'))
);
CREATE INDEX payments_of_sale ON payments (sale_id);
CREATE INDEX payments_to_ask ON payments (next_ask_at) WHERE next_ask_at IS NOT NULL;

-- The ledger. A posting (tx, kind) moves money between accounts, so its entries sum to 0:
--   wallet:BUYER  what the shop owes a buyer
--   revenue       what the shop has sold
--   discount      what the shop gave away by coupons (below 0)
--   funding       what buyers brought in from outside (below 0)
--   provider      what the card provider brought in (below 0)
-- The key allows each posting once.
CREATE TABLE entries (
  tx      text   NOT NULL,
  kind    text   NOT NULL CHECK (kind IN ('top_up', 'payment', 'discount', 'refund')),
  account text   NOT NULL,
  cents   bigint NOT NULL CHECK (cents <> 0),
  at      timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tx, kind, account)
);

CREATE OR REPLACE FUNCTION refuse_unbalanced() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM added GROUP BY tx, kind HAVING sum(cents) <> 0) THEN
    RAISE check_violation USING MESSAGE = 'a posting must sum to 0, in one statement';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER entries_balance AFTER INSERT ON entries
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION refuse_unbalanced();

CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  RAISE restrict_violation USING MESSAGE = format('rows of %s are only ever added', TG_TABLE_NAME);
END $$;
CREATE TRIGGER entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON entries
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Give buyers money from outside. Returns the transactions that this call booked; the others had
-- been booked before.
CREATE OR REPLACE FUNCTION top_up(p_txs text[], p_buyer_ids text[], p_cents bigint[])
RETURNS SETOF text
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO wallets (buyer_id)
  SELECT buyer_id FROM unnest(p_buyer_ids) AS b (buyer_id)
   GROUP BY buyer_id ORDER BY buyer_id COLLATE "C"
  ON CONFLICT DO NOTHING;
  PERFORM FROM wallets WHERE buyer_id = ANY (p_buyer_ids) ORDER BY buyer_id FOR UPDATE;
  RETURN QUERY
  WITH added AS (
    SELECT * FROM unnest(p_txs, p_buyer_ids, p_cents) AS a (tx_id, buyer_id, cents)
     WHERE NOT EXISTS (SELECT FROM entries e WHERE e.tx = a.tx_id)
  ), posted AS (
    INSERT INTO entries (tx, kind, account, cents)
    SELECT a.tx_id, 'top_up', side.account, side.cents
      FROM added a,
           LATERAL (VALUES ('wallet:' || a.buyer_id, a.cents), ('funding', -a.cents))
             AS side (account, cents)
  ), paid_in AS (
    UPDATE wallets w SET available_cents = available_cents + a.cents, version = version + 1
      FROM (SELECT buyer_id, sum(cents) AS cents FROM added GROUP BY buyer_id) a
     WHERE w.buyer_id = a.buyer_id
  )
  SELECT tx_id FROM added;
END $$;

-- Branch "order", Try: pending -> paying, while the payment window is open. This compare-and-set is
-- what payment and timeout race for; release() in 0002_place_and_release.sql is the other side.
-- Returns what is refused, and why: no_order (another buyer's, or no row yet), payment_in_progress,
-- paid, expired, not_payable (ended otherwise).
CREATE OR REPLACE FUNCTION try_payments(p_txs text[], p_order_ids uuid[], p_buyer_ids text[],
                                        p_methods text[], p_coupon_ids text[])
RETURNS TABLE (tx text, why text)
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM orders WHERE order_id = ANY (p_order_ids) ORDER BY order_id FOR UPDATE;
  WITH asked AS (
    SELECT DISTINCT ON (order_id) *
      FROM unnest(p_txs, p_order_ids, p_buyer_ids, p_methods, p_coupon_ids) WITH ORDINALITY
             AS a (tx_id, order_id, buyer_id, method, coupon_id, position)
     ORDER BY order_id, position
  ), paying AS (
    UPDATE orders o
       SET state = 'paying', paying_tx = a.tx_id, version = o.version + 1
      FROM asked a
     WHERE o.order_id = a.order_id AND o.buyer_id = a.buyer_id AND o.state = 'pending'
       AND o.pay_by > now()
    RETURNING a.tx_id, o.order_id, o.sale_id, o.buyer_id, a.method, o.amount_cents, a.coupon_id
  )
  INSERT INTO payments (tx_id, order_id, sale_id, buyer_id, method, amount_cents, coupon_id,
                        discount_cents)
  SELECT p.tx_id, p.order_id, p.sale_id, p.buyer_id, p.method,
         greatest(p.amount_cents - coalesce(c.cents, 0), 0), c.coupon_id,
         least(p.amount_cents, coalesce(c.cents, 0))
    FROM paying p
    LEFT JOIN coupons c ON c.coupon_id = p.coupon_id AND c.buyer_id = p.buyer_id;

  RETURN QUERY
  SELECT a.tx_id,
         CASE WHEN o.order_id IS NULL THEN 'no_order'
              WHEN o.state = 'paying' THEN 'payment_in_progress'
              WHEN o.state = 'paid' THEN 'paid'
              WHEN o.state = 'pending' OR o.reason = 'expired' THEN 'expired'
              ELSE 'not_payable' END
    FROM unnest(p_txs, p_order_ids, p_buyer_ids) AS a (tx_id, order_id, buyer_id)
    LEFT JOIN orders o ON o.order_id = a.order_id AND o.buyer_id = a.buyer_id
   WHERE o.paying_tx IS DISTINCT FROM a.tx_id;
END $$;

-- Branch "order", Confirm: paying -> paid, frozen -> sold. Returns those that this transaction is
-- not paying.
CREATE OR REPLACE FUNCTION confirm_payments(p_txs text[], p_order_ids uuid[])
RETURNS TABLE (tx text, why text)
LANGUAGE plpgsql AS $$
DECLARE
  sale record;
BEGIN
  PERFORM FROM orders WHERE order_id = ANY (p_order_ids) ORDER BY order_id FOR UPDATE;
  FOR sale IN
    WITH paid AS (
      UPDATE orders o SET state = 'paid', version = version + 1
        FROM unnest(p_txs, p_order_ids) AS a (tx_id, order_id)
       WHERE o.order_id = a.order_id AND o.state = 'paying' AND o.paying_tx = a.tx_id
      RETURNING o.sale_id, o.quantity, a.tx_id
    ), noted AS (
      UPDATE payments SET state = 'paid', changed_at = now()
        FROM paid WHERE payments.tx_id = paid.tx_id
    )
    SELECT sale_id, sum(quantity) AS units FROM paid GROUP BY sale_id ORDER BY sale_id COLLATE "C"
  LOOP
    UPDATE inventory
       SET frozen = frozen - sale.units, sold = sold + sale.units, version = version + 1
     WHERE sale_id = sale.sale_id;
  END LOOP;
  RETURN QUERY
  SELECT a.tx_id, 'not_paying'
    FROM unnest(p_txs, p_order_ids) AS a (tx_id, order_id)
   WHERE NOT EXISTS (SELECT FROM orders o WHERE o.order_id = a.order_id AND o.paying_tx = a.tx_id
                        AND o.state IN ('paid', 'refunding', 'refunded'));
END $$;

-- Branch "order", Cancel: paying -> pending. If the payment window has closed in the meantime, also
-- on to cancelled, with its units: the timer found the order paying, and will not come again.
CREATE OR REPLACE FUNCTION cancel_payments(p_txs text[], p_order_ids uuid[])
RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  reopened uuid[];
BEGIN
  PERFORM FROM orders WHERE order_id = ANY (p_order_ids) ORDER BY order_id FOR UPDATE;
  WITH again AS (
    UPDATE orders o SET state = 'pending', paying_tx = NULL, version = version + 1
      FROM unnest(p_txs, p_order_ids) AS a (tx_id, order_id)
     WHERE o.order_id = a.order_id AND o.state = 'paying' AND o.paying_tx = a.tx_id
    RETURNING o.order_id, a.tx_id
  ), noted AS (
    UPDATE payments SET state = 'cancelled', changed_at = now()
      FROM again WHERE payments.tx_id = again.tx_id
  )
  SELECT array_agg(order_id) INTO reopened FROM again;
  PERFORM release(reopened, 'cancelled', 'expired', true);
END $$;

-- Branch "wallet", Try: available -> frozen, a hold for each payment. Returns what is refused, and
-- why: insufficient_funds, no_payment (the order branch has not tried it).
CREATE OR REPLACE FUNCTION freeze_funds(p_txs text[])
RETURNS TABLE (tx text, why text)
LANGUAGE plpgsql AS $$
DECLARE
  rest record;
BEGIN
  PERFORM FROM wallets
    WHERE buyer_id IN (SELECT p.buyer_id FROM payments p WHERE p.tx_id = ANY (p_txs))
    ORDER BY buyer_id FOR UPDATE;
  WITH asked AS (
    SELECT p.tx_id, p.buyer_id, p.amount_cents,
           sum(p.amount_cents) OVER (PARTITION BY p.buyer_id ORDER BY p.tx_id) AS so_far
      FROM payments p
     WHERE p.tx_id = ANY (p_txs) AND p.state = 'trying' AND p.amount_cents > 0
       AND NOT EXISTS (SELECT FROM wallet_holds h WHERE h.tx_id = p.tx_id)
  ), held AS (
    INSERT INTO wallet_holds (tx_id, buyer_id, cents)
    SELECT a.tx_id, a.buyer_id, a.amount_cents
      FROM asked a JOIN wallets w USING (buyer_id) WHERE a.so_far <= w.available_cents
    RETURNING buyer_id, cents
  )
  UPDATE wallets w
     SET available_cents = available_cents - h.cents, frozen_cents = frozen_cents + h.cents,
         version = version + 1
    FROM (SELECT buyer_id, sum(cents) AS cents FROM held GROUP BY buyer_id) h
   WHERE w.buyer_id = h.buyer_id;

  -- A payment that did not fit behind others of the same buyer may fit by itself.
  FOR rest IN
    SELECT a.tx_id, p.buyer_id, p.amount_cents
      FROM unnest(p_txs) AS a (tx_id)
      LEFT JOIN payments p ON p.tx_id = a.tx_id AND p.state = 'trying'
     WHERE p.tx_id IS NULL
        OR (p.amount_cents > 0
            AND NOT EXISTS (SELECT FROM wallet_holds h WHERE h.tx_id = a.tx_id))
     ORDER BY p.buyer_id, a.tx_id
  LOOP
    UPDATE wallets
       SET available_cents = available_cents - rest.amount_cents,
           frozen_cents = frozen_cents + rest.amount_cents, version = version + 1
     WHERE buyer_id = rest.buyer_id AND available_cents >= rest.amount_cents;
    IF FOUND THEN
      INSERT INTO wallet_holds (tx_id, buyer_id, cents)
      VALUES (rest.tx_id, rest.buyer_id, rest.amount_cents);
    ELSE
      tx := rest.tx_id;
      why := CASE WHEN rest.buyer_id IS NULL THEN 'no_payment' ELSE 'insufficient_funds' END;
      RETURN NEXT;
    END IF;
  END LOOP;
END $$;

-- Branch "wallet", Confirm: frozen -> revenue. Returns those for which nothing was frozen.
CREATE OR REPLACE FUNCTION charge_funds(p_txs text[])
RETURNS TABLE (tx text, why text)
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM wallets
    WHERE buyer_id IN (SELECT h.buyer_id FROM wallet_holds h WHERE h.tx_id = ANY (p_txs))
    ORDER BY buyer_id FOR UPDATE;
  WITH charged AS (
    DELETE FROM wallet_holds h WHERE h.tx_id = ANY (p_txs) RETURNING h.tx_id, h.buyer_id, h.cents
  ), spent AS (
    UPDATE wallets w SET frozen_cents = frozen_cents - c.cents, version = version + 1
      FROM (SELECT buyer_id, sum(cents) AS cents FROM charged GROUP BY buyer_id) c
     WHERE w.buyer_id = c.buyer_id
  )
  INSERT INTO entries (tx, kind, account, cents)
  SELECT c.tx_id, 'payment', side.account, side.cents
    FROM charged c,
         LATERAL (VALUES ('wallet:' || c.buyer_id, -c.cents), ('revenue', c.cents))
           AS side (account, cents);
  RETURN QUERY
  SELECT a.tx_id, 'not_frozen'
    FROM unnest(p_txs) AS a (tx_id) LEFT JOIN payments p USING (tx_id)
   WHERE p.amount_cents IS DISTINCT FROM 0
     AND NOT EXISTS (SELECT FROM entries e WHERE e.tx = a.tx_id AND e.kind = 'payment');
END $$;

-- Branch "wallet", Cancel: frozen -> available.
CREATE OR REPLACE FUNCTION unfreeze_funds(p_txs text[])
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM wallets
    WHERE buyer_id IN (SELECT h.buyer_id FROM wallet_holds h WHERE h.tx_id = ANY (p_txs))
    ORDER BY buyer_id FOR UPDATE;
  WITH freed AS (
    DELETE FROM wallet_holds h WHERE h.tx_id = ANY (p_txs) RETURNING h.buyer_id, h.cents
  )
  UPDATE wallets w
     SET available_cents = available_cents + f.cents, frozen_cents = frozen_cents - f.cents,
         version = version + 1
    FROM (SELECT buyer_id, sum(cents) AS cents FROM freed GROUP BY buyer_id) f
   WHERE w.buyer_id = f.buyer_id;
END $$;

-- Branch "coupon", Try: available -> locked. Only for payments that asked for a coupon. Returns
-- what is refused, and why: coupon_unknown (also another buyer's), coupon_used (also by an open
-- payment).
CREATE OR REPLACE FUNCTION lock_coupons(p_txs text[])
RETURNS TABLE (tx text, why text)
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM coupons
    WHERE coupon_id IN (SELECT p.coupon_id FROM payments p WHERE p.tx_id = ANY (p_txs))
    ORDER BY coupon_id FOR UPDATE;
  UPDATE coupons c SET state = 'locked', locked_by = p.tx_id
    FROM (SELECT DISTINCT ON (coupon_id) coupon_id, tx_id
            FROM unnest(p_txs) WITH ORDINALITY AS a (tx_id, position) JOIN payments USING (tx_id)
           WHERE state = 'trying' ORDER BY coupon_id, position) p
   WHERE c.coupon_id = p.coupon_id AND c.state = 'available';
  RETURN QUERY
  SELECT a.tx_id, CASE WHEN p.coupon_id IS NULL THEN 'coupon_unknown' ELSE 'coupon_used' END
    FROM unnest(p_txs) AS a (tx_id) LEFT JOIN payments p USING (tx_id)
   WHERE NOT EXISTS (SELECT FROM coupons c
                      WHERE c.coupon_id = p.coupon_id AND c.locked_by = a.tx_id);
END $$;

-- Branch "coupon", Confirm: locked -> used, its worth from discount to revenue.
-- Returns those that had not locked a coupon. A refund has made its coupon available again, so a
-- refunded payment is not among them.
CREATE OR REPLACE FUNCTION use_coupons(p_txs text[])
RETURNS TABLE (tx text, why text)
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM coupons
    WHERE coupon_id IN (SELECT p.coupon_id FROM payments p WHERE p.tx_id = ANY (p_txs))
    ORDER BY coupon_id FOR UPDATE;
  WITH used AS (
    UPDATE coupons c SET state = 'used'
      FROM payments p
     WHERE p.tx_id = ANY (p_txs) AND c.coupon_id = p.coupon_id AND c.locked_by = p.tx_id
       AND c.state = 'locked'
    RETURNING p.tx_id, p.discount_cents
  )
  INSERT INTO entries (tx, kind, account, cents)
  SELECT u.tx_id, 'discount', side.account, side.cents
    FROM used u,
         LATERAL (VALUES ('discount', -u.discount_cents), ('revenue', u.discount_cents))
           AS side (account, cents)
   WHERE u.discount_cents > 0;
  RETURN QUERY
  SELECT a.tx_id, 'not_locked'
    FROM unnest(p_txs) AS a (tx_id) LEFT JOIN payments p USING (tx_id)
   WHERE p.state IS DISTINCT FROM 'refunded'
     AND NOT EXISTS (SELECT FROM coupons c WHERE c.coupon_id = p.coupon_id AND c.locked_by = a.tx_id
                        AND c.state = 'used');
END $$;

-- Branch "coupon", Cancel: locked -> available.
CREATE OR REPLACE FUNCTION unlock_coupons(p_txs text[])
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM coupons
    WHERE coupon_id IN (SELECT p.coupon_id FROM payments p WHERE p.tx_id = ANY (p_txs))
    ORDER BY coupon_id FOR UPDATE;
  UPDATE coupons c SET state = 'available', locked_by = NULL
    FROM payments p
   WHERE p.tx_id = ANY (p_txs) AND c.coupon_id = p.coupon_id AND c.locked_by = p.tx_id
     AND c.state = 'locked';
END $$;

-- Begin to refund paid orders: paid -> refunding, their units for sale again at once. The money
-- follows. An order whose payment is still being confirmed (it has a hold or a locked coupon) has
-- to wait: only what was charged can be given back. Returns the ids whose refund this call began.
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

-- Give the money of refunding orders back to their buyers' wallets, and their coupons back:
-- refunding -> refunded. One posting undoes both the payment and the discount.
-- Orders that were paid by card stay refunding. Their provider is asked for the refund, and
-- refund_card_payments books it. Returns the ids that this call refunded.
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
    FROM (SELECT buyer_id, sum(amount_cents) AS cents FROM payments
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
         LATERAL (VALUES ('wallet:' || p.buyer_id, p.amount_cents), ('discount', p.discount_cents),
                         ('revenue', -p.amount_cents - p.discount_cents)) AS side (account, cents)
   WHERE p.tx_id = ANY (txs) AND side.cents <> 0;
  RETURN QUERY SELECT p.order_id FROM payments p WHERE p.tx_id = ANY (txs);
END $$;
