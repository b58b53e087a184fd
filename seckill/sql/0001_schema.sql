-- Sales, their stock and their orders. PostgreSQL is the judge: an order exists if its row does.

CREATE TABLE sales (
  sale_id          text PRIMARY KEY CHECK (sale_id ~ '^[A-Za-z0-9_.-]{1,64}$'),
  -- A part of every order_id (24 bits), so that an order_id leads to its sale.
  number           integer GENERATED ALWAYS AS IDENTITY (MAXVALUE 16777215) UNIQUE,
  price_cents      bigint  NOT NULL CHECK (price_cents >= 0),
  per_order_max    integer NOT NULL CHECK (per_order_max >= 1),
  opens_at         timestamptz,
  closes_at        timestamptz,
  payment_window_s integer NOT NULL CHECK (payment_window_s >= 1),
  -- How many leading zero bits a buyer's proof of work needs before the buyer gets a ticket;
  -- 0 asks for no proof. Why at most 26: seckill/auth/proof_of_work.py.
  proof_bits       integer NOT NULL DEFAULT 0 CHECK (proof_bits BETWEEN 0 AND 26),
  state            text    NOT NULL DEFAULT 'created'
                     CHECK (state IN ('created', 'open', 'paused', 'closed')),
  -- Null until stock has been written to Redis for the first time; never null again.
  opened_at        timestamptz,
  created_at       timestamptz NOT NULL DEFAULT now(),
  CHECK (closes_at > opens_at),
  -- An order's amount must fit. Else a grab would be accepted that can never become a row.
  CHECK (price_cents::numeric * per_order_max <= 9223372036854775807)
);

-- Rate limits that an operator gave a sale in place of the configured ones. Redis enforces a copy.
CREATE TABLE sale_limits (
  sale_id text    NOT NULL REFERENCES sales,
  op      text    NOT NULL CHECK (op IN ('try', 'confirm', 'cancel')),
  rate    integer NOT NULL CHECK (rate BETWEEN 1 AND 1000000000),
  burst   integer NOT NULL CHECK (burst BETWEEN 1 AND 1000000000),
  set_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (sale_id, op)
);

-- One hot row for each sale. Room on its page lets an update stay on that page (HOT).
CREATE TABLE inventory (
  sale_id     text PRIMARY KEY REFERENCES sales,
  total       integer NOT NULL CHECK (total >= 1),
  available   integer NOT NULL CHECK (available >= 0),
  frozen      integer NOT NULL DEFAULT 0 CHECK (frozen >= 0),
  sold        integer NOT NULL DEFAULT 0 CHECK (sold >= 0),
  version     bigint  NOT NULL DEFAULT 0,
  -- Every rebuild of Redis raises it. What an older Redis accepted is then rejected.
  epoch       bigint  NOT NULL DEFAULT 1,
  -- How far into its outbox the sale has been placed. A Redis that is behind this lost data.
  -- It is the newest outbox id of this epoch that orders were placed from, as
  -- milliseconds << 17 | sequence (seckill/inventory/outbox.py); 0 for none. A rebuild resets it.
  outbox_mark bigint  NOT NULL DEFAULT 0,
  CHECK (available + frozen + sold = total)
) WITH (fillfactor = 10);

-- No foreign key: place() joins sales anyway, and a key check would lock the sale's row each time.
CREATE TABLE orders (
  order_id     uuid PRIMARY KEY,
  sale_id      text    NOT NULL,
  buyer_id     text    NOT NULL,
  quantity     integer NOT NULL CHECK (quantity >= 1),
  amount_cents bigint  NOT NULL,
  state        text    NOT NULL CHECK (state IN
                 ('pending', 'paying', 'paid', 'cancelled', 'rejected', 'refunding', 'refunded')),
  reason       text,
  version      integer NOT NULL DEFAULT 0,
  paying_tx    text,
  created_at   timestamptz NOT NULL DEFAULT now(),
  pay_by       timestamptz NOT NULL,
  ended_at     timestamptz
);

-- A buyer has at most one live order in a sale, whichever process writes it.
CREATE UNIQUE INDEX orders_live ON orders (sale_id, buyer_id)
  WHERE state IN ('pending', 'paying', 'paid');
-- For the sweep, which looks for overdue orders.
CREATE INDEX orders_unpaid ON orders (pay_by) WHERE state = 'pending';
-- For "my latest order" after that order has ended. Costs nothing while an order is placed.
CREATE INDEX orders_ended ON orders (sale_id, buyer_id, created_at)
  WHERE state IN ('cancelled', 'rejected', 'refunding', 'refunded');

-- The outbox of holders whose units return to Redis. units < quantity where Redis had promised
-- more than there was; Redis records the difference as an audited correction.
CREATE TABLE stock_returns (
  order_id   uuid PRIMARY KEY,
  sale_id    text    NOT NULL,
  buyer_id   text    NOT NULL,
  quantity   integer NOT NULL,
  units      integer NOT NULL CHECK (units BETWEEN 0 AND quantity),
  due_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX stock_returns_due ON stock_returns (due_at);
