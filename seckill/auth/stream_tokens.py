"""Stream tokens: the right of one buyer to open one order's event stream, for some seconds.

A browser's `EventSource` sends no headers of the page's own, so this right stands in the URL, which
proxies and browsers may write down. It opens one stream of one order, gives nothing else, and is
soon worthless: TTL_S is enough for a page to open the stream on a bad connection.

Form: `kid~expires~buyer~mac` with mac = 128-bit keyed BLAKE2b over the order and the text before
the mac. It is personalised, so that no ticket and no challenge is ever a stream token.
"""

from __future__ import annotations

from hashlib import blake2b
from hmac import compare_digest

from seckill.auth.key_ring import KeyRing
from seckill.auth.tickets import TICKET_MAX

#: Seconds between asking for a token and opening the stream.
TTL_S = 30

_MAC_BYTES = 16
_KEY_BYTES = 64
_PERSON = b"seckill-stream"


def issue(keys: KeyRing, *, order_id: str, buyer_id: str, expires_at_s: int) -> str:
    """Make a token for one buyer's order, good before `expires_at_s` (Unix seconds)."""
    kid = keys.signing_kid
    signed = f"{kid}~{expires_at_s}~{buyer_id}"
    return f"{signed}~{_mac(keys.keys[kid], order_id, signed)}"


def verify(keys: KeyRing, token: str, *, order_id: str, now_s: float) -> str | None:
    """Return the buyer_id of a good token for this order; None for any other text."""
    signed, _, mac = token.rpartition("~")
    key = keys.keys.get(signed.partition("~")[0])
    if key is None or len(token) > TICKET_MAX or not token.isascii():
        return None
    if not compare_digest(_mac(key, order_id, signed), mac):
        return None
    _, expires, buyer_id = signed.split("~")  # the MAC shows that we made it
    return buyer_id if now_s < int(expires) else None


def _mac(key: bytes, order_id: str, signed: str) -> str:
    text = f"{order_id}~{signed}".encode()
    return blake2b(text, key=key[:_KEY_BYTES], digest_size=_MAC_BYTES, person=_PERSON).hexdigest()
