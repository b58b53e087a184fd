-- Webhooks: events as signed HTTP requests to addresses of the shop (docs/webhooks.md), and events
-- of sales.

CREATE TABLE webhook_endpoints (
  endpoint_id      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  url              text        NOT NULL CHECK (length(url) BETWEEN 1 AND 2048),
  -- Topics, or whole families as 'order.*'. Empty: all events.
  topics           text[]      NOT NULL DEFAULT '{}',
  -- Our side of the signature needs the secret itself. The old one signs too until its time is over.
  secret           text        NOT NULL,
  old_secret       text,
  old_secret_until timestamptz,
  enabled          boolean     NOT NULL DEFAULT true,
  -- Why it is not enabled.
  disabled_because text,
  -- Null while the last attempt was answered by 2xx.
  failing_since    timestamptz,
  -- The endpoint asked by Retry-After for no attempt before.
  resume_at        timestamptz,
  created_at       timestamptz NOT NULL DEFAULT now()
);

-- One request body, for all endpoints that get it: a replay sends the same bytes.
CREATE TABLE webhook_messages (
  -- In the header webhook-id. Not the id of the event: a database that was restored from a backup
  -- gives the ids of events again.
  message_id uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
  topic      text        NOT NULL,
  body       bytea       NOT NULL,
  queued_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhook_messages_by_age ON webhook_messages (queued_at);

-- One message for one endpoint.
CREATE TABLE webhook_deliveries (
  delivery_id     bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  message_id      uuid        NOT NULL REFERENCES webhook_messages ON DELETE CASCADE,
  endpoint_id     bigint      NOT NULL REFERENCES webhook_endpoints ON DELETE CASCADE,
  state           text        NOT NULL DEFAULT 'pending'
                    CHECK (state IN ('pending', 'delivered', 'dead')),
  attempts        integer     NOT NULL DEFAULT 0,
  queued_at       timestamptz NOT NULL DEFAULT now(),
  next_attempt_at timestamptz NOT NULL DEFAULT now(),
  -- Without success by then it is dead.
  give_up_at      timestamptz NOT NULL DEFAULT now() + interval '3 days',
  -- A process works on it; after this time that process is taken to be dead.
  leased_until    timestamptz,
  last_at         timestamptz,
  -- The status of the last answer; null if there was none. The words are of the answer or the error.
  last_status     integer,
  last_words      text,
  UNIQUE (message_id, endpoint_id)
);
-- The sender's look at each endpoint is one step into this index, however much was delivered.
CREATE INDEX webhook_deliveries_due
  ON webhook_deliveries (endpoint_id, next_attempt_at, delivery_id) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_dead
  ON webhook_deliveries (endpoint_id, delivery_id) WHERE state = 'dead';

ALTER TABLE events
  -- For sale.*
  ADD COLUMN sale_ids text[],
  -- Its webhook deliveries are written. They do not wait for the broker.
  ADD COLUMN queued boolean NOT NULL DEFAULT false;
CREATE INDEX events_unqueued ON events (id) WHERE NOT queued;

CREATE OR REPLACE FUNCTION record_sale_state() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO events (topic, sale_ids)
  VALUES (CASE NEW.state WHEN 'open' THEN 'sale.opened' WHEN 'paused' THEN 'sale.paused'
                         ELSE 'sale.closed' END, ARRAY[NEW.sale_id]);
  RETURN NULL;
END $$;
CREATE TRIGGER sales_record_state AFTER UPDATE OF state ON sales
  FOR EACH ROW WHEN (NEW.state <> OLD.state AND NEW.state IN ('open', 'paused', 'closed'))
  EXECUTE FUNCTION record_sale_state();

CREATE OR REPLACE FUNCTION record_sold_out() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO events (topic, sale_ids) VALUES ('sale.sold_out', ARRAY[NEW.sale_id]);
  RETURN NULL;
END $$;
-- The condition is checked before any function is called: place() updates this row for each batch.
CREATE TRIGGER inventory_record_sold_out AFTER UPDATE ON inventory
  FOR EACH ROW WHEN (NEW.available = 0 AND OLD.available > 0)
  EXECUTE FUNCTION record_sold_out();
