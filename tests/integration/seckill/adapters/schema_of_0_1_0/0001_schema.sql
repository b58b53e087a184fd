-- The tables. PostgreSQL is the judge: only a row here says that an order exists.

CREATE TABLE sales (
  sale_id          text PRIMARY KEY CHECK (sale_id ~ '^[A-Za-z0-9_.-]{1,64}$'),
  -- Part of every order_id (24 bits), so that an id leads to its sale.
  number           integer GENERATED ALWAYS AS IDENTITY (MAXVALUE 16777215) UNIQUE,
  price_cents      bigint  NOT NULL CHECK (price_cents >= 0),
  per_order_max    integer NOT NULL CHECK (per_order_max >= 1),
  opens_at         timestamptz,
  closes_at        timestamptz,
  payment_window_s integer NOT NULL CHECK (payment_window_s >= 1),
  state            text    NOT NULL DEFAULT 'created' CHECK (state IN ('created', 'open', 'paused', 'closed')),
  -- Null until stock has been written to Redis for the first time; never null again.
  opened_at        timestamptz,
  created_at       timestamptz NOT NULL DEFAULT now(),
  CHECK (closes_at > opens_at)
);

-- One hot row a sale: room on its page keeps updates in place (HOT).
CREATE TABLE inventory (
  sale_id   text PRIMARY KEY REFERENCES sales,
  total     integer NOT NULL CHECK (total >= 1),
  available integer NOT NULL CHECK (available >= 0),
  frozen    integer NOT NULL DEFAULT 0 CHECK (frozen >= 0),
  sold      integer NOT NULL DEFAULT 0 CHECK (sold >= 0),
  version   bigint  NOT NULL DEFAULT 0,
  -- Raised by every rebuild of Redis; what an older Redis accepted is rejected by it.
  epoch     bigint  NOT NULL DEFAULT 1,
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

-- One live order a buyer and sale, whoever tries.
CREATE UNIQUE INDEX orders_live ON orders (sale_id, buyer_id) WHERE state IN ('pending', 'paying', 'paid');
-- What the sweep looks for.
CREATE INDEX orders_unpaid ON orders (pay_by) WHERE state = 'pending';
-- "My latest order" after it has ended. Costs nothing while an order is placed.
CREATE INDEX orders_ended ON orders (sale_id, buyer_id, created_at)
  WHERE state IN ('cancelled', 'rejected', 'refunding', 'refunded');

-- Outbox of holders on their way back to Redis. units < quantity where Redis had promised
-- more than there was; the difference becomes an audited correction there.
CREATE TABLE stock_returns (
  order_id   uuid PRIMARY KEY,
  sale_id    text    NOT NULL,
  buyer_id   text    NOT NULL,
  quantity   integer NOT NULL,
  units      integer NOT NULL CHECK (units BETWEEN 0 AND quantity),
  due_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX stock_returns_due ON stock_returns (due_at);
