"""Login tokens for development and tests: JWTs (RFC 7519) as a shop's own login issues them."""

from __future__ import annotations

import jwt

from seckill.auth.key_ring import KeyRing

#: What keys of a ring sign with.
ALGORITHM = "HS256"


def issue(keys: KeyRing, *, buyer_id: str, expires_at_s: int) -> str:
    """Make a login token, good until `expires_at_s` (Unix seconds)."""
    kid = keys.signing_kid
    claims = {"sub": buyer_id, "exp": expires_at_s}
    return jwt.encode(claims, keys.keys[kid], algorithm=ALGORITHM, headers={"kid": kid})
