-- Limits that an operator gave a sale in place of the configured ones. Redis enforces its copy.

CREATE TABLE sale_limits (
  sale_id text    NOT NULL REFERENCES sales,
  op      text    NOT NULL CHECK (op IN ('try', 'confirm', 'cancel')),
  rate    integer NOT NULL CHECK (rate BETWEEN 1 AND 1000000000),
  burst   integer NOT NULL CHECK (burst BETWEEN 1 AND 1000000000),
  set_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (sale_id, op)
);
