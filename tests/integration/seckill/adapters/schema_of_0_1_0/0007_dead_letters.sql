-- Messages that can never succeed, in the one place to look.

-- One row for each different message: a copy that arrives later counts on the row of the first.
CREATE TABLE dead_letters (
  letter_id     bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- SHA-256 of queue and body.
  digest        bytea       NOT NULL UNIQUE,
  -- The work queue that it died on, and goes back to when it is replayed.
  queue         text        NOT NULL,
  body          bytea       NOT NULL,
  headers       jsonb       NOT NULL,
  -- Null where the body does not tell. No foreign key: the sale may be what is wrong with it.
  sale_id       text,
  reason        text        NOT NULL,
  stack         text,
  -- Of its last death; null when unknown.
  attempts      bigint,
  first_at      timestamptz NOT NULL,
  last_at       timestamptz NOT NULL,
  arrived_at    timestamptz NOT NULL DEFAULT now(),
  deaths        integer     NOT NULL DEFAULT 1,
  replays       integer     NOT NULL DEFAULT 0,
  state         text        NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'replayed', 'discarded')),
  closed_at     timestamptz,
  closed_by     text,
  closed_reason text
);
CREATE INDEX dead_letters_open ON dead_letters (sale_id, letter_id) WHERE state = 'open';

-- The orders that a letter names, as far as they can be read: what hangs on it.
CREATE TABLE dead_letter_orders (
  letter_id bigint NOT NULL REFERENCES dead_letters ON DELETE CASCADE,
  order_id  uuid   NOT NULL,
  -- Null where the letter gives none, or none that can be.
  buyer_id  text,
  quantity  integer,
  PRIMARY KEY (letter_id, order_id)
);
CREATE INDEX dead_letter_orders_by_order ON dead_letter_orders (order_id);

-- As before, but for an amount that does not fit: a grab that place() refuses for that must still
-- get the row without which its units cannot go back.
CREATE OR REPLACE FUNCTION cancel_unplaced(p_order_id uuid, p_sale_id text, p_buyer_id text,
                                           p_quantity integer, p_reason text)
RETURNS boolean
LANGUAGE sql AS $$
  WITH tombstone AS (
    INSERT INTO orders (order_id, sale_id, buyer_id, quantity, amount_cents, state, reason, pay_by, ended_at)
    SELECT p_order_id, sale_id, p_buyer_id, p_quantity,
           least(p_quantity::numeric * price_cents, 9223372036854775807), 'cancelled', p_reason, now(), now()
      FROM sales WHERE sale_id = p_sale_id
    ON CONFLICT (order_id) DO NOTHING
    RETURNING order_id
  ), returned AS (
    INSERT INTO stock_returns (order_id, sale_id, buyer_id, quantity, units)
    SELECT order_id, p_sale_id, p_buyer_id, p_quantity, p_quantity FROM tombstone
  )
  SELECT EXISTS (SELECT FROM tombstone)
$$;
