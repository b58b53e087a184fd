"""Checks of login tokens (JWT, RFC 7519): the key and the algorithm are ours to choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jwt
import msgspec
from jwt.utils import base64url_decode, base64url_encode

from seckill.auth.buyer_ids import VALUE_MAX, buyer_id_of
from seckill.auth.login_keys import LoginKey

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
    (jwt.InvalidAudienceError, "the login token's aud is not SECKILL_JWT_AUDIENCE"),
    (jwt.InvalidIssuerError, "the login token's iss is not SECKILL_JWT_ISSUER"),
    (jwt.InvalidAlgorithmError, "the login token is not signed with the algorithm of its key"),
)
_NO_TOKEN = "the login token is no JWT of ours"  # noqa: S105 - a reason, not a secret


class BadLogin(Exception):
    """The login token is not good; the text says why, and holds nothing of the token."""


class WrongKey(BadLogin):
    """The login token is signed with another key."""


@dataclass(frozen=True, slots=True)
class LoginRules:
    """What a shop's tokens have to say."""

    #: The issuer's clock and ours may differ by this.
    leeway_s: float = 30.0
    #: One of them has to be `aud`, or in it; without any, a token that has one is refused.
    audiences: tuple[str, ...] = ()
    #: What `iss` has to be; with "" it may be anything, as the key says who issued the token.
    issuer: str = ""
    #: The claim that names the buyer.
    buyer_claim: str = "sub"


class TokenHeader(msgspec.Struct):
    """What the header of a token claims; it is not checked yet."""

    alg: str
    kid: str | None = None


class Login(NamedTuple):
    """Whom a good token names, and until when (Unix seconds)."""

    buyer_id: str
    good_until: float


_header_decoder = msgspec.json.Decoder(TokenHeader)


def read_header(token: str) -> TokenHeader:
    """Return the header of what may be a token; raise BadLogin for any other text.

    It costs little whatever the text is: lengths are looked at before anything is decoded.
    """
    if len(token) > TOKEN_MAX:
        raise BadLogin(f"the login token is longer than {TOKEN_MAX} characters")
    head = token.partition(".")[0]
    if token.count(".") != 2 or not token.isascii() or len(head) > HEADER_MAX:
        raise BadLogin(_NO_TOKEN)
    try:
        return _header_decoder.decode(base64url_decode(head))
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise BadLogin(_NO_TOKEN) from error


def check(token: str, key: LoginKey, rules: LoginRules) -> Login:
    """Return whom a token names that `read_header` took; raise BadLogin if it is not good."""
    try:
        claims = jwt.decode(
            token,
            key.material,
            algorithms=[key.algorithm],
            leeway=rules.leeway_s,
            audience=rules.audiences or None,
            issuer=rules.issuer or None,
            # A `sub` that is a number is no string, as RFC 7519 wants it, and still a name.
            options={"require": [rules.buyer_claim, "exp"], "verify_sub": False},
        )
        good_until = int(claims["exp"]) + rules.leeway_s
    except jwt.InvalidSignatureError as error:
        raise WrongKey("the login token is signed with another key") from error
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BadLogin(_reason_of(error)) from error
    # The last character of a signature has bits that mean nothing: only one spelling is good.
    signature = token.rpartition(".")[2]
    if base64url_encode(base64url_decode(signature)).decode() != signature:
        raise BadLogin(_NO_TOKEN)
    buyer_id = buyer_id_of(claims[rules.buyer_claim])
    if buyer_id is None:
        raise BadLogin(
            f"the login token's {rules.buyer_claim} names no buyer: 1 to {VALUE_MAX} characters"
            " that can be printed, or a whole number; SECKILL_JWT_BUYER_CLAIM names another claim"
        )
    return Login(buyer_id, good_until)


def _reason_of(error: Exception) -> str:
    if isinstance(error, jwt.MissingRequiredClaimError):  # one of those that we ask for
        return f"the login token has no {error.claim}"
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), _NO_TOKEN)
