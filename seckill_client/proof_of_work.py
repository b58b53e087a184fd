"""Solves the proof of work that a sale may ask for before a ticket. No I/O.

A solution is a decimal number for which SHA-256 of the text `challenge:number` begins with at least
`bits` zero bits. It takes about 2**bits hashes, some million of them a second.
"""

from __future__ import annotations

from hashlib import sha256
from itertools import count

#: Numbers tried in one go: some 50 ms, so that who waits for a solution can be cancelled.
CHUNK = 1 << 16


def solve(challenge: str, bits: int) -> str:
    """Return the least number that solves a challenge."""
    for first in count(0, CHUNK):
        if solution := solve_from(challenge, bits, first):
            return solution
    raise AssertionError("bug: the numbers have ended")


def solve_from(challenge: str, bits: int, first: int) -> str | None:
    """Return the least solution among the CHUNK numbers from `first`; None without one."""
    begun, bound = sha256(f"{challenge}:".encode()), 1 << (256 - bits)
    for number in range(first, first + CHUNK):
        attempt = begun.copy()
        attempt.update(b"%d" % number)
        if int.from_bytes(attempt.digest(), "big") < bound:
            return str(number)
    return None
