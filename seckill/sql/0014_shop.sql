-- What the shop's own programs need, which call /shop/v1 (docs/shop-api.md).

-- Only a digest of each token: who reads this table or a backup of it cannot call. A row stays when
-- its token is revoked, so that a name in the audit trail is one token's for ever.
CREATE TABLE shop_tokens (
  name       text        COLLATE "C" PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9_.-]{1,64}$'),
  -- SHA-256 of the token.
  digest     bytea       NOT NULL UNIQUE CHECK (length(digest) = 32),
  scopes     text[]      NOT NULL CHECK (cardinality(scopes) > 0),
  created_at timestamptz NOT NULL DEFAULT now(),
  created_by text        NOT NULL,
  revoked_at timestamptz
);
