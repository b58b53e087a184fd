-- Payments that the shop's own checkout takes. The shop has the money and reports it, each payment
-- under a reference of its own. A payment that cannot pay its order is money that must go back: it
-- stays on the list of what is due until the shop reports that it went.
-- Lock order: orders, then external_payments, then inventory.

CREATE TABLE external_payments (
  -- The shop's own; also a part of the tx of its entries and of its row in payments: ext-REFERENCE.
  reference    text        COLLATE "C" PRIMARY KEY
                 CHECK (reference ~ '^[A-Za-z0-9][A-Za-z0-9_.:~=+@-]{0,127}$'),
  -- The order of the reports, for pages of a list.
  number       bigint      GENERATED ALWAYS AS IDENTITY UNIQUE,
  -- As reported: there may be no such order.
  order_id     uuid        NOT NULL,
  -- Null for an order_id that belongs to no sale.
  sale_id      text        COLLATE "C",
  amount_cents bigint      NOT NULL CHECK (amount_cents >= 0),
  currency     text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  paid_at      timestamptz NOT NULL,
  state        text        NOT NULL CHECK (state IN ('paid', 'refund_due', 'refunded')),
  -- Why the money must go back, or went.
  reason       text        CHECK (reason IN ('unknown_order', 'too_late', 'already_paid',
                                             'wrong_currency', 'wrong_amount', 'order_refunded')),
  reported_at  timestamptz NOT NULL DEFAULT now(),
  changed_at   timestamptz NOT NULL DEFAULT now(),
  CHECK ((state = 'paid') = (reason IS NULL))
);
CREATE INDEX external_payments_due ON external_payments (number) WHERE state = 'refund_due';
CREATE INDEX external_payments_of_sale ON external_payments (sale_id);
CREATE INDEX external_payments_of_order ON external_payments (order_id);

-- Orders that were held for a buyer at the bank: each once, so that none is held for ever.
CREATE TABLE external_holds (
  order_id uuid        PRIMARY KEY,
  at       timestamptz NOT NULL DEFAULT now(),
  ends_at  timestamptz NOT NULL
);

-- Two accounts more, and two kinds of postings:
--   external      what the shop's own checkout took from buyers (below 0)
--   due_back      what of it the shop has to send back
--   received      external -> due_back: money that paid no order
--   sent_back     due_back -> external
-- An amount in another currency than the sale's, or of no sale, has accounts of its own
-- (external:USD), so that no sum adds two currencies. The rows that are there fit: they are not read.
ALTER TABLE entries
  DROP CONSTRAINT entries_kind_check,
  ADD CONSTRAINT entries_kind_check CHECK (kind IN ('top_up', 'payment', 'discount', 'refund',
                                                    'received', 'sent_back')) NOT VALID;

-- For payment.*: what changed, by reference.
ALTER TABLE events ADD COLUMN payment_refs text[];

CREATE OR REPLACE FUNCTION record_external_payment() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO events (topic, payment_refs)
  VALUES ('payment.' || NEW.state, ARRAY[NEW.reference]);
  RETURN NULL;
END $$;
CREATE TRIGGER external_payments_record_new AFTER INSERT ON external_payments
  FOR EACH ROW WHEN (NEW.state <> 'paid') EXECUTE FUNCTION record_external_payment();
CREATE TRIGGER external_payments_record_changed AFTER UPDATE ON external_payments
  FOR EACH ROW WHEN (NEW.state <> OLD.state) EXECUTE FUNCTION record_external_payment();

CREATE OR REPLACE FUNCTION external_account(p_account text, p_sale_id text, p_currency text)
RETURNS text
LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN p_currency = (SELECT s.currency FROM sales s WHERE s.sale_id = p_sale_id)
              THEN p_account ELSE p_account || ':' || p_currency END
$$;

-- Move the amount of a payment between two accounts, once for each kind.
CREATE OR REPLACE FUNCTION post_external_payment(p_reference text, p_kind text, p_from text,
                                                 p_to text)
RETURNS void
LANGUAGE sql AS $$
  INSERT INTO entries (tx, kind, account, cents)
  SELECT 'ext-' || x.reference, p_kind,
         CASE side.account WHEN 'revenue' THEN side.account
                           ELSE external_account(side.account, x.sale_id, x.currency) END,
         side.cents
    FROM external_payments x,
         LATERAL (VALUES (p_from, -x.amount_cents), (p_to, x.amount_cents)) AS side (account, cents)
   WHERE x.reference = p_reference AND x.amount_cents > 0
$$;

-- Take a payment that the shop reports. p_is_unknown: neither store knows the order.
-- Returns what became of it:
--   new                  it was not known before; its row says whether it paid the order
--   known                the same report came before; its row says what became of it
--   reference_used       another report has this reference; nothing was done
--   no_order             there is no row yet; nothing was done
--   payment_in_progress  another payment of the order has no outcome yet; nothing was done
-- The order's lock decides between two references, and between a payment and the order's end.
CREATE OR REPLACE FUNCTION take_external_payment(p_reference text, p_order_id uuid, p_sale_id text,
                                                 p_cents bigint, p_currency text,
                                                 p_paid_at timestamptz, p_is_unknown boolean)
RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  wanted      orders;
  known       external_payments;
  is_new      boolean := false;
  is_restored boolean;
  why         text;
BEGIN
  SELECT * INTO wanted FROM orders WHERE order_id = p_order_id FOR UPDATE;
  SELECT * INTO known FROM external_payments WHERE reference = p_reference;
  IF known.reference IS NULL THEN
    IF wanted.order_id IS NULL AND NOT p_is_unknown THEN RETURN 'no_order'; END IF;
    IF wanted.state = 'paying' THEN RETURN 'payment_in_progress'; END IF;
    -- Such an order does not expire (0010_history.sql): its payment is what was forgotten.
    is_restored := EXISTS (SELECT FROM restored_sales r WHERE r.sale_id = wanted.sale_id);
    why := CASE WHEN wanted.order_id IS NULL THEN 'unknown_order'
                WHEN wanted.state = 'paid' THEN 'already_paid'
                WHEN wanted.state <> 'pending' THEN 'too_late'
                WHEN wanted.pay_by <= now() AND NOT is_restored THEN 'too_late'
                WHEN p_currency <> (SELECT s.currency FROM sales s
                                     WHERE s.sale_id = wanted.sale_id) THEN 'wrong_currency'
                WHEN p_cents <> wanted.amount_cents THEN 'wrong_amount' END;
    INSERT INTO external_payments (reference, order_id, sale_id, amount_cents, currency, paid_at,
                                   state, reason)
    VALUES (p_reference, p_order_id, coalesce(wanted.sale_id, p_sale_id), p_cents, p_currency,
            p_paid_at, CASE WHEN why IS NULL THEN 'paid'
                            WHEN p_cents = 0 THEN 'refunded'  -- there is nothing to send back
                            ELSE 'refund_due' END, why)
    ON CONFLICT (reference) DO NOTHING;  -- another call is in the way, for another order
    is_new := FOUND;
    SELECT * INTO STRICT known FROM external_payments WHERE reference = p_reference;
  END IF;
  IF NOT is_new THEN
    RETURN CASE WHEN (known.order_id, known.amount_cents, known.currency, known.paid_at)
                     = (p_order_id, p_cents, p_currency, p_paid_at)
                THEN 'known' ELSE 'reference_used' END;
  END IF;
  IF why IS NULL THEN
    UPDATE orders SET pay_by = now() + interval '1 minute'
     WHERE order_id = p_order_id AND is_restored AND pay_by <= now();
    PERFORM try_payments(ARRAY['ext-' || p_reference], ARRAY[p_order_id], ARRAY[wanted.buyer_id],
                         ARRAY['external'], ARRAY[NULL::text]);
    PERFORM confirm_payments(ARRAY['ext-' || p_reference], ARRAY[p_order_id]);
    PERFORM post_external_payment(p_reference, 'payment', 'external', 'revenue');
  ELSE
    PERFORM post_external_payment(p_reference, 'received', 'external', 'due_back');
  END IF;
  RETURN 'new';
END $$;

-- An order that was paid in this way is refunded, by whatever path: only the shop can send the
-- money back. Its payment stays refunding until then.
CREATE OR REPLACE FUNCTION owe_external_payment() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  UPDATE external_payments
     SET state = 'refund_due', reason = 'order_refunded', changed_at = now()
   WHERE reference = substr(NEW.tx_id, 5) AND state = 'paid';
  PERFORM post_external_payment(substr(NEW.tx_id, 5), 'refund', 'revenue', 'due_back');
  RETURN NULL;
END $$;
CREATE TRIGGER payments_owe_external AFTER UPDATE ON payments
  FOR EACH ROW WHEN (NEW.method = 'external' AND NEW.state = 'refunding' AND OLD.state = 'paid')
  EXECUTE FUNCTION owe_external_payment();

-- Such an order is not refunded before its money is back, whatever would make it so:
-- refund_to_wallets in 0005_payments.sql finds that it did nothing, and gives no wallet the money.
CREATE OR REPLACE FUNCTION keep_refunding() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM external_payments
              WHERE reference = substr(OLD.paying_tx, 5) AND state = 'refund_due') THEN
    RETURN NULL;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER orders_keep_refunding BEFORE UPDATE ON orders
  FOR EACH ROW WHEN (OLD.state = 'refunding' AND NEW.state = 'refunded'
                     AND OLD.paying_tx LIKE 'ext-%')
  EXECUTE FUNCTION keep_refunding();

-- The shop has sent the money of a payment back. Returns returned, refunded (it was known before),
-- paid (it is not due), or unknown.
CREATE OR REPLACE FUNCTION return_external_payment(p_reference text)
RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  known external_payments;
  tx    text := 'ext-' || p_reference;
BEGIN
  PERFORM FROM orders
    WHERE order_id = (SELECT x.order_id FROM external_payments x WHERE x.reference = p_reference)
    FOR UPDATE;
  SELECT * INTO known FROM external_payments WHERE reference = p_reference FOR UPDATE;
  IF known.state IS DISTINCT FROM 'refund_due' THEN RETURN coalesce(known.state, 'unknown'); END IF;
  UPDATE external_payments SET state = 'refunded', changed_at = now()
   WHERE reference = p_reference;
  UPDATE payments SET state = 'refunded', changed_at = now()
   WHERE tx_id = tx AND state = 'refunding';
  UPDATE orders SET state = 'refunded', version = version + 1
   WHERE order_id = known.order_id AND state = 'refunding' AND paying_tx = tx;
  PERFORM post_external_payment(p_reference, 'sent_back', 'due_back', 'external');
  RETURN 'returned';
END $$;

-- Keep an unpaid order while its buyer is at the bank. Each order is held once: a second call
-- changes nothing. The payment window itself ends later, which every way of noticing its end reads:
-- a timer that comes before that does nothing, and the sweep has the order afterwards.
-- Returns held; or why not: no_order, payment_in_progress, paid, expired, not_payable.
CREATE OR REPLACE FUNCTION hold_for_bank(p_order_id uuid, p_hold_s float8)
RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  wanted orders;
  ends   timestamptz := now() + make_interval(secs => p_hold_s);
BEGIN
  SELECT * INTO wanted FROM orders WHERE order_id = p_order_id FOR UPDATE;
  IF wanted.state = 'pending' AND wanted.pay_by > now() THEN
    INSERT INTO external_holds (order_id, ends_at) VALUES (p_order_id, ends)
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
      UPDATE orders SET pay_by = greatest(pay_by, ends), version = version + 1
       WHERE order_id = p_order_id;
    END IF;
    RETURN 'held';
  END IF;
  RETURN CASE WHEN wanted.order_id IS NULL THEN 'no_order'
              WHEN wanted.state = 'paying' THEN 'payment_in_progress'
              WHEN wanted.state = 'paid' THEN 'paid'
              WHEN wanted.state = 'pending' OR wanted.reason = 'expired' THEN 'expired'
              ELSE 'not_payable' END;
END $$;
