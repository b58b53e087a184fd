"""Signatures of the card provider's webhooks: `t=<Unix seconds>,v1=<HMAC-SHA256 in hex>`.

The signed text is "<t>.<body>": an overheard signature is good for the replay window only.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from seckill.auth.key_ring import KeyRing

#: The header that carries the signature.
SIGNATURE = "Seckill-Signature"
#: How far the time of a signature may be from ours: clocks differ, and deliveries are queued.
REPLAY_WINDOW_S = 300

_FORM = re.compile(r"t=(\d{1,12}),v1=([0-9a-f]{64})", re.ASCII)


def sign(keys: KeyRing, body: bytes, *, now_s: int) -> str:
    """Return the value of the header for a body."""
    return f"t={now_s},v1={_mac(keys.keys[keys.signing_kid], now_s, body)}"


def is_signed(keys: KeyRing, header: str, body: bytes, *, now_s: float) -> bool:
    """Return whether one of the keys signed this body, within the replay window."""
    found = _FORM.fullmatch(header)
    if found is None:
        return False
    signed_s = int(found[1])
    if abs(now_s - signed_s) > REPLAY_WINDOW_S:
        return False
    # Every key is tried, each in constant time, so that no answer shows how near a guess was.
    good = [
        hmac.compare_digest(_mac(secret, signed_s, body), found[2]) for secret in keys.keys.values()
    ]
    return any(good)


def _mac(secret: bytes, at_s: int, body: bytes) -> str:
    return hmac.new(secret, b"%d.%s" % (at_s, body), hashlib.sha256).hexdigest()
