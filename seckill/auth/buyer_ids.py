"""The buyer's id out of a login: an e-mail, or `auth0|…`, is no id of ours and gets one.

The same value gets the same id for ever, and two values never share one: what a value is mapped to
begins with a prefix, and a value that begins with it itself is mapped as well.
"""

from __future__ import annotations

from hashlib import sha256

from seckill.auth.tickets import ID

#: How mapped ids begin. Never change it, or DIGITS: buyers would lose their orders.
PREFIX = "hash-"
#: 192 bits: no search finds a value that is mapped to the id of another.
DIGITS = 48
#: OpenID Connect allows a `sub` as many.
VALUE_MAX = 255


def buyer_id_of(value: object) -> str | None:
    """Return the id of the buyer whom a claim names; None if it names no buyer.

    A claim is text or a whole number: the number 7 and the text "7" are the same buyer.
    """
    text = str(value) if isinstance(value, str) or type(value) is int else ""
    if ID.match(text) and not text.startswith(PREFIX):
        return text
    # What cannot be printed is a mistake of who made the token: a line feed, half a character.
    if not text or len(text) > VALUE_MAX or not text.isprintable():
        return None
    return PREFIX + sha256(text.encode()).hexdigest()[:DIGITS]
