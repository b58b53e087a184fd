-- Who owns this database, and the stores beside it. The id is made here, once. Redis and RabbitMQ
-- carry a mark with it (seckill/adapters/installation.py), so that two installations do not take
-- each other's orders.
-- `namespace` is SECKILL_NAMESPACE of the first process that started, and NULL before: the names
-- that this database's sales have in Redis and RabbitMQ begin with it.
CREATE TABLE installation (
  -- 48 random bits: short enough for RabbitMQ's answers, which have at most 255 bytes.
  id         text NOT NULL DEFAULT left(replace(gen_random_uuid()::text, '-', ''), 12),
  namespace  text,
  is_only    boolean PRIMARY KEY DEFAULT true CHECK (is_only)
);

INSERT INTO installation DEFAULT VALUES;
