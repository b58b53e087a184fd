-- Events for programs outside. Triggers fill an outbox, so no statement that changes an order or a
-- Saga can forget its event, and a change that is rolled back is never published.

-- One row for each statement and topic. The ids of one order's events are in the order of its
-- changes, because a statement draws an id while it holds the order's lock. The role publish_events
-- publishes rows and deletes them.
-- Only what changes is written here. The rest of an order (sale, buyer, units, amount, and why it
-- ended) never changes afterwards, and is read when the event is published. place() runs at the
-- speed of the sale, and lists of all that would cost it a tenth of that speed.
CREATE TABLE events (
  id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic     text        NOT NULL,
  at        timestamptz NOT NULL DEFAULT now(),
  -- For order.*. The n-th version belongs to the n-th order; null where all of the orders are new.
  order_ids uuid[],
  versions  integer[],
  -- For saga.*
  tx_ids    text[],
  names     text[],
  reasons   text[]
);
-- Rows live for a moment: to compress them would cost more than to write them as they are.
ALTER TABLE events ALTER COLUMN order_ids SET STORAGE EXTERNAL,
                   ALTER COLUMN versions SET STORAGE EXTERNAL;

-- The topic for an order that has reached a state; null for a state that has no event.
CREATE OR REPLACE FUNCTION order_topic(p_state text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE p_state WHEN 'pending' THEN 'order.placed' WHEN 'paid' THEN 'order.paid'
                      WHEN 'cancelled' THEN 'order.cancelled' WHEN 'rejected' THEN 'order.rejected'
                      WHEN 'refunded' THEN 'order.refunded' END
$$;

CREATE OR REPLACE FUNCTION record_new_orders() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO events (topic, order_ids)
  SELECT order_topic(state), array_agg(order_id)
    FROM added GROUP BY state HAVING order_topic(state) IS NOT NULL;
  RETURN NULL;
END $$;
CREATE TRIGGER orders_record_new AFTER INSERT ON orders
  REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION record_new_orders();

-- A payment that was tried in vain takes an order back to pending. That is no order.placed.
CREATE OR REPLACE FUNCTION record_changed_orders() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO events (topic, order_ids, versions)
  SELECT order_topic(n.state), array_agg(n.order_id), array_agg(n.version)
    FROM changed n JOIN was b USING (order_id)
   WHERE n.state IN ('paid', 'cancelled', 'rejected', 'refunded') AND b.state <> n.state
   GROUP BY n.state;
  RETURN NULL;
END $$;
CREATE TRIGGER orders_record_changed AFTER UPDATE ON orders
  REFERENCING OLD TABLE AS was NEW TABLE AS changed
  FOR EACH STATEMENT EXECUTE FUNCTION record_changed_orders();

CREATE OR REPLACE FUNCTION record_ended_sagas() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO events (topic, tx_ids, names, reasons)
  SELECT CASE n.state WHEN 'COMPLETED' THEN 'saga.completed'
                      WHEN 'COMPENSATED' THEN 'saga.compensated' ELSE 'saga.parked' END,
         array_agg(n.tx_id), array_agg(n.name), array_agg(n.reason)
    FROM changed n JOIN was b USING (tx_id)
   WHERE n.engine = 'saga' AND n.state IN ('COMPLETED', 'COMPENSATED', 'FAILED')
     AND b.state <> n.state
   GROUP BY n.state;
  RETURN NULL;
END $$;
CREATE TRIGGER transactions_record_ended AFTER UPDATE ON transactions
  REFERENCING OLD TABLE AS was NEW TABLE AS changed
  FOR EACH STATEMENT EXECUTE FUNCTION record_ended_sagas();
