-- What was changed by hand, or by a repair, and why. Rows are only ever added.

CREATE TABLE audit (
  audit_id bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at       timestamptz NOT NULL DEFAULT now(),
  -- A person's login name, or the role that did it.
  actor    text        NOT NULL,
  -- Such as 'reconcile.adopt' or 'dead.discard'.
  action   text        NOT NULL,
  sale_id  text,
  reason   text        NOT NULL,
  details  jsonb       NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_of_sale ON audit (sale_id, at);
