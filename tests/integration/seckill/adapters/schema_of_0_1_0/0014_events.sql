-- Events for programs outside: an outbox, filled by triggers, so that nothing which changes an order
-- or a Saga can forget them, and a change that is rolled back is never told.

-- One row a statement and topic. Of one order the ids are in the order of its changes: an id is drawn
-- while its statement holds the order's lock. The role publish_events sends rows and deletes them.
-- Only what changes is written here. The rest of an order (sale, buyer, units, amount, and the reason
-- why it ended) stays as it is for good, and is read when the event is sent: place() runs at the speed
-- of the sale, and lists of all that would take a tenth of it.
CREATE TABLE events (
  id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic     text        NOT NULL,
  at        timestamptz NOT NULL DEFAULT now(),
  -- order.*; the n-th version is of the n-th order, null where all of them are new.
  order_ids uuid[],
  versions  integer[],
  -- saga.*
  tx_ids    text[],
  names     text[],
  reasons   text[]
);
-- Rows live for a moment: to compress would cost more than to write.
ALTER TABLE events ALTER COLUMN order_ids SET STORAGE EXTERNAL, ALTER COLUMN versions SET STORAGE EXTERNAL;

-- The topic of an order that has come to a state; null for a state that is only passed through.
CREATE FUNCTION order_topic(p_state text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE p_state WHEN 'pending' THEN 'order.placed' WHEN 'paid' THEN 'order.paid'
                      WHEN 'cancelled' THEN 'order.cancelled' WHEN 'rejected' THEN 'order.rejected'
                      WHEN 'refunded' THEN 'order.refunded' END
$$;

CREATE FUNCTION tell_new_orders() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO events (topic, order_ids)
  SELECT order_topic(state), array_agg(order_id)
    FROM added GROUP BY state HAVING order_topic(state) IS NOT NULL;
  RETURN NULL;
END $$;
CREATE TRIGGER orders_tell_new AFTER INSERT ON orders
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION tell_new_orders();

-- A payment that was tried in vain takes an order back to pending: that is not placed again.
CREATE FUNCTION tell_changed_orders() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO events (topic, order_ids, versions)
  SELECT order_topic(n.state), array_agg(n.order_id), array_agg(n.version)
    FROM changed n JOIN was b USING (order_id)
   WHERE n.state IN ('paid', 'cancelled', 'rejected', 'refunded') AND b.state <> n.state
   GROUP BY n.state;
  RETURN NULL;
END $$;
CREATE TRIGGER orders_tell_changed AFTER UPDATE ON orders
  REFERENCING OLD TABLE AS was NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION tell_changed_orders();

CREATE FUNCTION tell_ended_sagas() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO events (topic, tx_ids, names, reasons)
  SELECT CASE n.state WHEN 'COMPLETED' THEN 'saga.completed' WHEN 'COMPENSATED' THEN 'saga.compensated'
                      ELSE 'saga.parked' END,
         array_agg(n.tx_id), array_agg(n.name), array_agg(n.reason)
    FROM changed n JOIN was b USING (tx_id)
   WHERE n.engine = 'saga' AND n.state IN ('COMPLETED', 'COMPENSATED', 'FAILED') AND b.state <> n.state
   GROUP BY n.state;
  RETURN NULL;
END $$;
CREATE TRIGGER transactions_tell_ended AFTER UPDATE ON transactions
  REFERENCING OLD TABLE AS was NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION tell_ended_sagas();
