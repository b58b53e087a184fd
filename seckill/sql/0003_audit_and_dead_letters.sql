-- What people and repairs changed, and the messages that can never succeed.

-- Each change by hand or by a repair, and its reason. Rows are only ever added.
CREATE TABLE audit (
  audit_id bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at       timestamptz NOT NULL DEFAULT now(),
  -- A person's login name, or the role that made the change.
  actor    text        NOT NULL,
  -- Such as 'reconcile.adopt' or 'dead.discard'.
  action   text        NOT NULL,
  sale_id  text,
  reason   text        NOT NULL,
  details  jsonb       NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_of_sale ON audit (sale_id, at);

-- One row for each different message. A copy that arrives later is counted on the first one's row.
CREATE TABLE dead_letters (
  letter_id     bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- SHA-256 of queue and body.
  digest        bytea       NOT NULL UNIQUE,
  -- The work queue that the message died on. A replay sends it there again.
  queue         text        NOT NULL,
  body          bytea       NOT NULL,
  headers       jsonb       NOT NULL,
  -- Null if the body names no sale. No foreign key: the sale may be what is wrong with the message.
  sale_id       text,
  reason        text        NOT NULL,
  stack         text,
  -- Before its last death; null when unknown.
  attempts      bigint,
  first_at      timestamptz NOT NULL,
  last_at       timestamptz NOT NULL,
  arrived_at    timestamptz NOT NULL DEFAULT now(),
  deaths        integer     NOT NULL DEFAULT 1,
  replays       integer     NOT NULL DEFAULT 0,
  state         text        NOT NULL DEFAULT 'open'
                  CHECK (state IN ('open', 'replayed', 'discarded')),
  closed_at     timestamptz,
  closed_by     text,
  closed_reason text
);
CREATE INDEX dead_letters_open ON dead_letters (sale_id, letter_id) WHERE state = 'open';

-- The orders that a dead letter names, as far as its body can be read.
CREATE TABLE dead_letter_orders (
  letter_id bigint NOT NULL REFERENCES dead_letters ON DELETE CASCADE,
  order_id  uuid   NOT NULL,
  -- Null where the message has no value, or an impossible one.
  buyer_id  text,
  quantity  integer,
  PRIMARY KEY (letter_id, order_id)
);
CREATE INDEX dead_letter_orders_by_order ON dead_letter_orders (order_id);
