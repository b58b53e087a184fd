"""Tickets: the right of one buyer to grab in one sale until a moment, checked without any store.

Form: `kid~expires~buyer~mac` with expires in Unix seconds and mac = 128-bit keyed BLAKE2b in hex
over kid, expires, sale and buyer. (HMAC-SHA256 through OpenSSL costs twice as much here; keyed
BLAKE2b is a MAC by design, RFC 7693 section 2.9.) "~" occurs in no id.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from hmac import compare_digest

from seckill.auth.key_ring import KeyRing
from seckill.errors import UserMistake

ID = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")

#: No ticket is longer: ids of 64 characters and what is around them.
TICKET_MAX = 512
#: Digits of a moment in Unix seconds; more would be work for nothing.
_EXPIRES_DIGITS_MAX = 20
_MAC_BYTES = 16
#: BLAKE2b takes keys of up to 64 bytes; longer secrets are cut to their first 64.
_KEY_BYTES = 64
#: Sales whose MACs' beginnings are kept: 400 bytes each.
SALES_MAX = 1024


def issue(keys: KeyRing, *, sale_id: str, buyer_id: str, expires_at_s: int) -> str:
    """Make a ticket for `buyer_id` in `sale_id`, good before `expires_at_s` (Unix seconds)."""
    for id_ in (sale_id, buyer_id):
        if not ID.match(id_):
            raise UserMistake(f"id {id_!r}: use 1 to 64 of A-Z a-z 0-9 _ . -")
    kid = keys.signing_kid
    signed = f"{kid}~{expires_at_s}~{buyer_id}"
    return f"{signed}~{_mac(keys.keys[kid], sale_id, signed)}"


def verify(keys: KeyRing, ticket: str, *, sale_id: str, now_s: float) -> str | None:
    """Return the buyer_id of a good ticket for this sale; None for any other text."""
    parts = ticket.split("~", 4) if len(ticket) <= TICKET_MAX and ticket.isascii() else ()
    if len(parts) != 4:
        return None
    kid, expires, buyer_id, mac = parts
    key = keys.keys.get(kid)
    if key is None:
        return None
    # Compared as text and in constant time: every byte counts, and none reveals its position.
    if not compare_digest(_mac(key, sale_id, ticket[: -len(mac) - 1]), mac):
        return None
    # A shop may sign tickets itself. Redis would accept a buyer_id of another form, and then no
    # other part would.
    if not (ID.match(buyer_id) and expires.isdecimal() and len(expires) <= _EXPIRES_DIGITS_MAX):
        return None
    if now_s >= int(expires):
        return None
    return buyer_id


def _mac(key: bytes, sale_id: str, signed: str) -> str:
    mac = _mac_of_sale(key, sale_id).copy()
    mac.update(signed.encode())
    return mac.hexdigest()


@lru_cache(SALES_MAX)
def _mac_of_sale(key: bytes, sale_id: str) -> blake2b:
    """Return the beginning of all MACs of a sale: the key costs as much as all that follows."""
    return blake2b(f"{sale_id}~".encode(), key=key[:_KEY_BYTES], digest_size=_MAC_BYTES)
