-- The context (W3C traceparent) of each order that is traced, so that what becomes of it an hour or
-- a year later belongs to the same trace. Most orders are not traced and have no row.
CREATE TABLE order_traces (
  order_id    uuid        PRIMARY KEY,
  traceparent text        NOT NULL CHECK (length(traceparent) = 55),
  at          timestamptz NOT NULL DEFAULT now()
);
