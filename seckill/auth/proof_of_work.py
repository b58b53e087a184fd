"""Proofs of work: what a buyer may have to compute before a ticket, checked without any store.

A challenge is `kid~expires~bits~nonce~mac`, for one buyer in one sale until a moment: mac = 128-bit
keyed BLAKE2b over the sale, the buyer and the text before the mac. It is personalised, so that with
the same key a ticket and a challenge never have the same MAC. A solution is 1 to 20 digits for
which SHA-256 of the ASCII text `challenge:solution` begins with at least `bits` zero bits.

The nonce is random, so nothing can be computed before the challenge is issued. The caller makes
sure, by the nonce, that a solution is used once: this module remembers nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b, sha256
from hmac import compare_digest
from secrets import token_urlsafe

from seckill.auth.key_ring import KeyRing

#: 67 million hashes: most of a minute in a good browser, minutes in a phone. A harder challenge
#: keeps out buyers, not machines. (A CHECK of the column `sales.proof_bits` has this limit, too.)
BITS_MAX = 26

_SOLUTION = re.compile(r"[0-9]{1,20}\Z")
#: Never the same twice: buyers cannot share work, and a used nonce stands for one challenge.
_NONCE_BYTES = 16
_MAC_BYTES = 16
_KEY_BYTES = 64
_PERSON = b"seckill-proof"


@dataclass(frozen=True, slots=True)
class Proof:
    """A solved challenge: its nonce may be used once, until it expires."""

    nonce: str
    expires_at_s: int


class Flaw(Enum):
    """Why a text is not a proof: the field at fault, and what is wrong with it."""

    FOREIGN = ("challenge", "not a challenge for this buyer in this sale")
    EXPIRED = ("challenge", "it has expired; ask for a new one")
    TOO_EASY = ("challenge", "the sale asks for more work by now; ask for a new one")
    UNSOLVED = ("solution", "SHA-256 of challenge:solution has too few leading zero bits")


def issue(keys: KeyRing, *, sale_id: str, buyer_id: str, bits: int, expires_at_s: int) -> str:
    """Make a challenge of `bits` for one buyer in one sale, good before `expires_at_s`."""
    kid = keys.signing_kid
    signed = f"{kid}~{expires_at_s}~{bits}~{token_urlsafe(_NONCE_BYTES)}"
    return f"{signed}~{_mac(keys.keys[kid], sale_id, buyer_id, signed)}"


def check(
    keys: KeyRing,
    challenge: str,
    solution: str,
    *,
    sale_id: str,
    buyer_id: str,
    bits: int,
    now_s: float,
) -> Proof | Flaw:
    """Return the proof if a buyer did at least `bits` of work for this sale, else the flaw.

    It costs one MAC and one SHA-256. `bits` is what the sale asks for now. The work is measured by
    what the challenge says, so that a harder challenge is not solved by less.
    """
    signed, _, mac = challenge.rpartition("~")
    key = keys.keys.get(signed.partition("~")[0])
    if key is None or not challenge.isascii():
        return Flaw.FOREIGN
    if not compare_digest(_mac(key, sale_id, buyer_id, signed), mac):
        return Flaw.FOREIGN
    _, expires, asked, nonce = signed.split("~")  # the MAC shows that we made it
    if now_s >= int(expires):
        return Flaw.EXPIRED
    if int(asked) < bits:
        return Flaw.TOO_EASY
    if not _SOLUTION.match(solution):
        return Flaw.UNSOLVED
    if leading_zero_bits(sha256(f"{challenge}:{solution}".encode()).digest()) < int(asked):
        return Flaw.UNSOLVED
    return Proof(nonce, int(expires))


def leading_zero_bits(digest: bytes) -> int:
    """Count the zero bits before the first one bit."""
    return 8 * len(digest) - int.from_bytes(digest, "big").bit_length()


def _mac(key: bytes, sale_id: str, buyer_id: str, signed: str) -> str:
    text = f"{sale_id}~{buyer_id}~{signed}".encode()
    return blake2b(text, key=key[:_KEY_BYTES], digest_size=_MAC_BYTES, person=_PERSON).hexdigest()
