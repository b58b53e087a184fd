"""Login tokens: JWTs (HS256) that name a buyer. `sub` is the buyer_id."""

from __future__ import annotations

import jwt
from jwt.utils import base64url_decode, base64url_encode

from seckill.auth.key_ring import KeyRing
from seckill.auth.tickets import ID

#: Pinned: a token must not choose how it is checked.
ALGORITHM = "HS256"
#: No login is longer. Reading junk of twice this length costs as much as twenty grabs.
TOKEN_MAX = 4096
#: The header names an algorithm, a type and a key.
HEADER_MAX = 512
#: Clocks of the issuer and ours may differ this much.
LEEWAY_S = 5


def issue(keys: KeyRing, *, buyer_id: str, expires_at_s: int) -> str:
    """Make a login token, good until `expires_at_s` (Unix seconds)."""
    kid = keys.signing_kid
    claims = {"sub": buyer_id, "exp": expires_at_s}
    return jwt.encode(claims, keys.keys[kid], algorithm=ALGORITHM, headers={"kid": kid})


def verify(keys: KeyRing, token: str) -> str | None:
    """Return the buyer_id of a good token; None for any other text."""
    # Before PyJWT decodes anything: three parts of sane lengths, in ASCII.
    if len(token) > TOKEN_MAX or token.count(".") != 2 or not token.isascii():
        return None
    if token.index(".") > HEADER_MAX:
        return None
    try:
        key = keys.keys[jwt.get_unverified_header(token)["kid"]]
        claims = jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],
            leeway=LEEWAY_S,
            options={"require": ["sub", "exp"]},
        )
    except (jwt.InvalidTokenError, KeyError, RecursionError):
        return None
    # The last character of a signature has bits that mean nothing: only one spelling is good.
    signature = token.rpartition(".")[2]
    if base64url_encode(base64url_decode(signature)).decode() != signature:
        return None
    buyer_id: str = claims["sub"]
    return buyer_id if ID.match(buyer_id) else None
