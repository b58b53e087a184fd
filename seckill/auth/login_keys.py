"""The keys that login tokens are checked with. A key has one algorithm, whatever a token says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from seckill.auth.key_ring import KeyRing
from seckill.auth.login_tokens import ALGORITHM as HS256

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

RS256, ES256, EDDSA = "RS256", "ES256", "EdDSA"
#: Keys that one token is tried with at most, where it does not say by which it is signed: a trial
#: costs about a tenth of a millisecond.
TRIES_MAX = 4


@dataclass(frozen=True, slots=True)
class LoginKey:
    """A key, its algorithm, and its name if it has one."""

    algorithm: str
    kid: str | None
    #: The shared secret of HS256, or the public key of the others.
    material: bytes | PublicKey


class LoginKeys:
    """Keys, found by what the header of a token says."""

    def __init__(self, keys: Iterable[LoginKey]) -> None:
        self._keys: dict[str, list[LoginKey]] = {}
        for key in keys:
            self._keys.setdefault(key.algorithm, []).append(key)

    @property
    def algorithms(self) -> set[str]:
        """Return the algorithms for which there are keys."""
        return set(self._keys)

    def find(self, algorithm: str, kid: str | None) -> list[LoginKey]:
        """Return the keys to try; none if the token cannot be signed with one of ours.

        A shared secret has to be named. A key without a name fits every name, and a token that
        names none fits every public key: standards leave both to the issuer.
        """
        keys = self._keys.get(algorithm, [])
        if kid is None:
            return [] if algorithm == HS256 else keys[:TRIES_MAX]
        named = [key for key in keys if key.kid == kid]
        return (named or [key for key in keys if key.kid is None])[:TRIES_MAX]


def shared_keys(ring: KeyRing) -> list[LoginKey]:
    """Return the keys of a ring of shared secrets."""
    return [LoginKey(HS256, kid, secret) for kid, secret in ring.keys.items()]
