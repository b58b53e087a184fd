"""Key rings: several named secrets at once, so that keys can be rotated without a gap."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from seckill.errors import UserMistake

log = logging.getLogger(__name__)

#: Shorter secrets can be guessed offline from one ticket.
SECRET_MIN = 32
#: What a MAC takes of a secret at least (see tickets.py); what comes behind need not count.
SECRET_COUNTS = 64


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Named secrets. The first one signs; all of them verify."""

    signing_kid: str
    keys: dict[str, bytes]

    @classmethod
    def parse(cls, text: str, *, setting: str) -> KeyRing:
        """Read "kid:secret[,kid:secret...]"; raise UserMistake if it is unusable."""
        keys: dict[str, bytes] = {}
        # Files of secrets end with a line feed, which is no part of the secret.
        for item in filter(None, map(str.strip, text.split(","))):
            # The messages show neither part: in a key without "kid:" the secret is read as the id.
            kid, _, secret = item.partition(":")
            if not (kid.isascii() and kid.isalnum()) or kid in keys:
                raise UserMistake(f"{setting}: key ids are distinct letters and digits")
            if len(secret) < SECRET_MIN:
                raise UserMistake(
                    f"{setting}: give each key as kid:secret, with at least {SECRET_MIN} characters"
                )
            if any(character.isspace() for character in secret):
                raise UserMistake(
                    f"{setting}: white space in a key; programs that strip it and programs that "
                    "do not would sign differently"
                )
            if secret.encode()[:SECRET_COUNTS] in _parts_that_count(keys):
                raise UserMistake(
                    f"{setting}: two keys begin with the same {SECRET_COUNTS} bytes; "
                    "what one of them signs the other would accept"
                )
            keys[kid] = secret.encode()
        if not keys:
            raise UserMistake(f"{setting} is not set: give it as kid:secret")
        return cls(next(iter(keys)), keys)


def parse_all(texts: Mapping[str, str]) -> dict[str, KeyRing]:
    """Read rings by name of setting; raise UserMistake saying what is wrong with each of them."""
    rings, flaws = {}, []
    for name, text in texts.items():
        try:
            rings[name] = KeyRing.parse(text, setting=f"SECKILL_{name.upper()}")
        except UserMistake as flaw:
            flaws.append(str(flaw))
    if flaws:
        raise UserMistake("; ".join(flaws))
    for (one, ring), (other, other_ring) in combinations(rings.items(), 2):
        if _parts_that_count(ring.keys) & _parts_that_count(other_ring.keys):
            names = f"SECKILL_{one.upper()}", f"SECKILL_{other.upper()}"
            log.warning("%s and %s have a key in common: give each its own", *names)
    return rings


def _parts_that_count(keys: Mapping[str, bytes]) -> set[bytes]:
    return {key[:SECRET_COUNTS] for key in keys.values()}
