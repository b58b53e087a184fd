"""Public keys of a login service: out of PEM, or a JSON Web Key Set (RFC 7517).

A key that is too weak, too costly or not meant for signatures is never taken.
"""

from __future__ import annotations

import re
from typing import Any

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from seckill.auth.login_keys import EDDSA, ES256, RS256, LoginKey, PublicKey
from seckill.errors import UserMistake

#: Shorter RSA keys can be broken; one of 4,096 bits takes 0.1 ms a check, and longer ones more.
RSA_BITS = range(2048, 4097)
#: The exponent that everybody uses, up to what still costs about the same.
RSA_EXPONENTS = range(65_537, 2**32)
#: A login service publishes two to ten keys.
SET_MAX = 32
#: Keys in PEM: an old one, the present one and the next.
PEM_MAX = 4

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
#: Kind of a JSON Web Key -> its algorithm here, with all names under which a set may give that.
_KINDS: dict[str, tuple[str, ...]] = {
    "RSA": (RS256,),
    "EC": (ES256,),
    "OKP": (EDDSA, "Ed25519"),
}


class UnusableKey(ValueError):
    """A key, or a whole set, cannot be used; the text says why, in words that end a sentence."""


class _Jwk(msgspec.Struct):
    """What decides whether a JSON Web Key may be used; its numbers are read by PyJWT."""

    kty: str
    kid: str | None = None
    alg: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    #: Only private keys have it.
    d: object = None


class _JwkSet(msgspec.Struct):
    keys: list[msgspec.Raw]


def parse_pem(text: str, *, setting: str) -> list[LoginKey]:
    """Read public keys or certificates in PEM; raise UserMistake if one cannot be used."""
    # In files of variables a text has one line, and its line ends are written out.
    blocks = list(_BLOCK.finditer(text.replace("\\n", "\n")))
    if not 1 <= len(blocks) <= PEM_MAX:
        raise UserMistake(
            f"{setting}: give 1 to {PEM_MAX} public keys in PEM, -----BEGIN PUBLIC KEY-----"
        )
    try:
        return [_login_key(_of_block(block[1], block[0]), kid=None) for block in blocks]
    except UnusableKey as flaw:
        raise UserMistake(f"{setting}: {flaw}") from flaw


def parse_jwks(body: bytes) -> tuple[list[LoginKey], list[str]]:
    """Return the keys of a set and why others of it are left out; raise UnusableKey without any."""
    try:
        found = msgspec.json.decode(body, type=_JwkSet).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnusableKey("it is no JSON Web Key Set") from error
    keys: list[LoginKey] = []
    left_out = [f"{len(found) - SET_MAX} keys too many"] if len(found) > SET_MAX else []
    for place, raw in enumerate(found[:SET_MAX], 1):
        try:
            keys.append(_of_jwk(raw))
        except UnusableKey as flaw:
            left_out.append(f"key {place}: {flaw}")
    if not keys:
        raise UnusableKey(f"it has no key for logins ({'; '.join(left_out) or 'it is empty'})")
    return keys, left_out


def _of_block(kind: str, block: str) -> object:
    if "PRIVATE" in kind:
        raise UnusableKey("this is a private key, which stays with the login service alone")
    try:
        if kind == "CERTIFICATE":
            return load_pem_x509_certificate(block.encode()).public_key()
        return load_pem_public_key(block.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnusableKey(f"the block {kind} is damaged, or no public key") from error


def _of_jwk(raw: msgspec.Raw) -> LoginKey:
    try:
        jwk = msgspec.json.decode(raw, type=_Jwk)
        numbers: dict[str, Any] = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnusableKey("it is no JSON Web Key") from error
    names = _KINDS.get(jwk.kty)
    if names is None:
        raise UnusableKey("its kind (kty) is none of RSA, EC, OKP")
    if jwk.d is not None:
        raise UnusableKey("it is a private key, and known to everybody now")
    if jwk.alg is not None and jwk.alg not in names:
        raise UnusableKey(f"its alg is none of {', '.join(names)}")
    if jwk.use not in (None, "sig") or "verify" not in (jwk.key_ops or ["verify"]):
        raise UnusableKey("it is not meant for signatures (use, key_ops)")
    try:
        public = jwt.PyJWK.from_dict(numbers, algorithm=names[0]).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm) as error:
        raise UnusableKey("its numbers are no public key") from error
    key = _login_key(public, jwk.kid)
    if key.algorithm != names[0]:
        raise UnusableKey("its numbers are of another kind")
    return key


def _login_key(public: object, kid: str | None) -> LoginKey:
    """Return a key with its algorithm, or raise UnusableKey."""
    if not isinstance(public, PublicKey):
        raise UnusableKey("it is none of RSA, P-256 and Ed25519")
    if isinstance(public, Ed25519PublicKey):
        return LoginKey(EDDSA, kid, public)
    if isinstance(public, EllipticCurvePublicKey):
        if not isinstance(public.curve, SECP256R1):
            raise UnusableKey(f"ES256 needs the curve P-256, not {public.curve.name}")
        return LoginKey(ES256, kid, public)
    return _rsa_key(public, kid)


def _rsa_key(public: RSAPublicKey, kid: str | None) -> LoginKey:
    if public.key_size not in RSA_BITS:
        wanted = f"{RSA_BITS.start:,} to {RSA_BITS.stop - 1:,}"
        raise UnusableKey(f"an RSA key has to have {wanted} bits, not {public.key_size:,}")
    if public.public_numbers().e not in RSA_EXPONENTS:
        raise UnusableKey("the exponent of an RSA key has to be 65,537, or a little more")
    return LoginKey(RS256, kid, public)
