"""A solver of proofs of work, as a client in Python would have one."""

from __future__ import annotations

from hashlib import sha256

from seckill.auth.proof_of_work import leading_zero_bits


def solve(challenge: str, bits: int) -> str:
    """Return the least number that solves a challenge; it takes about 2**bits hashes."""
    begun = sha256(f"{challenge}:".encode())
    number = 0
    while True:
        attempt = begun.copy()
        attempt.update(b"%d" % number)
        if leading_zero_bits(attempt.digest()) >= bits:
            return str(number)
        number += 1
