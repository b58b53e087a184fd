"""Login tokens: JWTs (HS256, RFC 7519) that name a buyer."""

from __future__ import annotations

from dataclasses import dataclass

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

#: What PyJWT raises -> what the shop's developers have to look at. The first that fits counts.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (jwt.ExpiredSignatureError, "the login token has expired (exp)"),
    (
        jwt.ImmatureSignatureError,
        "the login token is not good yet: iat or nbf is ahead of this gateway's clock by more than"
        " SECKILL_JWT_LEEWAY_S",
    ),
    (jwt.InvalidIssuedAtError, "the login token's iat is no time"),
    (
        jwt.InvalidAudienceError,
        "the login token's aud is not SECKILL_JWT_AUDIENCE",
    ),
    (jwt.MissingRequiredClaimError, "the login token lacks a claim: exp, the buyer's, or aud"),
    (jwt.InvalidSignatureError, "the login token is signed with another key"),
    (jwt.InvalidAlgorithmError, f"the login token is not signed with {ALGORITHM}"),
)
_NO_TOKEN = "the login token is no JWT of ours"  # noqa: S105 - a reason, not a secret


class BadLogin(Exception):
    """The login token is not good; the text says why, and holds nothing of the token."""


@dataclass(frozen=True, slots=True)
class LoginRules:
    """What a shop's tokens have to say."""

    #: The issuer's clock and ours may differ by this.
    leeway_s: float = 30.0
    #: What `aud` has to be, or to contain; with "", a token that has one is refused.
    audience: str = ""
    #: The claim that is the buyer_id.
    buyer_claim: str = "sub"


DEFAULT_RULES = LoginRules()


def issue(keys: KeyRing, *, buyer_id: str, expires_at_s: int) -> str:
    """Make a login token, good until `expires_at_s` (Unix seconds)."""
    kid = keys.signing_kid
    claims = {"sub": buyer_id, "exp": expires_at_s}
    return jwt.encode(claims, keys.keys[kid], algorithm=ALGORITHM, headers={"kid": kid})


def verify(keys: KeyRing, token: str, rules: LoginRules = DEFAULT_RULES) -> str:
    """Return the buyer_id of a good token; raise BadLogin for any other text."""
    # Before PyJWT decodes anything: three parts of sane lengths, in ASCII.
    if len(token) > TOKEN_MAX or token.count(".") != 2 or not token.isascii():
        raise BadLogin(_NO_TOKEN)
    if token.index(".") > HEADER_MAX:
        raise BadLogin(_NO_TOKEN)
    try:
        kid = jwt.get_unverified_header(token).get("kid")
        key = keys.keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise BadLogin("the login token's kid is none of SECKILL_JWT_KEYS")
        claims = jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],
            leeway=rules.leeway_s,
            audience=rules.audience or None,
            # A `sub` that is a number is no string, as RFC 7519 wants it, and still a name.
            options={"require": [rules.buyer_claim, "exp"], "verify_sub": False},
        )
    except (jwt.InvalidTokenError, RecursionError) as error:
        fits = (reason for kind, reason in _REASONS if isinstance(error, kind))
        raise BadLogin(next(fits, _NO_TOKEN)) from error
    # The last character of a signature has bits that mean nothing: only one spelling is good.
    signature = token.rpartition(".")[2]
    if base64url_encode(base64url_decode(signature)).decode() != signature:
        raise BadLogin(_NO_TOKEN)
    return _buyer_id(claims[rules.buyer_claim], rules.buyer_claim)


def _buyer_id(claim: object, name: str) -> str:
    buyer_id = str(claim) if isinstance(claim, str) or type(claim) is int else ""
    if not ID.match(buyer_id):
        raise BadLogin(
            f"the login token's {name} is no buyer id: 1 to 64 of A-Z a-z 0-9 . _ - are,"
            " and SECKILL_JWT_BUYER_CLAIM names another claim"
        )
    return buyer_id
