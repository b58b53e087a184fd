-- The answers to calls with an Idempotency-Key, so that a call that is sent again changes nothing
-- more. A row is written in the transaction of the change: neither exists alone.
CREATE TABLE shop_answers (
  token  text        COLLATE "C" NOT NULL,
  key    text        COLLATE "C" NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
  -- SHA-256 of method, path and body: another call must not have the same key.
  digest bytea       NOT NULL CHECK (length(digest) = 32),
  -- Null while the transaction that makes the change is open, so no other one sees that.
  answer bytea,
  at     timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (token, key)
);
CREATE INDEX shop_answers_by_age ON shop_answers (at);
